//! Made-up and recorded traffic, by seed: the same arguments give the same events on every machine.

pub mod arbitrary;
pub mod azure;
pub mod dense;
#[cfg(feature = "store")]
pub mod play;
pub mod seed;
pub mod sizes;
pub mod stories;
pub mod synthetic;

use crate::model::Ms;
use crate::wire::check::timestamp;
use crate::wire::pb;

/// One record to be appended, in log order.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Log time at which it arrives.
    pub at_ms: Ms,
    /// What arrives.
    pub what: What,
}

/// What a step appends.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A tick for all partitions.
    Tick,
    /// An event for its account's partition.
    Event(Box<pb::CallEvent>),
    /// A control record.
    Control(Box<pb::Control>),
}

/// An event of a call with the fields that all have.
pub(crate) fn event(account: &str, call: &str, phase: pb::Phase, observer: pb::Observer, at: Ms) -> pb::CallEvent {
    pb::CallEvent {
        account_id: account.to_owned(),
        call_id: call.to_owned(),
        phase: phase.into(),
        observer: observer.into(),
        occurred_at: Some(timestamp(at)),
        ..pb::CallEvent::default()
    }
}

/// A quantity in whole units.
pub(crate) fn quantity(meter: &str, value: u64, provenance: pb::Provenance) -> pb::Quantity {
    pb::Quantity {
        meter: meter.to_owned(),
        value: i64::try_from(value).unwrap_or(i64::MAX),
        scale: 0,
        provenance: provenance.into(),
    }
}

/// Puts steps in the order of their arrival, those at one instant as they are, with a tick every minute between them; over a
/// gap of more than a day the minutes are left out: whatever is due in it comes at its own time.
pub(crate) fn with_ticks(mut steps: Vec<Step>) -> Vec<Step> {
    const MINUTE_MS: Ms = 60_000;
    const DAY_MS: Ms = 1_440 * MINUTE_MS;
    steps.sort_by_key(|s| s.at_ms);
    let Some(first) = steps.first().map(|s| s.at_ms) else {
        return steps;
    };
    let mut all = Vec::with_capacity(steps.len() + steps.len() / 4);
    let mut tick = first;
    for step in steps {
        if step.at_ms - tick > DAY_MS {
            tick = step.at_ms - (step.at_ms - tick) % MINUTE_MS;
        }
        while tick <= step.at_ms {
            all.push(Step {
                at_ms: tick,
                what: What::Tick,
            });
            tick += MINUTE_MS;
        }
        all.push(step);
    }
    all
}
