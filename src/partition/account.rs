//! What is known of one account beside the running fold: usage by window and group, calls, statements.
//!
//! Each read has three parts: under the lock, take what memory holds and a snapshot of the store; without it, read the
//! snapshot; under it again, but for moments, put names and prices to numbers, which only ever get more.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::explain::Explained;
use super::live::{Live, ReadError, Standing};
use super::read::KnownCall;
use super::worker::Partition;
use crate::machine::accounts::{Period, Profile, Standing as PeriodStanding};
use crate::machine::adjust::{ClosedPeriod, notice_id};
use crate::machine::output::Topic;
use crate::machine::rating::{AdjustmentLine, Rated, amount_of};
use crate::machine::usage::{Bucket, BucketKey, Span};
use crate::machine::verdict;
use crate::model::Ms;
use crate::model::id::CallKey;
use crate::model::money::Currency;
use crate::model::outcome::{Outcome, Reason};
use crate::model::period::{self, Day, Month};
use crate::model::quantity::Quantity;
use crate::store::bytes::Damaged;
use crate::store::keys::{self, table};
use crate::store::rocks::Rocks;
use crate::store::shelf::{Place, Sought};
use crate::store::values::Stored;
use crate::wire::pb;

/// By what length of time usage is summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// The clock hours of the account's zone; in open periods only, without rollup dimensions.
    Hour,
    /// The days of the account's zone.
    Day,
    /// Periods.
    #[default]
    Month,
}

/// What is asked of an account's usage. The meter always divides the sums; what isn't named here is added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UsageQuery {
    /// The first and the last period; the one that the clock is in, if absent.
    pub months: Option<(Month, Month)>,
    /// Only windows that begin at or after it.
    pub from: Option<Ms>,
    /// Only windows that begin before it.
    pub until: Option<Ms>,
    /// Length of time.
    pub window: Window,
    /// Whether services are told apart.
    pub by_service: bool,
    /// Whether products are told apart.
    pub by_product: bool,
    /// Whether classes are told apart.
    pub by_class: bool,
    /// Rollup dimensions that are told apart.
    pub dimensions: Vec<String>,
}

/// One sum of an account's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Added up.
    pub quantity: Quantity,
    /// Of it, charged.
    pub billed: Quantity,
    /// Of what is charged, that which no price was found for.
    pub unpriced: Quantity,
    /// Price of what is charged, unrounded; `None` if it can't be expressed.
    pub amount: Option<Decimal>,
}

/// What a sum is of; empty where it isn't told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageOf {
    /// First instant of the window.
    pub from: Ms,
    /// `2026-09`, `2026-09-03`, or an instant.
    pub window: String,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// What is counted.
    pub meter: String,
    /// success, disconnected, disconnected_estimated or unbilled.
    pub class: String,
    /// Values of the rollup dimensions that were asked for, in their order.
    pub dimensions: Vec<String>,
}

/// An account's usage as it stands.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Where the answer stands.
    pub standing: Standing,
    /// Zone and currency of the last period.
    pub profile: Profile,
    /// The periods it is about.
    pub periods: Vec<Period>,
    /// Quantities and amounts.
    pub sums: BTreeMap<UsageOf, UsageSum>,
    /// Calls by window, outcome and reason; none by hour.
    pub calls: BTreeMap<(Ms, String, Outcome, Reason), i64>,
}

/// A statement, closed or as it would be.
#[derive(Clone, Debug)]
pub enum Statement {
    /// Closed: what was put out.
    Closed {
        /// Its place in the statements output; 0 if nothing was stated.
        sequence: u64,
        /// As put out; absent if nothing was stated.
        statement: Option<Box<pb::PeriodClosed>>,
        /// What has changed since and no statement has named yet.
        owed: Vec<AdjustmentLine>,
    },
    /// Open: what it would be if it closed now.
    Draft {
        /// By line, unrounded and rounded.
        rated: Box<Rated>,
        /// Lines for closed periods: the period, its currency, the notices' ids, the line.
        adjustments: Vec<(Month, Currency, Vec<String>, AdjustmentLine)>,
    },
}

/// A period of an account with its statement.
#[derive(Clone, Debug)]
pub struct PeriodStatement {
    /// Where the answer stands.
    pub standing: Standing,
    /// The period.
    pub period: Period,
    /// Its zone and currency.
    pub profile: Profile,
    /// Whether a hold keeps it open.
    pub held: bool,
    /// The statement.
    pub statement: Statement,
}

