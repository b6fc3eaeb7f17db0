//! RULES §4: what the evidence comes to.

use std::collections::BTreeMap;

use super::Policy;
use super::evidence::{self, Evidence, Label, Said, Says};
use crate::wire::pb;

/// One of a request, in units of 10^-9.
const ONE: i128 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Arrival,
    Grace,
    Deadline,
}

/// A row of the table, as it applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    number: u8,
    when: When,
    outcome: &'static str,
    billed: bool,
    reason: &'static str,
}

const fn row(number: u8, when: When, outcome: &'static str, billed: bool, reason: &'static str) -> Row {
    Row {
        number,
        when,
        outcome,
        billed,
        reason,
    }
}

/// A verdict, but for its period, which needs the account's calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub row: u8,
    pub outcome: &'static str,
    pub billed: bool,
    pub reason: &'static str,
    /// How long the evidence has to be unchanged before this holds.
    pub wait: i64,
    /// The instant that decides the period.
    pub decided_at: i64,
    pub service: String,
    pub product: String,
    pub quantities: BTreeMap<String, i128>,
    pub estimated: bool,
}

/// The verdict on a call as if every wait were over, and the wait that it has.
pub fn judge(evidence: &Evidence, correction: Option<&pb::Correction>, policy: &Policy) -> Judged {
    let task = is_task(evidence);
    let (measured, decided_at) = if task {
        judge_task(evidence, policy)
    } else {
        judge_call(evidence, policy)
    };
    // Row 1. A correction does not move the period.
    let bills = correction.map(pb::Correction::bill);
    let row = match bills {
        Some(true) => row(1, When::Arrival, "success", true, "operator_billed"),
        Some(false) => row(1, When::Arrival, "failed", false, "operator_waived"),
        None => measured,
    };

    let billed = evidence.billed();
    let mut quantities: BTreeMap<String, i128> = billed
        .iter()
        .map(|(meter, (_, value))| (meter.clone(), *value))
        .collect();
    let mut estimated = billed
        .values()
        .any(|(provenance, _)| *provenance == pb::Provenance::Estimated);
    if let Some(correction) = correction
        && correction.bill()
        && !correction.quantities.is_empty()
    {
        let corrected = correction.quantities.iter();
        quantities = corrected
            .map(|quantity| (quantity.meter.clone(), evidence::at_one_scale(quantity)))
            .collect();
        estimated = false;
    }
    quantities.insert("requests".to_owned(), ONE);
    quantities.retain(|_, value| *value != 0);

    Judged {
        row: row.number,
        outcome: row.outcome,
        billed: row.billed,
        reason: row.reason,
        wait: match row.when {
            When::Arrival => policy.settle_grace,
            When::Grace => policy.disconnect_grace,
            When::Deadline if task => policy.task_deadline,
            When::Deadline => policy.call_deadline,
        },
        decided_at,
        service: evidence.label(&Label::Service).unwrap_or_else(|| "api".to_owned()),
        product: evidence.label(&Label::Product).unwrap_or_default(),
        quantities,
        estimated,
    }
}

fn is_task(evidence: &Evidence) -> bool {
    matches!(evidence.kind(), pb::CallKind::AsyncTask | pb::CallKind::BatchItem)
}

/// Rows 3–19, for everything but tasks; and the time of the word that decides the period.
fn judge_call(evidence: &Evidence, policy: &Policy) -> (Row, i64) {
    match evidence.word_of(pb::Observer::Edge) {
        Some((_, ending)) => {
            let judged: Vec<(Row, i64)> = ending
                .causes
                .iter()
                .map(|(cause, said)| {
                    (
                        edge_row(evidence, normalised(*cause, said, false), said, policy),
                        said.at,
                    )
                })
                .collect();
            agreed(&judged).unwrap_or_else(|| silent_edge(evidence, policy, false))
        }
        None => silent_edge(evidence, policy, false),
    }
}

