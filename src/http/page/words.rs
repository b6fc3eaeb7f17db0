//! Codes in plain words, for a customer who has never heard of Reckon.

use crate::http::problem::Code;
use crate::model::outcome::{Outcome, Reason};

/// Whether calls of this verdict are charged; a stored answer that is served again is a success that isn't.
pub fn is_charged(outcome: Outcome, reason: Reason) -> bool {
    outcome != Outcome::Failed && reason != Reason::IdempotentReplay
}

/// What a call came to: a few words, and one sentence.
pub fn reason(reason: Reason, charged: bool) -> (&'static str, &'static str) {
    match (reason, charged) {
        (Reason::Completed, _) => ("Completed", "The answer was delivered in full."),
        (Reason::Refused, _) => (
            "Declined by the model",
            "The model answered in full, by declining the request.",
        ),
        (Reason::TaskCompleted, _) => ("Task completed", "The task ran to its end and its result is there."),
        (Reason::GoneCompleted, _) => (
            "Connection closed, answer complete",
            "Your client disconnected or timed out, but the answer had been produced in full.",
        ),
        (Reason::GoneOnTrack, _) => (
            "Connection closed midway",
            "Your client disconnected or timed out while the answer was on its way; what had been produced is charged.",
        ),
        (Reason::GoneUnproven, true) => (
            "Connection closed early",
            "Your client disconnected after the request was passed on; your terms charge such calls.",
        ),
        (Reason::GoneUnproven, false) => (
            "Connection closed, no answer seen",
            "Your client disconnected, and nothing shows that any of the answer was produced.",
        ),
        (Reason::GoneBeforeAccept, _) => (
            "Connection closed at once",
            "Your client disconnected before the request was passed on.",
        ),
        (Reason::GoneUpstreamFailed, _) => (
            "Connection closed, answer failed",
            "Your client disconnected, and the answer had failed on the service's side.",
        ),
        (Reason::UpstreamOnly, true) => (
            "Completed, delivery not reported",
            "The answer was produced in full; the report of its delivery never came.",
        ),
        (Reason::UpstreamOnly, false) => (
            "Delivery not reported",
            "The answer was produced, but no report says that it was delivered.",
        ),
        (Reason::IdempotentReplay, _) => (
            "Repeat of an earlier answer",
            "An answer from before was served again; it isn't charged a second time.",
        ),
        (Reason::TaskFailed, _) => ("Task failed", "The task ended with an error."),
        (Reason::TaskExpired, _) => ("Task expired", "The task didn't finish in the time it had."),
        (Reason::TaskCancelled, true) => (
            "Task cancelled",
            "The task was cancelled; your terms charge what it had produced.",
        ),
        (Reason::TaskCancelled, false) => ("Task cancelled", "The task was cancelled before it finished."),
        (Reason::RejectedRateLimit, _) => (
            "Rate limit reached",
            "The request was turned away because too many came at once.",
        ),
        (Reason::RejectedCredit, _) => (
            "Out of credit",
            "The request was turned away because the account had no credit left.",
        ),
        (Reason::RejectedRequest, _) => (
            "Request turned away",
            "The request was invalid or not allowed, so nothing was run.",
        ),
        (Reason::Overloaded, _) => (
            "Service overloaded",
            "The service had no capacity left for the request.",
        ),
        (Reason::InBandError, _) => (
            "Error within the answer",
            "The answer began, but ended with an error message.",
        ),
        (Reason::UpstreamError, _) => ("Service error", "The service answered with an error."),
        (Reason::UpstreamBroken, _) => (
            "Answer broke off",
            "The service's connection broke in the middle of the answer.",
        ),
        (Reason::UpstreamTimeout, _) => ("Service took too long", "The service didn't answer in time."),
        (Reason::GatewayAborted, _) => (
            "Stopped by the gateway",
            "The gateway ended the call, as on a restart or a limit.",
        ),
        (Reason::Truncated, _) => ("Answer incomplete", "The answer ended before its declared end."),
        (Reason::UpstreamFailed, _) => (
            "Answer failed at its source",
            "The answer looked complete, but its source reports that it failed.",
        ),
        (Reason::Conflict, _) => (
            "Reports contradict each other",
            "The reports about the call don't agree on how it ended; the doubt counts for you.",
        ),
        (Reason::Unresolved, _) => (
            "Outcome unknown",
            "No report says how the call ended in the time allowed; the doubt counts for you.",
        ),
        (Reason::OperatorBilled, _) => (
            "Charged on review",
            "The provider looked at the call and decided that it is charged.",
        ),
        (Reason::OperatorWaived, _) => (
            "Waived on review",
            "The provider looked at the call and decided not to charge it.",
        ),
    }
}

