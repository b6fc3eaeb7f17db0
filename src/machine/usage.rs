//! Running totals: for each account by day of its zone, and in open periods by hour.
//!
//! A bucket is one account's day or hour. Adding never reads what was there before, so a bucket that the store holds need
//! not be in memory to be added to: it is then *partial* until the shell has put the two together.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::names::ShapeId;
use crate::model::outcome::{Class, Outcome, Reason};
use crate::model::period::Month;
use crate::model::symbol::Sym;

/// What a line of a bucket sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineKey {
    /// The interface.
    pub service: Sym,
    /// What is priced.
    pub product: Sym,
    /// Values of the period's rollup dimensions, as a shape of nothing else; always none by hour.
    pub dimensions: ShapeId,
    /// Charged or not, and how.
    pub class: Class,
}

/// One line: exact sums by meter, in units of 10^-9, zeros included once they have been touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it sums.
    pub key: LineKey,
    /// Sorted by meter.
    pub meters: SmallVec<[(Sym, i128); 4]>,
}

/// How many calls came to what; changes may be negative.
pub type Counts = SmallVec<[((Outcome, Reason), i64); 2]>;

/// One account's day or hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Sorted by key.
    pub lines: SmallVec<[Line; 1]>,
    /// Sorted; by day only.
    pub counts: Counts,
    /// The store may hold more: to be added together.
    pub partial: bool,
    /// Changed since it was last written.
    pub dirty: bool,
}

impl Bucket {
    /// Adds the quantities to the line of `key`; takes them away if `sign` is negative.
    pub fn add(&mut self, key: LineKey, quantities: &[(Sym, i128)], sign: i128) {
        self.dirty = true;
        // Equality first: it is one comparison of 16 bytes, order is four of fields.
        let meters = match self.lines.iter().position(|l| l.key == key) {
            Some(at) => &mut self.lines[at].meters,
            None => {
                let at = self.lines.partition_point(|l| l.key < key);
                let meters = SmallVec::new();
                self.lines.insert(at, Line { key, meters });
                &mut self.lines[at].meters
            }
        };
        let mut at = 0;
        for &(meter, quantity) in quantities {
            // 2^127 / (2^63 × 10^9) = 1.8 × 10^10 readings of the largest value there is: no log gets there.
            let change = if sign < 0 { quantity.saturating_neg() } else { quantity };
            // Both lists are sorted by meter, but for what a caller may give: then the search begins anew.
            if at > 0 && meters[at - 1].0 >= meter {
                at = 0;
            }
            while at < meters.len() && meters[at].0 < meter {
                at += 1;
            }
            match meters.get_mut(at) {
                Some(held) if held.0 == meter => held.1 = held.1.saturating_add(change),
                _ => meters.insert(at, (meter, change)),
            }
            at += 1;
        }
    }

    /// Counts calls.
    pub fn count(&mut self, what: (Outcome, Reason), calls: i64) {
        self.dirty = true;
        match self.counts.iter().position(|c| c.0 >= what) {
            Some(at) if self.counts[at].0 == what => self.counts[at].1 += calls,
            found => {
                let at = found.unwrap_or(self.counts.len());
                self.counts.insert(at, (what, calls));
            }
        }
    }

    /// Adds everything of `other`.
    pub fn absorb(&mut self, other: &Self) {
        for line in &other.lines {
            self.add(line.key, &line.meters, 1);
        }
        for &(what, calls) in &other.counts {
            self.count(what, calls);
        }
    }
}

/// Day or hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Span {
    /// A local day; the place is its number since 1970-01-01.
    Day = 0,
    /// A local hour; the place is its start in minutes since 1970-01-01T00:00Z.
    Hour = 1,
}

/// Which bucket: account, day or hour, month of the period, place.
pub type BucketKey = (u32, Span, Month, i32);

/// Buckets that aren't an account's latest ones: late additions, and what a close has read.
#[derive(Debug, Default)]
pub struct ColdBuckets {
    /// In memory now.
    pub buckets: BTreeMap<BucketKey, Bucket>,
    /// Changed since the last commit, in the order of the first change.
    dirty: Vec<BucketKey>,
}

impl ColdBuckets {
    /// The bucket to add to; made partial if it isn't in memory.
    pub fn entry(&mut self, key: BucketKey) -> &mut Bucket {
        let dirty = &mut self.dirty;
        let bucket = self.buckets.entry(key).or_insert_with(|| Bucket {
            partial: true,
            ..Bucket::default()
        });
        if !bucket.dirty {
            dirty.push(key);
            bucket.dirty = true;
        }
        bucket
    }

    /// Takes in a bucket that was an account's latest until now.
    pub fn retire(&mut self, key: BucketKey, bucket: Bucket) {
        if bucket.lines.is_empty() && bucket.counts.is_empty() {
            return;
        }
        let held = self.entry(key);
        held.absorb(&bucket);
        // Nothing older can be in the store: it was the latest from its first call on.
        held.partial = bucket.partial;
    }

    /// Puts what the store holds under what was added meanwhile.
    pub fn fill(&mut self, key: BucketKey, stored: Bucket) {
        match self.buckets.get_mut(&key) {
            Some(held) if held.partial => {
                let dirty = held.dirty;
                held.absorb(&stored);
                (held.partial, held.dirty) = (false, dirty);
            }
            Some(_) => {}
            None => {
                self.buckets.insert(
                    key,
                    Bucket {
                        partial: false,
                        dirty: false,
                        ..stored
                    },
                );
            }
        }
    }

    /// Says that the store holds nothing more of an account's period than what [`ColdBuckets::fill`] has brought.
    pub fn make_whole(&mut self, account: u32, month: Month) {
        let range = (account, Span::Day, month, i32::MIN)..=(account, Span::Day, month, i32::MAX);
        for (_, bucket) in self.buckets.range_mut(range) {
            bucket.partial = false;
        }
    }

    /// The days of one account's period that are in memory.
    pub fn days(&self, account: u32, month: Month) -> impl Iterator<Item = (i32, &Bucket)> {
        self.buckets
            .range((account, Span::Day, month, i32::MIN)..=(account, Span::Day, month, i32::MAX))
            .map(|(key, bucket)| (key.3, bucket))
    }

    /// Keys changed since the last commit.
    pub fn take_dirty(&mut self) -> Vec<BucketKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Lets go of what is written and whole.
    pub fn evict_clean(&mut self) {
        self.buckets.retain(|_, b| b.dirty);
    }

    /// Drops the hours of a period that has closed.
    pub fn drop_hours(&mut self, account: u32, month: Month) {
        let range = (account, Span::Hour, month, i32::MIN)..=(account, Span::Hour, month, i32::MAX);
        let gone: Vec<BucketKey> = self.buckets.range(range).map(|(key, _)| *key).collect();
        for key in gone {
            self.buckets.remove(&key);
        }
    }
}
