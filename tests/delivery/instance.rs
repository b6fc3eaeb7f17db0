//! One instance: its store, and how far it believes to be in the protocol.

use std::hash::{Hash, Hasher};

use crate::fold::{TOPICS, Version};
use crate::store::Store;

/// Where an instance stands with the partition. It may be wrong: nothing tells it at once that it isn't the owner any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Standby,
    /// Owner for good, and silent: only with [`crate::scene::Flaw::RevokeWhenFenced`].
    GaveUp,
    Ask,
    Init,
    Barrier,
    Abort,
    Tails,
    CatchUp,
    Emit,
    /// As `Emit`, with a transaction open.
    Open,
}

/// Why an instance has stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Halt {
    /// The log begins after our position.
    HistoryLost,
    /// The log ends before our position, or holds another record there.
    Truncated,
    /// What was delivered isn't what we fold.
    Mismatch,
    /// Log folded to its end, and more was delivered.
    TailAhead,
    /// Outputs between the tail and the outbox are nowhere.
    Gap,
    /// Nothing to read back in a topic that lost records.
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    pub version: Version,
    pub halted: Option<Halt>,
    pub phase: Phase,
    /// The newest generation it knows; 0 since it was started.
    pub generation: u8,
    /// As written, some of it in memory only.
    pub written: Store,
    /// As a crash leaves it.
    pub flushed: Store,
    pub epoch: u8,
    /// The barrier's offsets.
    pub barrier: [u8; TOPICS],
    /// Last sequences delivered, as read back.
    pub tail: [Option<u8>; TOPICS],
    /// Last sequences known to be committed, and last ones produced.
    pub delivered: [u8; TOPICS],
    pub sent: [u8; TOPICS],
    /// Has written what differs from what was delivered; only with [`crate::scene::Flaw::CompareAfter`].
    pub doubt: bool,
    /// Its next question to the brokers about what they hold gets no answer.
    pub unheard: bool,
}

impl Hash for Instance {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b] = self.tail.map(|tail| tail.map_or(0, |tail| tail + 1));
        let small = [
            self.version as u8,
            self.phase as u8,
            self.generation,
            self.epoch,
            a,
            b,
            u8::from(self.doubt),
            u8::from(self.unheard),
        ];
        state.write(&small);
        self.halted.hash(state);
        state.write(self.places().as_flattened());
        self.written.hash(state);
        // Mostly it is.
        if self.flushed == self.written {
            state.write_u8(0);
        } else {
            self.flushed.hash(state);
        }
    }
}

impl Instance {
    pub fn new(version: Version) -> Self {
        Self {
            version,
            halted: None,
            phase: Phase::Standby,
            generation: 0,
            written: Store::default(),
            flushed: Store::default(),
            epoch: 0,
            barrier: [0; TOPICS],
            tail: [None; TOPICS],
            delivered: [0; TOPICS],
            sent: [0; TOPICS],
            doubt: false,
            unheard: false,
        }
    }

    fn places(&self) -> [[u8; TOPICS]; 3] {
        [self.barrier, self.delivered, self.sent]
    }

    /// Drops the producer and what was learnt with it.
    pub fn go_to(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch = 0;
        self.barrier = [0; TOPICS];
        self.tail = [None; TOPICS];
        self.delivered = [0; TOPICS];
        self.sent = [0; TOPICS];
    }

    /// The process is gone, and what wasn't flushed with it.
    pub fn die(&mut self) {
        self.written = self.flushed;
        self.generation = 0;
        self.doubt = false;
        self.unheard = false;
        self.go_to(Phase::Standby);
    }

    pub fn knows_tails(&self) -> bool {
        self.phase >= Phase::CatchUp
    }
}
