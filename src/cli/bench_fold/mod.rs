//! `reckon bench fold`: how fast the fold is on this machine, against prost's decode of the same bytes in the same run.

mod killed;
mod open_calls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use prost::Message;
use serde_json::{Value, json};

use super::CliError;
use super::terminal::{Table, grouped, progress};
use crate::http::process::thread_cpu_time;
use crate::log::memory::MemoryLog;
use crate::log::{Batch, Identity};
use crate::machine::clock::Source;
use crate::model::Ms;
use crate::partition::Settings;
use crate::partition::worker::Partition;
use crate::store::rocks::Budget;
use crate::wire::pb;
use crate::wire::record::Kind;
use crate::workload::dense::{self, Dense};
pub use killed::FoldUntilKilled;

/// Events a second on one core, from their bytes to the committed store
///
/// Each round folds the same calls into a fresh store, and decodes the same bytes with prost beside it. Figures are medians
/// of the rounds; trust ratios, not single figures.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon bench fold --calls 1000000 --remembered 10000000 --rounds 3")]
pub struct Fold {
    /// Calls of a round, three events each
    #[arg(long, default_value_t = 1_000_000)]
    calls: u64,

    /// Calls folded before and remembered
    #[arg(long, default_value_t = 0)]
    remembered: u64,

    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,

    /// Accounts
    #[arg(long, default_value_t = 100_000)]
    accounts: u64,

    /// Log time between two calls, in µs
    #[arg(long, default_value_t = 50)]
    gap_us: u64,

    /// Write the calls output too
    #[arg(long)]
    calls_output: bool,

    /// Commit after so many events and never by the clock, so that a busy machine commits as often as an idle one
    #[arg(long)]
    commit_events: Option<u64>,

    /// Folder for the stores; a temporary one by default
    #[arg(long)]
    data: Option<PathBuf>,

    /// After the rounds: kill (SIGKILL) a process that folds, at as many remembered calls, and say how long it takes until
    /// another folds on
    #[arg(long)]
    kill: bool,
}

/// Wall time and this thread's time on a processor: the one is what counts, the other is comparable on a busy machine.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

impl Spent {
    fn add(&mut self, from: &Clocks) {
        self.wall += from.wall.elapsed();
        self.cpu += thread_cpu_time().unwrap_or_default().saturating_sub(from.cpu);
    }

    fn ratio(self, to: Self) -> (f64, f64) {
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64().max(1e-9);
        (ratio(self.wall, to.wall), ratio(self.cpu, to.cpu))
    }
}

struct Clocks {
    wall: Instant,
    cpu: Duration,
}

impl Clocks {
    fn now() -> Self {
        let cpu = thread_cpu_time().unwrap_or_default();
        Self {
            wall: Instant::now(),
            cpu,
        }
    }
}

/// What one round measured.
struct Round {
    events: u64,
    fold: Spent,
    commit: Duration,
    commits: u64,
    prost: Spent,
    scan: Spent,
    batch_bytes: BTreeMap<&'static str, u64>,
    written_bytes: u64,
    disk_bytes: u64,
    memory: BTreeMap<&'static str, u64>,
    open: u64,
    remembered: u64,
}

/// Records decoded and folded at a time.
const BATCH_RECORDS: usize = 30_000;

fn log() -> Arc<MemoryLog> {
    let identity = Identity {
        log_id: "bench".to_owned(),
        partition_count: 1,
        source: Source::Append,
    };
    Arc::new(MemoryLog::new(identity, dense::START_MS))
}

/// Feeds calls to a partition as a log would; returns time in the fold and the bytes' time in prost and in the scan.
struct Feeder {
    batch: Batch,
    numbered: Numbered,
    events: u64,
    fold: Spent,
    prost: Spent,
    scan: Spent,
    compare: bool,
}

impl Feeder {
    fn new(partition: &Partition) -> Self {
        Self {
            batch: Batch::default(),
            numbered: Numbered {
                offset: partition.machine.position.next_offset,
                tick_ms: dense::START_MS,
            },
            events: 0,
            fold: Spent::default(),
            prost: Spent::default(),
            scan: Spent::default(),
            compare: false,
        }
    }

