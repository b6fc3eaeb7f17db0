//! What can become of a call: one story for every row of the verdict table and for most of its reasons.

use super::seed::Seed;
use super::sizes::{self, draw};
use super::{Step, What, event, quantity};
use crate::model::Ms;
use crate::wire::pb::{self, CallKind, Cause, EndMarker, Observer, Phase, Progress, Provenance};

/// One call and where it happens.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Who pays.
    pub account: String,
    /// The call's id.
    pub call: String,
    /// The interface.
    pub service: &'static str,
    /// What is priced.
    pub product: &'static str,
    /// When it begins.
    pub at: Ms,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
}

/// A story's name, how many calls of ten thousand it tells, and the row of RULES §4 that it comes to.
pub struct Story {
    /// For people.
    pub name: &'static str,
    /// Of ten thousand.
    pub weight: u64,
    /// 1..=19.
    pub row: u8,
    tell: fn(&mut Telling<'_>),
}

/// A story being told.
struct Telling<'a> {
    scene: &'a Scene,
    seed: &'a mut Seed,
    steps: Vec<Step>,
    kind: CallKind,
}

impl Telling<'_> {
    /// How long the answer takes: 200 ms to the first token, 15 ms a token.
    fn length(&self) -> Ms {
        200 + 15 * Ms::try_from(self.scene.output).unwrap_or(0)
    }

    fn end(&self) -> Ms {
        self.scene.at + self.length()
    }

    fn base(&self, phase: Phase, observer: Observer, at: Ms) -> pb::CallEvent {
        pb::CallEvent {
            service: self.scene.service.to_owned(),
            product: self.scene.product.to_owned(),
            kind: self.kind.into(),
            source: "/demo/gateway-1".to_owned(),
            ..event(&self.scene.account, &self.scene.call, phase, observer, at)
        }
    }

    /// An event arrives some milliseconds after it happened.
    fn push(&mut self, at: Ms, event: pb::CallEvent) {
        let delay = self.seed.below(400) as Ms;
        self.push_late(at + delay, event);
    }

    fn push_late(&mut self, at_ms: Ms, event: pb::CallEvent) {
        self.steps.push(Step {
            at_ms,
            what: What::Event(Box::new(event)),
        });
    }

    fn started(&mut self) {
        let at = self.scene.at;
        let event = self.base(Phase::Started, Observer::Edge, at);
        self.push(at, event);
    }

    fn ended(&mut self, at: Ms, observer: Observer, end: pb::Termination) {
        let event = pb::CallEvent {
            end: Some(end),
            ..self.base(Phase::Ended, observer, at)
        };
        self.push(at, event);
    }

    /// Usage that the upstream measured; for most calls it arrives after the edge's word.
    fn usage(&mut self, at: Ms, input: u64, output: u64) {
        let measured = Provenance::UpstreamMeasured;
        let cached = input / 3;
        let usage = vec![
            quantity("input_tokens_uncached", input - cached, measured),
            quantity("cache_read_tokens", cached, measured),
            quantity("output_tokens", output, measured),
        ];
        let event = pb::CallEvent {
            usage,
            ..self.base(Phase::UsageReported, Observer::Upstream, at)
        };
        let delay = if self.seed.chance(630) {
            600 + self.seed.below(3_000) as Ms
        } else {
            0
        };
        self.push_late(at + delay, event);
    }

    fn full_usage(&mut self) {
        let (at, input, output) = (self.end(), self.scene.input, self.scene.output);
        self.usage(at, input, output);
    }

    fn client_gone(&mut self, progress: Progress) -> Ms {
        self.started();
        let at = self.scene.at + self.length() / 2;
        self.ended(at, Observer::Edge, termination(Cause::ClientGone, progress, 0, 0));
        at
    }
}

fn termination(cause: Cause, progress: Progress, client: u32, upstream: u32) -> pb::Termination {
    pb::Termination {
        cause: cause.into(),
        progress: progress.into(),
        client_status: client,
        upstream_status: upstream,
        ..pb::Termination::default()
    }
}

fn completed() -> pb::Termination {
    pb::Termination {
        end_marker: EndMarker::Seen.into(),
        ..termination(Cause::Completed, Progress::Complete, 200, 200)
    }
}

fn with_error(error: &str, end: pb::Termination) -> pb::Termination {
    pb::Termination {
        error_type: error.to_owned(),
        ..end
    }
}

fn edge_says(t: &mut Telling<'_>, end: pb::Termination) {
    t.started();
    let at = t.end();
    t.ended(at, Observer::Edge, end);
}

fn task(t: &mut Telling<'_>, cause: Cause) {
    t.kind = CallKind::AsyncTask;
    t.started();
    let at = t.end() + 60_000;
    t.ended(at, Observer::Upstream, termination(cause, Progress::Unspecified, 0, 0));
    let (input, output) = (t.scene.input, t.scene.output);
    t.usage(at, input, output);
}

