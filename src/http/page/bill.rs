//! A period of an account as the billing page shows it: the numbers are those of the statement and the usage read.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::figures::{self, Money};
use super::{account_path, words};
use crate::http::months::{self, Adjustment, Comes};
use crate::machine::accounts::{Period, Profile, Standing as PeriodStanding};
use crate::machine::rating::{LineKey, Rated};
use crate::model::Ms;
use crate::model::money::Currency;
use crate::model::outcome::{Class, Outcome, Reason};
use crate::model::period::{self, Month};
use crate::model::quantity::Quantity;
use crate::partition::account::{PeriodStatement, Statement, Usage};
use crate::partition::live::{Live, ReadError, Standing};
use crate::partition::taken::{Asked, Taken};
use crate::store::rows::Rows;
use crate::wire::pb;

/// Height of the chart in its own units.
const CHART_HEIGHT: u32 = 100;

/// Reasons that are shown at once; the others are a click away.
const REASONS_SHOWN: usize = 5;

/// A line of the table of charges.
#[derive(Clone, Debug)]
pub struct ChargeLine {
    /// What is counted, in words.
    pub meter: String,
    /// The interface, if the price names it.
    pub service: String,
    /// How much.
    pub quantity: String,
    /// What a unit costs.
    pub price: String,
    /// What it comes to.
    pub amount: Money,
}

/// Lines under one heading: a product, or an earlier period.
#[derive(Clone, Debug)]
pub struct Charges {
    /// What is priced.
    pub name: String,
    /// What the lines come to.
    pub amount: Money,
    /// By meter and price.
    pub lines: Vec<ChargeLine>,
}

/// One day of the chart.
#[derive(Clone, Debug)]
pub struct DayBar {
    /// Such as 3 Sep.
    pub day: String,
    /// What it comes to.
    pub amount: Money,
    /// Calls.
    pub calls: String,
    /// Place of the bar.
    pub x: usize,
    /// Top of the bar.
    pub y: u32,
    /// Height of the bar.
    pub height: u32,
    /// The clock lies in it.
    pub is_today: bool,
    /// The clock hasn't come to it.
    pub is_ahead: bool,
}

/// Calls that came to the same.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// How many.
    pub calls: String,
    /// In a few words.
    pub title: &'static str,
    /// In a sentence.
    pub sentence: &'static str,
    /// The stable code.
    pub code: &'static str,
    count: i64,
}

/// Calls that are charged, or that aren't, by what they came to.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    /// How many calls.
    pub calls: String,
    /// The most frequent.
    pub first: Vec<Verdicts>,
    /// The others.
    pub rest: Vec<Verdicts>,
}

impl Reasons {
    fn of(mut all: Vec<Verdicts>) -> Self {
        all.sort_by_key(|v| std::cmp::Reverse(v.count));
        // A single one isn't worth opening for.
        let first = if all.len() <= REASONS_SHOWN + 1 {
            all.len()
        } else {
            REASONS_SHOWN
        };
        let rest = all.split_off(first);
        Self {
            calls: figures::count(all.iter().chain(&rest).map(|v| v.count).sum()),
            first: all,
            rest,
        }
    }
}

/// A quantity by name.
#[derive(Clone, Debug)]
pub struct Counted {
    /// What is priced, and what is counted.
    pub name: String,
    /// How much.
    pub quantity: String,
}

/// The live part of the page.
#[derive(Clone, Debug)]
pub struct Bill {
    /// Where it stands.
    pub standing: Standing,
    /// Where the pages of the account are.
    pub path: String,
    /// Such as 2026-09.
    pub period: String,
    /// Such as September 2026.
    pub name: String,
    /// ISO 4217.
    pub currency: &'static str,
    /// IANA.
    pub zone: &'static str,
    /// What the statement says, or would say now.
    pub total: Money,
    /// What stands above and below the total.
    pub heading: &'static str,
    /// What becomes of it.
    pub note: String,
    /// Log time, as the account's clocks show it.
    pub clock: String,
    /// The last record in it.
    pub record: String,
    /// Its partition.
    pub partition: u32,
    /// By product.
    pub products: Vec<Charges>,
    /// What closed periods owe more or less, on this period's statement.
    pub adjustments: Vec<Charges>,
    /// What this closed period owes more or less since.
    pub owed: Vec<Charges>,
    /// What that comes to.
    pub owed_total: Money,
    /// The statement is closed.
    pub is_closed: bool,
    /// What is said where there are no charges.
    pub no_charges: String,
    /// Charged usage without a price.
    pub unpriced: Vec<Counted>,
    /// Every day of the period.
    pub days: Vec<DayBar>,
    /// What the highest bar stands for.
    pub highest: String,
    /// Bars show calls: there are no amounts.
    pub bars_are_calls: bool,
    /// Width of the chart in its own units.
    pub width: usize,
    /// Calls that are charged.
    pub charged: Reasons,
    /// Calls that are not.
    pub uncharged: Reasons,
    /// What was used in them.
    pub uncharged_usage: Vec<Counted>,
}

