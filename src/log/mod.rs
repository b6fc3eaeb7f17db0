//! The ordered input and the outputs behind one trait: what is appended is durable, what is polled is in order.
//!
//! Three implementers: a scriptable one in [`memory`] for tests, the embedded one on [`local`] disk, and [`kafka`].

pub mod appender;
pub mod batch;
pub mod continuity;
pub mod kafka;
pub mod local;
pub mod memory;

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::machine::clock::Source;
use crate::machine::output::{Output, Tail, Topic};
use crate::model::Ms;
pub use crate::model::placement;
use crate::wire::record::{Forwarded, Headers, Kind};
pub use batch::Batch;

/// What a log is, from its genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Given when it was made, never changed.
    pub log_id: String,
    /// Partitions of input and of every output topic.
    pub partition_count: u32,
    /// What moves the clocks.
    pub source: Source,
}

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// What kind.
    pub kind: Kind,
    /// As it is to be folded.
    pub bytes: Vec<u8>,
    /// By whose authority, as `key id:base64`; only on a log that others write too.
    pub signature: Option<String>,
    /// Where it was before, if it is forwarded.
    pub forwarded: Option<Forwarded>,
}

impl NewRecord {
    /// A record with nothing beside its bytes.
    pub const fn new(kind: Kind, bytes: Vec<u8>) -> Self {
        Self {
            kind,
            bytes,
            signature: None,
            forwarded: None,
        }
    }

    /// What stands beside its bytes.
    pub fn headers(&self) -> Headers<'_> {
        Headers {
            signature: self.signature.as_deref(),
            forwarded: self.forwarded,
        }
    }
}

/// Where a record is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into one partition.
    One(u32),
    /// Into all.
    All,
}

/// Where an appended record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// When the log took it.
    pub append_ms: Ms,
}

/// How long records are kept. Records that a store still needs are kept in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Oldest records go once a partition is larger than this; `None`: no limit.
    pub bytes: Option<u64>,
    /// Records older than this go; `None`: no limit.
    pub age_ms: Option<Ms>,
}

