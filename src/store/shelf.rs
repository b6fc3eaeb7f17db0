//! Settled calls that are no longer in memory: packed in blocks of 256 in the order in which they cooled, written once,
//! found by the index, dropped by range.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use super::bytes::{Damaged, Reader, Writer};
use super::index::{Index, RETAINED_BITS, retained};
use super::keys::{CF_SETTLED, CF_SETTLED_IDS};
use super::packed::{BLOCK_CALLS, Block, BlockWriter, Packed};
use super::rocks::{Rocks, StoreError};
use crate::machine::calls::Call;
use crate::machine::verdict::Correction;
use crate::model::Ms;
use crate::model::id::CallKey;

/// A full block that isn't committed yet.
#[derive(Debug)]
struct Full {
    block: Vec<u8>,
    ids: Vec<u8>,
}

/// A block that may hold a call.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// Not stored yet.
    Memory(Cow<'a, [u8]>),
    /// Stored under its number, and never changed there.
    Stored(u64),
}

/// What looking a call up in one block came to.
#[derive(Debug)]
pub enum Sought {
    /// There it is.
    Found(Box<Packed>),
    /// It isn't in this block.
    Elsewhere,
    /// The block isn't there.
    NoBlock,
}

impl Place<'_> {
    /// Looks a call up in the block.
    pub fn find(&self, rocks: &Rocks, account: u32, key: &CallKey<'_>) -> Result<Sought, StoreError> {
        let find = |bytes: &[u8]| {
            let found = Block::parse(bytes).and_then(|b| b.find(account, key));
            let found = found.map_err(|d| rocks.damaged(d))?;
            Ok(found.map_or(Sought::Elsewhere, |packed| Sought::Found(Box::new(packed))))
        };
        match self {
            Self::Memory(bytes) => find(bytes),
            Self::Stored(number) => {
                let settled = rocks.family(CF_SETTLED)?;
                let bytes = rocks.db.get_pinned_cf(settled, number.to_be_bytes());
                match bytes.map_err(|e| rocks.explain(e))? {
                    Some(bytes) => find(&bytes),
                    None => Ok(Sought::NoBlock),
                }
            }
        }
    }

    /// The same, to be looked into later.
    pub fn into_owned(self) -> Place<'static> {
        match self {
            Self::Memory(bytes) => Place::Memory(Cow::Owned(bytes.into_owned())),
            Self::Stored(number) => Place::Stored(number),
        }
    }
}

/// The packed calls of one partition.
#[derive(Debug)]
pub struct Shelf {
    index: Index,
    filling: BlockWriter,
    /// Retained bits of the calls in the block that is being filled.
    hashes: Vec<u64>,
    next_block: u64,
    oldest_block: u64,
    full: BTreeMap<u64, Full>,
    /// Until when each live block is remembered, oldest first.
    remembered_until: VecDeque<Ms>,
}

/// Packs retained bits, nine half-bytes a call.
fn pack_ids(remembered_until: Ms, hashes: &[u64]) -> Vec<u8> {
    let mut w = Writer::default();
    w.int(remembered_until);
    w.uint(hashes.len() as u64);
    for pair in hashes.chunks(2) {
        let second = pair.get(1).copied().unwrap_or(0);
        let both = u128::from(pair[0]) | u128::from(second) << RETAINED_BITS;
        w.bytes.extend_from_slice(&both.to_le_bytes()[..9]);
    }
    w.bytes
}

fn unpack_ids(bytes: &[u8], mut take: impl FnMut(u64)) -> Result<Ms, Damaged> {
    let mut r = Reader::new(bytes, "hashes of a block");
    let remembered_until = r.int()?;
    let mut left = r.uint()?;
    while left > 0 {
        let mut both = [0u8; 16];
        both[..9].copy_from_slice(r.take(9)?);
        let both = u128::from_le_bytes(both);
        let mask = (1u128 << RETAINED_BITS) - 1;
        take((both & mask) as u64);
        if left > 1 {
            take((both >> RETAINED_BITS & mask) as u64);
        }
        left = left.saturating_sub(2);
    }
    Ok(remembered_until)
}

impl Shelf {
    /// Rebuilds the index from the stored hashes; `tail` is the unfinished block.
    pub fn load(rocks: &Rocks, oldest_block: u64, next_block: u64, tail: Option<&[u8]>) -> Result<Self, StoreError> {
        let calls = (next_block.saturating_sub(oldest_block)) * BLOCK_CALLS as u64;
        let mut shelf = Self {
            index: Index::with_capacity(oldest_block, calls),
            filling: BlockWriter::default(),
            hashes: Vec::with_capacity(BLOCK_CALLS),
            next_block,
            oldest_block,
            full: BTreeMap::new(),
            remembered_until: VecDeque::new(),
        };
        let mut rows = rocks.db.raw_iterator_cf(rocks.family(CF_SETTLED_IDS)?);
        rows.seek(oldest_block.to_be_bytes());
        let mut expected = oldest_block;
        let mut block = Vec::with_capacity(BLOCK_CALLS);
        while let Some((key, value)) = rows.item() {
            if key != expected.to_be_bytes() || expected >= next_block {
                break;
            }
            block.clear();
            let until = unpack_ids(value, |hash| block.push(hash)).map_err(|d| rocks.damaged(d))?;
            shelf.index.insert_all(&block, expected);
            shelf.remembered_until.push_back(until);
            expected += 1;
            rows.next();
        }
        rows.status().map_err(|e| rocks.explain(e))?;
        if expected != next_block {
            return Err(rocks.damaged(Damaged {
                what: "list of settled blocks",
            }));
        }
        if let Some(tail) = tail {
            shelf.filling = BlockWriter::reopen(tail).map_err(|d| rocks.damaged(d))?;
            let parsed = Block::parse(tail).map_err(|d| rocks.damaged(d))?;
            for packed in parsed.calls() {
                let call = packed.map_err(|d| rocks.damaged(d))?.call;
                let hash = retained(call.id.key().hash(call.account));
                shelf.hashes.push(hash);
                shelf.index.insert(hash, next_block);
            }
        }
        Ok(shelf)
    }

