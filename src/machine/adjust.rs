//! What changes after a period has closed (RULES §6): booked at once, noticed at the next full hour, stated by the next close.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::close::OVERFLOW;
use super::digest::Mark;
use super::fold::Machine;
use super::output::Topic;
use super::paging;
use super::rating::{LineKey as PriceKey, Owed, UnpricedKey};
use super::usage::LineKey;
use crate::model::Ms;
use crate::model::money::{Currency, decimal_string, exact_sum};
use crate::model::outcome::{Outcome, Reason};
use crate::model::period::Month;
use crate::model::quantity::Quantity;
use crate::model::symbol::Sym;
use crate::wire::check::timestamp;
use crate::wire::pb;

const HOUR_MS: Ms = 3_600_000;

/// Call ids that a notice names.
const CALLS_NAMED_MAX: usize = 10;

/// What a closed period has stated so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClosedPeriod {
    /// Rate cards up to this control version hold for it, as they did for its statement.
    pub cards: u64,
    /// Sequence of its statement, of the first page, in the statements topic; 0: it has none.
    pub sequence: u64,
    /// Quantity and amount stated by line, over the statement and all adjustment lines since.
    pub stated: BTreeMap<PriceKey, (Quantity, Decimal)>,
    /// Billed usage shown as unpriced, over the statement and all since.
    pub unpriced: BTreeMap<UnpricedKey, Quantity>,
}

/// Changes of one closed period of one account that no statement has named yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// Differences since the last notice, by line and meter, in units of 10^-9.
    pub usage: BTreeMap<(LineKey, Sym), i128>,
    /// Calls by outcome and reason since the last notice.
    pub counts: BTreeMap<(Outcome, Reason), i64>,
    /// The first calls that caused it since the last notice.
    pub calls: Vec<String>,
    /// When the next notice is due, if something is to be noticed.
    pub due: Option<Ms>,
    /// Times of the notices that no statement has named yet.
    pub unstated: Vec<Ms>,
    /// Amount noticed since the last statement.
    pub noticed: Decimal,
    /// A statement has named the notice that is still to come: it comes, whatever is taken back until then.
    pub named: bool,
}

/// What a statement says of earlier periods.
#[derive(Debug, Default)]
pub(super) struct Stated {
    /// Lines, each with its own period's currency.
    pub lines: Vec<(Currency, pb::StatementLine)>,
    /// Billed usage that no price was found for.
    pub unpriced: Vec<pb::UsageRow>,
}

/// A notice's id: one an hour at most for an account's period.
pub fn notice_id(account: &str, month: Month, due: Ms) -> String {
    format!("{account}/{month}/{}", crate::model::period::rfc3339(due))
}

impl Machine {
    /// Remembers that a period is closed and has stated nothing.
    pub(super) fn remember_statement(&mut self, account: u32, month: Month) {
        self.closed.insert(
            (account, month),
            ClosedPeriod {
                cards: self.ledger.version,
                ..ClosedPeriod::default()
            },
        );
        self.closed_dirty.insert((account, month));
    }

    /// Notes a change of a closed period.
    #[allow(clippy::too_many_arguments, reason = "one change, nothing to group")]
    pub(super) fn adjusted(
        &mut self,
        account: u32,
        month: Month,
        key: LineKey,
        quantities: &[(Sym, i128)],
        sign: i128,
        what: Option<(Outcome, Reason)>,
        slot: super::calls::Slot,
    ) {
        let now = self.now();
        let call = self.calls.get(slot).map(|c| c.id.to_string());
        let due = now.div_euclid(HOUR_MS) * HOUR_MS + HOUR_MS;
        let adjustment = self.adjustments.entry((account, month)).or_default();
        for &(meter, nano) in quantities {
            let sum = adjustment.usage.entry((key, meter)).or_default();
            *sum = sum.saturating_add(nano * sign);
            if *sum == 0 {
                adjustment.usage.remove(&(key, meter));
            }
        }
        if let Some(what) = what {
            let count = adjustment.counts.entry(what).or_default();
            *count += if sign < 0 { -1 } else { 1 };
            if *count == 0 {
                adjustment.counts.remove(&what);
            }
        }
        if let Some(call) = call
            && adjustment.calls.len() < CALLS_NAMED_MAX
            && !adjustment.calls.contains(&call)
        {
            adjustment.calls.push(call);
        }
        if adjustment.due.is_none() {
            adjustment.due = Some(due);
            self.notices.insert((due, account, month));
            self.wake(due);
        }
        self.adjustments_dirty.insert((account, month));
        if key.class.is_billed() {
            // There must be a next statement to carry it.
            self.period_at(account, now);
        }
    }

