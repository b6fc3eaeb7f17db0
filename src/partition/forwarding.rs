//! Misplaced events on their way to their own partitions (RULES §1): at least once, in the order in which they were found.

use std::time::{Duration, Instant};

use super::worker::Partition;
use crate::log::{Log, LogError, NewRecord, Place};
use crate::machine::forward::Forward;
use crate::model::limits::RECORD_BYTES_MAX;
use crate::wire::record::{Forwarded, Kind};

/// Misplaced events after which a commit is due: they wait in memory.
pub(super) const WAITING_MAX: usize = 8_192;

/// Events appended at a time.
const APPENDED_MAX: usize = 1_024;

/// Bytes of misplaced events that may be committed and not appended where they belong.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// How long those wait that couldn't be appended: a partition without a leader is without it for seconds, and takes others' time.
const RETRY_AFTER: Duration = Duration::from_secs(5);

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
    /// Since when some couldn't be appended.
    failed_at: Option<Instant>,
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
            failed_at: None,
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

    /// What may leave: all, or none while what failed is left alone for a while.
    pub fn may_leave(&self, now: bool) -> &[Forward] {
        let waits = self.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER);
        if waits && !now && !self.is_full() {
            &[]
        } else {
            &self.unsent
        }
    }

    /// Whether as many wait as may.
    pub fn is_full(&self) -> bool {
        let bytes = || self.unsent.iter().map(|forward| forward.bytes.len()).sum::<usize>();
        self.unsent.len() >= WAITING_MAX || bytes() >= WAITING_BYTES_MAX
    }

    /// Takes the first `count` as sent; without `all`, the next one couldn't be.
    pub fn sent(&mut self, count: usize, all: bool) {
        if count > 0 || !all {
            self.failed_at = (!all).then(Instant::now);
        }
        self.sent
            .extend(self.unsent.drain(..count).map(|forward| forward.offset));
    }
}

/// Appends events that were found in `partition` where they belong: how many of them, the rest couldn't be just now.
pub(super) fn append(log: &dyn Log, partition: u32, forwards: &[Forward]) -> Result<usize, LogError> {
    let mut appended = 0;
    for some in forwards.chunks(APPENDED_MAX) {
        let done = match append_whole(log, partition, some) {
            Err(LogError::TooLarge { .. }) => some.iter().try_for_each(|one| append_at_most(log, partition, one)),
            done => done,
        };
        match done {
            Ok(()) => appended += some.len(),
            Err(cause) if cause.is_interruption() => {
                let (first, waiting) = (some[0].to, forwards.len() - appended);
                tracing::warn!(partition, to = first, waiting, %cause, "misplaced events can't be passed on yet");
                break;
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(appended)
}

fn append_whole(log: &dyn Log, partition: u32, some: &[Forward]) -> Result<(), LogError> {
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
    log.append_placed(records.collect()).map(drop)
}

/// With the header that says where it was found, a record may be larger than a topic takes by a hair. It is far larger than an event
/// may be, so what is left of it is rejected where it belongs, too.
fn append_at_most(log: &dyn Log, partition: u32, one: &Forward) -> Result<(), LogError> {
    match append_whole(log, partition, std::slice::from_ref(one)) {
        Err(LogError::TooLarge { cause, .. }) if one.bytes.len() > RECORD_BYTES_MAX => {
            tracing::warn!(
                partition,
                offset = one.offset,
                to = one.to,
                cause,
                "of a misplaced event only its beginning is passed on"
            );
            let cut = Forward {
                bytes: one.bytes[..=RECORD_BYTES_MAX].to_vec(),
                ..one.clone()
            };
            append_whole(log, partition, &[cut])
        }
        done => done,
    }
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
