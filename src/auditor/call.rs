//! RULES §5: a call, from its first event to its being forgotten.

use chrono::NaiveDate;

use super::evidence::{self, Evidence, Kept};
use super::verdict::{self, Judged};
use super::{CallVerdict, Policy};
use crate::wire::pb;

/// One life of a call id, from its first event to its being forgotten.
pub struct Call {
    /// The version in force when its first event arrived.
    pub policy: Policy,
    pub first_arrival: i64,
    pub last_change: i64,
    pub events: Vec<Kept>,
    pub correction: Option<pb::Correction>,
    /// When it settles if nothing changes.
    pub due: i64,
    pub settled: Option<Settled>,
}

pub struct Settled {
    pub verdict: CallVerdict,
    /// The account's day, which carries the price.
    pub day: Option<NaiveDate>,
    /// When it settled, or when its verdict or quantities last changed.
    pub changed_at: i64,
}

impl Call {
    pub fn evidence(&self) -> Evidence {
        evidence::merge(&self.events)
    }

    pub fn judge(&self) -> Judged {
        verdict::judge(&self.evidence(), self.correction.as_ref(), &self.policy)
    }

    pub fn due_now(&self) -> i64 {
        let waited = self.last_change.saturating_add(self.judge().wait);
        waited.min(self.first_arrival.saturating_add(self.policy.max_open))
    }

    pub fn forgotten(&self, forget_line: i64) -> bool {
        self.settled
            .as_ref()
            .is_some_and(|settled| settled.changed_at.max(self.evidence().last) < forget_line)
    }
}