/// What is found of a period of an account.
pub enum Found {
    /// No record of the account is folded.
    NoAccount,
    /// The account doesn't have the period.
    NoPeriod,
    /// It has.
    Bill(Box<Bill>),
}

/// Reads a period of an account; the running one, if none is named.
pub fn read(live: &Live, account: &str, month: Option<Month>) -> Result<Found, ReadError> {
    let found = live.with_account(account, &Asked::Statement(month), |taken, rows| {
        of_taken(live, taken, rows, month)
    })?;
    Ok(found.unwrap_or(Found::NoAccount))
}

/// The same from what was taken of the account.
pub fn of_taken(live: &Live, taken: &Taken, rows: &mut Rows<'_>, month: Option<Month>) -> Result<Found, ReadError> {
    if let Some((statement, usage)) = taken.bill(live, rows)? {
        return Ok(Found::Bill(Box::new(Bill::of(&taken.id, statement, &usage))));
    }
    let (standing, profile) = (taken.standing, taken.profile());
    let (running, _) = months::running(standing, &profile, taken.stored());
    if month.is_some_and(|m| m != running) {
        return Ok(Found::NoPeriod);
    }
    // A month that has begun is there before its first call stores its bounds.
    let (statement, usage) = nothing_yet(standing, profile, running);
    Ok(Found::Bill(Box::new(Bill::of(&taken.id, statement, &usage))))
}

fn nothing_yet(standing: Standing, profile: Profile, month: Month) -> (PeriodStatement, Usage) {
    let (from, until) = period::bounds(month, profile.zone);
    let period = Period {
        month,
        from,
        until,
        close_due: until,
        profile: 0,
        rollup: 0,
        standing: PeriodStanding::Open,
    };
    let statement = PeriodStatement {
        standing,
        period,
        profile,
        held: false,
        statement: Statement::Draft {
            rated: Box::default(),
            adjustments: Vec::new(),
        },
    };
    let usage = Usage {
        standing,
        profile,
        periods: vec![period],
        sums: BTreeMap::new(),
        calls: BTreeMap::new(),
        next: None,
    };
    (statement, usage)
}

/// A line before it is put into words: name it stands under, key, quantity, rounded amount, exact amount.
struct Raw<'a> {
    under: String,
    meter: &'a str,
    service: &'a str,
    unit_price: Decimal,
    per: u64,
    quantity: Quantity,
    rounded: Option<Decimal>,
    exact: Option<Decimal>,
}

impl<'a> Raw<'a> {
    fn of(
        under: String,
        key: &'a LineKey,
        quantity: Quantity,
        rounded: Option<Decimal>,
        exact: Option<Decimal>,
    ) -> Self {
        Self {
            under,
            meter: &key.meter,
            service: &key.service,
            unit_price: key.unit_price,
            per: key.per,
            quantity,
            rounded,
            exact,
        }
    }

    fn stated(line: &'a pb::StatementLine, under: &str) -> Self {
        let amount = line.amount.parse().ok();
        Self {
            under: under.to_owned(),
            meter: &line.meter,
            service: &line.service,
            unit_price: line.unit_price.parse().unwrap_or_default(),
            per: line.per,
            quantity: line.quantity.parse().unwrap_or_default(),
            rounded: amount,
            exact: amount,
        }
    }
}

fn add(a: Option<Decimal>, b: Option<Decimal>) -> Option<Decimal> {
    a.zip(b).and_then(|(a, b)| a.checked_add(b))
}

