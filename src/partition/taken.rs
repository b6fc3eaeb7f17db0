//! What memory holds of one account, taken in a moment under the fold's lock; the store beneath it is read without the lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::live::{Look, ReadError, Standing};
use super::usage::{UsageQuery, Window};
use crate::machine::accounts::{Period, Profile, ProfileId, Standing as PeriodStanding};
use crate::machine::adjust::ClosedPeriod;
use crate::machine::output::Topic;
use crate::machine::paging;
use crate::machine::usage::{Bucket, BucketKey, Span};
use crate::model::Ms;
use crate::model::period::Month;
use crate::partition::words::Words;
use crate::store::bytes::Damaged;
use crate::store::keys::{self, table};
use crate::store::rows::{Rows, RowsError};
use crate::store::values::Stored;

/// What is asked of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// Its usage.
    Usage(UsageQuery),
    /// A period's statement and usage; of the period that the clock is in, if none is named.
    Statement(Option<Month>),
}

/// Why something wasn't read to its end.
#[derive(Debug, Error)]
pub enum Halt {
    /// It is more than is read in one go where others wait.
    #[error("it is more than is read in one go")]
    Long,
    /// The rows can't be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
}

impl ReadError {
    /// Where all may be waited for, only the store can fail.
    pub(super) fn of(halt: Halt, partition: u32) -> Self {
        match halt {
            Halt::Rows(RowsError::Store(cause)) => cause.into(),
            Halt::Rows(RowsError::NotInMemory) | Halt::Long => Self::NotServed { partition },
        }
    }
}

/// What memory holds of an account, as of one record.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Where it stands.
    pub standing: Standing,
    /// The account's id.
    pub id: String,
    /// What numbers stand for.
    pub(super) words: Arc<Words>,
    pub(super) account: u32,
    /// Of periods that aren't stored yet.
    pub(super) profile: ProfileId,
    /// All that are stored, oldest first.
    pub(super) periods: Vec<Period>,
    /// The month that the clock is in.
    pub running: Month,
    /// The month that a statement is asked for.
    pub(super) wanted: Month,
    /// The months that it is about, oldest first.
    pub(super) months: Vec<Month>,
    /// Control version up to which cards hold for open periods.
    pub(super) cards: u64,
    /// Whether a hold keeps the wanted period open.
    pub(super) held: bool,
    /// Notices of changed closed periods that no statement has named.
    pub(super) notices: BTreeMap<Month, Vec<Ms>>,
    /// Pages of the wanted statement that aren't out yet, by sequence.
    pub(super) waiting: BTreeMap<u64, Vec<u8>>,
    span: Span,
    buckets: BTreeMap<BucketKey, Bucket>,
    closed: BTreeMap<Month, ClosedPeriod>,
    /// Commits begun before it was taken.
    pub(super) commits: u64,
}

impl Taken {
    /// Takes what is asked for. `None`: there is no such account.
    pub fn of(look: &Look<'_>, id: &str, asked: &Asked) -> Option<Self> {
        let machine = &look.partition.machine;
        let account = machine.accounts.find(id)?;
        let owner = machine.accounts.get(account)?;
        let running = machine.month_of(account, machine.now());
        let mut taken = Self {
            standing: Standing::of(look.partition),
            id: owner.id.to_string(),
            words: Arc::clone(&look.words),
            account,
            profile: owner.profile,
            periods: owner.periods.to_vec(),
            running,
            wanted: running,
            months: Vec::new(),
            cards: machine.ledger.version,
            held: false,
            notices: BTreeMap::new(),
            waiting: BTreeMap::new(),
            span: Span::Day,
            buckets: BTreeMap::new(),
            closed: BTreeMap::new(),
            commits: look.commits,
        };
        match asked {
            Asked::Usage(query) => {
                if query.window == Window::Hour {
                    taken.span = Span::Hour;
                }
                let month_at = |at: Ms| machine.month_of(account, at);
                let (first, last) = query.months.unwrap_or(match (query.from, query.until) {
                    (None, None) => (running, running),
                    (from, until) => (
                        from.or(until).map_or(running, month_at),
                        until.map_or(running, month_at),
                    ),
                });
                let stored = owner.periods.iter().map(|s| s.month);
                taken.months = stored.filter(|m| (first..=last).contains(m)).collect();
            }
            Asked::Statement(month) => taken.take_statement(look, month.unwrap_or(running)),
        }
        taken.take_buckets(look);
        Some(taken)
    }

    fn take_statement(&mut self, look: &Look<'_>, wanted: Month) {
        let machine = &look.partition.machine;
        let account = self.account;
        self.wanted = wanted;
        self.held = machine.held.contains_key(&(wanted, account)) || machine.is_held(account, wanted);
        let adjusted = machine
            .adjustments
            .range((account, Month::MIN)..=(account, Month::MAX))
            .map(|(&(_, month), changes)| (month, changes.unstated.iter().copied().chain(changes.due).collect()));
        self.notices = adjusted.collect();
        self.months = self.notices.keys().copied().collect();
        if let Err(at) = self.months.binary_search(&wanted) {
            self.months.insert(at, wanted);
        }
        // One that was closed before the last commit is in the store, and its statement in the outbox or out.
        if let Some(closed) = machine.closed.get(&(account, wanted)) {
            let waiting = look.partition.unsent.iter().chain(&machine.outputs.pending);
            let mut waiting = waiting.filter(|o| o.topic == Topic::Statements);
            // Pages are put out together: all wait, or those that don't are read elsewhere.
            if let Some(first) = waiting.find(|o| o.sequence == closed.sequence) {
                let until = first.sequence + paging::pages_in(&first.body);
                let others = waiting.take_while(|o| o.sequence < until);
                let pages = std::iter::once(first).chain(others);
                self.waiting = pages.map(|o| (o.sequence, o.body.clone())).collect();
            }
        }
    }