/// Why a log can't be used.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another process writes it.
    #[error("the log {path} is locked by another process; stop that one, or give this one another --data")]
    Locked {
        /// Where.
        path: PathBuf,
    },
    /// A record is larger than the log takes; nothing else is wrong.
    #[error("{doing}: a record is larger than the topic takes ({cause}); raise its max.message.bytes")]
    TooLarge {
        /// What was being done.
        doing: String,
        /// What librdkafka says.
        cause: String,
    },
    /// No genesis.
    #[error("there is no log at {path}; make one with `reckon init --data DIR`")]
    NoGenesis {
        /// Where.
        path: PathBuf,
    },
    /// There is one already.
    #[error("there is a log at {path} already: {what}; choose another --data")]
    Exists {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Bytes that don't have their checksum, or can't be read.
    #[error("partition {partition} of the log is damaged at offset {offset}: {what}; restore the log from a backup")]
    Corrupt {
        /// Which partition.
        partition: u32,
        /// First offset of the damaged batch.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Records were removed that are still needed.
    #[error(
        "partition {partition} begins at offset {start}, but {wanted} is needed next: history is lost; restore the store or the \
         log from a backup"
    )]
    HistoryLost {
        /// Which partition.
        partition: u32,
        /// First offset there.
        start: u64,
        /// First offset needed.
        wanted: u64,
    },
    /// The log ends before what was folded from it.
    #[error(
        "partition {partition} ends at offset {end}, but the store has folded up to {wanted}: the log was cut or replaced"
    )]
    Truncated {
        /// Which partition.
        partition: u32,
        /// End of the log.
        end: u64,
        /// Position of the store.
        wanted: u64,
    },
    /// A partition that the log doesn't have.
    #[error("there is no partition {partition}; the log has {count}")]
    NoPartition {
        /// Asked for.
        partition: u32,
        /// There are.
        count: u32,
    },
    /// An output that isn't the next one.
    #[error("{} of partition {partition}: sequence {sequence} after {tail}; nothing was written", topic.as_str())]
    OutputGap {
        /// Which topic.
        topic: Topic,
        /// Which partition.
        partition: u32,
        /// Offered.
        sequence: u64,
        /// Last one there.
        tail: u64,
    },
    /// An output that differs from the one delivered under its sequence.
    #[error(
        "{} of partition {partition}: what is to be put out as sequence {sequence} differs from what was delivered; stopped, \
         nothing was written. Was the store folded by another version? `reckon replay` says. Give the store up, so that the right \
         version folds it anew: don't go on with it",
        topic.as_str()
    )]
    OutputDiffers {
        /// Which topic.
        topic: Topic,
        /// Which partition.
        partition: u32,
        /// Which output.
        sequence: u64,
    },
    /// No room on the disk.
    #[error("no room left on the disk of {path}: {cause}; make room, nothing acknowledged is lost")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// The storage's words.
        cause: String,
    },
    /// The brokers didn't do what was asked of them.
    #[error("Kafka, {doing}: {cause}")]
    Kafka {
        /// What was asked.
        doing: String,
        /// librdkafka's words.
        cause: String,
        /// Whether another one has taken over what it was asked for.
        fenced: bool,
    },
    /// Topics that aren't as they must be.
    #[error("{what}. `reckon topics check` shows every setting")]
    Topics {
        /// What is wrong, and what to change.
        what: String,
    },
    /// A topic with another number of partitions.
    #[error(
        "{topic} has {found} partitions, but its genesis (partition {partition}) says {wanted}: accounts would move. Partitions \
         can't be added; make a new log under another --topic-prefix"
    )]
    PartitionCount {
        /// Which topic.
        topic: String,
        /// Whose genesis.
        partition: u32,
        /// There are.
        found: u32,
        /// There should be.
        wanted: u32,
    },
    /// A partition of a topic that doesn't begin with its genesis.
    #[error(
        "{topic} partition {partition} doesn't begin with its genesis at offset 0; `reckon topics create` writes it to a new \
         topic, in an old one it was removed by retention"
    )]
    NoGenesisRecord {
        /// Which topic.
        topic: String,
        /// Which partition.
        partition: u32,
    },
    /// A fetch from an offset that isn't there.
    #[error(
        "partition {partition}: the next offset isn't in the topic ({cause}): history was removed or cut off. Restore the topic, \
         or give this partition's store up so that it is folded anew from its genesis"
    )]
    OffsetGone {
        /// Which partition.
        partition: u32,
        /// The client's words.
        cause: String,
    },
    /// Another record at an offset that was folded.
    #[error(
        "partition {partition}: another record than the one that was folded is at offset {offset}: the topic was cut off and \
         written anew (an unclean leader election?). Stopped, nothing was written; restore the topic, or give this partition's \
         store up so that it is folded anew"
    )]
    OtherRecord {
        /// Which partition.
        partition: u32,
        /// Its offset.
        offset: u64,
    },
    /// The topics, or the cluster, aren't those that the log was opened on.
    #[error(
        "the topics were deleted and made anew, or are another cluster's: opened on {opened}, found {found}. Stopped, nothing \
         more is put out. Restore the topics; or begin a new log with them: remove the stores, and let consumers begin anew too"
    )]
    OtherPlace {
        /// Cluster and topics when the log was opened.
        opened: String,
        /// Now.
        found: String,
    },
    /// The partition is another instance's, as the group says.
    #[error("partition {partition} isn't this instance's any more")]
    NotOwned {
        /// Which partition.
        partition: u32,
    },
    /// The group takes this process for another one for good.
    #[error(
        "the group doesn't take instance {instance} any more ({cause}): another process has joined it by the same name. Stop \
         one of them, or give each an --instance of its own (without one, a data folder has its own). If there is no other: brokers \
         that failed over have taken its own earlier word for one; start it again"
    )]
    Expelled {
        /// This process's name in the group.
        instance: String,
        /// librdkafka's words.
        cause: String,
    },
    /// Emitting came to an end; whether the last transaction counts the tails will say.
    #[error("partition {partition}, {doing}: {cause}; it is taken over anew")]
    Interrupted {
        /// Which partition.
        partition: u32,
        /// What was going on.
        doing: &'static str,
        /// librdkafka's words.
        cause: String,
    },
    /// A committed record among the outputs that isn't one.
    #[error(
        "{topic} partition {partition} offset {offset} isn't one of Reckon's outputs: somebody else writes this topic"
    )]
    ForeignOutput {
        /// Which topic.
        topic: String,
        /// Which partition.
        partition: u32,
        /// Its offset.
        offset: u64,
    },
    /// An output topic without an output left that once had some.
    #[error(
        "{topic} partition {partition} begins at offset {start} and has no output left: what was delivered can't be told. Set \
         retention.ms and retention.bytes to -1, and restore the topic"
    )]
    OutputsDropped {
        /// Which topic.
        topic: String,
        /// Which partition.
        partition: u32,
        /// First offset.
        start: u64,
    },
    /// The storage's own.
    #[error("the log {path}: {cause}")]
    Storage {
        /// Where.
        path: PathBuf,
        /// The storage's words.
        cause: String,
    },
}

