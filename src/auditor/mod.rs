//! The auditor: RULES.md computed a second time, plainly, to check the real thing against.
//!
//! It keeps every accepted event of every call and merges all of them anew whenever it needs the evidence.
//! It shares nothing with the billing code but the decoded records. It has no rates and no money.

mod authority;
mod call;
mod control;
mod evidence;
mod fold;
mod period;
mod reject;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::pb;

pub use fold::Auditor;

/// What one record says.
pub enum Word {
    /// From a gateway.
    Event(pb::CallEvent),
    /// ms since epoch
    Tick(i64),
    /// From the operator.
    Control(pb::Control),
    /// The decoder could not read it or it was refused before; only its append time matters.
    Unreadable,
}

/// One record of one partition in log order, already decoded from the wire.
pub struct Entry<'a> {
    /// Its place in the partition.
    pub offset: u64,
    /// When the log took it.
    pub append_ms: i64,
    /// What it says.
    pub word: Word,
    /// As it stands in the log: what a signature is for.
    pub bytes: &'a [u8],
    /// Header `reckon-signature`.
    pub signature: Option<&'a str>,
    /// From header `reckon-forwarded`: when it was appended where it was found.
    pub forwarded: Option<i64>,
}

impl Entry<'_> {
    /// A record with nothing beside its word.
    pub fn new(offset: u64, append_ms: i64, word: Word) -> Self {
        Self {
            offset,
            append_ms,
            word,
            bytes: &[],
            signature: None,
            forwarded: None,
        }
    }
}

/// What moves the clock (RULES §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// Append times, held back by ticks.
    Append,
    /// Ticks alone.
    Ticks,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallVerdict {
    /// success, disconnected or failed.
    pub outcome: &'static str,
    /// RULES §4.
    pub reason: &'static str,
    /// The row of RULES §4 that decided.
    pub row: u8,
    /// Whether it is charged.
    pub billed: bool,
    /// As in "2026-09".
    pub period: String,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// By meter, "requests" included, in units of 10^-9; zeros left out.
    pub quantities: BTreeMap<String, i128>,
    /// A quantity was won by an estimate.
    pub estimated: bool,
}

impl CallVerdict {
    /// RULES §4, "Class of a call's quantities".
    pub fn class(&self) -> &'static str {
        match (self.billed, self.outcome, self.estimated) {
            (false, _, _) => "unbilled",
            (true, "disconnected", true) => "disconnected_estimated",
            (true, "disconnected", false) => "disconnected",
            (true, _, _) => "success",
        }
    }
}

/// (account, period, service, product, meter, class) -> quantity in 10^-9
pub type Usage = BTreeMap<(String, String, String, String, String, &'static str), i128>;

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The latest verdict of every settled call, those forgotten included. A call id that was forgotten and then
    /// used again is a new call: once it is settled it replaces the earlier one here.
    pub calls: BTreeMap<(String, String), CallVerdict>,
    /// As now known, adjustments included; zeros left out.
    pub usage: Usage,
    /// As frozen when the account's period closed; only of periods that closed with usage.
    pub frozen: Usage,
    /// (account, period, outcome, reason) -> calls, as now known
    pub counts: BTreeMap<(String, String, &'static str, &'static str), i64>,
    /// offset -> reject reason
    pub rejects: BTreeMap<u64, &'static str>,
    /// Offsets of events that belong in another partition, and were to be forwarded to it.
    pub forwards: BTreeSet<u64>,
    /// Calls without a verdict.
    pub open: u64,
}

/// Add a call's quantities to a table of usage.
fn add_usage(usage: &mut Usage, account: &str, verdict: &CallVerdict) {
    for (meter, quantity) in &verdict.quantities {
        let key = (
            account.to_owned(),
            verdict.period.clone(),
            verdict.service.clone(),
            verdict.product.clone(),
            meter.clone(),
            verdict.class(),
        );
        let sum = usage.entry(key).or_insert(0);
        *sum = sum.saturating_add(*quantity);
    }
}

/// A protobuf time in milliseconds, floored.
fn millis(time: &prost_types::Timestamp) -> i64 {
    let part = i64::from(time.nanos).div_euclid(1_000_000);
    time.seconds.saturating_mul(1_000).saturating_add(part)
}

/// The policy of RULES: defaults, and what control records changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Policy {
    settle_grace: i64,
    disconnect_grace: i64,
    call_deadline: i64,
    task_deadline: i64,
    close_grace: i64,
    amend_window: i64,
    call_span: i64,
    max_open: i64,
    bill_unproven: bool,
    bill_empty_disconnect: bool,
    bill_upstream_only: bool,
    bill_cancelled_task: bool,
    rollup_dimensions: Vec<String>,
}

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

impl Policy {
    fn first() -> Self {
        Self {
            settle_grace: 0,
            disconnect_grace: 30 * SECOND,
            call_deadline: HOUR,
            task_deadline: 48 * HOUR,
            close_grace: 24 * HOUR,
            amend_window: 35 * DAY,
            call_span: 3 * DAY,
            max_open: 7 * DAY,
            bill_unproven: false,
            bill_empty_disconnect: false,
            bill_upstream_only: true,
            bill_cancelled_task: false,
            rollup_dimensions: Vec::new(),
        }
    }

    /// The next version: what a record leaves out is unchanged.
    fn changed_by(&self, record: &pb::Policy) -> Self {
        let time = |new: Option<u64>, old: i64| match new {
            Some(ms) => i64::try_from(ms).unwrap_or(i64::MAX),
            None => old,
        };
        Self {
            settle_grace: time(record.settle_grace_ms, self.settle_grace),
            disconnect_grace: time(record.disconnect_grace_ms, self.disconnect_grace),
            call_deadline: time(record.call_deadline_ms, self.call_deadline),
            task_deadline: time(record.task_deadline_ms, self.task_deadline),
            close_grace: time(record.close_grace_ms, self.close_grace),
            amend_window: time(record.amend_window_ms, self.amend_window),
            call_span: time(record.call_span_ms, self.call_span),
            max_open: time(record.max_open_ms, self.max_open),
            bill_unproven: record.bill_unproven.unwrap_or(self.bill_unproven),
            bill_empty_disconnect: record.bill_empty_disconnect.unwrap_or(self.bill_empty_disconnect),
            bill_upstream_only: record.bill_upstream_only.unwrap_or(self.bill_upstream_only),
            bill_cancelled_task: record.bill_cancelled_task.unwrap_or(self.bill_cancelled_task),
            rollup_dimensions: match &record.rollup_dimensions {
                Some(names) => names.names.clone(),
                None => self.rollup_dimensions.clone(),
            },
        }
    }
}
