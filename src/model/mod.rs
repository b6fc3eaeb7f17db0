//! The nouns: plain values with their limits, orders and texts. Nothing here does I/O, reads a clock or decides money.

pub mod event;
pub mod id;
pub mod limits;
pub mod money;
pub mod outcome;
pub mod period;
pub mod placement;
pub mod policy;
pub mod quantity;
pub mod rate_card;
pub mod reject;
pub mod symbol;

/// An instant: milliseconds since 1970-01-01T00:00:00Z. Periods and windows are half-open.
pub type Ms = i64;