/// Ordered input, and outputs in their order.
pub trait Log: Send + Sync {
    /// What it is.
    fn identity(&self) -> &Identity;

    /// Where it physically is, so that a store folded from another place is refused; empty where the log can't be mistaken.
    fn place(&self) -> String {
        String::new()
    }

    /// First offset that is still there.
    fn start(&self, partition: u32) -> Result<u64, LogError>;

    /// Offset after the last durable record.
    fn end(&self, partition: u32) -> Result<u64, LogError>;

    /// Both at once.
    fn range(&self, partition: u32) -> Result<(u64, u64), LogError> {
        Ok((self.start(partition)?, self.end(partition)?))
    }

    /// The end, perhaps a second old: for figures that are shown.
    fn recent_end(&self, partition: u32) -> Result<u64, LogError> {
        self.end(partition)
    }

    /// Where the fold of a partition stands that has folded everything it was given and waits at `next_offset`: further than
    /// that, if nothing but markers of transactions follows.
    fn read_up_to(&self, partition: u32, next_offset: u64) -> u64 {
        let _ = partition;
        next_offset
    }

    /// Begins to fetch a partition from that offset on, where records don't lie at hand.
    fn follow(&self, partition: u32, from: u64) -> Result<(), LogError> {
        let _ = (partition, from);
        Ok(())
    }

    /// Fingerprint of the record at that very offset; `None` if there is none.
    fn record_at(&self, partition: u32, offset: u64) -> Result<Option<u64>, LogError> {
        let mut batch = Batch::default();
        self.poll(partition, offset, 1, &mut batch)?;
        let record = batch.get(0).filter(|r| r.offset == offset);
        Ok(record.map(|r| fingerprint(r.bytes)))
    }

    /// When the oldest record from that offset on was appended; `None` if there is none, or none has been fetched.
    fn waiting_since(&self, partition: u32, from: u64) -> Result<Option<Ms>, LogError> {
        let mut batch = Batch::default();
        self.poll(partition, from, 1, &mut batch)?;
        Ok(batch.get(0).map(|record| record.append_ms))
    }

    /// Makes this process the one that puts out the partition's outputs, and finds out what was delivered. Has to be done
    /// before outputs are appended or their tails asked for, and again after an error of those.
    fn take_over(&self, partition: u32) -> Result<(), LogError> {
        let _ = partition;
        Ok(())
    }