    /// Puts out what has changed since the last notice.
    pub(super) fn notice(&mut self, account: u32, month: Month) {
        let now = self.now();
        let Some(mut adjustment) = self.adjustments.remove(&(account, month)) else {
            self.notices.retain(|n| (n.1, n.2) != (account, month));
            return;
        };
        let due = adjustment.due.take().unwrap_or(now);
        self.notices.remove(&(due, account, month));
        self.adjustments_dirty.insert((account, month));
        let usage = std::mem::take(&mut adjustment.usage);
        let counts = std::mem::take(&mut adjustment.counts);
        let calls = std::mem::take(&mut adjustment.calls);
        let named = std::mem::take(&mut adjustment.named);
        // Differences by line can cancel where money doesn't: a call that has moved to a day of another price, or what was
        // stated between being changed and being changed back.
        let owed = self.owed(account, month);
        let owed_amount = owed.amount();
        let more = owed_amount.and_then(|now| exact_sum(now, -adjustment.noticed));
        let unnoticed = more.is_some_and(|m| !m.is_zero()) || (!owed.is_nothing() && adjustment.unstated.is_empty());
        if !usage.is_empty() || !counts.is_empty() || named || unnoticed {
            if let (Some(now), Some(_)) = (owed_amount, more) {
                adjustment.noticed = now;
            }
            let mut reasons: BTreeMap<Reason, i64> = BTreeMap::new();
            for (&(_, reason), &change) in &counts {
                *reasons.entry(reason).or_default() += change;
            }
            reasons.retain(|_, change| *change != 0);
            let id = self.accounts.get(account).map_or("", |a| a.id.as_str());
            let profile = self.profile_of_period(account, month);
            let mut usage = self.usage_rows(account, month, usage.iter().map(|(&(k, m), &n)| (k, m, n)));
            let usage_left_out = paging::cut(&mut usage);
            let notice = pb::AdjustmentNoticed {
                id: notice_id(id, month, due),
                account_id: id.to_owned(),
                period: month.to_string(),
                currency: profile.currency.to_string(),
                usage,
                usage_left_out,
                outcomes: reasons
                    .iter()
                    .map(|(reason, &change)| pb::OutcomeCountChange {
                        name: reason.as_str().to_owned(),
                        change,
                    })
                    .collect(),
                noticed_at: Some(timestamp(now)),
                amount: more.map(decimal_string).unwrap_or_default(),
                calls,
                error: more.map_or_else(|| OVERFLOW.to_owned(), |_| String::new()),
            };
            let record = pb::StatementRecord {
                body: Some(pb::statement_record::Body::AdjustmentNoticed(notice)),
                sequence: 0,
            };
            self.emit(Topic::Statements, &record);
            // One that a statement has named is named again only by what is still owed.
            if !named || !owed.is_nothing() {
                adjustment.unstated.push(due);
            }
        }
        self.loaded.remove(&(account, month));
        if !adjustment.unstated.is_empty() || !owed.is_nothing() {
            self.adjustments.insert((account, month), adjustment);
        }
    }