/// A refusal: a title, and a sentence that says what helps. `None`: the problem's own words have to do.
pub fn refusal(code: Code) -> Option<(&'static str, &'static str)> {
    Some(match code {
        Code::AccountUnknown => (
            "Nothing here yet",
            "No usage has been recorded for this account. Check the address; the page appears with the first call.",
        ),
        Code::CallUnknown => (
            "No such call",
            "Nothing is known of a call with this id. Check that it is whole; some weeks after a call its details are \
             let go and only the sums remain.",
        ),
        Code::PeriodUnknown => ("Nothing in this month", "The account had no usage then."),
        Code::Forbidden => (
            "Not your account",
            "Your sign-in doesn’t cover this page. Sign in again with a token for this account.",
        ),
        Code::NotServed
        | Code::Behind
        | Code::ShuttingDown
        | Code::OwnerSilent
        | Code::HeldUp
        | Code::LogUnavailable => (
            "Back in a moment",
            "The service is starting or stopping. Load the page again in a few seconds.",
        ),
        _ => return None,
    })
}

/// What is counted.
pub fn meter(meter: &str) -> &str {
    match meter {
        "requests" => "Requests",
        "input_tokens_uncached" => "Input tokens",
        "cache_read_tokens" => "Input tokens read from cache",
        "cache_write_tokens" => "Input tokens written to cache",
        "output_tokens" => "Output tokens",
        "bytes_in" => "Bytes sent to the service",
        "bytes_out" => "Bytes received",
        "compute_ms" => "Compute time, ms",
        other => other,
    }
}

/// How a quantity is known.
pub fn provenance(code: &str) -> &str {
    match code {
        "counted" => "counted: one for each call",
        "corrected" => "set by the provider on review",
        "reserved" => "reserved, never charged",
        "estimated" => "estimated",
        "edge_counted" => "counted at the gateway",
        "upstream_measured" => "measured by the service",
        "provider_invoiced" => "as invoiced by the model's provider",
        other => other,
    }
}

/// Who saw something.
pub fn observer(code: &str) -> &str {
    match code {
        "edge" => "Gateway",
        "upstream" => "Service",
        "provider" => "Model provider",
        other => other,
    }
}

/// How an observer saw it end.
pub fn cause(code: &str) -> &str {
    match code {
        "completed" => "completed",
        "client_gone" => "the client disconnected or timed out",
        "upstream_error" => "the service answered with an error",
        "upstream_broken" => "the service's connection broke",
        "upstream_timeout" => "the service took too long",
        "rejected" => "turned away",
        "gateway_aborted" => "the gateway ended the call",
        "cancelled" => "cancelled",
        "expired" => "expired",
        other => other,
    }
}

/// How far the answer had come.
pub fn progress(code: &str) -> Option<&str> {
    match code {
        "not_forwarded" => Some("the request had not been passed on"),
        "forwarded" => Some("the request had been passed on"),
        "response_started" => Some("the answer had begun"),
        "complete" => Some("the answer was complete"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_one_plain_sentence() {
        for &of in Reason::ALL {
            for charged in [true, false] {
                let (title, sentence) = reason(of, charged);
                assert!(!title.is_empty() && !title.contains('_'), "{of:?}: {title}");
                assert!(
                    sentence.ends_with('.') && sentence.matches('.').count() == 1,
                    "{of:?}: {sentence}"
                );
                for jargon in ["upstream", "edge", "verdict", "evidence", "idempotent"] {
                    assert!(!sentence.to_lowercase().contains(jargon), "{of:?}: {sentence}");
                }
            }
        }
    }
}
