//! The demo's traffic: synthetic, across the end of a month, with late words after its close.

use super::seed::Seed;
use super::sizes::{CHAT_GAP_MS, draw};
use super::stories::{STORIES, by_luck, scene};
use super::{Step, What, event, quantity, with_ticks};
use crate::model::Ms;
use crate::model::period::{self, Month, Zone};
use crate::wire::check::timestamp;
use crate::wire::pb::{self, Observer, Phase, Provenance, control::Body};

const HOUR_MS: Ms = 3_600_000;
const DAY_MS: Ms = 24 * HOUR_MS;

/// Days of traffic before and after the month's end.
const DAYS_BEFORE: Ms = 3;
const DAYS_AFTER: Ms = 4;

/// Of so many calls at the beginning those that complete get a late word.
const LATE_MIN: usize = 6;

/// Accounts with their zones and currencies.
const ACCOUNTS: [(&str, &str, &str); 12] = [
    ("acme", "America/New_York", "USD"),
    ("globex", "UTC", "USD"),
    ("initech", "America/Los_Angeles", "USD"),
    ("umbrella", "Europe/Berlin", "EUR"),
    ("hooli", "UTC", "USD"),
    ("stark", "America/New_York", "USD"),
    ("wayne", "UTC", "USD"),
    ("tyrell", "Asia/Tokyo", "JPY"),
    ("wonka", "Europe/London", "EUR"),
    ("cyberdyne", "UTC", "USD"),
    ("soylent", "Asia/Kolkata", "USD"),
    ("aperture", "UTC", "USD"),
];

/// Product, meter, USD a million; EUR costs as much, JPY 150 times.
const PRICES: [(&str, &str, u32); 6] = [
    ("m-large", "input_tokens_uncached", 300),
    ("m-large", "cache_read_tokens", 30),
    ("m-large", "output_tokens", 1_500),
    ("m-code", "input_tokens_uncached", 100),
    ("m-code", "cache_read_tokens", 10),
    ("m-code", "output_tokens", 500),
];

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    /// The same seed, the same traffic.
    pub seed: u64,
    /// The month that ends.
    pub month: Month,
    /// Calls.
    pub calls: u32,
}

/// A call worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Highlight {
    /// Who pays.
    pub account: String,
    /// The call's id.
    pub call: String,
    /// What happened.
    pub why: &'static str,
}

/// The traffic, and calls of it worth a look.
#[derive(Clone, Debug)]
pub struct Made {
    /// In order of arrival, with a tick a minute.
    pub steps: Vec<Step>,
    /// One of each kind.
    pub highlights: Vec<Highlight>,
}

/// Cents as a decimal.
fn amount(cents: u32) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn rate_card(from: Ms) -> pb::RateCard {
    let mut prices = Vec::new();
    for (currency, factor) in [("USD", 1), ("EUR", 1), ("JPY", 150)] {
        for (product, meter, cents) in PRICES {
            prices.push(pb::Price {
                product: product.to_owned(),
                meter: meter.to_owned(),
                service: String::new(),
                currency: currency.to_owned(),
                amount: amount(cents * factor),
                per: 1_000_000,
            });
        }
        prices.push(pb::Price {
            meter: "requests".to_owned(),
            currency: currency.to_owned(),
            amount: "0".to_owned(),
            ..pb::Price::default()
        });
    }
    pb::RateCard {
        effective_from: Some(timestamp(from)),
        prices,
    }
}

fn control(at_ms: Ms, id: &str, version: u64, body: Body) -> Step {
    Step {
        at_ms,
        what: What::Control(Box::new(pb::Control {
            id: id.to_owned(),
            issued_at: Some(timestamp(at_ms)),
            actor: "demo".to_owned(),
            control_version: version,
            body: Some(body),
        })),
    }
}

impl Synthetic {
    /// The instant at which the month ends in UTC.
    fn turn(&self) -> Ms {
        period::bounds(self.month, Zone::UTC).1
    }