    /// What a closed period, rated as now known with the cards and profile of its statement, owes beyond all stated for it.
    pub(super) fn owed(&self, account: u32, month: Month) -> Owed {
        let nothing = ClosedPeriod::default();
        let closed = self.closed.get(&(account, month)).unwrap_or(&nothing);
        let days: Vec<_> = self.days_of(account, month).collect();
        self.owed_of_days(account, month, closed, &days)
    }

    /// The same from days and a statement that may have been put together elsewhere.
    pub fn owed_of_days(
        &self,
        account: u32,
        month: Month,
        closed: &ClosedPeriod,
        days: &[(i32, &super::usage::Bucket)],
    ) -> Owed {
        let rated = self.rate_days(account, month, closed.cards, days);
        Owed {
            lines: super::rating::difference(&rated, &closed.stated),
            unpriced: super::rating::unpriced_difference(rated.unpriced_places(), &closed.unpriced),
        }
    }

    /// What the next statement says of the account's changed closed periods, taken as stated and added to the statement's
    /// totals. A line that would overflow either carries the error, as one that overflows by itself: its quantity is stated,
    /// the amounts stay.
    pub(super) fn state_adjustments(
        &mut self,
        account: u32,
        closing: Month,
        totals: &mut BTreeMap<Currency, Decimal>,
    ) -> Stated {
        let months: Vec<Month> = self
            .adjustments
            .range((account, Month::MIN)..=(account, Month::MAX))
            .map(|(&(_, month), _)| month)
            .filter(|&month| month != closing)
            .collect();
        let id = self
            .accounts
            .get(account)
            .map_or_else(String::new, |a| a.id.to_string());
        let mut stated = Stated::default();
        for month in months {
            let owed = self.owed(account, month);
            let currency = self.profile_of_period(account, month).currency;
            let Some(adjustment) = self.adjustments.get_mut(&(account, month)) else {
                continue;
            };
            // What is pending is in the amount already; its notice follows under the id that is named here.
            let pending = adjustment.due.filter(|_| !owed.is_nothing());
            adjustment.named |= pending.is_some() && !owed.lines.is_empty();
            let notices: Vec<String> = adjustment
                .unstated
                .drain(..)
                .chain(pending)
                .map(|due| notice_id(&id, month, due))
                .collect();
            adjustment.noticed = Decimal::ZERO;
            if adjustment.due.is_none() {
                self.adjustments.remove(&(account, month));
            }
            self.adjustments_dirty.insert((account, month));
            self.loaded.remove(&(account, month));
            let closed = self.closed.entry((account, month)).or_default();
            for line in owed.lines {
                let so_far = closed.stated.entry(line.key.clone()).or_default();
                so_far.0.0 = so_far.0.0.saturating_add(line.quantity.0);
                let total = totals.entry(currency).or_default();
                let amount = line.amount.and_then(|amount| {
                    (so_far.1, *total) = (exact_sum(so_far.1, amount)?, exact_sum(*total, amount)?);
                    Some(amount)
                });
                let said = pb::StatementLine {
                    original_period: month.to_string(),
                    reason: "adjustment".to_owned(),
                    notices: notices.clone(),
                    ..super::close::statement_line(&line.key, line.quantity, amount)
                };
                stated.lines.push((currency, said));
            }
            for (key, quantity) in owed.unpriced {
                let so_far = closed.unpriced.entry(key.clone()).or_default();
                so_far.0 = so_far.0.saturating_add(quantity.0);
                let (service, product, meter, class) = key;
                stated.unpriced.push(pb::UsageRow {
                    service,
                    product,
                    meter,
                    class: class.as_str().to_owned(),
                    quantity: quantity.to_string(),
                    dimensions: Vec::new(),
                    original_period: month.to_string(),
                });
            }
            self.closed_dirty.insert((account, month));
            self.digest.note(
                Mark::Close,
                account.into(),
                [u64::from(month.0), (stated.lines.len() + stated.unpriced.len()) as u64],
            );
        }
        stated
    }
}
