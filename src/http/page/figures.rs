//! Money, quantities and times as people read them; the exact ones go beside them.

use rust_decimal::Decimal;

use crate::model::Ms;
use crate::model::money::{Currency, decimal_string};
use crate::model::period::{Month, Zone};
use crate::model::quantity::{Quantity, grouped};

/// An amount in whole minor units, and as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Money {
    /// Rounded half-even to the minor unit, thousands grouped.
    pub shown: String,
    /// Unrounded.
    pub exact: String,
}

fn signed(number: &str) -> String {
    grouped(number).replace('-', "\u{2212}")
}

/// An amount; one that can't be expressed is a dash.
pub fn money(currency: Currency, amount: Option<Decimal>) -> Money {
    let Some(amount) = amount else {
        return Money {
            shown: "\u{2014}".to_owned(),
            exact: "too large or too fine to be expressed".to_owned(),
        };
    };
    let places = currency.minor_places() as usize;
    let mut rounded = currency.round_half_even(amount);
    if rounded.is_zero() {
        rounded = Decimal::ZERO;
    }
    Money {
        shown: signed(&format!("{rounded:.places$}")),
        exact: format!("{} {}", decimal_string(amount), currency.code()),
    }
}

/// A price for so many units, never rounded.
pub fn unit_price(currency: Currency, price: Decimal, per: u64) -> String {
    let price = price.normalize();
    if price.is_zero() {
        return "free".to_owned();
    }
    let places = (currency.minor_places()).max(price.scale()) as usize;
    let price = signed(&format!("{price:.places$}"));
    match per {
        1 => format!("{price} each"),
        1_000 => format!("{price} per thousand"),
        1_000_000 => format!("{price} per million"),
        other => format!("{price} per {}", grouped(&other.to_string())),
    }
}

/// A quantity, thousands grouped.
pub fn quantity(quantity: Quantity) -> String {
    signed(&quantity.to_string())
}

/// A count, thousands grouped.
pub fn count(count: i64) -> String {
    signed(&count.to_string())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Such as September 2026.
pub fn month_name(month: Month) -> String {
    format!("{} {}", MONTHS[month.0 as usize % 12], month.0 / 12)
}

/// Such as 3 Sep 2026.
pub fn date(at: Ms, zone: Zone) -> String {
    let local = zone.local(at);
    local.map_or_else(String::new, |l| l.format("%-d %b %Y").to_string())
}

/// Such as 3 Sep.
pub fn day(at: Ms, zone: Zone) -> String {
    let local = zone.local(at);
    local.map_or_else(String::new, |l| l.format("%-d %b").to_string())
}

/// Such as 3 Sep 2026, 14:13:20.
pub fn time(at: Ms, zone: Zone) -> String {
    let local = zone.local(at);
    local.map_or_else(String::new, |l| l.format("%-d %b %Y, %H:%M:%S").to_string())
}

/// The same with milliseconds.
pub fn exact_time(at: Ms, zone: Zone) -> String {
    let local = zone.local(at);
    local.map_or_else(String::new, |l| l.format("%-d %b %Y, %H:%M:%S%.3f").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_for_people_and_kept_exactly() {
        let dollars = |text: &str| money(Currency::USD, text.parse().ok());
        for (amount, shown, exact) in [
            ("1234567.891", "1,234,567.89", "1234567.891 USD"),
            ("0.00618", "0.01", "0.00618 USD"),
            ("-0.004", "0.00", "-0.004 USD"),
            ("-1200.5", "\u{2212}1,200.50", "-1200.5 USD"),
            ("7", "7.00", "7 USD"),
        ] {
            let money = dollars(amount);
            assert_eq!((money.shown.as_str(), money.exact.as_str()), (shown, exact));
        }
        let yen = Currency::parse("JPY").expect("a currency");
        assert_eq!(money(yen, Some(Decimal::new(12_345, 1))).shown, "1,234");
        assert_eq!(money(yen, None).shown, "\u{2014}");
    }

    #[test]
    fn prices_keep_every_place() {
        let price = |text: &str, per| unit_price(Currency::USD, text.parse().unwrap_or_default(), per);
        assert_eq!(price("15", 1_000_000), "15.00 per million");
        assert_eq!(price("0.0004", 1), "0.0004 each");
        assert_eq!(price("0.50", 1_000), "0.50 per thousand");
        assert_eq!(price("0.00", 1), "free");
    }

    #[test]
    fn times_are_those_of_the_account() {
        let berlin = Zone::parse("Europe/Berlin").expect("a zone");
        assert_eq!(time(1_788_264_000_000, berlin), "1 Sep 2026, 14:00:00");
        assert_eq!(day(1_788_264_000_000, Zone::UTC), "1 Sep");
        assert_eq!(month_name("2026-09".parse().expect("a month")), "September 2026");
    }
}
