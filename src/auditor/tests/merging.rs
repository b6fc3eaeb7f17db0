//! RULES §3, as verdicts show it, and the waits.

use super::*;

#[test]
fn a_wait_starts_anew_with_a_change_only() {
    let started = event(Phase::Started, NOW);
    let log = Log::new()
        .event(started.clone())
        .tick(30 * MINUTE)
        .event(started.clone())
        .tick(30 * MINUTE);
    assert_eq!(log.told().0, 19);
    // A newly known attempt is a change.
    let log = Log::new()
        .event(started.clone())
        .tick(30 * MINUTE)
        .event(at(1, started.clone()))
        .tick(30 * MINUTE);
    assert_eq!(log.told().0, 0);
    // A further observer without a fact is none.
    let upstream = pb::CallEvent {
        observer: Observer::Upstream as i32,
        ..started.clone()
    };
    let log = Log::new()
        .event(started.clone())
        .tick(30 * MINUTE)
        .event(upstream)
        .tick(30 * MINUTE);
    assert_eq!(log.told().0, 19);
    // A later time is a change.
    let log = Log::new()
        .event(started)
        .tick(30 * MINUTE)
        .event(event(Phase::Progress, NOW + 1))
        .tick(30 * MINUTE);
    assert_eq!(log.told().0, 0);
}

#[test]
fn no_call_is_open_longer_than_max_open() {
    let mut log = Log::new();
    for hour in 0..14 * 24 {
        log = log.event(event(Phase::Progress, NOW + hour)).tick(30 * MINUTE);
        assert_eq!(log.told().0 == 0, hour < 14 * 24 - 1, "half hour {hour}");
    }
}

#[test]
fn the_serving_attempt() {
    let tried = |number, cause| pb::CallEvent {
        end: Some(end(cause)),
        ..at(number, event(Phase::AttemptEnded, NOW))
    };
    let output = |number, value| {
        using(
            at(number, event(Phase::Progress, NOW)),
            "output_tokens",
            value,
            Provenance::EdgeCounted,
        )
    };
    // 2 failed by itself, so 1 serves, and its tokens count alone.
    let events = vec![
        output(1, 5),
        output(2, 9),
        tried(2, Cause::UpstreamError),
        ended(Cause::Completed),
    ];
    let log = events.into_iter().fold(Log::new(), Log::event);
    let tokens = |log: &Log| log.verdict().and_then(|v| v.quantities.get("output_tokens").copied());
    assert_eq!(tokens(&log), Some(5_000_000_000));
    assert_eq!(log.told().0, 10);
    // The edge names 2, which failed.
    let named = vec![
        output(1, 5),
        output(2, 9),
        tried(2, Cause::UpstreamError),
        at(2, ended(Cause::Completed)),
    ];
    let log = named.into_iter().fold(Log::new(), Log::event);
    assert_eq!((log.told().0, tokens(&log)), (9, Some(9_000_000_000)));
    // Both stand: progress, then the number.
    let log = vec![output(1, 5), at(2, event(Phase::Started, NOW)), ended(Cause::Completed)]
        .into_iter()
        .fold(Log::new(), Log::event);
    assert_eq!(tokens(&log), Some(5_000_000_000));
}

#[test]
fn quantities_merge_by_provenance_then_value() {
    let usage = |value, scale, provenance: Provenance| {
        let mut event = event(Phase::UsageReported, NOW);
        event.observer = Observer::Upstream as i32;
        event.usage.push(pb::Quantity {
            meter: "bytes_out".into(),
            value,
            scale,
            provenance: provenance as i32,
        });
        event
    };
    let log = Log::new()
        .event(usage(900, 0, Provenance::Estimated))
        .event(usage(41, 1, Provenance::UpstreamMeasured))
        .event(usage(4, 0, Provenance::UpstreamMeasured))
        .event(ended(Cause::Completed));
    let found = log.verdict();
    assert!(found.is_some_and(|v| v.quantities.get("bytes_out") == Some(&4_100_000_000) && !v.estimated));
}

#[test]
fn labels_by_rank() {
    let named = |mut event: pb::CallEvent, service: &str, product: &str| {
        (event.service, event.product) = (service.into(), product.into());
        event
    };
    let upstream = named(by(Observer::Upstream, Cause::Completed), "batch", "z");
    let started = named(event(Phase::Started, NOW), "", "y");
    let log = Log::new()
        .event(upstream)
        .event(started)
        .event(named(ended(Cause::Completed), "", ""));
    assert!(log.verdict().is_some_and(|v| v.service == "batch" && v.product == "y"));
    let log = log
        .event(named(ended(Cause::Completed), "console", "b"))
        .event(named(ended(Cause::Completed), "", "x"));
    assert!(
        log.verdict()
            .is_some_and(|v| v.service == "console" && v.product == "x")
    );
    assert!(
        Log::new()
            .event(ended(Cause::Completed))
            .verdict()
            .is_some_and(|v| v.service == "api" && v.product.is_empty())
    );
}

#[test]
fn limits_hold_the_lowest_numbers_and_least_names() {
    let mut log = Log::new();
    for number in 1..=70u32 {
        log = log.event(using(
            at(number, event(Phase::Progress, NOW)),
            &format!("x.m.{number:03}"),
            1,
            Provenance::EdgeCounted,
        ));
    }
    let all = (1..=70).fold(event(Phase::UsageReported, NOW), |event, number| {
        using(event, &format!("x.m.{number:03}"), 1, Provenance::EdgeCounted)
    });
    let found = log.event(all).event(ended(Cause::Completed)).verdict();
    assert!(found.is_some_and(|v| v.quantities.len() == 65 && !v.quantities.contains_key("x.m.065")));
}

#[test]
fn the_word_that_decides_the_period() {
    let september_ends = NOW + 20 * DAY + 12 * HOUR;
    let on = |at, mut event: pb::CallEvent| {
        event.occurred_at = Some(time(at));
        event
    };
    let period = |events: Vec<pb::CallEvent>| {
        events
            .into_iter()
            .fold(Log::starting(september_ends + DAY), Log::event)
            .tick(10 * DAY)
            .verdict()
            .map(|v| v.period)
    };
    let edge = on(september_ends - 1, ended(Cause::Completed));
    let upstream = on(september_ends, by(Observer::Upstream, Cause::Completed));
    let (september, october) = (Some("2026-09".to_owned()), Some("2026-10".to_owned()));
    assert_eq!(period(vec![upstream.clone(), edge.clone()]), september);
    assert_eq!(
        period(vec![upstream.clone(), on(september_ends - 1, event(Phase::Started, 0))]),
        october
    );
    // Of a task upstream's word decides.
    assert_eq!(period(vec![task(upstream), edge]), october);
    // A task whose edge is ignored: the last event, which is the edge's own here.
    let gone = on(september_ends - 1, task(ended(Cause::ClientGone)));
    assert_eq!(
        period(vec![gone, on(september_ends - 2, event(Phase::Started, 0))]),
        september
    );
    // The earliest of the copies of one cause.
    assert_eq!(
        period(vec![
            on(september_ends, ended(Cause::Completed)),
            on(september_ends - 1, ended(Cause::Completed))
        ]),
        september
    );
}
