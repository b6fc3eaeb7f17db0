//! Accounts: profile, stored periods, and the latest day and hour of usage.
//!
//! The bounds of a period are stored when the account first needs it (RULES §6), so that neither a later change of profile
//! nor a new time zone database can move a call from one bill to another.

use compact_str::CompactString;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::numbers::Numbers;
use super::prefetch::prefetch;
use super::usage::Bucket;
use crate::model::Ms;
use crate::model::money::Currency;
use crate::model::period::{Month, Zone};

/// Zone and currency, kept once and named by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The account's time zone.
    pub zone: Zone,
    /// The account's currency.
    pub currency: Currency,
}

/// Number of a profile; 0 is the default one: UTC, USD.
pub type ProfileId = u32;

/// Whether a period still takes usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// Takes usage; has a close timer or is held.
    Open = 0,
    /// Closed; changes are adjustments.
    Closed = 1,
}

/// One stored period of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Which month.
    pub month: Month,
    /// First instant.
    pub from: Ms,
    /// First instant that no longer belongs to it.
    pub until: Ms,
    /// When it closes, by the close grace in force when the bounds were stored.
    pub close_due: Ms,
    /// Zone and currency that hold for it.
    pub profile: ProfileId,
    /// Number of the rollup names in force when the bounds were stored.
    pub rollup: u16,
    /// Open or closed.
    pub standing: Standing,
}

/// The latest bucket of its kind: the one that nearly every call adds to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// Month of the period.
    pub month: Month,
    /// Day number, or start of the hour in minutes.
    pub place: i32,
    /// The sums.
    pub bucket: Bucket,
}

/// One account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its id; in place up to 24 bytes, so that looking it up doesn't wait for memory twice.
    pub id: CompactString,
    /// Holds for periods that aren't stored yet.
    pub profile: ProfileId,
    /// Contiguous, oldest first. One stands in place: it is looked at for every call, and most accounts have no more open.
    pub periods: SmallVec<[Period; 1]>,
    /// The latest day with usage.
    pub day: Option<Box<Latest>>,
    /// The latest hour with usage.
    pub hour: Option<Box<Latest>>,
    /// Changes since the partition was opened: whoever watches the account compares it.
    pub changes: u32,
    /// Latest buckets changed since they were last written.
    dirty: bool,
    /// Anything else changed since it was last written.
    row_dirty: bool,
}

impl Account {
    /// The stored period with this instant.
    pub fn period_at(&self, at: Ms) -> Option<usize> {
        self.periods
            .iter()
            .rposition(|p| p.from <= at)
            .filter(|&i| at < self.periods[i].until)
    }

    /// The stored period of this month.
    pub fn period(&self, month: Month) -> Option<&Period> {
        self.periods.iter().rfind(|p| p.month == month)
    }
}

/// All accounts of a partition, numbered in the order of their first record.
#[derive(Debug, Default)]
pub struct Accounts {
    all: Vec<Account>,
    by_id: Numbers,
    profiles: Vec<Profile>,
    dirty: Vec<u32>,
}

impl Accounts {
    /// Hash under which an id is looked up.
    pub fn hash(id: &str) -> u64 {
        xxh3_64(id.as_bytes())
    }

    /// The account's number.
    pub fn find(&self, id: &str) -> Option<u32> {
        self.find_hashed(id, Self::hash(id))
    }

    /// The account's number, by its id and the id's hash.
    #[inline]
    pub fn find_hashed(&self, id: &str, hash: u64) -> Option<u32> {
        self.by_id
            .find(hash, |n| self.get(n).is_some_and(|account| account.id == id))
    }

    /// The number that [`Accounts::find_hashed`] will look at first: to be asked for ahead.
    #[inline]
    pub fn likely(&self, hash: u64) -> Option<u32> {
        self.by_id.find(hash, |_| true)
    }

    /// Asks the processor for the place in the table of numbers.
    #[inline]
    pub fn prefetch_place(&self, hash: u64) {
        self.by_id.prefetch(hash);
    }

    /// The account's number, given now if it has none; and whether it is new.
    pub fn number(&mut self, id: &str) -> (u32, bool) {
        if let Some(number) = self.find(id) {
            return (number, false);
        }
        let account = Account {
            id: id.into(),
            profile: 0,
            periods: SmallVec::new(),
            day: None,
            hour: None,
            changes: 0,
            dirty: false,
            row_dirty: true,
        };
        (self.push(account), true)
    }

    fn push(&mut self, account: Account) -> u32 {
        let number = self.all.len() as u32;
        let hash = Self::hash(&account.id);
        self.all.push(account);
        self.by_id.insert(hash, number);
        self.mark_dirty(number);
        number
    }