/// All stories.
pub const STORIES: &[Story] = &[
    Story {
        name: "completed",
        weight: 7_300,
        row: 10,
        tell: |t| {
            edge_says(t, completed());
            t.full_usage();
        },
    },
    Story {
        name: "completed by one event at the end",
        weight: 500,
        row: 10,
        tell: |t| {
            let at = t.end();
            let event = pb::CallEvent {
                end: Some(completed()),
                usage: vec![quantity("output_tokens", t.scene.output, Provenance::EdgeCounted)],
                ..t.base(Phase::Ended, Observer::Edge, at)
            };
            t.push(at, event);
        },
    },
    Story {
        name: "completed at the second attempt",
        weight: 150,
        row: 10,
        tell: |t| {
            t.started();
            let at = t.scene.at + 150;
            let first = pb::CallEvent {
                attempt: 1,
                end: Some(termination(Cause::UpstreamError, Progress::Forwarded, 0, 500)),
                ..t.base(Phase::AttemptEnded, Observer::Edge, at)
            };
            t.push(at, first);
            let at = t.end();
            let second = pb::CallEvent {
                attempt: 2,
                end: Some(completed()),
                usage: vec![quantity("output_tokens", t.scene.output, Provenance::UpstreamMeasured)],
                ..t.base(Phase::Ended, Observer::Edge, at)
            };
            t.push(at, second);
        },
    },
    Story {
        name: "refused by the model",
        weight: 60,
        row: 10,
        tell: |t| {
            edge_says(t, with_error("refusal", completed()));
            t.full_usage();
        },
    },
    Story {
        name: "a task that completed",
        weight: 120,
        row: 2,
        tell: |t| task(t, Cause::Completed),
    },
    Story {
        name: "a task that failed",
        weight: 30,
        row: 2,
        tell: |t| task(t, Cause::UpstreamError),
    },
    Story {
        name: "a task that expired",
        weight: 20,
        row: 2,
        tell: |t| task(t, Cause::Expired),
    },
    Story {
        name: "a task that was cancelled",
        weight: 20,
        row: 2,
        tell: |t| task(t, Cause::Cancelled),
    },
    Story {
        name: "two words that contradict each other",
        weight: 15,
        row: 3,
        tell: |t| {
            edge_says(t, completed());
            let at = t.end();
            t.ended(
                at,
                Observer::Edge,
                termination(Cause::UpstreamError, Progress::Forwarded, 502, 500),
            );
        },
    },
    Story {
        name: "over the rate limit",
        weight: 280,
        row: 4,
        tell: |t| {
            edge_says(t, termination(Cause::Rejected, Progress::NotForwarded, 429, 0));
        },
    },
    Story {
        name: "out of credit",
        weight: 40,
        row: 4,
        tell: |t| {
            edge_says(t, termination(Cause::Rejected, Progress::NotForwarded, 402, 0));
        },
    },
    Story {
        name: "a bad request",
        weight: 120,
        row: 4,
        tell: |t| {
            edge_says(t, termination(Cause::Rejected, Progress::NotForwarded, 400, 0));
        },
    },
    Story {
        name: "the upstream was overloaded",
        weight: 120,
        row: 5,
        tell: |t| {
            edge_says(
                t,
                with_error(
                    "overloaded_error",
                    termination(Cause::UpstreamError, Progress::Forwarded, 529, 529),
                ),
            );
        },
    },
    Story {
        name: "an error inside the stream",
        weight: 40,
        row: 5,
        tell: |t| {
            edge_says(
                t,
                with_error(
                    "api_error",
                    termination(Cause::UpstreamError, Progress::ResponseStarted, 200, 200),
                ),
            );
            t.full_usage();
        },
    },
    Story {
        name: "the upstream failed",
        weight: 90,
        row: 5,
        tell: |t| {
            edge_says(t, termination(Cause::UpstreamError, Progress::Forwarded, 502, 500));
        },
    },
    Story {
        name: "the upstream broke off",
        weight: 40,
        row: 5,
        tell: |t| {
            edge_says(
                t,
                termination(Cause::UpstreamBroken, Progress::ResponseStarted, 200, 200),
            );
            t.full_usage();
        },
    },
    Story {
        name: "the upstream took too long",
        weight: 40,
        row: 5,
        tell: |t| {
            edge_says(t, termination(Cause::UpstreamTimeout, Progress::Forwarded, 504, 0));
        },
    },
    Story {
        name: "the gateway was reloaded",
        weight: 25,
        row: 6,
        tell: |t| {
            edge_says(t, termination(Cause::GatewayAborted, Progress::ResponseStarted, 0, 200));
        },
    },
    Story {
        name: "truncated: 200, but the end of the stream is missing",
        weight: 40,
        row: 7,
        tell: |t| {
            edge_says(
                t,
                pb::Termination {
                    end_marker: EndMarker::Missing.into(),
                    ..completed()
                },
            );
            t.full_usage();
        },
    },
    Story {
        name: "a stored answer served again",
        weight: 40,
        row: 8,
        tell: |t| {
            edge_says(t, with_error("idempotent_replay", completed()));
        },
    },
    Story {
        name: "completed at the edge, failed at the upstream",
        weight: 20,
        row: 9,
        tell: |t| {
            edge_says(t, termination(Cause::Completed, Progress::Complete, 200, 200));
            let at = t.end();
            t.ended(
                at,
                Observer::Upstream,
                termination(Cause::UpstreamError, Progress::Unspecified, 0, 500),
            );
        },
    },
    Story {
        name: "the client left, the upstream completed",
        weight: 130,
        row: 11,
        tell: |t| {
            t.client_gone(Progress::ResponseStarted);
            let at = t.end();
            t.ended(
                at,
                Observer::Upstream,
                termination(Cause::Completed, Progress::Complete, 0, 200),
            );
            t.full_usage();
        },
    },
    Story {
        name: "the client left, the upstream had failed",
        weight: 25,
        row: 12,
        tell: |t| {
            let at = t.client_gone(Progress::ResponseStarted);
            t.ended(
                at,
                Observer::Upstream,
                termination(Cause::UpstreamBroken, Progress::Unspecified, 0, 500),
            );
        },
    },
    Story {
        name: "the client left after the last byte",
        weight: 40,
        row: 13,
        tell: |t| {
            t.client_gone(Progress::Complete);
            t.full_usage();
        },
    },
    Story {
        name: "the client left while tokens were streaming",
        weight: 260,
        row: 14,
        tell: |t| {
            let at = t.client_gone(Progress::ResponseStarted);
            let (input, output) = (t.scene.input, t.scene.output / 2);
            t.usage(at, input, output.max(1));
            if t.seed.chance(500) {
                t.ended(
                    at,
                    Observer::Upstream,
                    termination(Cause::Cancelled, Progress::ResponseStarted, 0, 499),
                );
            }
        },
    },
    Story {
        name: "the client left, the gateway guessed the tokens",
        weight: 40,
        row: 14,
        tell: |t| {
            let at = t.client_gone(Progress::ResponseStarted);
            let event = pb::CallEvent {
                usage: vec![quantity(
                    "output_tokens",
                    (t.scene.output / 2).max(1),
                    Provenance::Estimated,
                )],
                ..t.base(Phase::UsageReported, Observer::Edge, at)
            };
            t.push(at, event);
        },
    },
    Story {
        name: "the client left, no output was seen",
        weight: 40,
        row: 15,
        tell: |t| {
            t.client_gone(Progress::ResponseStarted);
        },
    },
    Story {
        name: "the client left before the answer began",
        weight: 70,
        row: 16,
        tell: |t| {
            t.client_gone(Progress::Forwarded);
        },
    },
    Story {
        name: "the client left before the request was forwarded",
        weight: 40,
        row: 17,
        tell: |t| {
            t.client_gone(Progress::NotForwarded);
        },
    },
    Story {
        name: "the edge crashed, the upstream completed",
        weight: 25,
        row: 18,
        tell: |t| {
            t.started();
            let at = t.end();
            t.ended(
                at,
                Observer::Upstream,
                termination(Cause::Completed, Progress::Complete, 0, 200),
            );
            t.full_usage();
        },
    },
    Story {
        name: "the edge crashed, nobody knows",
        weight: 20,
        row: 19,
        tell: |t| t.started(),
    },
];

