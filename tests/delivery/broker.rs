//! What the brokers keep: the output partitions with their transaction markers, and the transaction coordinator.

use std::hash::{Hash, Hasher};

use crate::fold::{Chain, ROWS, Row, TOPICS};
use crate::group::INSTANCES;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Output,
    Barrier,
    Commit,
    Abort,
}

/// One offset of an output partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub what: What,
    pub producer: u8,
    pub sequence: u8,
    pub chain: Chain,
}

impl Hash for Entry {
    /// As one number: there are many of them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [low, high] = self.chain.to_le_bytes();
        state.write_u64(u64::from_le_bytes([
            low,
            high,
            self.sequence,
            self.producer,
            self.what as u8,
            0,
            0,
            0,
        ]));
    }
}

/// The partition of one output topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Partition {
    pub entries: Vec<Entry>,
    /// Older ones were removed by retention.
    pub start: u8,
    /// A deposed leader that some clients still ask: it knows what was there when it was cut off.
    pub stale: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transaction {
    #[default]
    None,
    Ongoing,
    /// Decided; the markers are still to be written.
    Committing,
    Aborting,
}

/// One transactional.id at the coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Producer {
    pub epoch: u8,
    pub transaction: Transaction,
    /// Partitions of the transaction; once it is decided, those that wait for their marker.
    pub partitions: [bool; TOPICS],
    /// A commit still on its way, whose sender has given up waiting.
    pub under_way: Option<u8>,
}

impl Producer {
    /// Decides the transaction; says whether there was one.
    pub fn decide(&mut self, commit: bool) -> bool {
        let ongoing = self.transaction == Transaction::Ongoing;
        if ongoing {
            self.transaction = if commit {
                Transaction::Committing
            } else {
                Transaction::Aborting
            };
        }
        ongoing
    }

    /// Markers are outstanding: the coordinator refuses a new transaction and a new epoch until they are written.
    pub const fn busy(self) -> bool {
        matches!(self.transaction, Transaction::Committing | Transaction::Aborting)
    }
}

/// What a reader finds: committed outputs in the order of their offsets.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    rows: [(u8, Chain); 2 * ROWS],
    len: usize,
    /// The first offset that a read_committed reader has to wait for.
    pub stable: usize,
}

impl Found {
    pub fn rows(&self) -> &[(u8, Chain)] {
        &self.rows[..self.len]
    }

    pub fn last(&self) -> u8 {
        self.rows().last().map_or(0, |row| row.0)
    }

    pub fn chain(&self, sequence: u8) -> Option<Chain> {
        self.rows().iter().find(|row| row.0 == sequence).map(|row| row.1)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broker {
    pub partitions: [Partition; TOPICS],
    pub producers: [Producer; INSTANCES],
}

impl Broker {
    pub fn append(&mut self, producer: u8, what: What, row: Row) {
        let p = &mut self.producers[usize::from(producer)];
        p.transaction = Transaction::Ongoing;
        p.partitions[row.topic] = true;
        self.partitions[row.topic].entries.push(Entry {
            what,
            producer,
            sequence: row.sequence,
            chain: row.chain,
        });
    }

    /// Writes the marker of a decided transaction to one partition.
    pub fn mark(&mut self, producer: u8, topic: usize) {
        let p = &mut self.producers[usize::from(producer)];
        let what = if p.transaction == Transaction::Committing {
            What::Commit
        } else {
            What::Abort
        };
        p.partitions[topic] = false;
        if p.partitions == [false; TOPICS] {
            p.transaction = Transaction::None;
        }
        self.partitions[topic].entries.push(Entry {
            what,
            producer,
            sequence: 0,
            chain: 0,
        });
    }

    /// As a read_committed reader sees a partition that ends at `end`: nothing from the first open transaction on.
    pub fn read(&self, topic: usize, end: usize) -> Found {
        self.find(topic, end, [None; INSTANCES], true)
    }

    /// What is committed or bound to be: its commit is decided, only a marker is missing.
    pub fn decided(&self, topic: usize) -> Found {
        let mut fates = [None; INSTANCES];
        for (fate, producer) in fates.iter_mut().zip(&self.producers) {
            if producer.busy() && producer.partitions[topic] {
                *fate = Some(producer.transaction == Transaction::Committing);
            }
        }
        self.find(topic, self.partitions[topic].entries.len(), fates, false)
    }

    fn find(&self, topic: usize, end: usize, mut fates: [Option<bool>; INSTANCES], stable: bool) -> Found {
        let mut found = Found {
            rows: [(0, 0); 2 * ROWS],
            len: 0,
            stable: end,
        };
        // Backwards, so that each record's marker has been met; then turned round.
        for (offset, entry) in self.partitions[topic].entries[..end].iter().enumerate().rev() {
            let fate = &mut fates[usize::from(entry.producer)];
            match entry.what {
                What::Commit => *fate = Some(true),
                What::Abort => *fate = Some(false),
                What::Output | What::Barrier if fate.is_none() => {
                    found.stable = offset;
                    if stable {
                        found.len = 0;
                    }
                }
                What::Output if *fate == Some(true) && found.len < found.rows.len() => {
                    found.rows[found.len] = (entry.sequence, entry.chain);
                    found.len += 1;
                }
                What::Output | What::Barrier => {}
            }
        }
        found.rows[..found.len].reverse();
        found
    }
}