/// Store and memory of some of an account's months, put together.
struct Gathered {
    standing: Standing,
    account: u32,
    buckets: BTreeMap<BucketKey, Bucket>,
    closed: BTreeMap<Month, ClosedPeriod>,
}

impl Gathered {
    fn days(&self, month: Month) -> Vec<(i32, &Bucket)> {
        let range = (self.account, Span::Day, month, i32::MIN)..=(self.account, Span::Day, month, i32::MAX);
        self.buckets.range(range).map(|(key, b)| (key.3, b)).collect()
    }
}

impl Live {
    /// Puts together what store and memory hold of the months that `months` names. `None`: there is no such account.
    fn gather(
        &self,
        id: &str,
        span: Span,
        months: impl FnOnce(&Partition, u32) -> Vec<Month>,
    ) -> Result<Option<Gathered>, ReadError> {
        let mut rocks: Option<Arc<Rocks>> = None;
        self.read(|p| rocks = Some(Arc::clone(&p.rocks)))?;
        let Some(rocks) = rocks else { return Ok(None) };
        let mut snapshot = None;
        let taken = self.read(|p| {
            // The partition may have been opened anew in between.
            if !Arc::ptr_eq(&rocks, &p.rocks) {
                return Err(ReadError::NotServed { partition: self.number });
            }
            let machine = &p.machine;
            let Some(account) = machine.accounts.find(id) else {
                return Ok(None);
            };
            snapshot = Some(rocks.snapshot());
            let months = months(p, account);
            let mut memory: BTreeMap<BucketKey, Bucket> = BTreeMap::new();
            let mut closed = BTreeMap::new();
            for &month in &months {
                let range = (account, span, month, i32::MIN)..=(account, span, month, i32::MAX);
                memory.extend(machine.cold.buckets.range(range).map(|(key, b)| (*key, b.clone())));
                if let Some(held) = machine.closed.get(&(account, month)) {
                    closed.insert(month, held.clone());
                }
            }
            let owner = machine.accounts.get(account);
            let latest = owner.and_then(|o| match span {
                Span::Day => o.day.as_deref(),
                Span::Hour => o.hour.as_deref(),
            });
            if let Some(latest) = latest.filter(|l| months.contains(&l.month)) {
                // It has everything of its place, as the store's rows never do.
                let key = (account, span, latest.month, latest.place);
                memory.entry(key).or_default().absorb(&latest.bucket);
            }
            let standing = Standing::of(p);
            Ok(Some((account, months, memory, closed, standing)))
        })??;
        let (Some((account, months, mut buckets, mut closed, standing)), Some(snapshot)) = (taken, snapshot) else {
            return Ok(None);
        };
        for month in months {
            let place = |place| keys::bucket((account, span, month, place));
            rocks.scan_snapshot(&snapshot, &place(i32::MIN), &place(i32::MAX), |key, bytes| {
                let key = keys::parse_bucket(key).ok_or(Damaged {
                    what: "key of a bucket",
                })?;
                let stored = || Bucket::from_bytes(bytes);
                match buckets.entry(key) {
                    std::collections::btree_map::Entry::Vacant(free) => {
                        free.insert(stored()?);
                    }
                    // A whole bucket in memory stands for the stored one; a partial one comes on top of it.
                    std::collections::btree_map::Entry::Occupied(mut held) if held.get().partial => {
                        held.get_mut().absorb(&stored()?);
                    }
                    std::collections::btree_map::Entry::Occupied(_) => {}
                }
                Ok(())
            })?;
            if let std::collections::btree_map::Entry::Vacant(free) = closed.entry(month) {
                let row = snapshot.get(keys::account_month(table::CLOSED, account, month));
                if let Some(bytes) = row.map_err(|e| rocks.explain(e))? {
                    free.insert(ClosedPeriod::from_bytes(&bytes).map_err(|d| rocks.damaged(d))?);
                }
            }
        }
        Ok(Some(Gathered {
            standing,
            account,
            buckets,
            closed,
        }))
    }

