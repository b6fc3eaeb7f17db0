//! What can be said of a value by itself, whatever carried it.

use super::ascii::is_plain;
use crate::model::Ms;
use crate::model::limits::{CONTRACT_METERS, ID_BYTES_MAX, METER_REQUESTS};

/// Whether a producer may report the meter: the contract's own, or `x.<vendor>.<name>`. `requests` is reserved.
pub fn is_known_meter(meter: &str) -> bool {
    CONTRACT_METERS.contains(&meter) || (meter.len() > 2 && meter.starts_with("x.") && meter != METER_REQUESTS)
}

/// Whether an id has at most 128 bytes and no control characters.
pub fn is_good_id(id: &str) -> bool {
    id.len() <= ID_BYTES_MAX && (is_plain(id.as_bytes()) || !id.chars().any(char::is_control))
}

/// What is wrong with an id that isn't good.
pub fn id_fault(id: &str) -> String {
    if id.len() > ID_BYTES_MAX {
        format!("{} bytes, at most {ID_BYTES_MAX}", id.len())
    } else {
        format!("{id:?} has control characters")
    }
}

/// A protobuf instant, floored to milliseconds.
pub fn instant_ms(at: &prost_types::Timestamp) -> Ms {
    at.seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(at.nanos).div_euclid(1_000_000))
}

/// An instant as protobuf has it.
pub fn timestamp(at: Ms) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.div_euclid(1_000),
        nanos: (at.rem_euclid(1_000) * 1_000_000) as i32,
    }
}

/// Whether the seconds lie in the years 1 to 9999, the range of RFC 3339 and of protobuf's timestamps.
pub const fn is_in_range(seconds: i64, nanos: i64) -> bool {
    seconds >= -62_135_596_800 && seconds <= 253_402_300_799 && nanos >= 0 && nanos <= 999_999_999
}
