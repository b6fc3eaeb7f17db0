//! What is played: how many instances and records, which faults, and which piece of the protocol is missing.

use crate::fold::{Fold, Puts, TOPICS, Truth, Version};
use crate::input::WHOLE;

/// A piece of the protocol that is missing or done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Each instance has a transactional.id of its own: initialising it fences nobody.
    OwnProducer,
    /// All use one id, without init_transactions: the epoch stays, and so does an older owner's transaction.
    NoFence,
    /// Whoever once was told that it owns the partition initialises its producer, and again when it is fenced. Readers don't
    /// notice, see `limits.rs`.
    NoAsk,
    /// The tail is read to the end that whoever answers names.
    NoBarrier,
    /// Reading past the barrier, but read_uncommitted: outputs of aborted transactions count.
    ReadUncommitted,
    /// Column families are flushed one by one.
    FlushApart,
    /// Regenerated outputs are compared once the batch is written.
    CompareAfter,
    /// Only the last delivered output is compared, not each up to it. Readers don't notice, see `limits.rs`.
    CompareLast,
    /// Emission begins as soon as the tail of one topic is reached.
    AnyTail,
    /// Outputs of records below the group's committed offset count as delivered.
    GroupOffset,
    /// A fenced owner never emits again.
    RevokeWhenFenced,
    /// The outbox is pruned of what is produced, not of what is committed.
    PruneProduced,
    /// The end of the input is taken from whoever answers.
    InputEnd,
    /// The last folded record isn't looked up again at a change of leader epoch.
    NoEpochCheck,
    /// A log that begins after our position is folded from where it begins.
    HistoryIgnored,
    /// A reading of a topic's tail that gets no answer counts as one that found nothing.
    SilentTail,
    /// What couldn't be compared, since nobody answered, counts as what needn't be.
    SilentCompare,
    /// An empty output topic counts as one that never had any, though it lost records.
    EmptyTail,
}

/// What may go wrong in a scene.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// How many in all.
    pub budget: u8,
    /// A process dies; what wasn't flushed is gone.
    pub crash: bool,
    /// A producer's call fails without a word on what became of it.
    pub fail: bool,
    /// The transaction coordinator's time is over.
    pub time_out: bool,
    /// A session runs out: an instance was paused too long, or cut off.
    pub expire: bool,
    /// A rebalance hands over to another member.
    pub hand_over: bool,
    /// A deposed leader goes on answering: of this many topics.
    pub isolate: usize,
    /// The same, of the input.
    pub isolate_input: bool,
    /// An unclean election of the input's leader.
    pub truncate: bool,
    /// The input's oldest records go.
    pub retain: bool,
    /// All records of an output topic go, some outputs among them.
    pub purge: bool,
    /// The same of a topic that holds nothing but barriers.
    pub purge_quiet: bool,
    /// A store is replaced by another instance's flushed one, or by an empty one.
    pub restore: bool,
    /// A reading gives no answer: brokers that are away or slow, a connection that is lost.
    pub silence: bool,
}

impl Faults {
    pub const fn usual(budget: u8) -> Self {
        Self {
            budget,
            crash: true,
            fail: true,
            time_out: true,
            expire: true,
            hand_over: true,
            isolate: TOPICS,
            isolate_input: false,
            truncate: false,
            retain: false,
            purge: false,
            purge_quiet: false,
            restore: false,
            silence: false,
        }
    }

    pub const fn none() -> Self {
        Self {
            budget: 0,
            crash: false,
            fail: false,
            time_out: false,
            expire: false,
            hand_over: false,
            isolate: 0,
            isolate_input: false,
            truncate: false,
            retain: false,
            purge: false,
            purge_quiet: false,
            restore: false,
            silence: false,
        }
    }
}

/// One model, ready to play.
#[derive(Clone, Debug)]
pub struct Scene {
    pub fold: Fold,
    pub versions: Vec<Version>,
    /// Records there at the beginning.
    pub records: u8,
    /// The first instance has delivered all of those, and only then do others come.
    pub delivered: bool,
    /// Instances fold before they know what was delivered, and standbys do.
    pub eager: bool,
    /// A batch may hold this many records.
    pub batch: u8,
    /// Everything pending goes out in one transaction; otherwise cut anywhere.
    pub whole: bool,
    /// The operator gives a halted instance the old version and keeps its store; otherwise the store is folded anew.
    pub keep: bool,
    pub faults: Faults,
    pub flaw: Option<Flaw>,
    /// Readers that take exactly the next sequence, committed or not, are promised the same content.
    pub next_sequence: bool,
    /// Only what readers and operators notice counts as broken, not yet that a row was pruned too early.
    pub lenient: bool,
    truths: [Vec<Truth>; 2],
}

impl Scene {
    pub fn new(puts: &[Puts], versions: &[Version]) -> Self {
        Self::changing(puts, puts, WHOLE, versions)
    }

    /// With a new version of the fold, that differs from an offset on.
    pub fn changing(puts: &[Puts], puts_new: &[Puts], changed_at: u8, versions: &[Version]) -> Self {
        let fold = Fold {
            puts: puts.to_vec(),
            puts_new: puts_new.to_vec(),
            changed_at,
        };
        let truths = [Version::Old, Version::New].map(|version| {
            (0..=puts.len() as u8)
                .map(|cut| Truth::of(&fold, version, cut))
                .collect()
        });
        Self {
            fold,
            versions: versions.to_vec(),
            records: puts.len() as u8,
            delivered: false,
            eager: true,
            batch: 1,
            whole: true,
            keep: false,
            faults: Faults::none(),
            flaw: None,
            next_sequence: versions.iter().all(|v| *v == Version::Old),
            lenient: false,
            truths,
        }
    }

    /// Records at most.
    pub fn records_max(&self) -> u8 {
        self.fold.puts.len() as u8
    }

    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn truth(&self, version: Version, cut: u8) -> &Truth {
        let cut = cut.min(self.records_max());
        &self.truths[version as usize][usize::from(cut)]
    }

    /// One fold of one history.
    pub fn single(&self) -> bool {
        !self.faults.truncate && self.versions.iter().all(|v| *v == Version::Old)
    }
}
