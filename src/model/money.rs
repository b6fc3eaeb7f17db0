//! Money: currencies of ISO 4217, and the one place where an amount is rounded.

use std::cmp::Ordering;
use std::fmt;

use rust_decimal::{Decimal, RoundingStrategy};
use thiserror::Error;

/// A currency of ISO 4217.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// Not a currency of ISO 4217.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a currency of ISO 4217; write its code such as USD")]
pub struct NotACurrency(pub String);

impl Currency {
    /// The default.
    pub const USD: Self = Self(iso_currency::Currency::USD);

    /// By its three-letter code in capitals.
    pub fn parse(code: &str) -> Result<Self, NotACurrency> {
        iso_currency::Currency::from_code(code)
            .map(Self)
            .ok_or_else(|| NotACurrency(code.to_owned()))
    }

    /// Its three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimal places of its minor unit; 0 for those that have none.
    pub fn minor_places(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }

    /// The amount in whole minor units, half-even (RULES §7).
    pub fn round_half_even(self, amount: Decimal) -> Decimal {
        amount.round_dp_with_strategy(self.minor_places(), RoundingStrategy::MidpointNearestEven)
    }
}

impl Ord for Currency {
    fn cmp(&self, other: &Self) -> Ordering {
        self.code().cmp(other.code())
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The amount without trailing zeros, and never `-0`.
pub fn decimal_string(amount: Decimal) -> String {
    if amount.is_zero() {
        "0".to_owned()
    } else {
        amount.normalize().to_string()
    }
}

/// The sum, if it can be expressed to the last digit: `Decimal` rounds where 96 bits don't hold both.
pub fn exact_sum(a: Decimal, b: Decimal) -> Option<Decimal> {
    let sum = a.checked_add(b)?;
    (sum.checked_sub(a) == Some(b) && sum.checked_sub(b) == Some(a)).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_exact_or_there_is_none() {
        let sum = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap_or_default(), b.parse().unwrap_or_default());
            exact_sum(a, b).map(decimal_string)
        };
        assert_eq!(sum("1.10", "-0.1").as_deref(), Some("1"));
        assert_eq!(sum("0", "0.05").as_deref(), Some("0.05"));
        assert_eq!(sum("-3", "3").as_deref(), Some("0"));
        assert_eq!(
            sum("70000000000000000000000000000", "1").as_deref(),
            Some("70000000000000000000000000001")
        );
        assert_eq!(sum("70000000000000000000000000000", "0.01"), None);
        assert_eq!(sum("0.01", "70000000000000000000000000000"), None);
        assert_eq!(
            sum("70000000000000000000000000000", "70000000000000000000000000000"),
            None
        );
    }

    #[test]
    fn amounts_round_half_even_to_the_minor_unit() {
        let yen = Currency::parse("JPY");
        let dinar = Currency::parse("KWD");
        for (currency, amount, rounded) in [
            (Ok(Currency::USD), "0.005", "0"),
            (Ok(Currency::USD), "0.015", "0.02"),
            (Ok(Currency::USD), "-0.025", "-0.02"),
            (Ok(Currency::USD), "0.0250000001", "0.03"),
            (yen.clone(), "2.5", "2"),
            (yen, "3.5", "4"),
            (dinar, "1.0005", "1"),
        ] {
            let amount: Decimal = amount.parse().unwrap_or_default();
            assert_eq!(
                currency.map(|c| decimal_string(c.round_half_even(amount))).as_deref(),
                Ok(rounded)
            );
        }
        assert!(Currency::parse("usd").is_err());
        assert!(Currency::parse("ZZZ").is_err());
    }
}
