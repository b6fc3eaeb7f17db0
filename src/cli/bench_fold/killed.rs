//! Seconds from SIGKILL until another process folds on, with many calls remembered.
//!
//! A child folds calls that follow from their numbers, says where it stands after each stretch, and is killed. This process
//! then opens the child's store beside a log that holds the last stretches, made anew from their numbers, and folds on.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::{CliError, Feeder, Fold, Numbered, log};
use crate::cli::terminal::progress;
use crate::log::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention};
use crate::machine::output::{Output, Tail, Topic};
use crate::partition::Settings;
use crate::partition::worker::Partition;
use crate::store::rocks::Budget;
use crate::workload::dense::Dense;

/// Calls between two times that the child says where it stands.
const STRETCH: u64 = 50_000;

/// Stretches that the log holds: more than ever waits in memory to be flushed.
const HELD: usize = 120;

/// Stretches that the child goes on for once it remembers enough.
const BEYOND: u64 = 7;

/// Fold calls until this process is killed
#[derive(Debug, Args)]
pub struct FoldUntilKilled {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    accounts: u64,
    #[arg(long)]
    gap_us: u64,
}

fn settings() -> Settings {
    Settings {
        calls_output: false,
        ..Settings::default()
    }
}

/// Where the child stood.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    numbered: Numbered,
    calls: u64,
}

impl FoldUntilKilled {
    pub(crate) fn run(self) -> Result<(), CliError> {
        let dense = Dense {
            accounts: self.accounts,
            gap_us: self.gap_us,
            ..Dense::default()
        };
        let mut partition = Partition::open(log(), 0, &self.data, &Budget::default(), settings())?;
        let mut feeder = Feeder::new(&partition);
        let mut calls = 0;
        loop {
            let Numbered { offset, tick_ms } = feeder.numbered;
            writeln!(std::io::stdout(), "{calls} {offset} {tick_ms}")?;
            feeder.feed(&mut partition, &dense, calls, calls + STRETCH)?;
            calls += STRETCH;
        }
    }
}

/// The last part of a log, held in memory.
struct LastPart {
    identity: Identity,
    batches: Vec<Batch>,
}

impl LastPart {
    /// The records of all stretches from the first boundary on, `stretches` of them.
    fn make(dense: &Dense, from: Boundary, stretches: u64) -> Self {
        let mut batches = Vec::new();
        let mut numbered = from.numbered;
        for stretch in 0..stretches {
            let mut batch = Batch::default();
            let calls = from.calls + stretch * STRETCH;
            numbered.write(dense, calls, calls + STRETCH, |offset, at, kind, bytes| {
                batch.push(offset, at, kind, bytes);
            });
            batches.push(batch);
        }
        Self {
            identity: log().identity().clone(),
            batches,
        }
    }

    fn first(batch: &Batch) -> u64 {
        batch.get(0).map_or(u64::MAX, |r| r.offset)
    }

    fn last(batch: &Batch) -> Option<u64> {
        batch.get(batch.len().checked_sub(1)?).map(|r| r.offset)
    }
}

impl Log for LastPart {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn start(&self, _: u32) -> Result<u64, LogError> {
        Ok(self.batches.first().map_or(0, Self::first))
    }

    fn end(&self, _: u32) -> Result<u64, LogError> {
        Ok(self.batches.last().and_then(Self::last).map_or(0, |last| last + 1))
    }

    fn poll(&self, _: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError> {
        batch.clear();
        let at = self
            .batches
            .partition_point(|b| Self::first(b) <= from)
            .saturating_sub(1);
        let held = self.batches.get(at).into_iter().flat_map(Batch::iter);
        for record in held.skip_while(|r| r.offset < from) {
            if batch.bytes_len() >= max_bytes {
                break;
            }
            batch.push(record.offset, record.append_ms, record.kind, record.bytes);
        }
        Ok(())
    }

    fn append_placed(&self, _: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        Ok(Vec::new())
    }

    fn wait(&self, partition: u32, from: u64, _: Duration) -> Result<bool, LogError> {
        Ok(from < self.end(partition)?)
    }

    fn append_outputs(&self, _: u32, _: &[Output]) -> Result<(), LogError> {
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

/// What the kill came to.
pub(super) struct Killed {
    /// Calls that the child had folded, at least.
    pub(super) remembered: u64,
    /// Until the store was open and the first record folded.
    pub(super) first_record: Duration,
    /// Until everything was folded that the child had been given.
    pub(super) caught_up: Duration,
    /// Records folded again.
    pub(super) again: u64,
}

fn boundary(line: &str) -> Option<Boundary> {
    let mut numbers = line.split(' ');
    Some(Boundary {
        calls: numbers.next()?.parse().ok()?,
        numbered: Numbered {
            offset: numbers.next()?.parse().ok()?,
            tick_ms: numbers.next()?.parse().ok()?,
        },
    })
}

/// Kills a child that remembers as many calls as the rounds do, and folds on in its stead.
pub(super) fn measure(fold: &Fold, data: &Path) -> Result<Killed, CliError> {
    std::fs::create_dir_all(data)?;
    let killed = kill(fold, data).and_then(|held| fold_on(fold, data, &held));
    std::fs::remove_dir_all(data)?;
    killed
}

fn kill(fold: &Fold, data: &Path) -> Result<VecDeque<Boundary>, CliError> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["bench", "fold-until-killed", "--data"])
        .arg(data)
        .args([
            "--accounts",
            &fold.accounts.to_string(),
            "--gap-us",
            &fold.gap_us.to_string(),
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let wanted = fold.remembered.max(fold.calls);
    let bar = progress(wanted, "folding, to be killed");
    let mut held = VecDeque::with_capacity(HELD);
    let lines = child
        .stdout
        .take()
        .into_iter()
        .flat_map(|output| BufReader::new(output).lines());
    for line in lines {
        let Some(boundary) = boundary(&line?) else { continue };
        if held.len() == HELD {
            held.pop_front();
        }
        held.push_back(boundary);
        bar.set_position(boundary.calls.min(wanted));
        if boundary.calls >= wanted + BEYOND * STRETCH {
            break;
        }
    }
    bar.finish_and_clear();
    child.kill()?;
    child.wait()?;
    Ok(held)
}

fn fold_on(fold: &Fold, data: &Path, held: &VecDeque<Boundary>) -> Result<Killed, CliError> {
    let failed = |what: &str| CliError::Finding(what.to_owned());
    let (Some(from), Some(last)) = (held.front(), held.back()) else {
        return Err(failed("the process to be killed has ended by itself"));
    };
    // It was folding the stretch behind the last boundary: some of that may be in its store.
    let log = Arc::new(LastPart::make(&fold.dense(), *from, held.len() as u64));
    let began = Instant::now();
    let mut partition = Partition::open(Arc::<LastPart>::clone(&log), 0, data, &Budget::default(), settings())?;
    let opened_at = partition.machine.position.next_offset;
    let mut batch = Batch::default();
    if !partition.fold_available(&mut batch, Some(opened_at + 1))? {
        return Err(failed("the log holds nothing behind the store"));
    }
    let first_record = began.elapsed();
    while partition.machine.position.next_offset < last.numbered.offset
        && partition.fold_available(&mut batch, Some(last.numbered.offset))?
    {}
    Ok(Killed {
        remembered: last.calls,
        first_record,
        caught_up: began.elapsed(),
        again: partition.work.records,
    })
}