/// Puts lines under their headings, in their order.
fn charges(currency: Currency, lines: Vec<Raw<'_>>) -> Vec<Charges> {
    let mut all: Vec<(Charges, Option<Decimal>)> = Vec::new();
    for line in lines {
        let mut amount = figures::money(currency, line.rounded);
        amount.exact = figures::money(currency, line.exact).exact;
        let shown = ChargeLine {
            meter: words::meter(line.meter).to_owned(),
            service: line.service.to_owned(),
            quantity: figures::quantity(line.quantity),
            price: figures::unit_price(currency, line.unit_price, line.per),
            amount,
        };
        match all.last_mut().filter(|(held, _)| held.name == line.under) {
            Some((held, sum)) => {
                held.lines.push(shown);
                *sum = add(*sum, line.rounded);
            }
            None => {
                let new = Charges {
                    name: line.under,
                    amount: Money::default(),
                    lines: vec![shown],
                };
                all.push((new, line.rounded));
            }
        }
    }
    let done = |(mut of, sum): (Charges, _)| {
        of.amount = figures::money(currency, sum);
        of
    };
    all.into_iter().map(done).collect()
}

/// Lines for earlier periods, those in the bill's own currency first: of another one they are shown, but never added to it.
fn by_currency<'a>(own: Currency, lines: impl Iterator<Item = (Currency, Raw<'a>)>) -> Vec<Charges> {
    let mut by_currency: BTreeMap<(bool, Currency), Vec<Raw<'a>>> = BTreeMap::new();
    for (of, line) in lines {
        by_currency.entry((of != own, of)).or_default().push(line);
    }
    let groups = by_currency.into_iter();
    groups.flat_map(|((_, of), lines)| charges(of, lines)).collect()
}

fn adjustment_name(product: &str, month: &str) -> String {
    let month = month.parse().map_or_else(|_| month.to_owned(), figures::month_name);
    if product.is_empty() {
        month
    } else {
        format!("{product}, {month}")
    }
}

/// By what is named: of a month, a product and a meter all services and classes are added up.
fn unpriced(rows: Vec<pb::UsageRow>) -> Vec<Counted> {
    let mut by_name: BTreeMap<(String, String, String), i128> = BTreeMap::new();
    for sum in crate::partition::rows::sums(rows) {
        let quantity: Quantity = sum.quantity.parse().unwrap_or_default();
        let nano = by_name
            .entry((sum.original_period, sum.product, sum.meter))
            .or_default();
        *nano = nano.saturating_add(quantity.0);
    }
    let one = |((month, product, meter), nano): ((String, String, String), i128)| {
        let meter = words::meter(&meter).to_lowercase();
        let under = match month.as_str() {
            "" => product,
            _ => adjustment_name(&product, &month),
        };
        Counted {
            name: if under.is_empty() {
                meter
            } else {
                format!("{under}, {meter}")
            },
            quantity: figures::quantity(Quantity(nano)),
        }
    };
    by_name.into_iter().map(one).collect()
}

/// Height of a bar: never none for what is not nothing.
fn height(of: Decimal, highest: Decimal) -> u32 {
    let scaled = of
        .checked_mul(CHART_HEIGHT.into())
        .and_then(|s| s.checked_div(highest))
        .and_then(|s| s.to_u32());
    match scaled {
        _ if of <= Decimal::ZERO => 0,
        Some(height) => height.clamp(2, CHART_HEIGHT),
        None => CHART_HEIGHT,
    }
}

