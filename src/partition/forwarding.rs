//! Misplaced events on their way to their own partitions (RULES §1): at least once, in the order in which they were found.

use std::time::{Duration, Instant};

use super::worker::Partition;
use crate::log::{Log, LogError, NewRecord, Place};
use crate::machine::forward::Forward;
use crate::wire::record::{Forwarded, Kind};

/// Misplaced events after which a commit is due: they wait in memory.
pub(super) const WAITING_MAX: usize = 8_192;

/// Events appended at a time.
const APPENDED_MAX: usize = 1_024;

/// How often the log is told how far everything is done.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_secs(1);

/// What a partition knows of its misplaced events.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// Of those found below it none is forwarded again: the store may be folding them anew.
    below: u64,
    /// Committed, not yet known to be in their own partitions.
    pub unsent: Vec<Forward>,
    /// Offsets of those that are, since the last commit: their rows go with the next one.
    pub sent: Vec<u64>,
    /// Position that the log was told last, and when.
    acknowledged: (u64, Option<Instant>),
}

impl Forwarding {
    /// Goes on with what a store held.
    pub fn resume(below: u64, stored: Vec<Forward>) -> Self {
        let (sent, unsent): (Vec<_>, Vec<_>) = stored.into_iter().partition(|forward| forward.offset < below);
        Self {
            below,
            unsent,
            sent: sent.into_iter().map(|forward| forward.offset).collect(),
            // Never less: a store may be behind what the log was told.
            acknowledged: (below, None),
        }
    }

    /// Of those found below none is forwarded: another owner, or this one before it was killed, has done it.
    pub fn known_below(&mut self, below: u64) {
        let stored = std::mem::take(&mut self.unsent);
        *self = Self::resume(below, stored);
    }

    /// Of those found since the last commit, the ones that are to be forwarded.
    pub fn to_keep(&self, mut found: Vec<Forward>) -> Vec<Forward> {
        found.retain(|forward| forward.offset >= self.below);
        found
    }

    /// Takes the first `count` as sent.
    pub fn sent(&mut self, count: usize) {
        self.sent
            .extend(self.unsent.drain(..count).map(|forward| forward.offset));
    }
}

/// Appends events that were found in `partition` where they belong.
pub(super) fn append(log: &dyn Log, partition: u32, forwards: &[Forward]) -> Result<(), LogError> {
    for some in forwards.chunks(APPENDED_MAX) {
        let records = some.iter().map(|forward| {
            let record = NewRecord {
                forwarded: Some(Forwarded {
                    partition,
                    offset: forward.offset,
                    append_ms: forward.append_ms,
                }),
                ..NewRecord::new(Kind::Event, forward.bytes.clone())
            };
            (Place::One(forward.to), record)
        });
        log.append_placed(records.collect())?;
    }
    Ok(())
}

impl Partition {
    /// Position that the log is to be told once what is committed is forwarded and delivered: everything below is done then.
    /// `None`: it isn't due, unless `now`.
    pub(super) fn to_acknowledge(&self, now: bool) -> Option<u64> {
        let (told, at) = self.forwarding.acknowledged;
        let below = self.committed.next_offset;
        let due = now || at.is_none_or(|at| at.elapsed() >= ACKNOWLEDGE_EVERY);
        (due && below > told && !self.rocks.read_only).then_some(below)
    }

    /// Notes what the log was told.
    pub(super) fn acknowledged(&mut self, below: u64) {
        self.forwarding.acknowledged = (below, Some(Instant::now()));
    }
}