/// Rows 2–6, 18 and 19, for tasks.
fn judge_task(evidence: &Evidence, policy: &Policy) -> (Row, i64) {
    if let Some((word, at)) = evidence.task_word() {
        return (task_row(word, policy), at);
    }
    let Some((_, ending)) = evidence.word_of(pb::Observer::Edge) else {
        return silent_edge(evidence, policy, true);
    };
    let judged: Vec<(Row, i64)> = ending
        .causes
        .iter()
        .filter_map(|(cause, said)| {
            let row = match normalised(*cause, said, true) {
                pb::Cause::ClientGone => return None,
                pb::Cause::Completed => task_row(Says::Completed, policy),
                pb::Cause::Cancelled => task_row(Says::Cancelled, policy),
                pb::Cause::Expired => task_row(Says::Expired, policy),
                pb::Cause::Rejected => rejected(said),
                pb::Cause::GatewayAborted => GATEWAY_ABORTED,
                pb::Cause::UpstreamError
                | pb::Cause::UpstreamBroken
                | pb::Cause::UpstreamTimeout
                | pb::Cause::Unspecified => task_row(Says::Failed, policy),
            };
            Some((row, said.at))
        })
        .collect();
    agreed(&judged).unwrap_or_else(|| silent_edge(evidence, policy, true))
}

/// Causes in the order of their numbers as sent: the lowest if they agree, row 3 if they don't; `None` of none.
fn agreed(judged: &[(Row, i64)]) -> Option<(Row, i64)> {
    let (first, at) = judged.first()?;
    let agree = judged
        .iter()
        .all(|(row, _)| (row.outcome, row.billed) == (first.outcome, first.billed));
    Some(if agree {
        (*first, *at)
    } else {
        (row(3, When::Arrival, "failed", false, "conflict"), *at)
    })
}

/// The edge's cause after normalisation.
fn normalised(cause: pb::Cause, said: &Said, task: bool) -> pb::Cause {
    match (cause, said.client_status) {
        (pb::Cause::Cancelled, _) if !task => pb::Cause::ClientGone,
        (pb::Cause::Completed, 499 | 460) => pb::Cause::ClientGone,
        (pb::Cause::Completed, 400..=499) => pb::Cause::Rejected,
        (pb::Cause::Completed, 500..=599) => pb::Cause::UpstreamError,
        _ => cause,
    }
}

const GATEWAY_ABORTED: Row = row(6, When::Arrival, "failed", false, "gateway_aborted");

/// Row 2.
fn task_row(word: Says, policy: &Policy) -> Row {
    match word {
        Says::Completed => row(2, When::Arrival, "success", true, "task_completed"),
        Says::Failed => row(2, When::Arrival, "failed", false, "task_failed"),
        Says::Expired => row(2, When::Arrival, "failed", false, "task_expired"),
        Says::Cancelled if policy.bill_cancelled_task => row(2, When::Arrival, "disconnected", true, "task_cancelled"),
        Says::Cancelled => row(2, When::Arrival, "failed", false, "task_cancelled"),
    }
}

/// Row 4.
fn rejected(said: &Said) -> Row {
    let reason = match said.client_status {
        429 => "rejected_rate_limit",
        402 => "rejected_credit",
        _ => "rejected_request",
    };
    row(4, When::Arrival, "failed", false, reason)
}

/// Rows 4–17: one cause of the edge, normalised, judged alone.
fn edge_row(evidence: &Evidence, cause: pb::Cause, said: &Said, policy: &Policy) -> Row {
    let upstream_failed =
        evidence.upstream_word() == Some(Says::Failed) || (said.upstream_status >= 400 && said.upstream_status != 499);
    let failed_at_once = |number, reason| row(number, When::Arrival, "failed", false, reason);
    match cause {
        pb::Cause::Rejected => rejected(said),
        pb::Cause::UpstreamError => failed_at_once(5, upstream_error(said)),
        pb::Cause::UpstreamBroken => failed_at_once(5, "upstream_broken"),
        pb::Cause::UpstreamTimeout | pb::Cause::Expired => failed_at_once(5, "upstream_timeout"),
        pb::Cause::GatewayAborted => GATEWAY_ABORTED,
        pb::Cause::Completed => {
            if said.end_marker == pb::EndMarker::Missing as i32 {
                failed_at_once(7, "truncated")
            } else if said.error_type == "idempotent_replay" {
                row(8, When::Arrival, "success", false, "idempotent_replay")
            } else if said.end_marker != pb::EndMarker::Seen as i32 && upstream_failed {
                failed_at_once(9, "upstream_failed")
            } else if said.error_type == "refusal" {
                row(10, When::Arrival, "success", true, "refused")
            } else {
                row(10, When::Arrival, "success", true, "completed")
            }
        }
        pb::Cause::ClientGone | pb::Cause::Cancelled | pb::Cause::Unspecified => {
            gone_row(evidence, upstream_failed, policy)
        }
    }
}

