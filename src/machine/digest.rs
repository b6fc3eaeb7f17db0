//! The running digest over everything that a fold changes, in order.
//!
//! It is chained record by record, so it doesn't depend on batch splits, eviction, pruning or expiry. Two partitions with
//! one digest at one position have decided the same.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Kinds of change. Never reuse a number.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Mark {
    /// Evidence of a call changed.
    Evidence = 1,
    /// A call settled or was amended.
    Verdict = 2,
    /// An output was decided.
    Output = 3,
    /// An account got its number.
    Account = 4,
    /// A period's bounds were stored.
    Period = 5,
    /// A period closed.
    Close = 6,
    /// A control record was accepted.
    Control = 7,
    /// A misplaced event was passed on.
    Forward = 8,
}

/// The digest and what the present record adds to it.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    value: u128,
    pending: Vec<u8>,
}

impl Digest {
    /// A digest that goes on from `value`.
    pub fn resume(value: u128) -> Self {
        Self {
            value,
            pending: Vec::with_capacity(256),
        }
    }

    /// The digest up to the last finished step.
    pub fn value(&self) -> u128 {
        self.value
    }

    /// Notes a change of a call, account or output: its key hash and two words that tell what changed.
    pub fn note(&mut self, mark: Mark, key: u64, words: [u64; 2]) {
        // Put together first, so that the list looks for room once.
        let mut note = [mark as u8; 25];
        note[1..9].copy_from_slice(&key.to_le_bytes());
        note[9..17].copy_from_slice(&words[0].to_le_bytes());
        note[17..25].copy_from_slice(&words[1].to_le_bytes());
        self.pending.extend_from_slice(&note);
    }

    /// Notes bytes that belong to the last mark.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(bytes);
    }

    /// Notes a quantity that belongs to the last mark.
    pub fn quantity(&mut self, meter: u32, nano: i128) {
        let mut note = [0; 20];
        note[..4].copy_from_slice(&meter.to_le_bytes());
        note[4..].copy_from_slice(&nano.to_le_bytes());
        self.pending.extend_from_slice(&note);
    }

    /// Chains in what was noted at `offset`, if anything was.
    pub fn seal(&mut self, offset: u64) {
        if self.pending.is_empty() {
            return;
        }
        let mut end = [0; 24];
        end[..8].copy_from_slice(&offset.to_le_bytes());
        end[8..].copy_from_slice(&self.value.to_le_bytes());
        self.pending.extend_from_slice(&end);
        self.value = xxh3_128_with_seed(&self.pending, self.value as u64);
        self.pending.clear();
    }
}
