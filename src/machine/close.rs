//! Closing: an account's period freezes at one step and becomes a statement; a month's control record proves that all are there.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::accounts::{Profile, Standing};
use super::adjust::ClosedPeriod;
use super::digest::Mark;
use super::fold::Machine;
use super::names::Naming;
use super::output::Topic;
use super::paging;
use super::rating::{self, LineKey as PriceKey, Rated};
use super::usage::{Bucket, LineKey};
use crate::model::Ms;
use crate::model::money::{Currency, decimal_string, exact_sum};
use crate::model::outcome::{Outcome, Reason};
use crate::model::period::{self, Month};
use crate::model::quantity::Quantity;
use crate::model::symbol::Sym;
use crate::wire::check::timestamp;
use crate::wire::pb;

/// Periods that the shell is asked to bring into memory at a time.
const LOAD_PERIODS_MAX: usize = 64;

/// Finished months that are kept for whoever asks how they ended (RULES §6, `history`).
const HISTORY_MONTHS: usize = 25;

/// Stands in a tally for a sum that can't be expressed. It stays, whatever is added: a sum of rounded amounts never is that.
pub const OVERFLOWED: Decimal = Decimal::MAX;

/// Said instead of an amount that can't be expressed (RULES §7).
pub(super) const OVERFLOW: &str = "overflow: the amount can't be expressed; split the account or the unit";

/// A tally's sum with one more amount.
fn added(sum: Decimal, amount: Decimal) -> Decimal {
    let sum = Some(sum).filter(|s| *s != OVERFLOWED);
    sum.and_then(|s| exact_sum(s, amount)).unwrap_or(OVERFLOWED)
}

/// Stands for every account in a hold.
pub const EVERY_ACCOUNT: u32 = u32::MAX;

/// Sums over the partition's accounts for one month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonthTally {
    /// Accounts whose stored period of the month isn't closed.
    pub open: u64,
    /// Accounts whose period of the month has closed, with a statement or without.
    pub closed: u64,
    /// Statements put out.
    pub statements: u64,
    /// Calls by outcome, as frozen.
    pub outcomes: BTreeMap<Outcome, i64>,
    /// Billed quantities by meter, as frozen.
    pub quantities: BTreeMap<Sym, i128>,
    /// Totals of the statements; [`OVERFLOWED`] where they can't be added up.
    pub amounts: BTreeMap<Currency, Decimal>,
    /// Sequence of the first statement's first page; 0 = none.
    pub first_sequence: u64,
    /// Sequence of the last statement's last page; 0 = none.
    pub last_sequence: u64,
}

/// A line in the words of the contract.
pub(super) fn statement_line(key: &PriceKey, quantity: Quantity, amount: Option<Decimal>) -> pb::StatementLine {
    pb::StatementLine {
        product: key.product.clone(),
        meter: key.meter.clone(),
        service: key.service.clone(),
        unit_price: decimal_string(key.unit_price),
        per: key.per,
        quantity: quantity.to_string(),
        amount: amount.map(decimal_string).unwrap_or_default(),
        error: if amount.is_none() {
            OVERFLOW.to_owned()
        } else {
            String::new()
        },
        ..pb::StatementLine::default()
    }
}

impl Machine {
    /// The first control record to come is that of the first month whose time for it hasn't passed.
    pub(super) fn start_controls(&mut self, now: Ms) {
        let mut month = period::month_in_utc_minus_12(now);
        while month > Month::MIN && self.control_time(month.prev()) > now {
            month = month.prev();
        }
        self.controls = Some((month, month));
        self.wake(Ms::MIN);
    }

    /// When a month's control record is due, if nothing keeps it back.
    fn control_time(&self, month: Month) -> Ms {
        period::end_of_month_utc_minus_12(month).saturating_add(self.policy().close_grace_ms)
    }

    /// Whether the month's control record is out.
    pub(super) fn is_control_out(&self, month: Month) -> bool {
        self.controls
            .is_some_and(|(first, next)| (first..next).contains(&month))
            || self.controls_out.contains(&month)
    }