    fn take_buckets(&mut self, look: &Look<'_>) {
        let machine = &look.partition.machine;
        let (account, span) = (self.account, self.span);
        for &month in &self.months {
            let range = (account, span, month, i32::MIN)..=(account, span, month, i32::MAX);
            let cold = machine.cold.buckets.range(range);
            self.buckets.extend(cold.map(|(key, b)| (*key, b.clone())));
            if let Some(held) = machine.closed.get(&(account, month)) {
                self.closed.insert(month, held.clone());
            }
        }
        let owner = machine.accounts.get(account);
        let latest = owner.and_then(|o| match span {
            Span::Day => o.day.as_deref(),
            Span::Hour => o.hour.as_deref(),
        });
        if let Some(latest) = latest.filter(|l| self.months.contains(&l.month)) {
            // It has everything of its place, as the store's rows never do.
            let key = (account, span, latest.month, latest.place);
            self.buckets.entry(key).or_default().absorb(&latest.bucket);
        }
    }

    /// The stored period of a month.
    pub(super) fn period(&self, month: Month) -> Option<&Period> {
        self.periods.iter().rfind(|p| p.month == month)
    }

    /// Its stored periods, oldest first.
    pub fn stored(&self) -> &[Period] {
        &self.periods
    }

    /// Zone and currency of periods that aren't stored yet.
    pub fn profile(&self) -> Profile {
        self.words.profile(self.profile)
    }

    /// What a closed month has stated, from memory or the store.
    pub(super) fn closed(&self, rows: &mut Rows<'_>, month: Month) -> Result<ClosedPeriod, Halt> {
        if let Some(held) = self.closed.get(&month) {
            return Ok(held.clone());
        }
        let key = keys::account_month(table::CLOSED, self.account, month);
        let stored = match rows.get(&key)? {
            Some(bytes) => ClosedPeriod::from_bytes(bytes),
            None => Ok(ClosedPeriod::default()),
        };
        stored.map_err(|damaged| Halt::Rows(rows.rocks.damaged(damaged).into()))
    }

    /// Control version of the cards by which a period is priced.
    pub(super) fn cards_of(&self, rows: &mut Rows<'_>, period: &Period) -> Result<u64, Halt> {
        match period.standing {
            PeriodStanding::Open => Ok(self.cards),
            PeriodStanding::Closed => Ok(self.closed(rows, period.month)?.cards),
        }
    }

    /// A month's buckets at some places in the order of time, memory and store put together, until `visit` wants no more.
    /// Whether it went to the end.
    pub(super) fn each_bucket(
        &self,
        rows: &mut Rows<'_>,
        month: Month,
        (first, last): (i32, i32),
        mut visit: impl FnMut(i32, &Bucket) -> Result<bool, Halt>,
    ) -> Result<bool, Halt> {
        if first > last {
            return Ok(true);
        }
        let key = |place| (self.account, self.span, month, place);
        let mut memory = self.buckets.range(key(first)..=key(last)).peekable();
        let rocks = rows.rocks;
        let damaged = |damaged| Halt::Rows(rocks.damaged(damaged).into());
        let mut goes_on = true;
        rows.scan(
            &keys::bucket(key(first)),
            &keys::bucket(key(last)),
            |stored_key, bytes| {
                let at = keys::parse_bucket(stored_key).ok_or_else(|| {
                    damaged(Damaged {
                        what: "key of a bucket",
                    })
                })?;
                while let Some((key, bucket)) = memory.next_if(|(key, _)| **key < at) {
                    goes_on = visit(key.3, bucket)?;
                    if !goes_on {
                        return Ok(false);
                    }
                }
                let stored = || Bucket::from_bytes(bytes).map_err(damaged);
                // A whole bucket in memory stands for the stored one; a partial one comes on top of it.
                goes_on = match memory.next_if(|(key, _)| **key == at) {
                    Some((_, held)) if !held.partial => visit(at.3, held)?,
                    Some((_, held)) => {
                        let mut both = held.clone();
                        both.absorb(&stored()?);
                        visit(at.3, &both)?
                    }
                    None => visit(at.3, &stored()?)?,
                };
                Ok::<bool, Halt>(goes_on)
            },
        )?;
        for (key, bucket) in memory {
            if !goes_on {
                break;
            }
            goes_on = visit(key.3, bucket)?;
        }
        Ok(goes_on)
    }

    /// All days of a month.
    pub(super) fn days(&self, rows: &mut Rows<'_>, month: Month) -> Result<Vec<(i32, Bucket)>, Halt> {
        let mut days = Vec::new();
        self.each_bucket(rows, month, (i32::MIN, i32::MAX), |day, bucket| {
            days.push((day, bucket.clone()));
            Ok(true)
        })?;
        Ok(days)
    }
}