impl Bill {
    /// A period in the words of the page.
    pub fn of(account: &str, found: PeriodStatement, usage: &Usage) -> Self {
        let (currency, zone) = (found.profile.currency, found.profile.zone);
        let period = found.period;
        let now = found.standing.clock.unwrap_or_default();
        let mut bill = Self {
            standing: found.standing,
            path: account_path(account),
            period: period.month.to_string(),
            name: figures::month_name(period.month),
            currency: currency.code(),
            zone: zone.name(),
            total: Money::default(),
            heading: "Charges so far",
            note: String::new(),
            clock: found
                .standing
                .clock
                .map_or_else(|| "nothing yet".to_owned(), |c| figures::time(c, zone)),
            record: found.standing.next_offset.saturating_sub(1).to_string(),
            partition: found.standing.partition,
            products: Vec::new(),
            adjustments: Vec::new(),
            owed: Vec::new(),
            owed_total: Money::default(),
            is_closed: false,
            no_charges: "No charges yet.".to_owned(),
            unpriced: Vec::new(),
            days: Vec::new(),
            highest: String::new(),
            bars_are_calls: false,
            width: 0,
            charged: Reasons::default(),
            uncharged: Reasons::default(),
            uncharged_usage: Vec::new(),
        };
        match &found.statement {
            Statement::Draft { rated, adjustments } => {
                bill.draft(currency, rated, adjustments);
                bill.note = if found.held {
                    "The statement is held back until the provider has finished a review.".to_owned()
                } else if now >= period.until {
                    format!(
                        "The month is over; late reports count until the statement closes on {}.",
                        figures::date(period.close_due, zone)
                    )
                } else {
                    let last = figures::date(period.until - 1, zone);
                    format!("The month runs until the end of {last}; the statement follows after that.")
                };
            }
            Statement::Closed { statement, owed, .. } => {
                bill.heading = "Statement total";
                bill.note = "The statement is closed; later changes are lines of a later statement.".to_owned();
                bill.closed(currency, statement.as_deref());
                let lines = owed
                    .iter()
                    .map(|l| Raw::of(l.key.product.clone(), &l.key, l.quantity, l.amount, l.amount));
                bill.owed = charges(currency, lines.collect());
                let sum = owed.iter().try_fold(Decimal::ZERO, |sum, l| sum.checked_add(l.amount?));
                bill.owed_total = figures::money(currency, sum);
                bill.is_closed = true;
                bill.no_charges = "No charges on this statement.".to_owned();
            }
        }
        bill.count_calls(usage);
        bill.draw_days(&period, usage, now);
        bill
    }

    /// Whether the statement is closed and has no lines.
    pub fn is_blank(&self) -> bool {
        self.is_closed && self.products.is_empty() && self.adjustments.is_empty()
    }

    /// Says where the charges are that a blank statement doesn't have: what came to its month after it had closed is on later
    /// ones. `stated` has the months of those, with what they have of it; `next` is the one that what is owed comes on.
    pub fn tell_elsewhere(&mut self, currency: Currency, stated: &[(Month, Option<Decimal>)], next: Option<Month>) {
        let mut places: Vec<String> = Vec::new();
        for (month, amount) in stated {
            let amount = figures::money(currency, *amount).shown;
            let month = figures::month_name(*month);
            places.push(format!("{amount} {currency} are on the statement of {month}"));
        }
        if !self.owed.is_empty() {
            let amount = &self.owed_total.shown;
            let next = next.map_or_else(
                || "a later statement".to_owned(),
                |month| format!("the statement of {}", figures::month_name(month)),
            );
            places.push(format!("{amount} {currency} will be on {next}"));
        }
        if !places.is_empty() {
            self.no_charges = format!("No charges on this statement; {}.", places.join(", "));
        }
    }

    fn draft(&mut self, currency: Currency, rated: &Rated, adjustments: &[Adjustment]) {
        let comes = Comes::of(currency, rated, adjustments);
        self.total = Money {
            shown: figures::money(currency, comes.rounded).shown,
            exact: figures::money(currency, comes.exact).exact,
        };
        let lines = rated.lines.iter();
        let lines = lines.map(|l| Raw::of(l.key.product.clone(), &l.key, l.quantity, l.amount, l.exact));
        self.products = charges(currency, lines.collect());
        let adjusted = adjustments.iter().map(|(month, of, _, l)| {
            let under = adjustment_name(&l.key.product, &month.to_string());
            (*of, Raw::of(under, &l.key, l.quantity, l.amount, l.amount))
        });
        self.adjustments = by_currency(currency, adjusted);
        self.unpriced = unpriced(rated.unpriced_rows());
    }

    fn closed(&mut self, currency: Currency, statement: Option<&pb::PeriodClosed>) {
        let total = statement.map_or(Some(Decimal::ZERO), |s| s.total.parse().ok());
        self.total = figures::money(currency, total);
        let lines = statement.map_or(&[][..], |s| &s.lines);
        let (own, adjusted): (Vec<_>, Vec<_>) = lines.iter().partition(|l| l.original_period.is_empty());
        self.products = charges(currency, own.into_iter().map(|l| Raw::stated(l, &l.product)).collect());
        let adjusted = adjusted.into_iter().map(|line| {
            let of = Currency::parse(&line.currency).unwrap_or(currency);
            let under = adjustment_name(&line.product, &line.original_period);
            (of, Raw::stated(line, &under))
        });
        self.adjustments = by_currency(currency, adjusted);
        self.unpriced = unpriced(statement.map_or_else(Vec::new, |s| s.unpriced.clone()));
    }

