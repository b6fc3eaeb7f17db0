//! The imperative shell around one machine: poll, decode, bring in what is packed, apply, commit, emit.

pub mod account;
mod backoff;
pub mod backup;
mod commit;
mod courier;
mod early;
mod ends;
mod errands;
pub mod explain;
mod forwarding;
pub mod host;
pub mod instance;
pub mod live;
pub mod open;
mod owned;
mod pulse;
pub mod read;
pub mod restore;
pub mod rows;
pub mod running;
pub mod sharing;
pub mod taken;
mod turns;
pub mod usage;
pub mod watch;
pub mod words;
pub mod worker;

use thiserror::Error;

use crate::log::{LogError, Retention};
use crate::machine::output::Topic;
use crate::model::Ms;
use crate::store::rocks::StoreError;
use crate::wire::operator_keys::GenesisError;

/// Why a partition stopped.
#[derive(Debug, Error)]
pub enum PartitionError {
    /// The log's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log has outputs that its own records don't lead to.
    #[error(
        "partition {partition}: {} outputs of {} were delivered, but the log folded to its end leads to {folded}; the log was \
         cut, or folded by another version. Nothing was written",
        tail,
        topic.as_str()
    )]
    TailAhead {
        /// Which partition.
        partition: u32,
        /// Which topic.
        topic: Topic,
        /// Last sequence delivered.
        tail: u64,
        /// Last sequence decided.
        folded: u64,
    },
    /// The first record isn't a genesis.
    #[error(
        "partition {partition} doesn't begin with its genesis; run `reckon init`, or restore the log from a backup"
    )]
    NoGenesis {
        /// Which partition.
        partition: u32,
    },
    /// The genesis can't be one, or isn't of this log.
    #[error("the genesis of partition {partition} can't be used: {cause}; was another program's record put there?")]
    BadGenesis {
        /// Which partition.
        partition: u32,
        /// Why.
        cause: GenesisError,
    },
    /// A fault of this program.
    #[error(
        "partition {partition} has panicked: {what}. This is a fault of the program; what it had folded since the last commit is \
         given up, and folded again from the log at the next start. If it panics again there, see deploy/RUNBOOK.md"
    )]
    Panicked {
        /// Which partition.
        partition: u32,
        /// The panic's words.
        what: String,
    },
    /// No thread can be started.
    #[error("no thread can be started ({cause}): raise the limit of threads (ulimit -u, TasksMax), and start again")]
    Thread {
        /// Why.
        cause: std::io::Error,
    },
    /// A folder of the data directory.
    #[error("{path}: {cause}")]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl PartitionError {
    /// Runs a part of a fold. A panic is an error too: whoever folds must say that it has stopped, and serve nothing of what it
    /// has left half done.
    pub fn caught<T>(partition: u32, work: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Self::Panicked {
                partition,
                what: text.unwrap_or("no message").to_owned(),
            })
        })
    }

    /// Whether the partition goes on once it is taken over anew, or the brokers are back.
    pub const fn is_interruption(&self) -> bool {
        matches!(self, Self::Log(cause) if cause.is_interruption())
    }
}

/// How a partition is folded. Nothing here changes what is decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Events after which a commit is due; five times as many while the fold is far behind, and so with the time.
    pub commit_events: u64,
    /// Wall milliseconds after which a commit is due. Where nobody reads meanwhile (imports, `inspect`), one is due at the log's end, too.
    pub commit_ms: u64,
    /// Bytes in write buffers after which they are flushed.
    pub flush_bytes: u64,
    /// Wall milliseconds after which write buffers are flushed, unless next to nothing is in them.
    pub flush_ms: u64,
    /// Log time that a settled call stays in memory, since its usage often comes then.
    pub hold_ms: Ms,
    /// Bytes of records polled at a time.
    pub poll_bytes: usize,
    /// Whether a new store's verdicts go to the calls output; an old one's stay as they are.
    pub calls_output: bool,
    /// How long the log keeps what no store needs.
    pub retention: Retention,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            commit_events: 1_000_000,
            commit_ms: 1_000,
            flush_bytes: 192 << 20,
            flush_ms: 2_000,
            hold_ms: 5_000,
            poll_bytes: 4 << 20,
            calls_output: true,
            retention: Retention {
                bytes: None,
                age_ms: None,
            },
        }
    }
}