    fn flush(&mut self, partition: &mut Partition) -> Result<(), CliError> {
        if self.compare {
            let started = Clocks::now();
            for record in self.batch.iter().filter(|r| r.kind == Kind::Event) {
                std::hint::black_box(pb::CallEvent::decode(record.bytes).is_ok());
            }
            self.prost.add(&started);
            let started = Clocks::now();
            for record in self.batch.iter().filter(|r| r.kind == Kind::Event) {
                std::hint::black_box(crate::wire::protobuf::decode(record.bytes).is_ok());
            }
            self.scan.add(&started);
        }
        let started = Clocks::now();
        partition.fold(&self.batch, self.batch.len())?;
        self.fold.add(&started);
        self.batch.clear();
        Ok(())
    }

    fn feed(&mut self, partition: &mut Partition, calls: &Dense, from: u64, until: u64) -> Result<(), CliError> {
        let mut failed = Ok(());
        let mut numbered = self.numbered;
        numbered.write(calls, from, until, |offset, at, kind, bytes| {
            if failed.is_err() {
                return;
            }
            self.batch.push(offset, at, kind, bytes);
            self.events += u64::from(kind == Kind::Event);
            if self.batch.len() >= BATCH_RECORDS {
                failed = self.flush(partition);
            }
        });
        self.numbered = numbered;
        failed?;
        self.flush(partition)
    }
}

/// Where a log stands that holds calls one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbered {
    /// The next offset.
    offset: u64,
    /// When the next tick is due.
    tick_ms: Ms,
}

impl Numbered {
    /// The records of calls `from..until`: their events, and the owner's tick every minute and after a gap without traffic.
    fn write(&mut self, calls: &Dense, from: u64, until: u64, mut take: impl FnMut(u64, Ms, Kind, &[u8])) {
        calls.write(from, until, |bytes, at| {
            if at >= self.tick_ms {
                self.tick_ms = at + 60_000;
                take(self.offset, at, Kind::Tick, &crate::log::appender::tick(at));
                self.offset += 1;
            }
            take(self.offset, at, Kind::Event, bytes);
            self.offset += 1;
        });
    }
}

impl Fold {
    fn dense(&self) -> Dense {
        Dense {
            accounts: self.accounts,
            gap_us: self.gap_us,
            ..Dense::default()
        }
    }

    fn round(&self, data: &Path) -> Result<Round, CliError> {
        let settings = Settings {
            calls_output: self.calls_output,
            ..Settings::default()
        };
        let settings = match self.commit_events {
            None => settings,
            Some(commit_events) => Settings {
                commit_events,
                commit_ms: u64::MAX,
                ..settings
            },
        };
        let mut partition = Partition::open(log(), 0, data, &Budget::default(), settings)?;
        let calls = self.dense();
        let mut feeder = Feeder::new(&partition);
        if self.remembered > 0 {
            let bar = progress(self.remembered, "remembering");
            let step = 500_000.min(self.remembered);
            let mut from = 0;
            while from < self.remembered {
                let until = (from + step).min(self.remembered);
                feeder.feed(&mut partition, &calls, from, until)?;
                bar.inc(until - from);
                from = until;
            }
            bar.finish_and_clear();
            partition.finish()?;
        }
        feeder.compare = true;
        (feeder.events, feeder.fold) = (0, Spent::default());
        let before = (partition.work, partition.rocks.written_bytes());
        feeder.feed(&mut partition, &calls, self.remembered, self.remembered + self.calls)?;
        let started = Clocks::now();
        partition.commit()?;
        partition.send()?;
        feeder.fold.add(&started);
        let work = partition.work;
        let machine = &partition.machine;
        let memory = BTreeMap::from([
            ("calls", machine.calls.memory_bytes() as u64),
            ("remembered_calls", partition.shelf.memory_bytes() as u64),
            ("accounts", machine.accounts.memory_bytes() as u64),
            ("names", machine.names.memory_bytes() as u64),
        ]);
        let (open, resident) = (machine.calls.open(), machine.calls.resident());
        let batch_bytes = BTreeMap::from([
            ("settled", work.bytes.settled - before.0.bytes.settled),
            ("open", work.bytes.open - before.0.bytes.open),
            ("totals", work.bytes.totals - before.0.bytes.totals),
            ("outbox", work.bytes.outbox - before.0.bytes.outbox),
            ("all", work.bytes.all - before.0.bytes.all),
        ]);
        let remembered = partition.shelf.len() + resident - open;
        partition.finish()?;
        let written_bytes = partition.rocks.written_bytes() - before.1;
        let disk_bytes = partition.rocks.disk_bytes();
        Ok(Round {
            events: feeder.events,
            fold: feeder.fold,
            commit: work.commit_time.saturating_sub(before.0.commit_time),
            commits: work.commits - before.0.commits,
            prost: feeder.prost,
            scan: feeder.scan,
            batch_bytes,
            written_bytes,
            disk_bytes,
            memory,
            open,
            remembered,
        })
    }

