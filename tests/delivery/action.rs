//! What can happen next, one indivisible step each.

use std::fmt;

/// A step of an instance, of a broker, or of fate. Instances and topics by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hears of the newest generation: joins, and is told who owns the partition.
    Learn(u8),
    Ask(u8),
    Init(u8),
    Barrier(u8),
    Abort(u8),
    Tail {
        instance: u8,
        topic: u8,
        stale: bool,
    },
    /// Has folded the log to its end; a tail is still ahead.
    AtEnd(u8),
    Fold {
        instance: u8,
        records: u8,
    },
    /// What [`crate::scene::Flaw::CompareAfter`] does too late.
    Compare(u8),
    Flush(u8),
    /// One column family of three; only with [`crate::scene::Flaw::FlushApart`].
    FlushFamily(u8, u8),
    Produce(u8),
    Commit(u8),
    Prune(u8),

    Append,
    Marker {
        producer: u8,
        topic: u8,
    },
    /// The commit whose sender gave up waiting comes to the coordinator, or gets lost.
    Arrive(u8),
    Lose(u8),
    Heal(u8),
    HealInput,

    Crash(u8),
    /// A producer's call fails; with `commit`, it was a commit and may still arrive.
    Fail {
        instance: u8,
        commit: bool,
    },
    TimeOut(u8),
    Expire {
        instance: u8,
        to: Option<u8>,
    },
    HandOver(u8),
    Isolate(u8),
    IsolateInput,
    Truncate(u8),
    Retain(u8),
    Purge(u8),
    Restore {
        instance: u8,
        from: Option<u8>,
    },
    /// What the instance asks next, no broker answers within its time.
    Silence(u8),
    /// The operator starts a halted instance again: with the old version, or over an empty store.
    Repair(u8),
}

impl Action {
    /// Whose step it is, if an instance's.
    pub const fn instance(self) -> Option<u8> {
        match self {
            Self::Learn(i)
            | Self::Ask(i)
            | Self::Init(i)
            | Self::Barrier(i)
            | Self::Abort(i)
            | Self::AtEnd(i)
            | Self::Compare(i)
            | Self::Flush(i)
            | Self::FlushFamily(i, _)
            | Self::Produce(i)
            | Self::Commit(i)
            | Self::Prune(i)
            | Self::Tail { instance: i, .. }
            | Self::Fold { instance: i, .. } => Some(i),
            _ => None,
        }
    }

    /// Uses up the budget of faults.
    pub const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Crash(_)
                | Self::Fail { .. }
                | Self::TimeOut(_)
                | Self::Expire { .. }
                | Self::HandOver(_)
                | Self::Isolate(_)
                | Self::IsolateInput
                | Self::Truncate(_)
                | Self::Retain(_)
                | Self::Purge(_)
                | Self::Restore { .. }
                | Self::Silence(_)
        )
    }

    /// The order in which a calm world does things, first ones first; `None` for what it can do without.
    pub const fn rank(self) -> Option<u8> {
        Some(match self {
            Self::Heal(_) | Self::HealInput => 0,
            Self::Arrive(_) => 1,
            Self::Marker { .. } => 2,
            Self::TimeOut(_) | Self::Compare(_) => 3,
            Self::Repair(_) => 4,
            Self::Expire { .. } => 5,
            Self::Learn(_) => 6,
            Self::Append => 7,
            Self::Fold { .. } => 8,
            Self::Ask(_) => 9,
            Self::Init(_) => 10,
            Self::Barrier(_) => 11,
            Self::Abort(_) => 12,
            Self::Tail { .. } => 13,
            Self::AtEnd(_) => 14,
            Self::Prune(_) => 15,
            Self::Produce(_) => 16,
            Self::Commit(_) => 17,
            _ => return None,
        })
    }
}

fn topic(number: u8) -> char {
    char::from(b'A' + number)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Learn(i) => write!(f, "{i} joins or hears of the rebalance"),
            Self::Ask(i) => write!(f, "{i} asks the group"),
            Self::Init(i) => write!(f, "{i} initialises its producer"),
            Self::Barrier(i) => write!(f, "{i} writes the barrier"),
            Self::Abort(i) => write!(f, "{i} aborts the barrier"),
            Self::Tail {
                instance,
                topic: t,
                stale,
            } => {
                let whom = if stale { "a deposed leader" } else { "the leader" };
                write!(f, "{instance} reads the tail of {} from {whom}", topic(t))
            }
            Self::AtEnd(i) => write!(f, "{i} is at the log's end with a tail ahead"),
            Self::Fold { instance, records } => write!(f, "{instance} folds and writes {records} record(s)"),
            Self::Compare(i) => write!(f, "{i} compares what it has written"),
            Self::Flush(i) => write!(f, "{i} flushes"),
            Self::FlushFamily(i, family) => {
                let family = ["state", "outbox", "position"][usize::from(family)];
                write!(f, "{i} flushes its {family}")
            }
            Self::Produce(i) => write!(f, "{i} produces"),
            Self::Commit(i) => write!(f, "{i} commits"),
            Self::Prune(i) => write!(f, "{i} prunes"),
            Self::Append => write!(f, "a record is appended to the log"),
            Self::Marker { topic: t, .. } => write!(f, "the marker is written to {}", topic(t)),
            Self::Arrive(_) => write!(f, "the late commit arrives"),
            Self::Lose(_) => write!(f, "the late commit is lost"),
            Self::Heal(t) => write!(f, "the deposed leader of {} is gone", topic(t)),
            Self::HealInput => write!(f, "the deposed leader of the log is gone"),
            Self::Crash(i) => write!(f, "{i} crashes"),
            Self::Fail {
                instance,
                commit: false,
            } => write!(f, "a call of {instance}'s producer fails"),
            Self::Fail { instance, commit: true } => write!(f, "{instance} commits and never hears of it"),
            Self::TimeOut(_) => write!(f, "the transaction times out"),
            Self::Expire { instance, to } => match to {
                Some(to) => write!(f, "{instance}'s session expires; {to} may own"),
                None => write!(f, "{instance}'s session expires"),
            },
            Self::HandOver(to) => write!(f, "the group hands over to {to}"),
            Self::Isolate(t) => write!(f, "a leader of {} is deposed and doesn't know", topic(t)),
            Self::IsolateInput => write!(f, "a leader of the log is deposed and doesn't know"),
            Self::Truncate(at) => write!(f, "the log is truncated to {at}"),
            Self::Retain(from) => write!(f, "the log loses its records below {from}"),
            Self::Purge(t) => write!(f, "{} loses its records", topic(t)),
            Self::Restore { instance, from } => match from {
                Some(from) => write!(f, "{instance} gets a copy of {from}'s flushed store"),
                None => write!(f, "{instance} loses its store"),
            },
            Self::Silence(i) => write!(f, "nobody will answer {i}'s next reading"),
            Self::Repair(i) => write!(f, "the operator repairs {i}"),
        }
    }
}
