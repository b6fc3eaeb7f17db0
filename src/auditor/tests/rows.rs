//! The rows of RULES §4.

use super::*;

#[test]
fn row_1_corrections_before_and_after() {
    let log = Log::new()
        .event(ended(Cause::Rejected))
        .control("k", 0, correction(true));
    assert_eq!(log.told(), (1, "success", true, "operator_billed"));
    let log = log.control("l", 0, correction(false));
    assert_eq!(log.told(), (1, "failed", false, "operator_waived"));
    let log = Log::new().control("k", 0, correction(true));
    assert_eq!(log.rejects(), ["call_forgotten"]);
}

#[test]
fn row_1_quantities_replace_all_but_requests() {
    let estimate = using(
        gone(Progress::ResponseStarted),
        "output_tokens",
        7,
        Provenance::Estimated,
    );
    let mut body = correction(true);
    if let Body::Correction(correction) = &mut body {
        correction.quantities.push(pb::Quantity {
            meter: "bytes_out".into(),
            value: 25,
            scale: 1,
            provenance: 0,
        });
    }
    let log = Log::new().event(estimate).tick(DAY);
    assert!(
        log.verdict()
            .is_some_and(|v| v.estimated && v.class() == "disconnected_estimated")
    );
    let found = log.control("k", 0, body).verdict();
    let quantities = BTreeMap::from([
        ("bytes_out".to_owned(), 2_500_000_000),
        ("requests".to_owned(), 1_000_000_000),
    ]);
    assert!(found.is_some_and(|v| v.quantities == quantities && !v.estimated && v.class() == "success"));
}

#[test]
fn row_2_tasks_by_upstream() {
    let word = |cause| at_once(vec![task(by(Observer::Upstream, cause))]);
    assert_eq!(word(Cause::Completed), (2, "success", true, "task_completed"));
    assert_eq!(word(Cause::UpstreamError), (2, "failed", false, "task_failed"));
    assert_eq!(word(Cause::Expired), (2, "failed", false, "task_expired"));
    assert_eq!(word(Cause::Cancelled), (2, "failed", false, "task_cancelled"));
    let policy = pb::Policy {
        bill_cancelled_task: Some(true),
        ..Default::default()
    };
    let log = Log::new()
        .policy(policy)
        .event(task(by(Observer::Provider, Cause::Cancelled)));
    assert_eq!(log.told(), (2, "disconnected", true, "task_cancelled"));
}

#[test]
fn row_2_scale_of_task_words() {
    let two = |one, other| {
        at_once(vec![
            task(by(Observer::Upstream, one)),
            task(by(Observer::Provider, other)),
        ])
        .3
    };
    assert_eq!(two(Cause::UpstreamError, Cause::Expired), "task_expired");
    assert_eq!(two(Cause::Cancelled, Cause::Expired), "task_cancelled");
    assert_eq!(two(Cause::Cancelled, Cause::Completed), "task_completed");
    assert_eq!(
        at_once(vec![
            task(ended(Cause::Completed)),
            task(by(Observer::Upstream, Cause::Expired))
        ])
        .3,
        "task_expired"
    );
}

#[test]
fn row_2_tasks_by_the_edge() {
    assert_eq!(at_once(vec![task(ended(Cause::Cancelled))]).3, "task_cancelled");
    assert_eq!(at_once(vec![task(ended(Cause::Completed))]).3, "task_completed");
    assert_eq!(
        at_once(vec![task(ended(Cause::Rejected))]),
        (4, "failed", false, "rejected_request")
    );
    assert_eq!(
        at_once(vec![task(ended(Cause::GatewayAborted))]),
        (6, "failed", false, "gateway_aborted")
    );
    let hung_up = with(task(ended(Cause::Completed)), |end| end.client_status = 499);
    assert_eq!(at_once(vec![hung_up.clone()]).0, 0);
    assert_eq!(of(vec![hung_up]), (19, "failed", false, "unresolved"));
    let both = vec![task(ended(Cause::ClientGone)), task(ended(Cause::Completed))];
    assert_eq!(at_once(both.clone()).0, 2);
    assert_eq!(of(both).3, "task_completed");
}