    pub(super) fn run(&self, json: bool) -> Result<(), CliError> {
        let own = std::env::temp_dir().join(format!("reckon-bench-{}", std::process::id()));
        let folder = self.data.clone().unwrap_or(own);
        let mut rounds = Vec::new();
        for n in 0..self.rounds.max(1) {
            let path = folder.join(n.to_string());
            let file = |cause| CliError::File {
                path: path.clone(),
                cause,
            };
            std::fs::create_dir_all(&path).map_err(file)?;
            let round = self.round(&path);
            std::fs::remove_dir_all(&path).map_err(file)?;
            rounds.push(round?);
        }
        let mut row = self.summary(&rounds);
        row["memory_bytes_per_open_call"] = format!("{:.0}", open_calls::memory_bytes_per_call()?).into();
        if self.kill {
            let killed = killed::measure(self, &folder.join("killed"))?;
            row["killed_remembered_calls"] = killed.remembered.into();
            row["seconds_from_sigkill_to_first_record"] = format!("{:.2}", killed.first_record.as_secs_f64()).into();
            row["seconds_from_sigkill_to_where_it_was"] = format!("{:.2}", killed.caught_up.as_secs_f64()).into();
            row["records_folded_again"] = killed.again.into();
        }
        if json {
            println!("{row}");
            return Ok(());
        }
        let mut table = Table::new(&["figure (median of the rounds)", ">value"]);
        for (name, value) in row.as_object().into_iter().flatten() {
            let shown = match value {
                Value::Number(n) if n.is_u64() => grouped(&n.to_string()),
                other => other.to_string().trim_matches('"').to_owned(),
            };
            table.row([name.replace('_', " "), shown]);
        }
        print!("{table}");
        Ok(())
    }

    fn summary(&self, rounds: &[Round]) -> Value {
        let median = |of: &dyn Fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let ns = |d: Duration, r: &Round| d.as_secs_f64() * 1e9 / r.events.max(1) as f64;
        let fixed = |value: f64, places: usize| format!("{value:.places$}");
        let calls = self.calls.max(1) as f64;
        let mut row = json!({
            "events_per_second": median(&|r| r.events as f64 / r.fold.wall.as_secs_f64()) as u64,
            "fold_to_prost_decode_ratio": fixed(median(&|r| r.fold.ratio(r.prost).0), 2),
            "fold_to_prost_decode_ratio_cpu_time": fixed(median(&|r| r.fold.ratio(r.prost).1), 2),
            "ns_per_event_whole_fold": fixed(median(&|r| ns(r.fold.wall, r)), 0),
            "ns_per_event_whole_fold_cpu_time": fixed(median(&|r| ns(r.fold.cpu, r)), 0),
            "ns_per_event_of_it_in_commits": fixed(median(&|r| ns(r.commit, r)), 0),
            "ns_per_event_prost_decode": fixed(median(&|r| ns(r.prost.wall, r)), 0),
            "ns_per_event_prost_decode_cpu_time": fixed(median(&|r| ns(r.prost.cpu, r)), 0),
            "ns_per_event_own_decode_cpu_time": fixed(median(&|r| ns(r.scan.cpu, r)), 0),
            "bytes_written_per_call": fixed(median(&|r| r.written_bytes as f64 / calls), 1),
            "disk_bytes_per_remembered_call": fixed(median(&|r| r.disk_bytes as f64 / r.remembered.max(1) as f64), 1),
            "memory_bytes_per_remembered_call":
                fixed(median(&|r| r.memory["remembered_calls"] as f64 / r.remembered.max(1) as f64), 2),
            "commits": median(&|r| r.commits as f64) as u64,
            "remembered_calls": median(&|r| r.remembered as f64) as u64,
            "open_calls": median(&|r| r.open as f64) as u64,
            "memory_bytes_calls": median(&|r| r.memory["calls"] as f64) as u64,
            "memory_bytes_accounts": median(&|r| r.memory["accounts"] as f64) as u64,
        });
        for part in ["settled", "open", "totals", "outbox", "all"] {
            let value = median(&|r| r.batch_bytes[part] as f64 / calls);
            row[format!("commit_bytes_per_call_{part}")] = fixed(value, 1).into();
        }
        row
    }
}
