//! Anything that can be said, in any order: for comparing two computations of the same rules.

use super::seed::Seed;
use super::{Step, What, event, quantity};
use crate::model::Ms;
use crate::wire::check::timestamp;
use crate::wire::pb::{self, Observer, Phase, Provenance, control::Body};

const SECOND: Ms = 1_000;
const HOUR: Ms = 3_600 * SECOND;
const DAY: Ms = 24 * HOUR;

const STATUSES: [u32; 15] = [0, 0, 0, 200, 200, 200, 204, 400, 402, 429, 460, 499, 500, 503, 529];
const ERRORS: [&str; 10] = [
    "",
    "",
    "",
    "",
    "overloaded_error",
    "idempotent_replay",
    "refusal",
    "cancelled",
    "broken_pipe",
    "odd",
];
const METERS: [&str; 9] = [
    "input_tokens_uncached",
    "cache_read_tokens",
    "output_tokens",
    "output_tokens",
    "bytes_in",
    "bytes_out",
    "compute_ms",
    "x.acme.images",
    "requests",
];
const ZONES: [&str; 6] = [
    "",
    "UTC",
    "Asia/Kolkata",
    "America/New_York",
    "Pacific/Kiritimati",
    "Mars/Olympus",
];

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Arbitrary {
    /// The same seed, the same records.
    pub seed: u64,
    /// Events.
    pub events: u32,
    /// Ids of calls; the fewer, the more is said of each.
    pub calls: u64,
    /// Accounts.
    pub accounts: u64,
    /// Log time that ticks go on by at most: from seconds to weeks.
    pub leap_ms: Ms,
}

/// One record, or bytes that are none.
pub type Made = Vec<Step>;

impl Arbitrary {
    /// Makes the records.
    pub fn make(&self) -> Made {
        let mut seed = Seed::new(self.seed);
        let mut now = 1_788_220_800_000 + seed.below(40 * DAY as u64) as Ms;
        let mut version = 0;
        let mut steps = vec![Step {
            at_ms: now,
            what: What::Tick,
        }];
        for n in 0..self.events {
            if seed.chance(150) {
                now += seed.below(self.leap_ms.max(1) as u64) as Ms;
                steps.push(Step {
                    at_ms: now,
                    what: What::Tick,
                });
            }
            let what = if seed.chance(25) {
                What::Control(Box::new(self.control(n, now, &mut version, &mut seed)))
            } else {
                What::Event(Box::new(self.event(now, &mut seed)))
            };
            steps.push(Step { at_ms: now, what });
        }
        steps
    }

    fn ids(&self, seed: &mut Seed) -> (String, String) {
        let account = seed.below(self.accounts);
        let call = seed.below(self.calls);
        let call = match call % 3 {
            0 => format!("0192f3a4-7b6c-7def-8123-{call:012x}"),
            1 => format!("01ARZ3NDEKTSV4RRFFQ6{call:06}"),
            _ => format!("call-{call}"),
        };
        (format!("account-{account}"), call)
    }

    fn event(&self, now: Ms, seed: &mut Seed) -> pb::CallEvent {
        let (account, call) = self.ids(seed);
        // Mostly of the last hours; some of weeks ago, some a little ahead.
        let age = match seed.below(20) {
            0 => seed.below(45 * DAY as u64) as Ms,
            1 => seed.below(4 * DAY as u64) as Ms,
            2 => -(seed.below(2 * HOUR as u64) as Ms),
            _ => seed.below(HOUR as u64) as Ms,
        };
        let mut made = event(&account, &call, Phase::Started, Observer::Edge, now - age);
        made.phase = [1, 2, 3, 4, 5, 5, 5, 5, 6, 6][seed.below(10) as usize];
        made.observer = [0, 1, 1, 1, 2, 2, 3][seed.below(7) as usize];
        if seed.chance(100) {
            made.started_at = Some(timestamp(now - age - seed.below(HOUR as u64) as Ms));
        }
        made.attempt = [0, 0, 0, 1, 1, 2, 3][seed.below(7) as usize];
        made.seq = [0, 0, 0, 1, 2][seed.below(5) as usize];
        made.service = ["", "", "api", "batch"][seed.below(4) as usize].to_owned();
        made.product = ["", "m-a", "m-a", "m-b"][seed.below(4) as usize].to_owned();
        made.kind = [0, 0, 1, 2, 2, 3, 4, 5][seed.below(8) as usize];
        if seed.chance(if made.phase == 4 || made.phase == 5 { 990 } else { 50 }) {
            made.end = Some(pb::Termination {
                cause: [1, 1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9][seed.below(13) as usize],
                progress: seed.below(5) as i32,
                client_status: STATUSES[seed.below(15) as usize],
                upstream_status: STATUSES[seed.below(15) as usize],
                end_marker: [0, 0, 1, 2][seed.below(4) as usize],
                error_type: ERRORS[seed.below(10) as usize].to_owned(),
            });
        }
        while seed.chance(350) {
            made.usage.push(reading(seed));
        }
        if seed.chance(200) {
            let value = ["red", "blue", "green"][seed.below(3) as usize];
            made.dimensions.insert("team".to_owned(), value.to_owned());
        }
        if seed.chance(12) {
            spoil(&mut made, seed);
        }
        made
    }

