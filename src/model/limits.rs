//! Every limit on what a producer may send, with its source. All are inclusive maxima.

/// Bytes of an account id or a call id (RULES §5, `bad_id`).
pub const ID_BYTES_MAX: usize = 128;
/// Bytes of a service, product, meter or error type (RULES §3).
pub const LABEL_BYTES_MAX: usize = 128;
/// Bytes of one record as received (`too_large`).
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a control record as received (`too_large`): a rate card may have thousands of prices.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;
/// Bytes of an operator's own words, kept with the call that a correction is about: `actor`, a correction's `reason`.
pub const WORDS_BYTES_MAX: usize = 1_024;
/// Pairs in `dimensions`, and in `native` (contract, `CallEvent.dimensions`).
pub const DIMENSIONS_MAX: usize = 16;
/// Bytes of a dimension's key (contract).
pub const DIMENSION_KEY_BYTES_MAX: usize = 64;
/// Bytes of a dimension's value (contract).
pub const DIMENSION_VALUE_BYTES_MAX: usize = 256;
/// Highest attempt number (RULES §3).
pub const ATTEMPT_MAX: u32 = 255;
/// Numbered attempts that a call remembers: the lowest hold (RULES §3).
pub const ATTEMPTS_PER_CALL_MAX: usize = 64;
/// Meters that a call remembers: the least names hold (RULES §3).
pub const METERS_PER_CALL_MAX: usize = 64;
/// Decimal places of a quantity (contract, `Quantity.scale`).
pub const SCALE_MAX: u32 = 9;
/// Rollup dimensions that a policy may name (RULES §6).
pub const ROLLUP_DIMENSIONS_MAX: usize = 3;
/// Combinations of rollup values per account and period; the rest is [`ROLLUP_OTHER`] (RULES §6).
pub const ROLLUP_COMBINATIONS_MAX: usize = 1_000;
/// What stands for every combination past [`ROLLUP_COMBINATIONS_MAX`] (RULES §6).
pub const ROLLUP_OTHER: &str = "other";
/// How far an event's `occurred_at` may lie ahead of its append time, in ms (RULES §5, `ahead`).
pub const AHEAD_MS_MAX: i64 = 5 * 60_000;
/// How far a tick may lie from its own append time, in ms (RULES §2, `bad_tick`).
pub const TICK_SKEW_MS_MAX: i64 = 5 * 60_000;
/// How far append times may move the clock past the last tick, in ms (RULES §2).
pub const CLOCK_LEAD_MS_MAX: i64 = 3_600_000;

/// The reserved meter: counted, never reported (RULES §4).
pub const METER_REQUESTS: &str = "requests";
/// The contract's own meters (contract, `Quantity.meter`).
pub const CONTRACT_METERS: [&str; 7] = [
    "input_tokens_uncached",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "bytes_in",
    "bytes_out",
    "compute_ms",
];

const _: () = assert!(ATTEMPTS_PER_CALL_MAX <= ATTEMPT_MAX as usize);
const _: () = assert!(ATTEMPT_MAX <= u8::MAX as u32);