#[test]
fn task_conflict_and_task_by_attempts() {
    // The first is judged at once, the second then conflicts with it.
    let both = vec![task(ended(Cause::Completed)), task(ended(Cause::Expired))];
    assert_eq!(of(both), (3, "failed", false, "conflict"));
    let tried = pb::CallEvent {
        end: Some(end(Cause::Completed)),
        ..at(1, task(event(Phase::AttemptEnded, NOW)))
    };
    let log = Log::new()
        .event(tried)
        .event(task(ended(Cause::ClientGone)))
        .tick(47 * HOUR);
    assert_eq!(log.told().0, 0);
    assert_eq!(log.tick(HOUR).told(), (18, "success", true, "upstream_only"));
}

#[test]
fn row_3_conflict_only_if_they_differ() {
    let differ = vec![ended(Cause::Completed), ended(Cause::UpstreamError)];
    assert_eq!(of(differ), (3, "failed", false, "conflict"));
    let agree = vec![ended(Cause::UpstreamBroken), ended(Cause::UpstreamError)];
    assert_eq!(of(agree), (5, "failed", false, "upstream_error"));
    // Two words of which the gone one comes to the same, but waits.
    let gone_first = vec![gone(Progress::NotForwarded), ended(Cause::Rejected)];
    assert_eq!(of(gone_first), (17, "failed", false, "gone_before_accept"));
    // The higher seq wins.
    let later = pb::CallEvent {
        seq: 2,
        ..ended(Cause::UpstreamError)
    };
    assert_eq!(of(vec![later, ended(Cause::Completed)]).0, 5);
}

#[test]
fn row_4_rejected() {
    let status = |cause, status| at_once(vec![with(ended(cause), |end| end.client_status = status)]);
    assert_eq!(
        status(Cause::Rejected, 429),
        (4, "failed", false, "rejected_rate_limit")
    );
    assert_eq!(status(Cause::Rejected, 402).3, "rejected_credit");
    assert_eq!(status(Cause::Completed, 404), (4, "failed", false, "rejected_request"));
}

#[test]
fn row_5_upstream_error() {
    let said = |change: fn(&mut pb::Termination)| at_once(vec![with(ended(Cause::UpstreamError), change)]).3;
    assert_eq!(said(|end| end.upstream_status = 529), "overloaded");
    assert_eq!(said(|end| end.client_status = 503), "overloaded");
    assert_eq!(said(|end| end.error_type = "overloaded_error".into()), "overloaded");
    assert_eq!(said(|end| end.upstream_status = 200), "in_band_error");
    assert_eq!(said(|end| end.upstream_status = 500), "upstream_error");
    assert_eq!(at_once(vec![ended(Cause::UpstreamBroken)]).3, "upstream_broken");
    assert_eq!(at_once(vec![ended(Cause::UpstreamTimeout)]).3, "upstream_timeout");
    assert_eq!(
        at_once(vec![ended(Cause::Expired)]),
        (5, "failed", false, "upstream_timeout")
    );
    let status = with(ended(Cause::Completed), |end| end.client_status = 500);
    assert_eq!(at_once(vec![status]), (5, "failed", false, "upstream_error"));
}

#[test]
fn rows_6_7_8() {
    assert_eq!(
        at_once(vec![ended(Cause::GatewayAborted)]),
        (6, "failed", false, "gateway_aborted")
    );
    let missing = with(ended(Cause::Completed), |end| {
        end.end_marker = EndMarker::Missing as i32;
    });
    assert_eq!(at_once(vec![missing]), (7, "failed", false, "truncated"));
    let replay = with(ended(Cause::Completed), |end| {
        end.error_type = "idempotent_replay".into();
    });
    assert_eq!(at_once(vec![replay]), (8, "success", false, "idempotent_replay"));
}

#[test]
fn row_9_unless_the_end_was_seen() {
    let failed = by(Observer::Upstream, Cause::UpstreamError);
    assert_eq!(
        of(vec![failed.clone(), ended(Cause::Completed)]),
        (9, "failed", false, "upstream_failed")
    );
    let seen = with(ended(Cause::Completed), |end| end.end_marker = EndMarker::Seen as i32);
    assert_eq!(of(vec![failed, seen]).0, 10);
    let status = |status| with(ended(Cause::Completed), |end| end.upstream_status = status);
    assert_eq!(at_once(vec![status(500)]).0, 9);
    assert_eq!(at_once(vec![status(499)]).0, 10);
}

