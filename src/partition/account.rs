//! What is known of one account beside the running fold: usage by window and group, calls, statements.
//!
//! A read takes what memory holds of the account ([`Taken`]) and the store's rows of the same moment, in one short lock; all
//! summing, pricing and naming is done without it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::explain::Explained;
use super::live::{Live, ReadError, Standing};
use super::read::KnownCall;
use super::taken::{Asked, Halt, Taken};
use super::usage;
pub use super::usage::{Usage, UsageCursor, UsageOf, UsageQuery, UsageSum, Window};
use crate::machine::accounts::{Period, Profile, Standing as PeriodStanding};
use crate::machine::adjust::{ClosedPeriod, notice_id};
use crate::machine::output::Topic;
use crate::machine::paging::Joining;
use crate::machine::rating::{self, AdjustmentLine, Rated};
use crate::machine::usage::Bucket;
use crate::machine::verdict;
use crate::model::id::CallKey;
use crate::model::money::Currency;
use crate::model::period::Month;
use crate::store::keys;
use crate::store::rocks::Rocks;
use crate::store::rows::Rows;
use crate::store::shelf::{Place, Sought};
use crate::wire::pb;

/// Lines of buckets that are summed at most where others wait for the same thread.
const LINES_AT_ONCE: usize = 2_000;