    /// Whether an account of the month is still open, or may come to be: it, or every account, is held.
    fn keeps_control_back(&self, month: Month) -> bool {
        let open = self.months.get(&month).is_some_and(|t| t.open > 0);
        let mut holds = self.holds.range((month, 0)..=(month, EVERY_ACCOUNT));
        open || holds.any(|&(_, account)| {
            let stored = self.accounts.get(account).and_then(|a| a.period(month));
            stored.is_none_or(|p| p.standing == Standing::Open)
        })
    }

    /// When the next control record is due, and of which month: the first that nothing keeps back. Months before the log's
    /// own have one too, if an account of theirs had a period to close.
    pub(super) fn control_due(&self) -> Option<(Ms, Month)> {
        let (first, next) = self.controls?;
        let mut earlier = self.months.range(..first).map(|(&month, _)| month);
        let mut month = match earlier.find(|&m| !self.keeps_control_back(m)) {
            Some(month) => month,
            None => next,
        };
        while month >= first && (self.controls_out.contains(&month) || self.keeps_control_back(month)) {
            month = month.next();
        }
        Some((self.control_time(month), month))
    }

    /// The periods that must be in memory before this close; those of the next closes with them.
    pub(super) fn missing_for_close(&self, account: u32, month: Month, target: Ms) -> Option<Vec<(u32, Month)>> {
        if !self.backed || self.is_held(account, month) {
            return None;
        }
        let needs = |account: u32, month: Month| {
            let adjusted = self
                .adjustments
                .range((account, Month::MIN)..=(account, Month::MAX))
                .map(|(key, _)| *key);
            std::iter::once((account, month))
                .chain(adjusted)
                .filter(|key| !self.loaded.contains(key))
        };
        needs(account, month).next()?;
        Some(
            self.closes
                .iter()
                .take_while(|c| c.0 <= target)
                .flat_map(|&(_, account, month)| needs(account, month))
                .take(LOAD_PERIODS_MAX)
                .chain(needs(account, month))
                .collect(),
        )
    }

    /// Whether a hold keeps the account's period open.
    pub fn is_held(&self, account: u32, month: Month) -> bool {
        self.holds.contains(&(month, EVERY_ACCOUNT)) || self.holds.contains(&(month, account))
    }

    /// The profile that holds for a stored period.
    pub fn profile_of_period(&self, account: u32, month: Month) -> Profile {
        let id = self
            .accounts
            .get(account)
            .and_then(|a| a.period(month))
            .map_or(0, |p| p.profile);
        self.accounts.profile(id)
    }

    /// The days of an account's period that are in memory, the latest one included.
    pub fn days_of(&self, account: u32, month: Month) -> impl Iterator<Item = (i32, &Bucket)> {
        let latest = self
            .accounts
            .get(account)
            .and_then(|a| a.day.as_ref())
            .filter(|l| l.month == month)
            .map(|l| (l.place, &l.bucket));
        self.cold.days(account, month).chain(latest)
    }

    /// An account's period at the prices of the cards accepted up to a control version.
    pub fn rate(&self, account: u32, month: Month, cards: u64) -> Rated {
        let days: Vec<_> = self.days_of(account, month).collect();
        self.rate_days(account, month, cards, &days)
    }

    /// The same from days that may have been put together elsewhere.
    pub fn rate_days(&self, account: u32, month: Month, cards: u64, days: &[(i32, &Bucket)]) -> Rated {
        rating::rate_days(
            &self.names,
            self.rollup_of(account, month),
            self.profile_of_period(account, month),
            self.cards.up_to(cards),
            days,
        )
    }

    /// The dimensions that the policy of an account's period names.
    fn rollup_of(&self, account: u32, month: Month) -> &[Sym] {
        let period = self.accounts.get(account).and_then(|a| a.period(month));
        let rollup = period.and_then(|p| self.rollups.get(usize::from(p.rollup)));
        rollup.map_or(&[], Vec::as_slice)
    }

    /// Usage rows of an account's period by name, zeros left out.
    pub(super) fn usage_rows(
        &self,
        account: u32,
        month: Month,
        usage: impl Iterator<Item = (LineKey, Sym, i128)>,
    ) -> Vec<pb::UsageRow> {
        let symbols = &self.names.symbols;
        let rollup = self.rollup_of(account, month);
        let mut rows: Vec<pb::UsageRow> = usage
            .filter(|(_, _, nano)| *nano != 0)
            .map(|(key, meter, nano)| pb::UsageRow {
                service: symbols.name(key.service).to_owned(),
                product: symbols.name(key.product).to_owned(),
                meter: symbols.name(meter).to_owned(),
                class: key.class.as_str().to_owned(),
                quantity: Quantity(nano).to_string(),
                original_period: String::new(),
                dimensions: self.names.values_of(key.dimensions, rollup),
            })
            .collect();
        rows.sort_unstable_by(|a, b| {
            (&a.service, &a.product, &a.meter, &a.class, &a.dimensions).cmp(&(
                &b.service,
                &b.product,
                &b.meter,
                &b.class,
                &b.dimensions,
            ))
        });
        rows
    }