    /// No longer fetches the partition, nor puts anything out for it.
    fn let_go(&self, partition: u32) {
        let _ = partition;
    }

    /// Fills `batch` with records from `from` on, about `max_bytes` of them, at least one if there is one.
    fn poll(&self, partition: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError>;

    /// Appends records, each to its place and in their order there: all or none of them, in one durable write. There is a
    /// receipt for each record in one partition, and one a partition for those in all.
    fn append_placed(&self, records: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError>;

    /// Appends records in their order; they are durable when it returns.
    fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Vec<Receipt>, LogError> {
        self.append_placed(records.into_iter().map(|r| (Place::One(partition), r)).collect())
    }

    /// Appends records to all partitions at once: to all or to none.
    fn broadcast(&self, records: Vec<NewRecord>) -> Result<Vec<Receipt>, LogError> {
        self.append_placed(records.into_iter().map(|r| (Place::All, r)).collect())
    }

    /// Waits until the partition has a record at `from` or the time is over. Whether it has.
    fn wait(&self, partition: u32, from: u64, timeout: Duration) -> Result<bool, LogError>;

    /// Delivers outputs in the order of their sequences. What is there already is compared, not written again.
    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError>;

    /// Sequence and chain of the last output delivered.
    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError>;

    /// Outputs after a sequence, in order, at most `max`.
    fn read_outputs(&self, partition: u32, topic: Topic, after: u64, max: usize) -> Result<Vec<Output>, LogError>;

    /// Up to where misplaced events are known to have been forwarded (RULES §1): of those below, none is forwarded again.
    fn forwarded_below(&self, _partition: u32) -> Result<u64, LogError> {
        Ok(0)
    }

    /// Says that every record below is folded, the store has it, what was forwarded of them is durable where it belongs, and
    /// their outputs are delivered. Called from time to time; a later call is never for less.
    fn acknowledge(&self, _partition: u32, _below: u64) -> Result<(), LogError> {
        Ok(())
    }

    /// Removes records below `needed_from` as far as the retention says.
    fn prune(&self, partition: u32, needed_from: u64, retention: Retention) -> Result<(), LogError>;
}

impl Place {
    /// The partitions that it stands for, of `count`.
    pub(crate) fn partitions(self, count: u32) -> Result<std::ops::Range<u32>, LogError> {
        match self {
            Self::All => Ok(0..count),
            Self::One(partition) if partition < count => Ok(partition..partition + 1),
            Self::One(partition) => Err(LogError::NoPartition { partition, count }),
        }
    }
}

/// What a record is recognised by.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

impl LogError {
    /// Whether the partition goes on once it is taken over anew, or the brokers are back.
    pub const fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::Kafka { .. })
    }
}

/// Whether the outputs can follow the tail; those at or below it must be the ones delivered.
pub(crate) fn next_outputs<'a>(
    partition: u32,
    mut tail: Tail,
    outputs: impl Iterator<Item = &'a Output>,
    delivered_chain: impl Fn(u64) -> Result<Option<u128>, LogError>,
) -> Result<Vec<&'a Output>, LogError> {
    let mut new = Vec::new();
    for output in outputs {
        let (topic, sequence) = (output.topic, output.sequence);
        if sequence <= tail.sequence {
            // An output that retention has removed can't be compared any more.
            if delivered_chain(sequence)?.is_some_and(|chain| chain != output.chain) {
                return Err(LogError::OutputDiffers {
                    topic,
                    partition,
                    sequence,
                });
            }
            continue;
        }
        if sequence != tail.sequence + 1 {
            return Err(LogError::OutputGap {
                topic,
                partition,
                sequence,
                tail: tail.sequence,
            });
        }
        tail = tail.next(topic, &output.body);
        if tail.chain != output.chain {
            return Err(LogError::OutputDiffers {
                topic,
                partition,
                sequence,
            });
        }
        new.push(output);
    }
    Ok(new)
}
