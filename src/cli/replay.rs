//! `reckon replay`: fold the log again from nothing and compare.

mod difference;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::terminal::{progress, say};
use super::{CliError, Data};
use crate::log::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention};
use crate::machine::output::{Output, Tail, Topic};
use crate::partition::host::Host;
use crate::partition::{PartitionError, Settings};
use crate::store::rocks::Budget;
use difference::{Difference, difference};

/// Fold the log again from nothing: identical digests and rows, or the first place that differs
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon replay --data ./reckon-data")]
pub struct Replay {
    #[command(flatten)]
    data: Data,
}

/// The log as it is, up to where the first fold has come; its outputs are compared with, never written.
struct Again {
    log: Arc<dyn Log>,
    ends: Vec<u64>,
}

impl Log for Again {
    fn identity(&self) -> &Identity {
        self.log.identity()
    }

    fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.log.start(partition)
    }

    fn end(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.ends[partition as usize])
    }

    fn poll(&self, partition: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError> {
        self.log.poll(partition, from, max_bytes, batch)?;
        batch.cut(self.ends[partition as usize]);
        Ok(())
    }

    fn append_placed(&self, _: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        Ok(Vec::new())
    }

    fn wait(&self, _: u32, _: u64, _: Duration) -> Result<bool, LogError> {
        Ok(false)
    }

    /// Those that were delivered must be the same; later ones have nothing to be compared with.
    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
        for topic in Topic::ALL {
            let tail = self.log.output_tail(partition, topic)?.sequence;
            let of_topic = outputs.iter().filter(|o| o.topic == topic && o.sequence <= tail);
            for output in of_topic {
                let delivered = self.log.read_outputs(partition, topic, output.sequence - 1, 1)?;
                if delivered
                    .first()
                    .is_some_and(|d| d.sequence == output.sequence && d != output)
                {
                    return Err(LogError::OutputDiffers {
                        topic,
                        partition,
                        sequence: output.sequence,
                    });
                }
            }
        }
        Ok(())
    }

    fn output_tail(&self, _: u32, _: Topic) -> Result<Tail, LogError> {
        Ok(Tail::default())
    }

    fn read_outputs(&self, _: u32, _: Topic, _: u64, _: usize) -> Result<Vec<Output>, LogError> {
        Ok(Vec::new())
    }

    fn prune(&self, _: u32, _: u64, _: Retention) -> Result<(), LogError> {
        Ok(())
    }
}

/// Folds a host's log again into `scratch` and compares.
pub(super) fn compare(host: &Host, scratch: &Path) -> Result<Option<Difference>, CliError> {
    for partition in &host.partitions {
        let start = host.log.start(partition.number)?;
        if start > 0 {
            return Err(CliError::Finding(format!(
                "partition {} of the log begins at offset {start}: its beginning was removed by retention, so it can't be folded \
                 again from nothing",
                partition.number
            )));
        }
    }
    let again: Arc<dyn Log> = Arc::new(Again {
        log: Arc::clone(&host.log),
        ends: host.partitions.iter().map(|p| p.machine.position.next_offset).collect(),
    });
    let settings = Settings {
        calls_output: host.partitions.iter().all(|p| p.machine.outputs.calls_on),
        ..Settings::default()
    };
    let mut second = Host::open(again, scratch, &Budget::default(), &settings)?;
    let total: u64 = host.partitions.iter().map(|p| p.machine.position.next_offset).sum();
    let bar = progress(total, "replaying");
    let folded = second.catch_up(&|records| bar.inc(records));
    bar.finish_and_clear();
    match folded {
        Ok(()) => {}
        Err(PartitionError::Log(LogError::OutputDiffers {
            topic,
            partition,
            sequence,
        })) => {
            return Ok(Some(Difference {
                partition,
                table: "outputs",
                place: format!("{}, sequence {sequence}", topic.as_str()),
                was: "delivered with another content".to_owned(),
                again: "not the same".to_owned(),
            }));
        }
        Err(cause) => return Err(cause.into()),
    }
    for (first, again) in host.partitions.iter().zip(&second.partitions) {
        if let Some(found) = difference(first, again)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl Replay {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let host = Host::open_beside(&self.data.data, &Budget::default(), &Settings::default())?;
        let scratch = self.data.data.join("replay");
        let file = |cause| CliError::File {
            path: scratch.clone(),
            cause,
        };
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).map_err(file)?;
        }
        std::fs::create_dir_all(&scratch).map_err(file)?;
        let found = compare(&host, &scratch);
        std::fs::remove_dir_all(&scratch).map_err(file)?;
        match found? {
            Some(found) => {
                if json {
                    say!("{}", json!({"identical": false, "first": found.to_json()}))?;
                }
                Err(CliError::Finding(found.to_string()))
            }
            None => {
                let digests: Vec<String> = host
                    .partitions
                    .iter()
                    .map(|p| format!("{:032x}", p.machine.digest.value()))
                    .collect();
                if json {
                    say!("{}", json!({"identical": true, "digests": digests}))?;
                } else {
                    say!("folded again from nothing: digests, rows and outputs are identical")?;
                    for (partition, digest) in digests.iter().enumerate() {
                        say!("  partition {partition}: {digest}")?;
                    }
                }
                Ok(())
            }
        }
    }
}