    /// Closes an account's period, or leaves it held.
    pub(super) fn close(&mut self, account: u32, month: Month) {
        let now = self.now();
        let Some(stored) = self.accounts.get(account).and_then(|a| a.period(month)).copied() else {
            return;
        };
        self.closes.remove(&(stored.close_due, account, month));
        if self.is_held(account, month) {
            self.held.insert((month, account), stored.close_due);
            return;
        }
        let mut usage: BTreeMap<(LineKey, Sym), i128> = BTreeMap::new();
        let mut counts: BTreeMap<(Outcome, Reason), i64> = BTreeMap::new();
        for (_, bucket) in self.days_of(account, month) {
            for line in &bucket.lines {
                for &(meter, nano) in &line.meters {
                    let sum = usage.entry((line.key, meter)).or_default();
                    *sum = sum.saturating_add(nano);
                }
            }
            for &(what, calls) in &bucket.counts {
                *counts.entry(what).or_default() += calls;
            }
        }
        usage.retain(|_, nano| *nano != 0);
        counts.retain(|_, calls| *calls != 0);
        let cards = self.ledger.version;
        let rated = self.rate(account, month, cards);
        let profile = self.profile_of_period(account, month);
        // An adjustment is in the currency of its own period: unlike ones are never added up.
        let mut totals = BTreeMap::from([(profile.currency, rated.total)]);
        let adjustments = self.state_adjustments(account, month, &mut totals);
        if let Some(owner) = self.accounts.get_mut(account)
            && let Some(period) = owner.periods.iter_mut().rfind(|p| p.month == month)
        {
            period.standing = Standing::Closed;
            // Emptied, not taken away: what is older than the latest hour must not become the latest again.
            if let Some(hour) = owner.hour.as_mut().filter(|l| l.month == month) {
                hour.bucket = Bucket::default();
            }
        }
        self.cold.drop_hours(account, month);
        self.hours_over.push((account, month));
        self.loaded.remove(&(account, month));
        self.closed.insert(
            (account, month),
            ClosedPeriod {
                cards,
                sequence: 0,
                stated: rated.stated(),
                unpriced: rated.unpriced_places(),
            },
        );
        self.closed_dirty.insert((account, month));
        self.digest
            .note(Mark::Close, account.into(), [u64::from(month.0), usage.len() as u64]);
        let tally = self.months.entry(month).or_default();
        tally.open = tally.open.saturating_sub(1);
        tally.closed += 1;
        for (&(outcome, _), &calls) in &counts {
            *tally.outcomes.entry(outcome).or_default() += calls;
        }
        for (&(key, meter), &nano) in &usage {
            if key.class.is_billed() {
                let sum = tally.quantities.entry(meter).or_default();
                *sum = sum.saturating_add(nano);
            }
        }
        if usage.is_empty() && adjustments.lines.is_empty() && adjustments.unpriced.is_empty() {
            return;
        }
        let mut lines: Vec<pb::StatementLine> = rated.lines.iter().map(super::rating::Line::to_contract).collect();
        for (currency, line) in adjustments.lines {
            let other = currency != profile.currency;
            lines.push(pb::StatementLine {
                currency: if other { currency.to_string() } else { String::new() },
                ..line
            });
        }
        let total = totals.get(&profile.currency).copied().unwrap_or_default();
        let other_totals = totals.iter().filter(|(currency, _)| **currency != profile.currency);
        let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
        for (&(outcome, _), &calls) in &counts {
            *outcomes.entry(outcome).or_default() += calls.unsigned_abs();
        }
        let mut reasons: BTreeMap<Reason, u64> = BTreeMap::new();
        for (&(_, reason), &calls) in &counts {
            *reasons.entry(reason).or_default() += calls.unsigned_abs();
        }
        let statement = pb::PeriodClosed {
            account_id: self
                .accounts
                .get(account)
                .map_or_else(String::new, |a| a.id.to_string()),
            period: month.to_string(),
            from: Some(timestamp(stored.from)),
            until: Some(timestamp(stored.until)),
            time_zone: profile.zone.name().to_owned(),
            currency: profile.currency.to_string(),
            usage: self.usage_rows(account, month, usage.iter().map(|(&(k, m), &n)| (k, m, n))),
            lines,
            total: decimal_string(total),
            outcomes: outcomes
                .iter()
                .map(|(o, &count)| outcome_count(o.as_str(), count))
                .collect(),
            reasons: reasons
                .iter()
                .map(|(r, &count)| outcome_count(r.as_str(), count))
                .collect(),
            closed_at: Some(timestamp(now)),
            control_version: cards,
            page: 0,
            pages: 0,
            continued: Vec::new(),
            unpriced: rated.unpriced_rows().into_iter().chain(adjustments.unpriced).collect(),
            other_totals: other_totals
                .map(|(currency, &amount)| pb::CurrencyAmount {
                    currency: currency.to_string(),
                    amount: decimal_string(amount),
                    error: String::new(),
                })
                .collect(),
        };
        // All pages are put out in this step: they are in one commit, under sequences that follow each other.
        let mut sequences = Vec::new();
        for page in paging::split(statement) {
            let record = pb::StatementRecord {
                body: Some(pb::statement_record::Body::PeriodClosed(page)),
                sequence: 0,
            };
            sequences.push(self.emit(Topic::Statements, &record));
        }
        let first = sequences.first().copied().unwrap_or_default();
        let last = sequences.last().copied().unwrap_or_default();
        if let Some(closed) = self.closed.get_mut(&(account, month)) {
            closed.sequence = first;
        }
        let tally = self.months.entry(month).or_default();
        tally.statements += 1;
        if tally.first_sequence == 0 {
            tally.first_sequence = first;
        }
        tally.last_sequence = last;
        for (currency, total) in totals {
            let sum = tally.amounts.entry(currency).or_default();
            *sum = added(*sum, total);
        }
    }

