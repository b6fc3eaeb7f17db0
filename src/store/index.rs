//! Which block holds a settled call: a resident table that proves absence and names the few blocks that may hold a call.
//!
//! A call costs one slot of 40 bits. Buckets are cache lines of 12 slots; a call has two buckets and lies in one of them,
//! which lets a table be nine tenths full. The first follows from 36 retained bits of its hash *in order* (the top 6 choose
//! one of 64 segments), the second lies an offset further that follows from the slot. So a slot and its bucket together give
//! the retained bits back, and a segment grows by a sixth in one pass through the cache, without any id being read:
//!
//! ```text
//! h      = the 30 retained bits below the segment's 6
//! first  = h × buckets >> 30
//! slot   = (h − least h of first) | block number modulo what is left of 40 bits
//! second = first + offset(h − least h of first), modulo buckets
//! line   = 12 slots, then 4 bytes: 12 bits "here is the second bucket", 4 bits count
//! ```
//!
//! A candidate is only ever a hint: the block is read and the whole id compared. Entries of dropped blocks are passed over
//! and their slots used again.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::machine::prefetch::prefetch;

/// Bits of a call's hash that are kept, here and beside its block.
pub const RETAINED_BITS: u32 = 36;

const SEGMENT_BITS: u32 = 6;
const SEGMENTS: usize = 1 << SEGMENT_BITS;
const H_BITS: u32 = RETAINED_BITS - SEGMENT_BITS;
const SLOTS: usize = 12;
const SLOT_BITS: u32 = 40;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const BUCKETS_MIN: u64 = 16;

/// Blocks that may hold a call, newest first.
pub type Candidates = SmallVec<[u64; 4]>;

