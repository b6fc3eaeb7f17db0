//! Whole numbers in JSON, as proto3 maps them: as numbers or texts, with a point or an exponent too.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::Value;

/// Below it, a number that is written with a point or an exponent is read as it was written or not as a whole one; above it, it may
/// have been read as another whole one.
const EXACT_MAX: i128 = 1 << 52;

/// A whole number as proto3 maps it: a number or a text, `1.0` and `1e3` too.
pub(super) fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Some(whole.into()),
            (_, Some(whole)) => Some(whole.into()),
            // Read as binary, which larger ones don't all fit.
            _ => whole_decimal(&number.to_string()).filter(|whole| whole.abs() < EXACT_MAX),
        },
        Value::String(text) => text.parse().ok().or_else(|| whole_decimal(text)),
        _ => None,
    }
}

fn whole_decimal(text: &str) -> Option<i128> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let read = if text.contains(['e', 'E']) {
        Decimal::from_scientific(text)
    } else {
        Decimal::from_str_exact(text)
    };
    let number = read.ok().filter(|_| is_plain)?;
    number.is_integer().then(|| number.trunc().to_i128()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_however_they_are_written_and_none_is_rounded() -> Result<(), serde_json::Error> {
        for (text, number) in [
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("\"412\"", Some(412)),
            ("1000.0", Some(1_000)),
            ("1e3", Some(1_000)),
            ("\"1e3\"", Some(1_000)),
            ("\"1.0\"", Some(1)),
            ("9223372036854775807", Some(i64::MAX.into())),
            ("\"9223372036854775808.0\"", Some(1 << 63)),
            ("1000000000000.0", Some(1_000_000_000_000)),
            ("9007199254740993.0", None),
            ("1.5", None),
            ("\"1.5\"", None),
            ("\"1_000\"", None),
            ("\" 7\"", None),
            ("\"\"", None),
            ("\"1e99\"", None),
            ("true", None),
        ] {
            assert_eq!(whole(&serde_json::from_str(text)?), number, "{text}");
        }
        Ok(())
    }
}