    /// Makes the traffic.
    pub fn make(&self) -> Made {
        let turn = self.turn();
        let begin = turn - DAYS_BEFORE * DAY_MS;
        let mut steps = self.controls(begin);
        let mut highlights: Vec<Highlight> = Vec::new();
        let mut seed = Seed::new(self.seed);
        // Gaps as in the trace, stretched so that the calls fill the days.
        let gaps: Vec<u64> = (0..self.calls).map(|_| draw(&CHAT_GAP_MS, &mut seed)).collect();
        let all: u64 = gaps.iter().sum::<u64>().max(1);
        let window = ((DAYS_BEFORE + DAYS_AFTER) * DAY_MS) as u64;
        let mut passed = 0u64;
        let mut late: Vec<(String, String, Ms)> = Vec::new();
        let mut failed = None;
        for (n, gap) in gaps.iter().enumerate() {
            passed += gap;
            let at = begin + 1_000 + (u128::from(passed) * u128::from(window) / u128::from(all)) as Ms;
            // The lesser of two: some accounts have most of the traffic.
            let most = ACCOUNTS.len() as u64;
            let account = ACCOUNTS[seed.below(most).min(seed.below(most)) as usize].0;
            // Every story is told at least twice, first of all.
            let story = match STORIES.get(n / 2) {
                Some(story) => story,
                None => by_luck(seed.below(10_000)),
            };
            let scene = scene(account, at, &mut seed);
            steps.extend(story.tell(&scene, &mut seed));
            if [7, 14].contains(&story.row) && n > 2 * STORIES.len() && !highlights.iter().any(|h| h.why == story.name)
            {
                highlights.push(Highlight {
                    account: account.to_owned(),
                    call: scene.call.clone(),
                    why: story.name,
                });
            }
            let lucky = at < turn - DAY_MS && seed.chance(4);
            // The first ones in any case: however few calls there are, the operator has his word.
            if story.row == 10 && (n < LATE_MIN || lucky) {
                late.push((account.to_owned(), scene.call, at));
            } else if story.row == 6 && failed.is_none() {
                failed = Some((account.to_owned(), scene.call));
            }
        }
        self.late_words(&late, failed, &mut steps, &mut highlights);
        let end = turn + (DAYS_AFTER + 1) * DAY_MS;
        steps.push(Step {
            at_ms: end,
            what: What::Tick,
        });
        Made {
            steps: with_ticks(steps),
            highlights,
        }
    }

    fn controls(&self, begin: Ms) -> Vec<Step> {
        let from = period::bounds(self.month, Zone::UTC).0 - DAY_MS;
        let mut steps = vec![control(begin, "demo-card", 1, Body::RateCard(rate_card(from)))];
        for (account, zone, currency) in ACCOUNTS {
            let profile = pb::AccountProfile {
                account_id: account.to_owned(),
                time_zone: zone.to_owned(),
                currency: currency.to_owned(),
            };
            steps.push(control(
                begin,
                &format!("demo-{account}"),
                0,
                Body::AccountProfile(profile),
            ));
        }
        steps
    }

    /// Two days and a half after the month's end: usage that the upstream corrects, and the operator's own word.
    fn late_words(
        &self,
        calls: &[(String, String, Ms)],
        failed: Option<(String, String)>,
        steps: &mut Vec<Step>,
        highlights: &mut Vec<Highlight>,
    ) {
        let at_ms = self.turn() + 5 * DAY_MS / 2;
        for (n, (account, call, at)) in calls.iter().enumerate() {
            if n % 3 == 2 {
                let correction = pb::Correction {
                    account_id: account.clone(),
                    call_id: call.clone(),
                    bill: Some(false),
                    reason: "goodwill: incident 17".to_owned(),
                    ..pb::Correction::default()
                };
                steps.push(control(
                    at_ms,
                    &format!("demo-waive-{n}"),
                    0,
                    Body::Correction(correction),
                ));
                continue;
            }
            let usage = vec![quantity("output_tokens", 250_000, Provenance::ProviderInvoiced)];
            let event = pb::CallEvent {
                usage,
                ..event(account, call, Phase::UsageReported, Observer::Provider, *at)
            };
            steps.push(Step {
                at_ms,
                what: What::Event(Box::new(event)),
            });
            if n == 0 {
                highlights.push(Highlight {
                    account: account.clone(),
                    call: call.clone(),
                    why: "the provider's invoice came after the month had closed",
                });
            }
        }
        // And his bill for a call that failed at the gateway.
        if let Some((account_id, call_id)) = failed {
            let correction = pb::Correction {
                account_id,
                call_id,
                bill: Some(true),
                reason: "agreed with the customer".to_owned(),
                ..pb::Correction::default()
            };
            steps.push(control(at_ms + HOUR_MS, "demo-bill", 0, Body::Correction(correction)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_traffic() {
        let made = |seed| {
            Synthetic {
                seed,
                month: Month(2026 * 12 + 9),
                calls: 3_000,
            }
            .make()
        };
        let (one, two, other) = (made(7), made(7), made(8));
        assert_eq!(one.steps, two.steps);
        assert_ne!(one.steps, other.steps);
        assert!(one.highlights.len() >= 3, "{:?}", one.highlights);
        assert!(one.steps.is_sorted_by_key(|s| s.at_ms));
    }
}