fn upstream_error(said: &Said) -> &'static str {
    let busy = |status: u32| matches!(status, 503 | 529);
    if busy(said.client_status) || busy(said.upstream_status) || said.error_type == "overloaded_error" {
        "overloaded"
    } else if (200..300).contains(&said.upstream_status) {
        "in_band_error"
    } else {
        "upstream_error"
    }
}

/// Rows 11–17: the client is gone.
fn gone_row(evidence: &Evidence, upstream_failed: bool, policy: &Policy) -> Row {
    let upstream = evidence.upstream_word();
    let progress = evidence
        .counting()
        .into_iter()
        .map(|attempt| evidence.progress(attempt))
        .max()
        .unwrap_or(0);
    let by_policy = |number, bills: bool| {
        let outcome = if bills { "disconnected" } else { "failed" };
        row(number, When::Grace, outcome, bills, "gone_unproven")
    };
    if upstream == Some(Says::Completed) {
        row(11, When::Arrival, "disconnected", true, "gone_completed")
    } else if upstream_failed {
        row(12, When::Arrival, "failed", false, "gone_upstream_failed")
    } else if progress == pb::Progress::Complete as i32 {
        row(13, When::Arrival, "disconnected", true, "gone_completed")
    } else if progress == pb::Progress::ResponseStarted as i32 {
        if output_seen(evidence) || upstream == Some(Says::Cancelled) {
            row(14, When::Grace, "disconnected", true, "gone_on_track")
        } else {
            by_policy(15, policy.bill_empty_disconnect)
        }
    } else if progress == pb::Progress::Forwarded as i32 {
        by_policy(16, policy.bill_unproven)
    } else {
        row(17, When::Grace, "failed", false, "gone_before_accept")
    }
}

/// A billed quantity above 0 on a meter that only grows with output.
fn output_seen(evidence: &Evidence) -> bool {
    let no_output = |meter: &str| {
        matches!(meter, "requests" | "input_tokens_uncached" | "bytes_in" | "compute_ms")
            || (meter.starts_with("cache_") && meter.ends_with("_tokens"))
    };
    evidence
        .billed()
        .iter()
        .any(|(meter, (_, value))| *value > 0 && !no_output(meter))
}

/// Rows 18 and 19: the edge is silent. Of a task, the edge's word was ignored if it had any.
fn silent_edge(evidence: &Evidence, policy: &Policy, task: bool) -> (Row, i64) {
    let row = match (evidence.upstream_word(), policy.bill_upstream_only) {
        (Some(Says::Completed), true) => row(18, When::Deadline, "success", true, "upstream_only"),
        (Some(Says::Completed), false) => row(18, When::Deadline, "failed", false, "upstream_only"),
        _ => row(19, When::Deadline, "failed", false, "unresolved"),
    };
    let observers: &[pb::Observer] = if task {
        &[pb::Observer::Upstream, pb::Observer::Provider]
    } else {
        &[pb::Observer::Edge, pb::Observer::Upstream, pb::Observer::Provider]
    };
    let words = observers.iter().filter_map(|who| evidence.word_of(*who));
    let mut times = words.filter_map(|(_, ending)| ending.causes.values().next().map(|said| said.at));
    (row, times.next().unwrap_or(evidence.last))
}
