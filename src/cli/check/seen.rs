//! Whether the clocks of edge and upstream agree: what one saw can't be before, or long after, what the other must have seen.

use crate::model::Ms;
use crate::wire::check::instant_ms;
use crate::wire::pb::{self, Cause, Observer, Phase};

/// Clocks that lie further apart are told of.
const SKEW_MS: Ms = 60_000;

/// Times of one call that bind edge and upstream.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The edge took the call.
    began: Option<Ms>,
    /// The edge had all of the answer.
    completed: Option<Ms>,
    /// The upstream's first word.
    first: Option<Ms>,
    /// The upstream's end.
    ended: Option<Ms>,
}

fn earliest(of: &mut Option<Ms>, at: Ms) {
    *of = Some(of.map_or(at, |known| known.min(at)));
}

impl Seen {
    /// Takes an event in.
    pub fn take(&mut self, event: &pb::CallEvent) {
        let Some(at) = event.occurred_at.as_ref().map(instant_ms) else {
            return;
        };
        match event.observer() {
            Observer::Edge | Observer::Unspecified => {
                if event.phase() == Phase::Started {
                    earliest(&mut self.began, at);
                }
                if let Some(began) = &event.started_at {
                    earliest(&mut self.began, instant_ms(began));
                }
                let completed = event.end.as_ref().is_some_and(|end| end.cause() == Cause::Completed);
                if event.phase() == Phase::Ended && completed {
                    self.completed = self.completed.max(Some(at));
                }
            }
            Observer::Upstream => {
                earliest(&mut self.first, at);
                if event.phase() == Phase::Ended {
                    self.ended = self.ended.max(Some(at));
                }
            }
            // A third party's report has a time of its own.
            Observer::Provider => {}
        }
    }

    /// What doesn't fit, in words.
    pub fn skew(&self) -> Option<String> {
        let over = |before: Option<Ms>, after: Option<Ms>| {
            let gap = after?.saturating_sub(before?);
            (gap > SKEW_MS).then_some(gap / 1_000)
        };
        let found = match (over(self.first, self.began), over(self.completed, self.ended)) {
            (Some(seconds), _) => format!("the upstream speaks {seconds} s before the edge took the call"),
            (None, Some(seconds)) => format!("the upstream ends {seconds} s after the edge had all of the answer"),
            (None, None) => return None,
        };
        Some(format!("{found}: compare the clocks of edge and upstream"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::timestamp;

    fn seen(events: &[(Observer, Phase, i64)]) -> Option<String> {
        let mut seen = Seen::default();
        for &(observer, phase, second) in events {
            seen.take(&pb::CallEvent {
                observer: observer.into(),
                phase: phase.into(),
                occurred_at: Some(timestamp(second * 1_000)),
                end: (phase == Phase::Ended).then(|| pb::Termination {
                    cause: Cause::Completed.into(),
                    ..pb::Termination::default()
                }),
                ..pb::CallEvent::default()
            });
        }
        seen.skew()
    }

    #[test]
    fn only_what_cannot_be_is_skewed() {
        use Observer::{Edge, Upstream};
        // A long stream, measured at its end.
        let long = [
            (Edge, Phase::Started, 0),
            (Upstream, Phase::UsageReported, 600),
            (Edge, Phase::Ended, 601),
        ];
        assert_eq!(seen(&long), None);
        // A gateway that only logs at the end.
        assert_eq!(seen(&[(Upstream, Phase::Started, 0), (Edge, Phase::Ended, 600)]), None);
        let early = seen(&[(Upstream, Phase::Started, 0), (Edge, Phase::Started, 61)]);
        assert!(early.is_some_and(|w| w.contains("61 s before")));
        let late = seen(&[(Edge, Phase::Ended, 0), (Upstream, Phase::Ended, 90)]);
        assert!(late.is_some_and(|w| w.contains("90 s after")));
    }
}
