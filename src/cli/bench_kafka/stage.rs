//! One measured stage, in a process of its own: what it uses is its own.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::{failed, spent, topic::now_nanos};
use crate::cli::CliError;
use crate::cli::config::Given;
use crate::config::Config;
use crate::http::process::Process;
use crate::log::Log;
use crate::log::kafka::ffi::Queue;
use crate::log::kafka::{KafkaLog, KafkaSettings, Quiet};
use crate::partition::running::Running;
use crate::wire::pb;

fn cpu_us() -> u64 {
    Process::now().cpu().as_micros() as u64
}

/// How long one wait for records is.
const WAIT: Duration = Duration::from_millis(100);

/// How often it is looked how far the folds are.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long a stage may take.
const STAGE_MAX: Duration = Duration::from_secs(600);

/// What a stage does with every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Kind {
    /// Polls it.
    Poll,
    /// Takes it from the batch queue.
    Queue,
    /// Polls it, decodes it with prost.
    Prost,
    /// Folds it.
    Fold,
    /// Folds it, with the calls output.
    Calls,
    /// Folds it as it comes, and remembers when.
    Live,
}

impl Kind {
    pub(super) const MEASURED: [Self; 5] = [Self::Poll, Self::Queue, Self::Prost, Self::Fold, Self::Calls];

    /// As the command line has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Queue => "queue",
            Self::Prost => "prost",
            Self::Fold => "fold",
            Self::Calls => "calls",
            Self::Live => "live",
        }
    }

    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Poll => "bare consume, poll",
            Self::Queue => "bare consume, batch queue",
            Self::Prost => "poll + prost decode",
            Self::Fold => "fold",
            Self::Calls => "fold, calls output on",
            Self::Live => "live",
        }
    }
}

/// A stage of `reckon bench kafka`, which starts it
#[derive(Debug, Args)]
pub struct Stage {
    kind: Kind,

    #[command(flatten)]
    given: Given,
}

impl Stage {
    pub(in crate::cli) fn run(self) -> Result<(), CliError> {
        let config = self.given.load()?.config;
        let settings = config
            .kafka
            .settings()
            .map_err(failed)?
            .ok_or_else(|| failed("--kafka is missing"))?;
        let row = match self.kind {
            Kind::Poll => consume(&settings, |queue, events| poll(queue, events, |_| {}))?,
            Kind::Prost => consume(&settings, |queue, events| {
                poll(queue, events, |bytes| {
                    std::hint::black_box(pb::CallEvent::decode(bytes).is_ok());
                })
            })?,
            Kind::Queue => consume(&settings, take)?,
            Kind::Fold => fold(&config, &settings, false)?,
            Kind::Calls => fold(&config, &settings, true)?,
            Kind::Live => return live(&config, &settings),
        };
        println!("{row}");
        Ok(())
    }
}

/// What all stages report.
fn report(records: u64, took: Duration, cpu_us: u64, rest: Value) -> Value {
    let mut row = json!({"records": records, "seconds": took.as_secs_f64(), "cpu_us": cpu_us,
        "memory_peak_bytes": Process::now().peak_bytes(), "threads_us": spent::cpu_us_by_thread()});
    for (name, value) in rest.as_object().into_iter().flatten() {
        row[name] = value.clone();
    }
    row
}

/// Reads every partition to its end by one client with Reckon's own settings.
fn consume(
    settings: &KafkaSettings,
    read: impl FnOnce(&Arc<BaseConsumer<Quiet>>, usize) -> Result<u64, CliError>,
) -> Result<Value, CliError> {
    let consumer: BaseConsumer<Quiet> = settings.fetcher().create_with_context(Quiet).map_err(failed)?;
    let consumer = Arc::new(consumer);
    let events = settings.events();
    let metadata = consumer.fetch_metadata(Some(&events), STAGE_MAX).map_err(failed)?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(&events, partition as i32, Offset::Offset(0))
            .map_err(failed)?;
    }
    let (began, cpu) = (Instant::now(), cpu_us());
    consumer.assign(&list).map_err(failed)?;
    let records = read(&consumer, partitions)?;
    let took = began.elapsed();
    Ok(report(records, took, cpu_us() - cpu, json!({})))
}

fn poll(consumer: &BaseConsumer<Quiet>, partitions: usize, mut each: impl FnMut(&[u8])) -> Result<u64, CliError> {
    let (mut ended, mut records) = (0, 0);
    while ended < partitions {
        match consumer.poll(WAIT) {
            None => {}
            Some(Ok(message)) => {
                records += 1;
                each(message.payload().unwrap_or_default());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(cause)) => return Err(failed(cause)),
        }
    }
    Ok(records)
}

fn take(consumer: &Arc<BaseConsumer<Quiet>>, partitions: usize) -> Result<u64, CliError> {
    let mut queue = Queue::of(Arc::clone(consumer)).ok_or_else(|| failed("the client has no queue"))?;
    let (mut ended, mut records, mut wrong) = (0, 0, None);
    while ended < partitions && wrong.is_none() {
        queue.take(WAIT, |message| match message.error() {
            None => {
                records += 1;
                std::hint::black_box(message.payload());
            }
            Some(RDKafkaErrorCode::PartitionEOF) => ended += 1,
            Some(code) => wrong = Some(code),
        });
    }
    wrong.map_or(Ok(records), |code| Err(failed(code)))
}

