//! Where commands that only read outputs find them: topics on Kafka, or a data folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::CliError;
use super::kafka::Cluster;
use crate::log::LogError;
use crate::log::continuity::{Arrival, Continuity};
use crate::log::kafka::KafkaSettings;
use crate::log::kafka::outputs::{Item, OutputStream};
use crate::machine::output::{Output, Topic};
use crate::partition::Settings;
use crate::partition::host::Host;
use crate::store::rocks::Budget;

/// How long brokers may be silent before a reading is given up that comes to an end by itself.
const SILENCE: Duration = Duration::from_secs(30);

/// Where the outputs are.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("outputs").required(true).args(["data", "kafka"])))]
pub struct Source {
    /// Folder of an embedded log and its stores
    #[arg(long, value_name = "DIR", conflicts_with_all = ["topic_prefix", "properties"])]
    pub data: Option<PathBuf>,

    /// Brokers: outputs are read from their topics
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    pub kafka: Option<String>,

    /// First part of the topics' names: PREFIX.statements, PREFIX.rejects …
    #[arg(long, value_name = "PREFIX", default_value = "reckon")]
    pub topic_prefix: String,

    /// A librdkafka setting (TLS, SASL …); may be given several times
    #[arg(short = 'X', value_name = "NAME=VALUE")]
    pub properties: Vec<String>,
}

/// Where outputs are, opened.
pub enum Outputs {
    /// Topics.
    Kafka(KafkaSettings),
    /// A folder, beside a process that may be folding it.
    Data(Box<Host>),
}

impl Source {
    /// The cluster, if it is one.
    pub fn cluster(&self) -> Result<Option<KafkaSettings>, CliError> {
        let Some(kafka) = &self.kafka else {
            return Ok(None);
        };
        let cluster = Cluster {
            kafka: kafka.clone(),
            topic_prefix: self.topic_prefix.clone(),
            properties: self.properties.clone(),
        };
        cluster.settings().map(Some)
    }

    /// Opens it.
    pub fn open(&self) -> Result<Outputs, CliError> {
        if let Some(settings) = self.cluster()? {
            return Ok(Outputs::Kafka(settings));
        }
        let Some(data) = &self.data else {
            return Err(CliError::Usage("--kafka or --data is needed".to_owned()));
        };
        let host = Host::open_beside(data, &Budget::default(), &Settings::default())?;
        Ok(Outputs::Data(Box::new(host)))
    }
}

impl Outputs {
    /// Every output of a topic that is there now, in order, one partition after the other. On Kafka earlier ones may have been
    /// removed by retention; what follows is held to its chain.
    pub fn read(
        &self,
        topic: Topic,
        mut take: impl FnMut(u32, &Output) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        match self {
            Self::Data(host) => {
                for partition in &host.partitions {
                    let mut after = 0;
                    loop {
                        let outputs = partition.outputs_after(topic, after)?;
                        let Some(last) = outputs.last() else { break };
                        after = last.sequence;
                        outputs.iter().try_for_each(|o| take(partition.number, o))?;
                    }
                }
                Ok(())
            }
            Self::Kafka(settings) => {
                let mut stream = OutputStream::open(settings, topic)?;
                for partition in 0..stream.partition_count() {
                    read_partition(&mut stream, partition, &mut take)?;
                }
                Ok(())
            }
        }
    }
}

fn read_partition(
    stream: &mut OutputStream,
    partition: u32,
    take: &mut impl FnMut(u32, &Output) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let (start, _) = stream.bounds(partition)?;
    let mut continuity = if start > 0 {
        Continuity::anywhere()
    } else {
        Continuity::default()
    };
    stream.follow(&BTreeMap::from([(partition, start)]))?;
    let (mut ended, mut heard) = (false, Instant::now());
    while !ended {
        let mut result = Ok(());
        stream.take(Duration::from_millis(100), |found, _, next| {
            // What was fetched of the partition before.
            if found != partition || ended || result.is_err() {
                return;
            }
            heard = Instant::now();
            match next {
                Item::End => ended = true,
                Item::Output(output) => {
                    result = match continuity.take(partition, &output) {
                        Ok(Arrival::New) => take(partition, &output),
                        Ok(Arrival::Again) => Ok(()),
                        Err(cause) => Err(cause.into()),
                    };
                }
            }
        })?;
        result?;
        heard_within(SILENCE, heard, stream)?;
    }
    Ok(())
}

/// That the brokers haven't been silent for longer.
pub fn heard_within(silence: Duration, heard: Instant, stream: &OutputStream) -> Result<(), LogError> {
    if heard.elapsed() < silence {
        return Ok(());
    }
    Err(LogError::Kafka {
        doing: format!("reading {}", stream.name()),
        cause: format!("no answer for {} s", silence.as_secs()),
        fenced: false,
    })
}
