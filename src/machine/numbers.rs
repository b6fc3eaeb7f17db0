//! Numbers (accounts, slots of calls) by the hash of what they stand for.
//!
//! Open addressing over words of 8 bytes: half a hash and a number. A general hash table asks for its control bytes, its
//! entry and the thing itself one after the other; here the fold asks for the one line of a whole group of lookups
//! ([`Numbers::prefetch`]) before it compares anything. Measured: a seventh of the fold waited for the account table alone.

use super::prefetch::prefetch;

/// No number, and so no more than this many.
const EMPTY: u64 = u64::MAX;

const SLOTS_MIN: usize = 16;

/// Numbers below `u32::MAX` by hash. Several may have one hash.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// A power of two: half of a hash above, the number below.
    slots: Vec<u64>,
    /// What is left of half a hash once it is a place.
    shift: u32,
    len: usize,
}

impl Default for Numbers {
    fn default() -> Self {
        Self::with_slots(SLOTS_MIN)
    }
}

impl Numbers {
    fn with_slots(slots: usize) -> Self {
        Self {
            slots: vec![EMPTY; slots],
            shift: 64 - slots.trailing_zeros(),
            len: 0,
        }
    }

    /// Where a slot's search begins: its upper half alone says so, hence the table grows without hashing anything anew.
    #[inline]
    fn home(&self, slot: u64) -> usize {
        (slot >> self.shift) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// Asks the processor for where the search begins.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if let Some(slot) = self.slots.get(self.home(hash)) {
            prefetch(slot);
        }
    }

    /// The first number of that hash for which `is` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let slot = *self.slots.get(at)?;
            if slot == EMPTY {
                return None;
            }
            if slot >> 32 == hash >> 32 && is(slot as u32) {
                return Some(slot as u32);
            }
            at = self.after(at);
        }
    }

    /// Notes a number, which must not be there under this hash.
    pub fn insert(&mut self, hash: u64, number: u32) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            let mut grown = Self::with_slots(self.slots.len() * 2);
            for &slot in self.slots.iter().filter(|&&slot| slot != EMPTY) {
                grown.put(slot);
            }
            *self = grown;
        }
        self.put(hash >> 32 << 32 | u64::from(number));
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(slot);
        while self.slots[at] != EMPTY {
            at = self.after(at);
        }
        self.slots[at] = slot;
        self.len += 1;
    }

    /// Lets go of a number.
    pub fn remove(&mut self, hash: u64, number: u32) {
        let gone = hash >> 32 << 32 | u64::from(number);
        let mut hole = self.home(hash);
        while self.slots[hole] != gone {
            if self.slots[hole] == EMPTY {
                return;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        // What stands behind moves up if the hole is between its home and where it stands.
        let mut at = self.after(hole);
        while self.slots[at] != EMPTY {
            let slot = self.slots[at];
            let mask = self.slots.len() - 1;
            let from_home = at.wrapping_sub(self.home(slot)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = at;
            }
            at = self.after(at);
        }
        self.slots[hole] = EMPTY;
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> u64 {
        // Few distinct homes: long runs, and runs over the end.
        (u64::from(n) % 37 * 0x0701_0000 + 0xf000_0000) << 32 | u64::from(n)
    }

    #[test]
    fn what_was_put_in_is_found_until_it_is_let_go() {
        let mut numbers = Numbers::default();
        for n in 0..2_000 {
            numbers.insert(hash(n), n);
            if n >= 100 {
                numbers.remove(hash(n - 100), n - 100);
            }
            numbers.remove(hash(n + 5), n + 5);
        }
        for n in 0..2_000 {
            let found = numbers.find(hash(n), |m| m == n);
            assert_eq!(found, (n >= 1_900).then_some(n));
        }
        assert_eq!(numbers.len, 100);
        assert!(numbers.memory_bytes() <= 256 * 8);
    }
}