/// A statement, closed or as it would be.
#[derive(Clone, Debug)]
pub enum Statement {
    /// Closed: what was put out.
    Closed {
        /// Its place, of its first page, in the statements output; 0 if nothing was stated.
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

impl Taken {
    /// An account's usage.
    pub fn usage(&self, query: &UsageQuery, rows: &mut Rows<'_>) -> Result<Usage, Halt> {
        usage::sum(self, query, rows, None)
    }

    /// The wanted period's usage by day, product and class.
    fn usage_of_bill(&self, rows: &mut Rows<'_>) -> Result<Usage, Halt> {
        let query = UsageQuery {
            months: Some((self.wanted, self.wanted)),
            window: Window::Day,
            by_product: true,
            by_class: true,
            ..UsageQuery::default()
        };
        self.usage(&query, rows)
    }

    fn rate(&self, period: &Period, cards: u64, days: &[(i32, Bucket)]) -> Rated {
        let days: Vec<(i32, &Bucket)> = days.iter().map(|(day, bucket)| (*day, bucket)).collect();
        rating::rate_days(
            &*self.words,
            self.words.rollup(period.rollup),
            self.words.profile(period.profile),
            self.words.cards().up_to(cards),
            &days,
        )
    }

    /// What a closed period owes beyond all stated for it.
    fn owed(&self, rows: &mut Rows<'_>, period: &Period, closed: &ClosedPeriod) -> Result<Vec<AdjustmentLine>, Halt> {
        let days = self.days(rows, period.month)?;
        let rated = self.rate(period, closed.cards, &days);
        Ok(rating::difference(&rated, &closed.stated))
    }

    fn draft(&self, rows: &mut Rows<'_>, period: &Period) -> Result<Statement, Halt> {
        let days = self.days(rows, period.month)?;
        let rated = Box::new(self.rate(period, self.cards, &days));
        let mut adjustments = Vec::new();
        for (&adjusted, due) in &self.notices {
            let Some(of) = self.period(adjusted) else { continue };
            let closed = self.closed(rows, adjusted)?;
            let notices: Vec<String> = due.iter().map(|&due| notice_id(&self.id, adjusted, due)).collect();
            let currency = self.words.profile(of.profile).currency;
            let lines = self.owed(rows, of, &closed)?.into_iter();
            adjustments.extend(lines.map(|line| (adjusted, currency, notices.clone(), line)));
        }
        Ok(Statement::Draft { rated, adjustments })
    }

    /// The wanted period's statement. `None`: the account has no such period.
    fn statement(&self, live: &Live, rows: &mut Rows<'_>) -> Result<Option<PeriodStatement>, ReadError> {
        let Some(&period) = self.period(self.wanted) else {
            return Ok(None);
        };
        let failed = |halt| ReadError::of(halt, live.number);
        let statement = match period.standing {
            PeriodStanding::Open => self.draft(rows, &period).map_err(failed)?,
            PeriodStanding::Closed => {
                let closed = self.closed(rows, self.wanted).map_err(failed)?;
                let owed = if self.notices.contains_key(&self.wanted) {
                    self.owed(rows, &period, &closed).map_err(failed)?
                } else {
                    Vec::new()
                };
                let sequence = closed.sequence;
                Statement::Closed {
                    sequence,
                    statement: self.closed_statement(live, rows, sequence)?.map(Box::new),
                    owed,
                }
            }
        };
        Ok(Some(PeriodStatement {
            standing: self.standing,
            period,
            profile: self.words.profile(period.profile),
            held: self.held && period.standing == PeriodStanding::Open,
            statement,
        }))
    }

    /// A closed statement as it was put out, its pages put together.
    fn closed_statement(
        &self,
        live: &Live,
        rows: &mut Rows<'_>,
        first: u64,
    ) -> Result<Option<pb::PeriodClosed>, ReadError> {
        if first == 0 {
            return Ok(None);
        }
        let (mut sequence, mut joining) = (first, Joining::default());
        while let Some(page) = self.closed_page(live, rows, sequence)? {
            let is_last = page.page >= page.pages;
            if let Some((_, whole)) = joining.take(sequence, page) {
                return Ok(Some(whole));
            }
            if is_last {
                break;
            }
            sequence += 1;
        }
        Ok(None)
    }

    /// A page of it, or all of it if it has none: from memory, from the outbox, or from the log.
    fn closed_page(
        &self,
        live: &Live,
        rows: &mut Rows<'_>,
        sequence: u64,
    ) -> Result<Option<pb::PeriodClosed>, ReadError> {
        let mut body = self.waiting.get(&sequence).cloned();
        if body.is_none() {
            let row = rows.get(&keys::outbox(Topic::Statements as u8, sequence));
            let row = row.map_err(|cause| ReadError::of(cause.into(), live.number))?;
            // Behind its chain.
            body = row.and_then(|row| row.get(16..)).map(<[u8]>::to_vec);
        }
        if body.is_none() {
            let outputs = live
                .log()
                .read_outputs(live.number, Topic::Statements, sequence - 1, 1)?;
            // Brokers say that it is delivered before they show it. Another one in its place: retention has removed it.
            let Some(found) = outputs.into_iter().next() else {
                return Err(ReadError::NotServed { partition: live.number });
            };
            body = (found.sequence == sequence).then_some(found.body);
        }
        let record: Option<pb::StatementRecord> = body.and_then(|b| prost::Message::decode(b.as_slice()).ok());
        Ok(match record.and_then(|r| r.body) {
            Some(pb::statement_record::Body::PeriodClosed(closed)) => Some(closed),
            _ => None,
        })
    }

    /// The wanted period's statement and, as of the same record, its usage by day, product and class.
    pub fn bill(&self, live: &Live, rows: &mut Rows<'_>) -> Result<Option<(PeriodStatement, Usage)>, ReadError> {
        let Some(statement) = self.statement(live, rows)? else {
            return Ok(None);
        };
        let usage = self
            .usage_of_bill(rows)
            .map_err(|halt| ReadError::of(halt, live.number))?;
        Ok(Some((statement, usage)))
    }
}

impl Live {
    /// Takes what is asked of an account, with the store's rows of the same moment, and goes on without the fold's lock. May
    /// wait for the fold and for the disk. `None`: there is no such account.
    pub fn with_account<T>(
        &self,
        id: &str,
        asked: &Asked,
        then: impl FnOnce(&Taken, &mut Rows<'_>) -> Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let rocks = self.store()?;
        let (taken, mut rows) = self.look(|look| {
            // The partition may have been opened anew in between.
            if !Arc::ptr_eq(&rocks, &look.partition.rocks) {
                return Err(ReadError::NotServed { partition: self.number });
            }
            Ok((Taken::of(look, id, asked), rocks.rows(false)))
        })??;
        taken.map(|taken| then(&taken, &mut rows)).transpose()
    }

    /// An account's usage. `None`: there is no such account.
    pub fn usage(&self, id: &str, query: &UsageQuery) -> Result<Option<Usage>, ReadError> {
        self.with_account(id, &Asked::Usage(query.clone()), |taken, rows| {
            self.usage_of(taken, rows, query)
        })
    }

    /// The usage of an account of which all was taken, with the rows of that moment.
    pub fn usage_of(&self, taken: &Taken, rows: &mut Rows<'_>, query: &UsageQuery) -> Result<Usage, ReadError> {
        taken
            .usage(query, rows)
            .map_err(|halt| ReadError::of(halt, self.number))
    }

    /// The usage of an account of which all was taken a moment ago, if it is told from memory in no time: then nobody has to
    /// wait for it. `None`: it is to be read where waiting is allowed.
    pub fn usage_at_once(&self, taken: &Taken, query: &UsageQuery) -> Option<Usage> {
        let rocks = self.store().ok()?;
        let mut rows = rocks.rows(true);
        // With a commit in between the rows would hold what was taken from memory, too.
        if self.commits.load(Ordering::SeqCst) != taken.commits || taken.standing.partition != self.number {
            return None;
        }
        usage::sum(taken, query, &mut rows, Some(LINES_AT_ONCE)).ok()
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
        let found = self.with_account(id, &Asked::Statement(month), |taken, rows| taken.statement(self, rows))?;
        Ok(found.flatten())
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