/// A fold of all partitions, begun.
struct Folding {
    log: Arc<KafkaLog>,
    running: Arc<Running>,
    ends: Vec<u64>,
}

impl Folding {
    fn start(config: &Config, settings: &KafkaSettings, calls_output: bool) -> Result<Self, CliError> {
        let settings = KafkaSettings {
            instance: Some("bench".to_owned()),
            ..settings.clone()
        };
        let log = Arc::new(KafkaLog::open(&settings)?);
        let partitions = 0..log.identity().partition_count;
        let ends = partitions.map(|p| log.end(p)).collect::<Result<_, _>>()?;
        let fold = crate::partition::Settings {
            calls_output,
            ..config.settings()
        };
        let running = Running::share(Arc::clone(&log), &config.data.path, &config.budget(), &fold)?;
        Ok(Self { log, running, ends })
    }

    fn records(&self) -> u64 {
        self.running.partitions.iter().map(|p| p.standing().next_offset).sum()
    }

    /// Waits until everything that was there at first is folded.
    fn folded(&self) -> Result<Duration, CliError> {
        let until = Instant::now() + STAGE_MAX;
        let mut first = None;
        let is_behind = |(live, end): (&Arc<crate::partition::live::Live>, &u64)| {
            // The end may be a transaction's marker, which is no record.
            self.log.read_up_to(live.number, live.standing().next_offset) < *end
        };
        while self.running.partitions.iter().zip(&self.ends).any(is_behind) {
            if first.is_none() && self.records() > self.running.partitions.len() as u64 * 2 {
                first = Some(Instant::now());
            }
            if Instant::now() > until || self.running.sharing.as_ref().is_some_and(|s| !s.halted().is_empty()) {
                return Err(failed("the fold doesn't come to the end of the log"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let uncommitted = |live: &Arc<crate::partition::live::Live>| {
            live.read(|p| p.has_uncommitted() || p.undelivered() > 0)
                .unwrap_or(true)
        };
        while self.running.partitions.iter().any(uncommitted) {
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(first.map_or(Duration::ZERO, |first| first.elapsed()))
    }

    fn sum(&self, of: impl Fn(&crate::partition::worker::Partition) -> u64) -> u64 {
        self.running.partitions.iter().filter_map(|p| p.read(&of).ok()).sum()
    }
}

fn fold(config: &Config, settings: &KafkaSettings, calls_output: bool) -> Result<Value, CliError> {
    let (began, cpu) = (Instant::now(), cpu_us());
    let folding = Folding::start(config, settings, calls_output)?;
    let took = folding.folded()?;
    let start = began.elapsed().saturating_sub(took);
    let records = folding.sum(|p| p.work.records);
    let row = report(
        records,
        took,
        cpu_us() - cpu,
        json!({
            "start_seconds": start.as_secs_f64(),
            "remembered_calls": folding.sum(|p| p.shelf.len() + p.machine.calls.resident()),
            "commits": folding.sum(|p| p.work.commits),
            "commit_seconds": folding.sum(|p| p.work.commit_time.as_micros() as u64) as f64 / 1e6,
            "commit_bytes": folding.sum(|p| p.work.bytes.all),
        }),
    );
    folding.running.stop();
    Ok(row)
}

/// Folds what comes until told up to where; then prints when each partition stood where.
fn live(config: &Config, settings: &KafkaSettings) -> Result<(), CliError> {
    let folding = Folding::start(config, settings, false)?;
    folding.folded()?;
    println!("{}", json!({"ready": true}));
    std::io::stdout().flush()?;
    let (told, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // Without a line the other process is gone.
        let _ = std::io::stdin().lock().read_line(&mut line);
        let _ = told.send(serde_json::from_str::<BTreeMap<u32, u64>>(&line).unwrap_or_default());
    });
    let cpu = cpu_us();
    let mut until: Option<BTreeMap<u32, u64>> = None;
    let mut stood: Vec<Vec<(u64, u64)>> = vec![Vec::new(); folding.ends.len()];
    loop {
        let now = now_nanos();
        for (live, stood) in folding.running.partitions.iter().zip(&mut stood) {
            let next_offset = live.standing().next_offset;
            if stood.last().is_none_or(|last| last.1 < next_offset) {
                stood.push((now, next_offset));
            }
        }
        until = until.or_else(|| ends.try_recv().ok());
        let stands = |(p, end): (&u32, &u64)| {
            let last = stood.get(*p as usize).and_then(|s| s.last());
            last.is_some_and(|last| last.1 > *end)
        };
        if until.as_ref().is_some_and(|until| until.iter().all(stands)) {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    println!("{}", json!({"stood": stood, "cpu_us": cpu_us() - cpu}));
    folding.running.stop();
    Ok(())
}