#[test]
fn row_10_completed_and_refused() {
    assert_eq!(
        at_once(vec![ended(Cause::Completed)]),
        (10, "success", true, "completed")
    );
    let refused = with(ended(Cause::Completed), |end| end.error_type = "refusal".into());
    assert_eq!(at_once(vec![refused]), (10, "success", true, "refused"));
}

#[test]
fn rows_11_12_13_at_once() {
    let upstream = |cause| vec![by(Observer::Upstream, cause), gone(Progress::Forwarded)];
    assert_eq!(
        at_once(upstream(Cause::Completed)),
        (11, "disconnected", true, "gone_completed")
    );
    assert_eq!(
        at_once(upstream(Cause::UpstreamError)),
        (12, "failed", false, "gone_upstream_failed")
    );
    let status = with(gone(Progress::ResponseStarted), |end| end.upstream_status = 500);
    assert_eq!(at_once(vec![status]).0, 12);
    assert_eq!(
        at_once(vec![gone(Progress::Complete)]),
        (13, "disconnected", true, "gone_completed")
    );
}

#[test]
fn row_14_on_track_after_grace() {
    let output = using(gone(Progress::Forwarded), "output_tokens", 3, Provenance::EdgeCounted);
    let log = Log::new().event(output).tick(30 * SECOND - 1);
    assert_eq!(log.told().0, 0);
    assert_eq!(log.tick(1).told(), (14, "disconnected", true, "gone_on_track"));
    let cancelled = vec![
        gone(Progress::ResponseStarted),
        by(Observer::Upstream, Cause::Cancelled),
    ];
    assert_eq!(of(cancelled).0, 14);
    let none = using(
        gone(Progress::ResponseStarted),
        "cache_read_tokens",
        3,
        Provenance::EdgeCounted,
    );
    assert_eq!(of(vec![none]).0, 15);
    let reserved = using(gone(Progress::Forwarded), "output_tokens", 3, Provenance::Reserved);
    assert_eq!(of(vec![reserved]).0, 16);
}

#[test]
fn rows_15_16_17() {
    assert_eq!(
        of(vec![gone(Progress::ResponseStarted)]),
        (15, "failed", false, "gone_unproven")
    );
    assert_eq!(
        of(vec![gone(Progress::Forwarded)]),
        (16, "failed", false, "gone_unproven")
    );
    assert_eq!(
        of(vec![gone(Progress::NotForwarded)]),
        (17, "failed", false, "gone_before_accept")
    );
    assert_eq!(
        of(vec![ended(Cause::Cancelled)]),
        (17, "failed", false, "gone_before_accept")
    );
    let policy = pb::Policy {
        bill_unproven: Some(true),
        bill_empty_disconnect: Some(true),
        ..Default::default()
    };
    let log = Log::new().policy(policy).event(gone(Progress::Forwarded)).tick(DAY);
    assert_eq!(log.told(), (16, "disconnected", true, "gone_unproven"));
    let log = log.event(event(Phase::ResponseStarted, NOW));
    assert_eq!(log.told(), (15, "disconnected", true, "gone_unproven"));
}

#[test]
fn rows_18_and_19_at_the_deadline() {
    let log = Log::new()
        .event(by(Observer::Upstream, Cause::Completed))
        .tick(HOUR - 1);
    assert_eq!(log.told().0, 0);
    assert_eq!(log.tick(1).told(), (18, "success", true, "upstream_only"));
    let policy = pb::Policy {
        bill_upstream_only: Some(false),
        ..Default::default()
    };
    let log = Log::new()
        .policy(policy)
        .event(by(Observer::Provider, Cause::Completed))
        .tick(HOUR);
    assert_eq!(log.told(), (18, "failed", false, "upstream_only"));
    assert_eq!(
        of(vec![event(Phase::Started, NOW)]),
        (19, "failed", false, "unresolved")
    );
    let broken = with(by(Observer::Upstream, Cause::Completed), |end| end.client_status = 400);
    assert_eq!(of(vec![broken]).0, 19);
}
