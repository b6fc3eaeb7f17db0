//! Verdicts by hand, row by row, and the log around them.

use super::*;
use pb::control::Body;
use pb::{CallKind, Cause, EndMarker, Observer, Phase, Progress, Provenance};

mod log;
mod merging;
mod rows;

/// 2026-09-10T12:00:00Z
const NOW: i64 = 1_789_041_600_000;

fn time(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: (ms.rem_euclid(1000) * 1_000_000) as i32,
    }
}

fn event(phase: Phase, at: i64) -> pb::CallEvent {
    pb::CallEvent {
        account_id: "a".into(),
        call_id: "c".into(),
        phase: phase as i32,
        occurred_at: Some(time(at)),
        ..Default::default()
    }
}

fn end(cause: Cause) -> pb::Termination {
    pb::Termination {
        cause: cause as i32,
        ..Default::default()
    }
}

fn ended(cause: Cause) -> pb::CallEvent {
    pb::CallEvent {
        end: Some(end(cause)),
        ..event(Phase::Ended, NOW)
    }
}

fn by(who: Observer, cause: Cause) -> pb::CallEvent {
    pb::CallEvent {
        observer: who as i32,
        ..ended(cause)
    }
}

fn with(mut event: pb::CallEvent, change: impl FnOnce(&mut pb::Termination)) -> pb::CallEvent {
    let mut end = event.end.take().unwrap_or_default();
    change(&mut end);
    event.end = Some(end);
    event
}

fn gone(progress: Progress) -> pb::CallEvent {
    with(ended(Cause::ClientGone), |end| end.progress = progress as i32)
}

fn task(mut event: pb::CallEvent) -> pb::CallEvent {
    event.kind = CallKind::AsyncTask as i32;
    event
}

fn at(attempt: u32, mut event: pb::CallEvent) -> pb::CallEvent {
    event.attempt = attempt;
    event
}

fn using(mut event: pb::CallEvent, meter: &str, value: i64, provenance: Provenance) -> pb::CallEvent {
    let (meter, provenance) = (meter.to_owned(), provenance as i32);
    event.usage.push(pb::Quantity {
        meter,
        value,
        scale: 0,
        provenance,
    });
    event
}

struct Log {
    auditor: Auditor,
    offset: u64,
    now: i64,
}

impl Log {
    fn new() -> Self {
        Self::starting(NOW)
    }

    fn starting(now: i64) -> Self {
        Self {
            auditor: Auditor::new(ClockSource::Ticks, 0),
            offset: 0,
            now,
        }
        .tick(0)
    }

    fn take(mut self, append_ms: i64, word: Word) -> Self {
        self.offset += 1;
        self.auditor.take(&Entry::new(self.offset, append_ms, word));
        self
    }

    fn tick(mut self, later: i64) -> Self {
        self.now += later;
        let now = self.now;
        self.take(now, Word::Tick(now))
    }

    fn event(self, event: pb::CallEvent) -> Self {
        let now = self.now;
        self.take(now, Word::Event(event))
    }

    fn control(self, id: &str, control_version: u64, body: Body) -> Self {
        let control = pb::Control {
            id: id.into(),
            control_version,
            body: Some(body),
            ..Default::default()
        };
        let now = self.now;
        self.take(now, Word::Control(control))
    }

    fn policy(self, policy: pb::Policy) -> Self {
        self.control("policy", 1, Body::Policy(policy))
    }

    fn verdict(&self) -> Option<CallVerdict> {
        self.auditor
            .findings()
            .calls
            .get(&("a".to_owned(), "c".to_owned()))
            .cloned()
    }

    fn told(&self) -> (u8, &'static str, bool, &'static str) {
        self.verdict()
            .map_or((0, "", false, ""), |v| (v.row, v.outcome, v.billed, v.reason))
    }

    fn rejects(&self) -> Vec<&'static str> {
        self.auditor.findings().rejects.into_values().collect()
    }
}

/// The verdict after all waits.
fn of(events: Vec<pb::CallEvent>) -> (u8, &'static str, bool, &'static str) {
    events.into_iter().fold(Log::new(), Log::event).tick(10 * DAY).told()
}

/// The verdict at once.
fn at_once(events: Vec<pb::CallEvent>) -> (u8, &'static str, bool, &'static str) {
    events.into_iter().fold(Log::new(), Log::event).told()
}

fn correction(bill: bool) -> Body {
    Body::Correction(pb::Correction {
        account_id: "a".into(),
        call_id: "c".into(),
        bill: Some(bill),
        reason: "because".into(),
        ..Default::default()
    })
}

fn profile(zone: &str) -> Body {
    Body::AccountProfile(pb::AccountProfile {
        account_id: "a".into(),
        time_zone: zone.into(),
        ..Default::default()
    })
}