    /// An account's usage. `None`: there is no such account.
    pub fn usage(&self, id: &str, query: &UsageQuery) -> Result<Option<Usage>, ReadError> {
        let span = match query.window {
            Window::Hour => Span::Hour,
            Window::Day | Window::Month => Span::Day,
        };
        let gathered = self.gather(id, span, |p, account| {
            let (first, last) = query.months.unwrap_or_else(|| {
                let month_at = |at: Option<Ms>| p.machine.month_of(account, at.unwrap_or(p.machine.now()));
                match (query.from, query.until) {
                    (None, None) => (month_at(None), month_at(None)),
                    (from, until) => (month_at(from.or(until)), month_at(until)),
                }
            });
            let stored = p.machine.accounts.get(account).map_or(&[][..], |a| &a.periods);
            let months = stored.iter().map(|s| s.month);
            months.filter(|m| (first..=last).contains(m)).collect()
        })?;
        let Some(gathered) = gathered else { return Ok(None) };
        self.read(|p| Some(sum(p, &gathered, query)))
    }

    /// An account's periods, oldest first, and which of them are held. `None`: there is no such account.
    pub fn periods(&self, id: &str) -> Result<Option<(Standing, Profile, Vec<(Period, bool)>)>, ReadError> {
        self.read(|p| {
            let number = p.machine.accounts.find(id)?;
            let owner = p.machine.accounts.get(number)?;
            let held = |month| p.machine.held.contains_key(&(month, number));
            let periods = owner.periods.iter().map(|s| (*s, held(s.month))).collect();
            Some((Standing::of(p), p.machine.accounts.profile(owner.profile), periods))
        })
    }

    /// A period's statement; the period that the clock is in, if none is named. `None`: there is no such account or period.
    pub fn statement(&self, id: &str, month: Option<Month>) -> Result<Option<PeriodStatement>, ReadError> {
        match self.gather_for_statement(id, month)? {
            Some((wanted, gathered)) => self.stated(wanted, &gathered),
            None => Ok(None),
        }
    }

    /// A period's statement and, as of the same record, its usage by day, product and class.
    pub fn bill(&self, id: &str, month: Option<Month>) -> Result<Option<(PeriodStatement, Usage)>, ReadError> {
        let Some((wanted, gathered)) = self.gather_for_statement(id, month)? else {
            return Ok(None);
        };
        let Some(statement) = self.stated(wanted, &gathered)? else {
            return Ok(None);
        };
        let query = UsageQuery {
            from: Some(statement.period.from),
            until: Some(statement.period.until),
            window: Window::Day,
            by_product: true,
            by_class: true,
            ..UsageQuery::default()
        };
        let usage = self.read(|p| sum(p, &gathered, &query))?;
        Ok(Some((statement, usage)))
    }

    fn gather_for_statement(&self, id: &str, month: Option<Month>) -> Result<Option<(Month, Gathered)>, ReadError> {
        let mut wanted = Month::MIN;
        let gathered = self.gather(id, Span::Day, |p, account| {
            wanted = month.unwrap_or_else(|| p.machine.month_of(account, p.machine.now()));
            let adjusted = p
                .machine
                .adjustments
                .range((account, Month::MIN)..=(account, Month::MAX));
            let mut months: Vec<Month> = adjusted.map(|(&(_, month), _)| month).collect();
            if !months.contains(&wanted) {
                months.push(wanted);
            }
            months
        })?;
        Ok(gathered.map(|gathered| (wanted, gathered)))
    }

    fn stated(&self, wanted: Month, gathered: &Gathered) -> Result<Option<PeriodStatement>, ReadError> {
        let account = gathered.account;
        let found = self.read(|p| {
            let machine = &p.machine;
            let period = *machine.accounts.get(account)?.period(wanted)?;
            let statement = match period.standing {
                PeriodStanding::Open => draft(p, gathered, wanted),
                PeriodStanding::Closed => {
                    let closed = gathered.closed.get(&wanted).cloned().unwrap_or_default();
                    let owed = if machine.adjustments.contains_key(&(account, wanted)) {
                        machine
                            .owed_of_days(account, wanted, &closed, &gathered.days(wanted))
                            .lines
                    } else {
                        Vec::new()
                    };
                    let waiting = p.unsent.iter().chain(&machine.outputs.pending);
                    let waiting = waiting
                        .filter(|o| o.topic == Topic::Statements && o.sequence == closed.sequence)
                        .map(|o| o.body.clone());
                    let body = waiting.into_iter().next();
                    return Some((period, Err((closed.sequence, body, owed))));
                }
            };
            Some((period, Ok(statement)))
        })?;
        let Some((period, statement)) = found else {
            return Ok(None);
        };
        let statement = match statement {
            Ok(statement) => statement,
            Err((sequence, body, owed)) => Statement::Closed {
                sequence,
                statement: self.closed_statement(sequence, body)?.map(Box::new),
                owed,
            },
        };
        let (profile, held) = self.read(|p| {
            let held = p.machine.held.contains_key(&(wanted, account)) || p.machine.is_held(account, wanted);
            (p.machine.accounts.profile(period.profile), held)
        })?;
        Ok(Some(PeriodStatement {
            standing: gathered.standing,
            period,
            profile,
            held: held && period.standing == PeriodStanding::Open,
            statement,
        }))
    }

