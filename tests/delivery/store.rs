//! An instance's store: what is written, and what of it a crash leaves.

use std::hash::{Hash, Hasher};

use crate::fold::{Chain, ROWS, Row, State, TOPICS};

/// How far the log is folded, and what the last folded record was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub next: u8,
    pub content: u8,
    pub leader_epoch: u8,
}

/// Chains by topic and sequence - 1; 0 where there is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbox([[Chain; ROWS]; TOPICS]);

impl Hash for Outbox {
    /// Four rows at a time.
    fn hash<H: Hasher>(&self, state: &mut H) {
        for four in self.0.as_flattened().chunks_exact(4) {
            state.write_u64(four.iter().fold(0, |all, &chain| all << 16 | u64::from(chain)));
        }
    }
}

impl Outbox {
    pub fn put(&mut self, row: Row) {
        // Only a flaw puts out more than there is.
        if let Some(chain) = self.0[row.topic].get_mut(usize::from(row.sequence) - 1) {
            *chain = row.chain;
        }
    }

    pub fn remove(&mut self, topic: usize, sequence: u8) {
        self.0[topic][usize::from(sequence) - 1] = 0;
    }

    pub fn get(&self, topic: usize, sequence: u8) -> Option<Row> {
        let chain = *self.0[topic].get(usize::from(sequence).wrapping_sub(1))?;
        (chain != 0).then_some(Row { topic, sequence, chain })
    }

    /// Rows of a topic up to a sequence.
    pub fn up_to(self, topic: usize, sequence: u8) -> impl Iterator<Item = Row> {
        (1..=sequence).filter_map(move |s| self.get(topic, s))
    }
}

/// Three column families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Store {
    pub state: State,
    pub outbox: Outbox,
    pub position: Position,
}