    /// Packs a settled call.
    pub fn put(&mut self, call: &Call, correction: Option<&Correction>) {
        let hash = retained(call.id.key().hash(call.account));
        self.filling.push(call, correction);
        self.hashes.push(hash);
        self.index.insert(hash, self.next_block);
        if self.filling.len() == BLOCK_CALLS {
            let until = self.filling.remembered_until;
            let full = Full {
                block: self.filling.bytes(),
                ids: pack_ids(until, &self.hashes),
            };
            self.full.insert(self.next_block, full);
            self.remembered_until.push_back(until);
            self.filling.clear();
            self.hashes.clear();
            self.next_block += 1;
        }
    }

    /// Asks the processor for what [`Shelf::find`] and [`Shelf::put`] will look at.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(retained(hash));
    }

    /// The newest packed word on a call, if a block holds it.
    pub fn find(
        &self,
        rocks: &Rocks,
        account: u32,
        key: &CallKey<'_>,
        hash: u64,
    ) -> Result<Option<Packed>, StoreError> {
        for place in self.places(hash) {
            let found = place.find(rocks, account, key)?;
            if let Sought::Found(packed) = found {
                return Ok(Some(*packed));
            }
            if matches!(found, Sought::NoBlock) {
                return Err(rocks.damaged(Damaged {
                    what: "block of settled calls (absent)",
                }));
            }
        }
        Ok(None)
    }

    /// Where a word on a call may be, the newest first.
    pub fn places(&self, hash: u64) -> impl Iterator<Item = Place<'_>> {
        self.index.candidates(retained(hash)).into_iter().map(|number| {
            if number == self.next_block {
                Place::Memory(Cow::Owned(self.filling.bytes()))
            } else if let Some(full) = self.full.get(&number) {
                Place::Memory(Cow::Borrowed(&full.block))
            } else {
                Place::Stored(number)
            }
        })
    }

    /// Adds what isn't stored yet to a commit; returns the block that is being filled.
    pub(super) fn fill(&self, rocks: &Rocks, batch: &mut rocksdb::WriteBatch) -> Result<Vec<u8>, StoreError> {
        let (settled, ids) = (rocks.family(CF_SETTLED)?, rocks.family(CF_SETTLED_IDS)?);
        for (number, full) in &self.full {
            batch.put_cf(settled, number.to_be_bytes(), &full.block);
            batch.put_cf(ids, number.to_be_bytes(), &full.ids);
        }
        Ok(self.filling.bytes())
    }

    /// Takes as stored what `Shelf::fill` has added.
    pub fn stored(&mut self) {
        self.full.clear();
    }

    /// Lets go of blocks that were forgotten before the line.
    pub fn forget(&mut self, flushed_forget_line: Ms) {
        let before = self.oldest_block;
        while self
            .remembered_until
            .front()
            .is_some_and(|&until| until < flushed_forget_line)
        {
            self.remembered_until.pop_front();
            self.oldest_block += 1;
        }
        if self.oldest_block > before {
            self.index.set_oldest(self.oldest_block);
        }
    }

    /// Gives the disk back what dropped blocks took, whole files at a time.
    pub fn drop_files(&self, rocks: &Rocks) -> Result<(), StoreError> {
        if self.oldest_block == 0 {
            return Ok(());
        }
        let last = (self.oldest_block - 1).to_be_bytes();
        for name in [CF_SETTLED, CF_SETTLED_IDS] {
            rocks
                .db
                .delete_file_in_range_cf(rocks.family(name)?, 0u64.to_be_bytes(), last)
                .map_err(|e| rocks.explain(e))?;
        }
        Ok(())
    }

    /// Number of the block that is being filled.
    pub fn next_block(&self) -> u64 {
        self.next_block
    }

    /// First block that isn't dropped.
    pub fn oldest_block(&self) -> u64 {
        self.oldest_block
    }

    /// Calls remembered here, each newer word on one counted too.
    pub fn len(&self) -> u64 {
        (self.next_block - self.oldest_block) * BLOCK_CALLS as u64 + self.filling.len() as u64
    }

    /// Whether nothing is remembered here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.remembered_until.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_take_nine_half_bytes() -> Result<(), Damaged> {
        let hashes: Vec<u64> = (0..255u64)
            .map(|n| retained(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        let bytes = pack_ids(-5, &hashes);
        assert!(bytes.len() <= 128 * 9 + 4);
        let mut read = Vec::new();
        assert_eq!(unpack_ids(&bytes, |h| read.push(h))?, -5);
        assert_eq!(read, hashes);
        Ok(())
    }
}
