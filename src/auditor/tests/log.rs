//! The log: rejects, clock, periods, forgetting, control records.

use super::*;

#[test]
fn events_that_are_rejected() {
    let refused = |event| Log::new().event(event).rejects();
    let good = ended(Cause::Completed);
    let change = |change: fn(&mut pb::CallEvent)| {
        let mut event = good.clone();
        change(&mut event);
        refused(event)
    };
    assert_eq!(change(|event| event.account_id.clear()), ["missing_field"]);
    assert_eq!(change(|event| event.end = None), ["missing_field"]);
    assert_eq!(change(|event| event.call_id = "a\nb".into()), ["bad_id"]);
    assert_eq!(change(|event| event.observer = 4), ["unknown_enum"]);
    assert_eq!(change(|event| event.attempt = 256), ["too_large"]);
    assert_eq!(change(|event| event.service = "s".repeat(129)), ["too_large"]);
    assert_eq!(
        change(|event| event.occurred_at = Some(time(NOW + 36 * DAY))),
        ["ahead"]
    );
    assert_eq!(
        change(|event| event.occurred_at = Some(time(NOW - 35 * DAY - 1))),
        ["too_late"]
    );
    assert_eq!(change(|event| event.occurred_at = Some(time(NOW - 35 * DAY))), [""; 0]);
    let meter = |meter, provenance| refused(using(good.clone(), meter, 1, provenance));
    assert_eq!(meter("requests", Provenance::EdgeCounted), ["bad_quantity"]);
    assert_eq!(meter("tokens", Provenance::EdgeCounted), ["bad_quantity"]);
    assert_eq!(meter("bytes_in", Provenance::ProviderInvoiced), ["bad_quantity"]);
    assert_eq!(meter("x.acme.images", Provenance::EdgeCounted), [""; 0]);
    // An end on another phase is ignored altogether.
    let odd = pb::CallEvent {
        end: Some(pb::Termination {
            cause: 77,
            ..Default::default()
        }),
        ..event(Phase::Progress, NOW)
    };
    assert_eq!(refused(odd), [""; 0]);
}

#[test]
fn no_clock_before_the_first_tick() {
    let log = Log {
        auditor: Auditor::new(ClockSource::Ticks, 0),
        offset: 0,
        now: NOW,
    };
    let log = log
        .event(ended(Cause::Completed))
        .control("p", 0, profile("Asia/Kolkata"))
        .tick(0);
    assert_eq!(log.rejects(), ["no_clock"]);
}

#[test]
fn the_clock_of_an_append_log() {
    let mut log = Log {
        auditor: Auditor::new(ClockSource::Append, NOW),
        offset: 0,
        now: NOW,
    };
    log = log.take(NOW, Word::Event(event(Phase::Started, NOW)));
    // A wild broker alone moves it by an hour from the genesis: the deadline of this call.
    log = log.take(NOW + 40 * DAY, Word::Unreadable);
    assert_eq!(log.told().0, 19);
    let mut second = event(Phase::Started, NOW + DAY);
    second.call_id = "d".into();
    log = log.take(NOW + 41 * DAY, Word::Event(second));
    log = log.take(NOW + 41 * DAY, Word::Tick(NOW + 41 * DAY + 6 * MINUTE));
    assert_eq!((log.rejects(), log.auditor.findings().open), (vec!["bad_tick"], 1));
    log = log.take(NOW + DAY, Word::Tick(NOW + DAY - 5 * MINUTE));
    assert_eq!(log.auditor.findings().open, 0);
    log = log.take(NOW, Word::Event(event(Phase::Started, NOW + 5 * MINUTE + 1)));
    assert_eq!(log.rejects(), ["bad_tick", "ahead"]);
}

#[test]
fn closing_freezes_and_later_changes_are_not_in_it() {
    let log = Log::new().event(ended(Cause::Completed)).tick(21 * DAY + 11 * HOUR);
    assert!(log.auditor.findings().frozen.is_empty());
    let log = log.tick(HOUR);
    let frozen = log.auditor.findings().frozen;
    assert_eq!(frozen, log.auditor.findings().usage);
    let log = log.control("k", 0, correction(false));
    let found = log.auditor.findings();
    assert_eq!(found.frozen, frozen);
    assert_eq!(found.usage.keys().map(|key| key.5).collect::<Vec<_>>(), ["unbilled"]);
    assert_eq!(
        found.counts.into_iter().collect::<Vec<_>>(),
        [(("a".into(), "2026-09".into(), "failed", "operator_waived"), 1)]
    );
}

#[test]
fn a_period_due_when_first_needed_is_closed_and_holds_keep_one_open() {
    let log = Log::starting(NOW + 25 * DAY).event(ended(Cause::Completed)).tick(DAY);
    assert!(log.auditor.findings().frozen.is_empty() && log.auditor.findings().usage.len() == 1);

    let hold = Body::HoldClose(pb::HoldClose {
        period: "2026-09".into(),
        account_id: "a".into(),
    });
    let release = Body::ReleaseClose(pb::ReleaseClose {
        period: "2026-09".into(),
        account_id: "a".into(),
    });
    let log = Log::new()
        .event(ended(Cause::Completed))
        .control("h", 0, hold)
        .tick(30 * DAY);
    assert!(log.auditor.findings().frozen.is_empty());
    let log = log.control("k", 0, correction(false)).control("r", 0, release);
    assert_eq!(log.auditor.findings().frozen, log.auditor.findings().usage);
    assert_eq!(log.auditor.findings().frozen.len(), 1);
}

