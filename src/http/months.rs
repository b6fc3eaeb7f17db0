//! An account's months, each said in one place: which one runs, and what an open one comes to.

use rust_decimal::Decimal;

use crate::machine::accounts::{Period, Profile};
use crate::machine::rating::{AdjustmentLine, Rated};
use crate::model::money::Currency;
use crate::model::period::Month;
use crate::partition::live::Standing;

/// A line for a closed period: the period, its currency, the notices' ids, the line.
pub type Adjustment = (Month, Currency, Vec<String>, AdjustmentLine);

/// The month that the log's clock is in, and its stored period; a month that has begun has none before its first call.
pub fn running<'a>(
    standing: Standing,
    profile: &Profile,
    stored: impl IntoIterator<Item = &'a Period>,
) -> (Month, Option<&'a Period>) {
    let now = standing.clock.unwrap_or_default();
    match stored.into_iter().find(|p| p.from <= now && now < p.until) {
        Some(period) => (period.month, Some(period)),
        None => (Month::of(now, profile.zone), None),
    }
}

/// What an open month comes to in its own currency. Lines in another one are never added to it.
#[derive(Clone, Copy, Debug)]
pub struct Comes {
    /// Each line rounded, as it would be stated; `None` where it can't be expressed.
    pub rounded: Option<Decimal>,
    /// Unrounded.
    pub exact: Option<Decimal>,
}

impl Comes {
    /// Of a draft.
    pub fn of(currency: Currency, rated: &Rated, adjustments: &[Adjustment]) -> Self {
        let own = || {
            let own = adjustments.iter().filter(|(_, of, ..)| *of == currency);
            own.map(|(.., line)| line.amount)
        };
        Self {
            rounded: sum(rated.lines.iter().map(|l| l.amount).chain(own())),
            exact: sum(rated.lines.iter().map(|l| l.exact).chain(own())),
        }
    }
}

fn sum(mut amounts: impl Iterator<Item = Option<Decimal>>) -> Option<Decimal> {
    amounts.try_fold(Decimal::ZERO, |sum, amount| sum.checked_add(amount?))
}
