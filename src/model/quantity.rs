//! Exact quantities: integers in units of 10^-9, the finest scale of the contract.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use thiserror::Error;

/// Units of 10^-9 in one.
pub const NANO: i128 = 1_000_000_000;

/// A quantity in units of 10^-9; differences may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(pub i128);

/// Not a decimal with at most nine places.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a quantity; write a decimal with at most nine places such as 1.5")]
pub struct NotAQuantity(pub String);

/// `value × 10^-scale` without trailing zeros, so that equal amounts have one form.
pub const fn canonical(mut value: i64, mut scale: u8) -> (i64, u8) {
    while scale > 0 && value % 10 == 0 {
        value /= 10;
        scale -= 1;
    }
    (value, scale)
}

impl Quantity {
    /// `value × 10^-scale`; a scale over 9 is read as 9.
    pub const fn from_parts(value: i64, scale: u8) -> Self {
        let mut nano = value as i128;
        let mut places = scale;
        while places < 9 {
            nano *= 10;
            places += 1;
        }
        Self(nano)
    }

    /// The sum, unless it overflows.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, unless it overflows.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// As a decimal without trailing zeros; `None` past 96 bits.
    pub fn to_decimal(self) -> Option<Decimal> {
        let (mut value, mut scale) = (self.0, 9);
        while scale > 0 && value % 10 == 0 {
            value /= 10;
            scale -= 1;
        }
        Decimal::try_from_i128_with_scale(value, scale).ok()
    }
}

impl Quantity {
    /// Its text, without trailing zeros and without an allocation.
    pub fn with_text<R>(self, take: impl FnOnce(&str) -> R) -> R {
        // 39 digits, a point, a sign, and a zero before the point.
        let mut text = [b'0'; 42];
        let mut at = text.len();
        let mut put = |byte: u8| {
            at -= 1;
            text[at] = byte;
        };
        let magnitude = self.0.unsigned_abs();
        // 128 bits are divided by a call, 64 by an instruction.
        let (whole, fraction) = match u64::try_from(magnitude) {
            Ok(magnitude) => (u128::from(magnitude / NANO as u64), magnitude % NANO as u64),
            Err(_) => (magnitude / NANO as u128, (magnitude % NANO as u128) as u64),
        };
        let digit = |value: u64| b'0' + (value % 10) as u8;
        if fraction != 0 {
            let (mut fraction, mut places) = (fraction, 9);
            while fraction.is_multiple_of(10) {
                fraction /= 10;
                places -= 1;
            }
            for _ in 0..places {
                put(digit(fraction));
                fraction /= 10;
            }
            put(b'.');
        }
        let mut wide = whole;
        while wide > u128::from(u64::MAX) {
            put(digit((wide % 10) as u64));
            wide /= 10;
        }
        let mut narrow = wide as u64;
        loop {
            put(digit(narrow));
            narrow /= 10;
            if narrow == 0 {
                break;
            }
        }
        if self.0 < 0 {
            put(b'-');
        }
        // Digits are UTF-8.
        take(std::str::from_utf8(&text[at..]).unwrap_or_default())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let parsed = || {
            let (negative, digits) = match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
            let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
            if whole.is_empty() || fraction.len() > 9 || !all_digits(whole) || !all_digits(fraction) {
                return None;
            }
            let whole: i128 = whole.parse().ok()?;
            let fraction: i128 = format!("{fraction:0<9}").parse().ok()?;
            let nano = whole.checked_mul(NANO)?.checked_add(fraction)?;
            Some(Self(if negative { -nano } else { nano }))
        };
        parsed().ok_or_else(|| NotAQuantity(text.to_owned()))
    }
}

/// A number with a separator every three digits; a decimal's fraction is left as it is.
pub fn grouped(number: &str) -> String {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (digits, String::new()),
    };
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    format!("{sign}{out}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_without_trailing_zeros() {
        for (text, shown) in [
            ("412", "412"),
            ("1.50", "1.5"),
            ("-0.000000001", "-0.000000001"),
            ("0.0", "0"),
        ] {
            let quantity: Result<Quantity, _> = text.parse();
            assert_eq!(quantity.map(|q| q.to_string()).as_deref(), Ok(shown));
        }
        for bad in ["", ".5", "1.0000000001", "1e3", "--1", "1.x"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_widest_numbers_have_a_text() {
        for (nano, shown) in [
            (i128::MAX, "170141183460469231731687303715.884105727"),
            (i128::MIN, "-170141183460469231731687303715.884105728"),
            (i128::from(u64::MAX) + 1, "18446744073.709551616"),
            (10 * NANO, "10"),
            (-NANO / 1_000, "-0.001"),
        ] {
            assert_eq!(Quantity(nano).to_string(), shown);
        }
    }

    #[test]
    fn equal_amounts_have_one_form() {
        assert_eq!(canonical(1_500, 3), (15, 1));
        assert_eq!(canonical(0, 9), (0, 0));
        assert_eq!(Quantity::from_parts(15, 1), Quantity::from_parts(1_500, 3));
        assert_eq!(Quantity::from_parts(15, 1).to_decimal(), Some(Decimal::new(15, 1)));
        assert_eq!(Quantity(i128::MAX).to_decimal(), None);
    }
}
