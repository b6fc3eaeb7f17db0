//! Every key of a partition's store, in one place. Numbers in keys are big-endian, so that rows sort as they are read.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `default` | `01` item | [`Meta`] items: versions, identity, state |
//! | `default` | `02` kind, number u32 | policy, rate card, rollup names, profile |
//! | `default` | `03` number u32 | symbol |
//! | `default` | `04` number u32 | shape |
//! | `default` | `05` account u32 | account: id, profile, periods |
//! | `default` | `06` account u32, span u8, month u32, place i32 | bucket: a day's or an hour's usage |
//! | `default` | `07` account u32, month u32 | what a closed period has stated |
//! | `default` | `08` account u32, month u32 | changes of a closed period that no statement has named yet |
//! | `default` | `09` account u32, month u32 | rollup combinations |
//! | `default` | `0a` control id | hash and clock at acceptance |
//! | `default` | `0b` topic u8, sequence u64 | outbox: an output decided, not yet known delivered |
//! | `default` | `0c` | the unfinished block of settled calls |
//! | `default` | `0d` account u32 | the account's latest day and hour, as two buckets |
//! | `default` | `0e` offset u64 | a misplaced event, not yet known to be in its own partition: that partition, append time, bytes |
//! | `open` | page u32 | up to 32 calls that aren't packed |
//! | `settled` | block u64 | 256 packed calls |
//! | `settled_ids` | block u64 | until when the block is remembered, and 256 × 36 bits of the calls' hashes |

use crate::machine::usage::{BucketKey, Span};
use crate::model::period::Month;

/// Column family of the calls that aren't packed.
pub const CF_OPEN: &str = "open";
/// Column family of the packed calls.
pub const CF_SETTLED: &str = "settled";
/// Column family of what the index is rebuilt from.
pub const CF_SETTLED_IDS: &str = "settled_ids";

/// First bytes of keys in the default column family.
pub mod table {
    /// Versions, identity, state.
    pub const META: u8 = 1;
    /// Policies, cards, rollups, profiles.
    pub const RULES: u8 = 2;
    /// Symbols.
    pub const SYMBOL: u8 = 3;
    /// Shapes.
    pub const SHAPE: u8 = 4;
    /// Accounts.
    pub const ACCOUNT: u8 = 5;
    /// Usage.
    pub const BUCKET: u8 = 6;
    /// Closed periods.
    pub const CLOSED: u8 = 7;
    /// Adjustments.
    pub const ADJUSTMENT: u8 = 8;
    /// Rollup combinations.
    pub const COMBINATIONS: u8 = 9;
    /// Control ids.
    pub const CONTROL_ID: u8 = 10;
    /// Outbox.
    pub const OUTBOX: u8 = 11;
    /// The unfinished block.
    pub const TAIL_BLOCK: u8 = 12;
    /// Latest buckets.
    pub const LATEST: u8 = 13;
    /// Misplaced events.
    pub const FORWARD: u8 = 14;
}

/// Items of the meta table.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Meta {
    /// Format version and fold version.
    Versions = 0,
    /// Log id, partition, partition count, clock source.
    Identity = 1,
    /// Position, clock, digest, tails, counters, timers: everything small.
    State = 2,
    /// Verdicts of the calls output that don't fill a chunk yet.
    CallsChunk = 3,
    /// The last folded record: offset, leader epoch, fingerprint.
    LastRecord = 4,
}

/// Kinds of the rules table.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Rule {
    /// A policy version.
    Policy = 0,
    /// A rate card.
    Card = 1,
    /// A list of rollup names.
    Rollup = 2,
    /// A zone and currency.
    Profile = 3,
}

/// Key of a meta item.
pub fn meta(item: Meta) -> [u8; 2] {
    [table::META, item as u8]
}

/// Key of a rule.
pub fn rule(kind: Rule, number: u32) -> [u8; 6] {
    let n = number.to_be_bytes();
    [table::RULES, kind as u8, n[0], n[1], n[2], n[3]]
}

/// Key of a numbered row: symbol, shape, account, latest buckets.
pub fn numbered(table: u8, number: u32) -> [u8; 5] {
    let n = number.to_be_bytes();
    [table, n[0], n[1], n[2], n[3]]
}

/// Key of an account's month: closed period, adjustment, combinations.
pub fn account_month(table: u8, account: u32, month: Month) -> [u8; 9] {
    let mut key = [table; 9];
    key[1..5].copy_from_slice(&account.to_be_bytes());
    key[5..9].copy_from_slice(&month.0.to_be_bytes());
    key
}

/// Account and month of such a key.
pub fn parse_account_month(key: &[u8]) -> Option<(u32, Month)> {
    let account = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?);
    let month = u32::from_be_bytes(key.get(5..9)?.try_into().ok()?);
    Some((account, Month(month)))
}

/// Key of a bucket.
pub fn bucket((account, span, month, place): BucketKey) -> [u8; 14] {
    let mut key = [table::BUCKET; 14];
    key[1..5].copy_from_slice(&account.to_be_bytes());
    key[5] = span as u8;
    key[6..10].copy_from_slice(&month.0.to_be_bytes());
    // The sign bit flipped: negative places sort first.
    key[10..14].copy_from_slice(&((place as u32) ^ 1 << 31).to_be_bytes());
    key
}

/// What a bucket's key names.
pub fn parse_bucket(key: &[u8]) -> Option<BucketKey> {
    let account = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?);
    let span = match key.get(5)? {
        0 => Span::Day,
        1 => Span::Hour,
        _ => return None,
    };
    let month = u32::from_be_bytes(key.get(6..10)?.try_into().ok()?);
    let place = u32::from_be_bytes(key.get(10..14)?.try_into().ok()?) ^ 1 << 31;
    Some((account, span, Month(month), place as i32))
}

/// Key of a control id.
pub fn control_id(id: &str) -> Vec<u8> {
    let mut key = vec![table::CONTROL_ID];
    key.extend_from_slice(id.as_bytes());
    key
}

/// Key of an outbox row.
pub fn outbox(topic: u8, sequence: u64) -> [u8; 10] {
    let mut key = [table::OUTBOX; 10];
    key[1] = topic;
    key[2..10].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Key of a misplaced event.
pub fn forward(offset: u64) -> [u8; 9] {
    let mut key = [table::FORWARD; 9];
    key[1..].copy_from_slice(&offset.to_be_bytes());
    key
}