#[test]
fn periods_follow_the_zone_and_a_change_of_it() {
    let start_of_october = NOW + 20 * DAY + 12 * HOUR;
    let call = |id: &str, at| pb::CallEvent {
        call_id: id.into(),
        occurred_at: Some(time(at)),
        ..ended(Cause::Completed)
    };
    let india = 5 * HOUR + 30 * MINUTE;
    let new_york_in_winter = 5 * HOUR;
    let log = Log::new()
        .control("p", 0, profile("Asia/Kolkata"))
        .event(call("1", NOW - 10 * DAY))
        .event(call("2", start_of_october - india - 1))
        .event(call("3", start_of_october - india))
        // October is stored, so this holds from November on, which begins at October's end in India.
        .control("q", 0, profile("America/New_York"))
        .tick(60 * DAY)
        .event(call("4", start_of_october + 31 * DAY - india - 1))
        .event(call("5", start_of_october + 31 * DAY - india))
        .event(call("6", start_of_october + 61 * DAY + new_york_in_winter - 1))
        .event(call("7", start_of_october + 61 * DAY + new_york_in_winter));
    let periods: Vec<String> = log.auditor.findings().calls.into_values().map(|v| v.period).collect();
    let expected = [
        "2026-08", "2026-09", "2026-10", "2026-10", "2026-11", "2026-11", "2026-12",
    ];
    assert_eq!(periods, expected);
    assert!(log.rejects().is_empty());
}

#[test]
fn the_policy_of_the_first_arrival_holds() {
    let policy = pb::Policy {
        bill_unproven: Some(true),
        disconnect_grace_ms: Some(1),
        ..Default::default()
    };
    let log = Log::new().event(gone(Progress::Forwarded)).policy(policy).tick(SECOND);
    assert_eq!(log.told().0, 0);
    assert_eq!(log.tick(DAY).told(), (16, "failed", false, "gone_unproven"));
}

#[test]
fn a_forgotten_call_is_a_new_one() {
    let log = Log::new().event(ended(Cause::Completed)).tick(38 * DAY);
    let later = |log: &Log| pb::CallEvent {
        occurred_at: Some(time(log.now)),
        ..ended(Cause::Rejected)
    };
    // At the line it is still known, and the other word conflicts.
    let event = later(&log);
    assert_eq!(log.event(event).told().0, 3);
    let log = Log::new().event(ended(Cause::Completed)).tick(38 * DAY + 1);
    assert_eq!(log.auditor.findings().usage.len(), 1);
    let log = log.control("k", 0, correction(false));
    assert_eq!(log.rejects(), ["call_forgotten"]);
    let event = later(&log);
    let log = log.event(event);
    assert_eq!((log.told().0, log.auditor.findings().usage.len()), (4, 2));
}

#[test]
fn the_lines_never_move_back() {
    let window = |days: i64| pb::Policy {
        amend_window_ms: Some((days * DAY) as u64),
        ..Default::default()
    };
    let log = Log::new()
        .control("one", 1, Body::Policy(window(1)))
        .control("two", 2, Body::Policy(window(35)))
        .event(pb::CallEvent {
            occurred_at: Some(time(NOW - DAY - 1)),
            ..ended(Cause::Completed)
        });
    assert_eq!(log.rejects(), ["too_late"]);
}

#[test]
fn control_records_that_are_rejected() {
    let policy = || Body::Policy(pb::Policy::default());
    let log = Log::new()
        .control("p", 1, policy())
        .control("p", 1, policy())
        .control("p", 2, correction(true));
    assert_eq!(log.rejects(), ["bad_version"]);
    let log = Log::new().control("p", 1, policy()).control("p", 0, profile(""));
    assert_eq!(log.rejects(), ["conflicting_id"]);
    let hold = |period: &str| {
        Body::HoldClose(pb::HoldClose {
            period: period.into(),
            account_id: "a".into(),
        })
    };
    let log = Log::new()
        .control("a", 0, hold("2026-13"))
        .control("b", 0, hold(""))
        .control("c", 0, profile("Mars/Base"));
    assert_eq!(
        log.rejects(),
        [reject::BAD_PERIOD, "missing_field", reject::BAD_TIME_ZONE]
    );
    let card = |from| {
        Body::RateCard(pb::RateCard {
            effective_from: Some(time(from)),
            prices: vec![],
        })
    };
    let start_of_september = NOW - 9 * DAY - 12 * HOUR;
    let log = Log::new()
        .control("1", 1, card(0))
        .control("2", 2, card(start_of_september - 14 * HOUR - 1))
        .control("3", 2, card(start_of_september - 14 * HOUR));
    assert_eq!(log.rejects(), ["not_effective"]);
}