    fn count_calls(&mut self, usage: &Usage) {
        let mut counts: BTreeMap<(Outcome, Reason), i64> = BTreeMap::new();
        for (&(_, _, outcome, reason), &count) in &usage.calls {
            *counts.entry((outcome, reason)).or_default() += count;
        }
        // A reason is shown once, though policies of different times may have given it two outcomes.
        let mut by_reason: BTreeMap<(bool, Reason), i64> = BTreeMap::new();
        for ((outcome, reason), count) in counts {
            *by_reason
                .entry((words::is_charged(outcome, reason), reason))
                .or_default() += count;
        }
        let [mut charged_ones, mut uncharged_ones] = [Vec::new(), Vec::new()];
        for ((charged, reason), count) in by_reason.into_iter().filter(|(_, count)| *count != 0) {
            let (title, sentence) = words::reason(reason, charged);
            let to = if charged {
                &mut charged_ones
            } else {
                &mut uncharged_ones
            };
            to.push(Verdicts {
                calls: figures::count(count),
                title,
                sentence,
                code: reason.as_str(),
                count,
            });
        }
        self.charged = Reasons::of(charged_ones);
        self.uncharged = Reasons::of(uncharged_ones);
        let mut unbilled: BTreeMap<&str, i128> = BTreeMap::new();
        let of_unbilled = usage
            .sums
            .iter()
            .filter(|(of, _)| of.class == Class::Unbilled.as_str() && of.meter != "requests");
        for (of, sum) in of_unbilled {
            *unbilled.entry(&of.meter).or_default() += sum.quantity.0;
        }
        let unbilled = unbilled.into_iter().filter(|(_, nano)| *nano != 0);
        self.uncharged_usage = unbilled
            .map(|(meter, nano)| Counted {
                name: words::meter(meter).to_lowercase(),
                quantity: figures::quantity(Quantity(nano)),
            })
            .collect();
    }

    fn draw_days(&mut self, period: &Period, usage: &Usage, now: Ms) {
        let (zone, currency) = (usage.profile.zone, usage.profile.currency);
        let mut amounts: BTreeMap<Ms, Option<Decimal>> = BTreeMap::new();
        for (of, sum) in &usage.sums {
            let amount = amounts.entry(of.from).or_insert(Some(Decimal::ZERO));
            *amount = add(*amount, sum.amount);
        }
        let mut calls: BTreeMap<Ms, i64> = BTreeMap::new();
        for ((from, ..), count) in &usage.calls {
            *calls.entry(*from).or_default() += count;
        }
        let highest_amount = amounts.values().filter_map(|a| *a).max().unwrap_or_default();
        let most_calls = calls.values().copied().max().unwrap_or_default();
        self.bars_are_calls = highest_amount <= Decimal::ZERO;
        self.highest = if self.bars_are_calls {
            figures::count(most_calls)
        } else {
            figures::money(currency, Some(highest_amount)).shown
        };
        let first = period::day_of(period.from, zone);
        let last = period::day_of(period.until - 1, zone);
        // A period that a change of zone has stretched has a day more.
        for number in first.0..=last.0.min(first.0.saturating_add(40)) {
            let (from, until) = period::day_bounds(period::Day(number), zone);
            let amount = amounts.get(&from).copied().unwrap_or(Some(Decimal::ZERO));
            let count = calls.get(&from).copied().unwrap_or_default();
            let height = if self.bars_are_calls {
                height(count.into(), most_calls.into())
            } else {
                height(amount.unwrap_or(highest_amount), highest_amount)
            };
            self.days.push(DayBar {
                day: figures::day(from, zone),
                amount: figures::money(currency, amount),
                calls: figures::count(count),
                x: self.width,
                y: CHART_HEIGHT - height,
                height,
                is_today: from <= now && now < until,
                is_ahead: from > now,
            });
            self.width += 10;
        }
    }
}