    fn control(&self, n: u32, now: Ms, version: &mut u64, seed: &mut Seed) -> pb::Control {
        let (account_id, call_id) = self.ids(seed);
        let period = {
            let month = crate::model::period::Month::of(now, crate::model::period::Zone::UTC);
            if seed.chance(500) { month } else { month.prev() }.to_string()
        };
        let holder = if seed.chance(500) {
            String::new()
        } else {
            account_id.clone()
        };
        let body = match seed.below(10) {
            0 => Body::AccountProfile(pb::AccountProfile {
                account_id,
                time_zone: ZONES[seed.below(6) as usize].to_owned(),
                currency: String::new(),
            }),
            1 => Body::Policy(policy(seed)),
            2 => Body::HoldClose(pb::HoldClose {
                period,
                account_id: holder,
            }),
            3 => Body::ReleaseClose(pb::ReleaseClose {
                period,
                account_id: holder,
            }),
            _ => {
                let mut correction = pb::Correction {
                    account_id,
                    call_id,
                    bill: Some(seed.chance(500)),
                    reason: "because".to_owned(),
                    ..pb::Correction::default()
                };
                if seed.chance(300) {
                    let mut quantity = reading(seed);
                    quantity.provenance = 0;
                    correction.quantities.push(quantity);
                }
                Body::Correction(correction)
            }
        };
        let mut control = pb::Control {
            id: format!("c-{}", if seed.chance(50) { 0 } else { n }),
            issued_at: Some(timestamp(now)),
            actor: "arbitrary".to_owned(),
            control_version: 0,
            body: Some(body),
        };
        if crate::machine::control::is_for_everyone(&control) {
            // Mostly the next version; a wrong one is rejected and doesn't count.
            control.control_version = *version + 1;
            if seed.chance(50) {
                control.control_version += 1;
            } else if control.id != "c-0" {
                *version += 1;
            }
        }
        control
    }
}

fn reading(seed: &mut Seed) -> pb::Quantity {
    let provenance = match seed.below(8) {
        0 => Provenance::Reserved,
        1 | 2 => Provenance::Estimated,
        3 => Provenance::Unspecified,
        4 => Provenance::EdgeCounted,
        5 => Provenance::ProviderInvoiced,
        _ => Provenance::UpstreamMeasured,
    };
    let meters = if seed.chance(20) { 9 } else { 8 };
    let meter = METERS[seed.below(meters) as usize];
    let mut made = quantity(meter, seed.below(50), provenance);
    made.scale = [0, 0, 0, 1, 9][seed.below(5) as usize];
    made
}

fn policy(seed: &mut Seed) -> pb::Policy {
    let mut duration = |of: &[Ms]| seed.pick(of).map(|ms| *ms as u64);
    let mut policy = pb::Policy {
        settle_grace_ms: duration(&[0, 0, 5 * SECOND]),
        disconnect_grace_ms: duration(&[0, 30 * SECOND, HOUR]),
        call_deadline_ms: duration(&[60 * SECOND, HOUR]),
        task_deadline_ms: duration(&[HOUR, 2 * DAY]),
        ..pb::Policy::default()
    };
    policy.bill_unproven = Some(seed.chance(500));
    policy.bill_empty_disconnect = Some(seed.chance(500));
    policy.bill_upstream_only = Some(seed.chance(500));
    policy.bill_cancelled_task = Some(seed.chance(500));
    if seed.chance(300) {
        policy.max_open_ms = Some(2 * HOUR as u64);
    }
    if seed.chance(300) {
        policy.amend_window_ms = Some(seed.below(40 * DAY as u64));
        policy.call_span_ms = Some(seed.below(4 * DAY as u64));
    }
    if seed.chance(300) {
        policy.rollup_dimensions = Some(pb::Names {
            names: vec!["team".to_owned()],
        });
    }
    policy
}

/// Makes an event that is to be rejected.
fn spoil(made: &mut pb::CallEvent, seed: &mut Seed) {
    match seed.below(9) {
        0 => made.account_id.clear(),
        1 => made.call_id = "x".repeat(129),
        2 => made.phase = 7,
        3 => made.observer = 4,
        4 => made.occurred_at = None,
        5 => made.attempt = 300,
        6 => made.product = "p".repeat(129),
        7 => made.call_id.push('\u{1}'),
        _ => {
            if let Some(usage) = made.usage.first_mut() {
                usage.value = -1;
            } else {
                made.kind = 99;
            }
        }
    }
}