/// A story by its luck in ten thousand.
pub fn by_luck(luck: u64) -> &'static Story {
    let mut left = luck;
    for story in STORIES {
        if left < story.weight {
            return story;
        }
        left -= story.weight;
    }
    &STORIES[0]
}

impl Story {
    /// The call's events as they arrive; one in a hundred comes twice.
    pub fn tell(&self, scene: &Scene, seed: &mut Seed) -> Vec<Step> {
        let mut telling = Telling {
            scene,
            seed,
            steps: Vec::new(),
            kind: CallKind::Stream,
        };
        (self.tell)(&mut telling);
        let mut steps = telling.steps;
        let again: Vec<Step> = steps
            .iter()
            .filter(|_| seed.chance(10))
            .map(|s| Step {
                at_ms: s.at_ms + 5_000,
                ..s.clone()
            })
            .collect();
        steps.extend(again);
        steps
    }
}

/// A scene with sizes as the traces have them.
pub fn scene(account: &str, at: Ms, seed: &mut Seed) -> Scene {
    let coding = seed.chance(313); // 8,819 of 28,185 requests of the traces
    let (service, product, input, output) = if coding {
        ("api", "m-code", &sizes::CODE_INPUT_TOKENS, &sizes::CODE_OUTPUT_TOKENS)
    } else if seed.chance(300) {
        (
            "console",
            "m-large",
            &sizes::CHAT_INPUT_TOKENS,
            &sizes::CHAT_OUTPUT_TOKENS,
        )
    } else {
        ("api", "m-large", &sizes::CHAT_INPUT_TOKENS, &sizes::CHAT_OUTPUT_TOKENS)
    };
    Scene {
        account: account.to_owned(),
        call: seed.uuid(at),
        service,
        product,
        at,
        input: draw(input, seed),
        output: draw(output, seed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_but_the_operators_has_a_story() {
        for row in 2..=19 {
            assert!(STORIES.iter().any(|s| s.row == row), "row {row}");
        }
        let weights: u64 = STORIES.iter().map(|s| s.weight).sum();
        assert!(weights <= 10_000, "{weights}");
    }
}