/// The bits of a hash that are kept.
pub const fn retained(hash: u64) -> u64 {
    hash >> (64 - RETAINED_BITS)
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

impl Line {
    const EMPTY: Self = Self([0; 64]);

    fn slot(&self, i: usize) -> u64 {
        // Eight bytes at once and three of them masked away: the last slot ends at byte 60 of 64.
        let mut bytes = [0u8; 8];
        bytes.copy_from_slice(&self.0[i * 5..i * 5 + 8]);
        u64::from_le_bytes(bytes) & SLOT_MASK
    }

    fn meta(&self) -> u32 {
        u32::from_le_bytes([self.0[60], self.0[61], self.0[62], self.0[63]])
    }

    fn count(&self) -> usize {
        (self.meta() >> 12 & 15) as usize
    }

    fn is_second(&self, i: usize) -> bool {
        self.meta() >> i & 1 == 1
    }

    /// Puts a slot in at `i`, which is at most the count.
    fn put(&mut self, i: usize, value: u64, second: bool) {
        let mut meta = self.meta() & !(1 << i) | u32::from(second) << i;
        if i == self.count() {
            meta += 1 << 12;
        }
        self.0[60..64].copy_from_slice(&meta.to_le_bytes());
        self.0[i * 5..i * 5 + 5].copy_from_slice(&value.to_le_bytes()[..5]);
    }
}

/// Block numbers in force: those below `oldest` are dropped.
#[derive(Clone, Copy)]
struct Live {
    oldest: u64,
    newest: u64,
}

struct Segment {
    lines: Vec<Line>,
    buckets: u64,
    /// Bits of a slot that hold the hash; the rest holds the block.
    hash_bits: u32,
    used: u64,
}

impl Segment {
    fn new(buckets: u64) -> Self {
        // As many values of h share a first bucket as fit, rounded up.
        let per_bucket = (1u64 << H_BITS).div_ceil(buckets);
        Self {
            lines: vec![Line::EMPTY; buckets as usize],
            buckets,
            hash_bits: 64 - (per_bucket - 1).leading_zeros(),
            used: 0,
        }
    }

    fn first(&self, h: u64) -> u64 {
        (h * self.buckets) >> H_BITS
    }

    fn least_of(&self, first: u64) -> u64 {
        (first << H_BITS).div_ceil(self.buckets)
    }

    /// How much further the second bucket lies, 1 to buckets − 1.
    fn offset(&self, part: u64) -> u64 {
        let mixed = (part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        1 + ((mixed * (self.buckets - 1)) >> 32)
    }

    fn second(&self, first: u64, part: u64) -> u64 {
        let at = first + self.offset(part);
        if at >= self.buckets { at - self.buckets } else { at }
    }

    fn first_of_second(&self, second: u64, part: u64) -> u64 {
        let offset = self.offset(part);
        if second >= offset {
            second - offset
        } else {
            second + self.buckets - offset
        }
    }

    fn block_mask(&self) -> u64 {
        SLOT_MASK >> self.hash_bits
    }

    /// The whole block number, if the slot's block is still live.
    fn block(&self, slot: u64, live: Live) -> Option<u64> {
        let age = (slot >> self.hash_bits).wrapping_sub(live.oldest) & self.block_mask();
        let block = live.oldest + age;
        (block <= live.newest).then_some(block)
    }

    fn part(&self, slot: u64) -> u64 {
        slot & ((1 << self.hash_bits) - 1)
    }

    fn candidates(&self, h: u64, live: Live, found: &mut Candidates) {
        let first = self.first(h);
        let wanted = h - self.least_of(first);
        let second = self.second(first, wanted);
        for (at, is_second) in [(first, false), (second, true)] {
            let line = &self.lines[at as usize];
            for i in 0..line.count() {
                let slot = line.slot(i);
                if self.part(slot) == wanted
                    && line.is_second(i) == is_second
                    && let Some(block) = self.block(slot, live)
                {
                    found.push(block);
                }
            }
        }
    }

    /// A place in the bucket for one more.
    fn room(&self, at: u64, live: Live) -> Option<usize> {
        let line = &self.lines[at as usize];
        let count = line.count();
        if count < SLOTS {
            return Some(count);
        }
        if live.oldest == 0 {
            return None; // nothing was ever dropped
        }
        (0..SLOTS).find(|&i| self.block(line.slot(i), live).is_none())
    }

    fn put(&mut self, at: u64, i: usize, value: u64, second: bool) {
        self.used += u64::from(i == self.lines[at as usize].count());
        self.lines[at as usize].put(i, value, second);
    }

    /// Puts an entry in; false if there is no room in its buckets, nor in the other buckets of those that lie there.
    fn insert(&mut self, h: u64, block: u64, live: Live) -> bool {
        let first = self.first(h);
        let part = h - self.least_of(first);
        let second = self.second(first, part);
        let value = part | (block & self.block_mask()) << self.hash_bits;
        let fuller = self.lines[first as usize].count() > self.lines[second as usize].count();
        let order = if fuller {
            [(second, true), (first, false)]
        } else {
            [(first, false), (second, true)]
        };
        for (at, is_second) in order {
            if let Some(i) = self.room(at, live) {
                self.put(at, i, value, is_second);
                return true;
            }
        }
        for (at, is_second) in order {
            for i in 0..SLOTS {
                let slot = self.lines[at as usize].slot(i);
                let was_second = self.lines[at as usize].is_second(i);
                let other = if was_second {
                    self.first_of_second(at, self.part(slot))
                } else {
                    self.second(at, self.part(slot))
                };
                if let Some(j) = self.room(other, live) {
                    self.put(other, j, slot, !was_second);
                    self.lines[at as usize].put(i, value, is_second);
                    return true;
                }
            }
        }
        false
    }

    /// Every live entry, in order of its bucket.
    fn for_each_live(&self, live: Live, mut take: impl FnMut(u64, u64)) {
        for (at, line) in self.lines.iter().enumerate() {
            for i in 0..line.count() {
                let slot = line.slot(i);
                if let Some(block) = self.block(slot, live) {
                    let part = self.part(slot);
                    let first = if line.is_second(i) {
                        self.first_of_second(at as u64, part)
                    } else {
                        at as u64
                    };
                    take(self.least_of(first) + part, block);
                }
            }
        }
    }

    /// Whether no room was found though much is free: many entries share one hash (a call amended again and again).
    fn is_sparse(&self) -> bool {
        self.used * 4 < self.buckets * SLOTS as u64 * 3 && self.buckets > BUCKETS_MIN
    }

    /// Whether it is time to grow: a fuller table would make every entry look for room.
    fn is_full(&self) -> bool {
        self.used * 100 > self.buckets * SLOTS as u64 * 93
    }

    /// A table with room for what is live and a sixth more; what no table has room for goes to `crowd`.
    fn regrown(&self, live: Live, crowd: &mut Vec<(u64, u64)>) -> Self {
        let mut count = 0u64;
        self.for_each_live(live, |_, _| count += 1);
        let buckets = (count * 125 / (100 * SLOTS as u64)).max(BUCKETS_MIN) + 1;
        let mut grown = Self::new(buckets);
        self.for_each_live(live, |h, block| {
            if !grown.insert(h, block, live) {
                crowd.push((h, block));
            }
        });
        grown
    }
}

/// The table of one partition.
pub struct Index {
    segments: Vec<Segment>,
    /// (retained bits, block) of entries that found no room because many share their hash.
    crowd: BTreeSet<(u64, u64)>,
    live: Live,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("entries", &self.entries())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// An empty table for blocks from `oldest` on.
    pub fn new(oldest: u64) -> Self {
        Self::with_capacity(oldest, 0)
    }

    /// An empty table with room for that many calls.
    pub fn with_capacity(oldest: u64, calls: u64) -> Self {
        let buckets = (calls * 120 / (100 * (SLOTS * SEGMENTS) as u64)).max(BUCKETS_MIN);
        Self {
            segments: (0..SEGMENTS).map(|_| Segment::new(buckets)).collect(),
            crowd: BTreeSet::new(),
            live: Live { oldest, newest: oldest },
        }
    }

    fn place(retained: u64) -> (usize, u64) {
        let shift = RETAINED_BITS - SEGMENT_BITS;
        (
            (retained >> shift) as usize & (SEGMENTS - 1),
            retained & ((1 << shift) - 1),
        )
    }

    /// Notes that `block` holds a call with these retained bits.
    pub fn insert(&mut self, retained: u64, block: u64) {
        self.live.newest = self.live.newest.max(block);
        let (number, h) = Self::place(retained);
        let live = self.live;
        let segment = &mut self.segments[number];
        while segment.is_full() || !segment.insert(h, block, live) {
            if segment.is_sparse() {
                self.crowd.insert((retained, block));
                return;
            }
            let mut crowded = Vec::new();
            *segment = segment.regrown(live, &mut crowded);
            let high = (number as u64) << H_BITS;
            self.crowd
                .extend(crowded.into_iter().map(|(h, block)| (high | h, block)));
        }
    }

    /// Notes a whole block's calls; the lines that they need are asked for together.
    pub fn insert_all(&mut self, retained: &[u64], block: u64) {
        for group in retained.chunks(16) {
            group.iter().for_each(|&r| self.prefetch(r));
            for &r in group {
                self.insert(r, block);
            }
        }
    }

    /// Blocks that may hold such a call, newest first. Empty: no block does.
    pub fn candidates(&self, retained: u64) -> Candidates {
        let mut found = Candidates::new();
        let (segment, h) = Self::place(retained);
        self.segments[segment].candidates(h, self.live, &mut found);
        if !self.crowd.is_empty() {
            let crowd = self.crowd.range((retained, self.live.oldest)..=(retained, u64::MAX));
            found.extend(crowd.map(|&(_, block)| block));
        }
        if found.len() > 1 {
            found.sort_unstable_by(|a, b| b.cmp(a));
            found.dedup();
        }
        found
    }

    /// Asks the processor for the lines that a lookup will need.
    #[inline]
    pub fn prefetch(&self, retained: u64) {
        let (segment, h) = Self::place(retained);
        let segment = &self.segments[segment];
        let first = segment.first(h);
        let second = segment.second(first, h - segment.least_of(first));
        prefetch(&segment.lines[first as usize]);
        prefetch(&segment.lines[second as usize]);
    }

    /// Blocks below are dropped.
    pub fn set_oldest(&mut self, oldest: u64) {
        self.live.oldest = self.live.oldest.max(oldest);
        self.live.newest = self.live.newest.max(self.live.oldest);
        self.crowd.retain(|&(_, block)| block >= oldest);
    }

    /// Slots in use, those of dropped blocks that wait to be used again included.
    pub fn entries(&self) -> u64 {
        self.segments.iter().map(|s| s.used).sum()
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.segments
            .iter()
            .map(|s| s.lines.capacity() * size_of::<Line>())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        let x = (n ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ x >> 29).wrapping_mul(0x94d0_49bb_1331_11eb) ^ x >> 32
    }

    #[test]
    fn every_call_is_found_through_growth_and_expiry() {
        let mut index = Index::new(0);
        let calls = 300_000u64;
        for n in 0..calls {
            index.insert(retained(hash(n)), n / 256);
        }
        let missing = (0..calls)
            .filter(|&n| !index.candidates(retained(hash(n))).contains(&(n / 256)))
            .count();
        assert_eq!(missing, 0);
        let strangers = (calls..2 * calls)
            .filter(|&n| !index.candidates(retained(hash(n))).is_empty())
            .count();
        assert!(strangers < calls as usize / 100, "{strangers} of {calls}");
        let bytes = index.memory_bytes() as f64 / calls as f64;
        assert!(bytes < 7.4, "{bytes} bytes a call");
        // Half of it is dropped: gone at once, and its room is used again.
        let oldest = calls / 512;
        index.set_oldest(oldest);
        let before = index.memory_bytes();
        assert!(index.candidates(retained(hash(1))).is_empty());
        for n in calls..calls + calls / 3 {
            index.insert(retained(hash(n)), n / 256);
        }
        assert!(index.memory_bytes() <= before);
        let missing = (oldest * 256..calls + calls / 3)
            .filter(|&n| !index.candidates(retained(hash(n))).contains(&(n / 256)))
            .count();
        assert_eq!(missing, 0);
    }

    #[test]
    fn the_newest_block_comes_first() {
        let mut index = Index::new(5);
        for block in [6, 9, 7] {
            index.insert(77, block);
        }
        assert_eq!(index.candidates(77).as_slice(), [9, 7, 6]);
        index.set_oldest(8);
        assert_eq!(index.candidates(77).as_slice(), [9]);
    }

    #[test]
    fn one_hash_over_and_over_is_held() {
        let mut index = Index::new(0);
        for n in 0..20_000 {
            index.insert(retained(hash(n)), 0);
        }
        for block in 0..400 {
            index.insert(retained(u64::MAX), block);
        }
        for n in 0..20_000 {
            index.insert(retained(hash(n)), 401);
        }
        assert_eq!(index.candidates(retained(u64::MAX)).len(), 400);
        assert!(index.memory_bytes() < 1_000_000);
    }
}

#[cfg(test)]
mod real_ids {
    use super::*;
    use crate::model::id::CallKey;
    use crate::workload::seed::Seed;

    #[test]
    fn ids_of_one_minute_spread_over_the_table() {
        let mut index = Index::new(0);
        let mut seed = Seed::new(1);
        let calls = 200_000u64;
        for n in 0..calls {
            let id = seed.uuid(1_788_220_800_000 + n as i64 / 20);
            let hash = CallKey::parse(&id).hash(seed.below(100_000) as u32);
            index.insert(retained(hash), n / 256);
        }
        let bytes = index.memory_bytes() as f64 / calls as f64;
        assert!(bytes < 7.4, "{bytes} bytes a call");
    }
}