    /// Puts back an account that the store held; they come in order of their numbers.
    pub fn restore(
        &mut self,
        id: CompactString,
        profile: ProfileId,
        periods: Vec<Period>,
        day: Option<Box<Latest>>,
        hour: Option<Box<Latest>>,
    ) -> u32 {
        let number = self.push(Account {
            id,
            profile,
            periods: SmallVec::from_slice(&periods),
            day,
            hour,
            changes: 0,
            dirty: false,
            row_dirty: false,
        });
        self.take_dirty();
        number
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The account of that number.
    pub fn get(&self, number: u32) -> Option<&Account> {
        self.all.get(number as usize)
    }

    /// The account of that number, to change; its row will be written.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Account> {
        self.mark_dirty(number);
        let account = self.all.get_mut(number as usize)?;
        account.row_dirty = true;
        account.changes = account.changes.wrapping_add(1);
        Some(account)
    }

    /// The account's latest day and hour, to change; they will be written.
    pub fn latest_mut(&mut self, number: u32) -> Option<(&mut Option<Box<Latest>>, &mut Option<Box<Latest>>)> {
        self.mark_dirty(number);
        let account = self.all.get_mut(number as usize)?;
        account.changes = account.changes.wrapping_add(1);
        Some((&mut account.day, &mut account.hour))
    }

    /// Asks the processor for the account itself.
    #[inline]
    pub fn prefetch(&self, number: u32) {
        if let Some(account) = self.all.get(number as usize) {
            prefetch(account);
        }
    }

    /// Asks the processor for what booking a call of the account needs, once the account is there.
    #[inline]
    pub fn prefetch_latest(&self, number: u32) {
        let Some(account) = self.all.get(number as usize) else {
            return;
        };
        if account.periods.spilled()
            && let Some(period) = account.periods.last()
        {
            prefetch(period);
        }
        for latest in [&account.day, &account.hour].into_iter().flatten() {
            prefetch(latest.as_ref());
        }
    }

    /// Asks the processor for the lines of the latest buckets, once the buckets are there.
    #[inline]
    pub fn prefetch_lines(&self, number: u32) {
        let Some(account) = self.all.get(number as usize) else {
            return;
        };
        for latest in [&account.day, &account.hour].into_iter().flatten() {
            let lines = &latest.bucket.lines;
            if lines.spilled() {
                prefetch(lines.as_slice());
            }
        }
    }

    /// All, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Account)> {
        self.all.iter().enumerate().map(|(n, a)| (n as u32, a))
    }

    fn mark_dirty(&mut self, number: u32) {
        if let Some(account) = self.all.get_mut(number as usize)
            && !account.dirty
        {
            account.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Accounts changed since this was last asked, each once, by number; and whether more than the
    /// latest buckets changed.
    pub fn take_dirty(&mut self) -> Vec<(u32, bool)> {
        let mut dirty = std::mem::take(&mut self.dirty);
        // In key order: sorted rows cost the store a third of what scattered ones do.
        dirty.sort_unstable();
        dirty
            .into_iter()
            .map(|number| {
                let row = self.all.get_mut(number as usize).is_some_and(|account| {
                    account.dirty = false;
                    std::mem::take(&mut account.row_dirty)
                });
                (number, row)
            })
            .collect()
    }

    /// The profile's number, given now if it has none.
    pub fn profile_id(&mut self, profile: Profile) -> ProfileId {
        if self.profiles.is_empty() {
            self.profiles.push(Profile {
                zone: Zone::UTC,
                currency: Currency::USD,
            });
        }
        let found = self.profiles.iter().position(|p| *p == profile);
        found.unwrap_or_else(|| {
            self.profiles.push(profile);
            self.profiles.len() - 1
        }) as ProfileId
    }

    /// What the number stands for.
    pub fn profile(&self, id: ProfileId) -> Profile {
        self.profiles.get(id as usize).copied().unwrap_or(Profile {
            zone: Zone::UTC,
            currency: Currency::USD,
        })
    }

    /// All profiles, by number.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// Bytes of the table of accounts alone: known without a look at each.
    pub fn table_bytes(&self) -> usize {
        self.all.capacity() * size_of::<Account>() + self.by_id.memory_bytes()
    }

    /// Bytes of memory, roughly.
    pub fn memory_bytes(&self) -> usize {
        let buckets = |b: &Option<Box<Latest>>| {
            b.as_ref().map_or(0, |l| {
                size_of::<Latest>()
                    + if l.bucket.lines.spilled() {
                        l.bucket.lines.capacity() * size_of::<super::usage::Line>()
                    } else {
                        0
                    }
            })
        };
        let ids = |a: &Account| if a.id.is_heap_allocated() { a.id.len() } else { 0 };
        let periods = |a: &Account| {
            if a.periods.spilled() {
                a.periods.capacity() * size_of::<Period>()
            } else {
                0
            }
        };
        self.table_bytes()
            + self
                .all
                .iter()
                .map(|a| ids(a) + periods(a) + buckets(&a.day) + buckets(&a.hour))
                .sum::<usize>()
    }
}