    /// Puts out a month's control record: what a consumer must have from this partition, also when it is nothing.
    pub(super) fn close_month(&mut self) {
        let (Some((first, mut next)), Some((_, month))) = (self.controls, self.control_due()) else {
            return;
        };
        let tally = self.months.remove(&month).unwrap_or_default();
        self.controls_out.insert(month);
        while self.controls_out.remove(&next) {
            next = next.next();
        }
        self.controls = Some((first, next));
        let quantities: Vec<(Sym, i128)> = tally.quantities.iter().map(|(&m, &n)| (m, n)).collect();
        let mut quantities = self.meter_quantities(&quantities);
        let quantities_left_out = paging::cut(&mut quantities);
        let control = pb::PeriodControl {
            period: month.to_string(),
            partition: self.partition,
            partition_count: self.partition_count,
            accounts: tally.statements,
            outcomes: tally
                .outcomes
                .iter()
                .map(|(o, &count)| outcome_count(o.as_str(), count.unsigned_abs()))
                .collect(),
            quantities,
            quantities_left_out,
            amounts: tally
                .amounts
                .iter()
                .map(|(currency, &amount)| pb::CurrencyAmount {
                    currency: currency.to_string(),
                    amount: Some(amount)
                        .filter(|a| *a != OVERFLOWED)
                        .map_or_else(String::new, decimal_string),
                    error: if amount == OVERFLOWED { OVERFLOW } else { "" }.to_owned(),
                })
                .collect(),
            first_sequence: tally.first_sequence,
            last_sequence: tally.last_sequence,
            control_version: self.ledger.version,
        };
        let record = pb::StatementRecord {
            body: Some(pb::statement_record::Body::PeriodControl(control)),
            sequence: 0,
        };
        let sequence = self.emit(Topic::Statements, &record);
        self.finished.insert(month, (sequence, tally));
        while self.finished.len() > HISTORY_MONTHS {
            self.finished.pop_first();
        }
    }
}

fn outcome_count(name: &str, count: u64) -> pb::OutcomeCount {
    pb::OutcomeCount {
        name: name.to_owned(),
        count,
    }
}