    fn closed_statement(&self, sequence: u64, body: Option<Vec<u8>>) -> Result<Option<pb::PeriodClosed>, ReadError> {
        if sequence == 0 {
            return Ok(None);
        }
        let body = match body {
            Some(body) => Some(body),
            None => {
                let outputs = self
                    .log()
                    .read_outputs(self.number, Topic::Statements, sequence - 1, 1)?;
                outputs.into_iter().find(|o| o.sequence == sequence).map(|o| o.body)
            }
        };
        let record: Option<pb::StatementRecord> = body.and_then(|b| prost::Message::decode(b.as_slice()).ok());
        Ok(match record.and_then(|r| r.body) {
            Some(pb::statement_record::Body::PeriodClosed(closed)) => Some(closed),
            _ => None,
        })
    }

    /// One call with its verdict and the evidence for it, and where the answer stands. `None`: it is unknown or forgotten.
    pub fn explain(&self, id: &str, call: &str) -> Result<(Standing, Option<Explained>), ReadError> {
        enum First {
            Explained(Box<Option<Explained>>),
            Look(u32, SmallVec<[Place<'static>; 2]>, Arc<Rocks>),
        }
        let key = CallKey::parse(call);
        let (standing, first) = self.read(|p| {
            let standing = Standing::of(p);
            let machine = &p.machine;
            let Some(account) = machine.accounts.find(id) else {
                return (standing, First::Explained(Box::new(None)));
            };
            let hash = key.hash(account);
            if let Some(slot) = machine.calls.find(account, &key, hash) {
                let known = p.resident(slot);
                return (
                    standing,
                    First::Explained(Box::new(known.map(|k| p.explained(id, call, k)))),
                );
            }
            let places = p.shelf.places(hash).map(Place::into_owned).collect();
            (standing, First::Look(account, places, Arc::clone(&p.rocks)))
        })?;
        let (account, places, rocks) = match first {
            First::Explained(explained) => return Ok((standing, *explained)),
            First::Look(account, places, rocks) => (account, places, rocks),
        };
        for place in places {
            // A block that is gone was forgotten in between.
            if let Sought::Found(packed) = place.find(&rocks, account, &key)? {
                let explained = self.read(|p| {
                    let correction = packed.correction.map(|c| *c);
                    let policy = p.machine.policy_of(packed.call.policy);
                    let verdict =
                        verdict::verdict(&packed.call.evidence, policy, correction.as_ref(), &p.machine.names);
                    let known = KnownCall {
                        verdict,
                        call: packed.call,
                        correction,
                        due: None,
                    };
                    p.explained(id, call, known)
                })?;
                return Ok((standing, Some(explained)));
            }
        }
        Ok((standing, None))
    }
}

fn draft(p: &Partition, gathered: &Gathered, month: Month) -> Statement {
    let machine = &p.machine;
    let account = gathered.account;
    let rated = machine.rate_days(account, month, machine.ledger.version, &gathered.days(month));
    let id = machine.accounts.get(account).map_or("", |a| a.id.as_str());
    let mut adjustments = Vec::new();
    for (&(_, adjusted), changes) in machine.adjustments.range((account, Month::MIN)..=(account, Month::MAX)) {
        let closed = gathered.closed.get(&adjusted).cloned().unwrap_or_default();
        let notices: Vec<String> = changes
            .unstated
            .iter()
            .copied()
            .chain(changes.due)
            .map(|due| notice_id(id, adjusted, due))
            .collect();
        let owed = machine.owed_of_days(account, adjusted, &closed, &gathered.days(adjusted));
        let currency = machine.profile_of_period(account, adjusted).currency;
        let lines = owed.lines.into_iter();
        adjustments.extend(lines.map(|line| (adjusted, currency, notices.clone(), line)));
    }
    Statement::Draft {
        rated: Box::new(rated),
        adjustments,
    }
}

fn sum(p: &Partition, gathered: &Gathered, query: &UsageQuery) -> Usage {
    let machine = &p.machine;
    let symbols = &machine.names.symbols;
    let account = gathered.account;
    let mut sums: BTreeMap<UsageOf, UsageSum> = BTreeMap::new();
    let mut calls = BTreeMap::new();
    let mut periods = Vec::new();
    for (&(_, span, month, place), bucket) in &gathered.buckets {
        let Some(period) = machine.accounts.get(account).and_then(|a| a.period(month)).copied() else {
            continue;
        };
        if periods.last() != Some(&period) {
            periods.push(period);
        }
        let profile = machine.accounts.profile(period.profile);
        // An hour is priced as its day is.
        let day = match span {
            Span::Day => Day(place),
            Span::Hour => period::day_of(Ms::from(place) * 60_000, profile.zone),
        };
        let day_start = period::day_bounds(day, profile.zone).0;
        let (from, window) = match query.window {
            Window::Hour => (Ms::from(place) * 60_000, period::rfc3339(Ms::from(place) * 60_000)),
            Window::Day => (day_start, day.to_string()),
            Window::Month => (period.from, month.to_string()),
        };
        let begins = if query.window == Window::Month { day_start } else { from };
        if query.from.is_some_and(|f| begins < f) || query.until.is_some_and(|u| begins >= u) {
            continue;
        }
        let cards = match period.standing {
            PeriodStanding::Open => machine.ledger.version,
            PeriodStanding::Closed => gathered.closed.get(&month).map_or(0, |c| c.cards),
        };
        let cards = machine.cards.up_to(cards);
        let names = machine.rollups.get(usize::from(period.rollup));
        for line in &bucket.lines {
            let shape = machine.names.of(line.key.dimensions);
            let dimension = |wanted: &String| {
                let name = names.and_then(|n| n.iter().find(|n| symbols.name(**n) == wanted));
                name.map_or("", |&n| symbols.name(shape.dimension(n))).to_owned()
            };
            let told = |apart: bool, name: &str| if apart { name.to_owned() } else { String::new() };
            let (service, product) = (symbols.name(line.key.service), symbols.name(line.key.product));
            for &(meter, nano) in line.meters.iter().filter(|m| m.1 != 0) {
                let meter = symbols.name(meter);
                let of = UsageOf {
                    from,
                    window: window.clone(),
                    service: told(query.by_service, service),
                    product: told(query.by_product, product),
                    meter: meter.to_owned(),
                    class: told(query.by_class, line.key.class.as_str()),
                    dimensions: query.dimensions.iter().map(dimension).collect(),
                };
                let total = sums.entry(of).or_insert_with(|| UsageSum {
                    amount: Some(Decimal::ZERO),
                    ..UsageSum::default()
                });
                total.quantity.0 = total.quantity.0.saturating_add(nano);
                if !line.key.class.is_billed() {
                    continue;
                }
                total.billed.0 = total.billed.0.saturating_add(nano);
                match cards.price(day_start, service, product, meter, profile.currency) {
                    None => total.unpriced.0 = total.unpriced.0.saturating_add(nano),
                    Some(price) => {
                        let more = amount_of(Quantity(nano), price.amount, price.per);
                        total.amount = total.amount.zip(more).and_then(|(a, b)| a.checked_add(b));
                    }
                }
            }
        }
        for &((outcome, reason), count) in &bucket.counts {
            *calls.entry((from, window.clone(), outcome, reason)).or_default() += count;
        }
    }
    sums.retain(|_, s| s.quantity.0 != 0 || s.billed.0 != 0);
    calls.retain(|_, count| *count != 0);
    let profile = match periods.last() {
        Some(period) => period.profile,
        None => machine.accounts.get(account).map_or(0, |a| a.profile),
    };
    Usage {
        standing: gathered.standing,
        profile: machine.accounts.profile(profile),
        periods,
        sums,
        calls,
    }
}
