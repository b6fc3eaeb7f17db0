//! Control records: whether they hold, and what they change.

use super::fold::{Auditor, Reject};
use super::{Entry, millis, period, reject};
use crate::wire::pb::{self, control::Body};

impl Auditor {
    /// Judge a control record and apply it.
    pub(super) fn control(&mut self, control: &pb::Control, entry: &Entry<'_>) -> Option<Reject> {
        let refused = reject::control_content(control, self.signed.is_some());
        if refused.is_some() {
            return refused;
        }
        let Some(body) = &control.body else {
            return Some("missing_field");
        };
        if reject::control_too_large(control) {
            return Some("too_large");
        }
        if !self.authorised(entry) {
            return Some("not_authorised");
        }
        if owner(body).is_some_and(|account| self.elsewhere(account)) {
            return Some("wrong_partition");
        }
        let issued_at = control.issued_at.as_ref().map(millis);
        let expired = issued_at.is_some_and(|issued_at| issued_at < self.late_line);
        let known = self
            .ids
            .get(&control.id)
            .filter(|(accepted, _)| accepted.is_none_or(|at| at >= self.forget_line));
        let conflicting = match known {
            Some((_, accepted)) if accepted == control && !expired => return None,
            other => other.is_some_and(|(_, accepted)| accepted != control),
        };
        let expected = if for_everyone(body) {
            self.control_version.saturating_add(1)
        } else {
            0
        };
        if control.control_version != expected {
            return Some("bad_version");
        }
        if let Body::Correction(correction) = body
            && !self.remembers(correction)
        {
            return Some("call_forgotten");
        }
        if conflicting {
            return Some("conflicting_id");
        }
        if let Body::RateCard(card) = body
            && !self.effective(card)
        {
            return Some("not_effective");
        }
        if expired {
            return Some(reject::EXPIRED);
        }
        let refused = reject::control_else(control);
        if refused.is_some() {
            return refused;
        }

        if let Body::OperatorKeys(change) = body {
            match self.keys_after(change) {
                Ok(keys) => self.take_keys(keys),
                Err(refused) => return Some(refused),
            }
        }
        // Kept until no copy of it can be taken any more.
        let since = issued_at.map_or(self.clock, |issued| self.clock.map(|clock| clock.max(issued)));
        self.ids.insert(control.id.clone(), (since, control.clone()));
        if for_everyone(body) {
            self.control_version = expected;
        }
        self.apply(body);
        None
    }

    fn apply(&mut self, body: &Body) {
        match body {
            Body::AccountProfile(profile) => {
                if let Some(zone) = reject::zone(&profile.time_zone) {
                    self.account(&profile.account_id).zone = zone;
                }
            }
            Body::Correction(correction) => {
                let key = (correction.account_id.clone(), correction.call_id.clone());
                if let Some(call) = self.calls.get_mut(&key).and_then(|lives| lives.last_mut())
                    && let Some(clock) = self.clock
                {
                    call.correction = Some(correction.clone());
                    self.changed(&key, clock);
                }
            }
            Body::Policy(policy) => self.policy = self.policy.changed_by(policy),
            Body::RateCard(_) => self.has_card = true,
            Body::OperatorKeys(_) => {}
            Body::HoldClose(hold) => {
                self.holds.insert((hold.period.clone(), hold.account_id.clone()));
            }
            Body::ReleaseClose(release) => {
                self.holds.remove(&(release.period.clone(), release.account_id.clone()));
                self.close_again();
            }
        }
    }

    fn remembers(&self, correction: &pb::Correction) -> bool {
        let key = (correction.account_id.clone(), correction.call_id.clone());
        let latest = self.calls.get(&key).and_then(|lives| lives.last());
        latest.is_some_and(|call| !call.forgotten(self.forget_line))
    }

    fn effective(&self, card: &pb::RateCard) -> bool {
        let earliest = self.clock.and_then(period::latest_start_in_utc_plus_14);
        let from = card.effective_from.as_ref().map(millis);
        !self.has_card || from.zip(earliest).is_none_or(|(from, earliest)| from >= earliest)
    }
}

/// Records for every partition carry a version, an account's own don't.
fn for_everyone(body: &Body) -> bool {
    match body {
        Body::AccountProfile(_) | Body::Correction(_) => false,
        Body::Policy(_) | Body::RateCard(_) | Body::OperatorKeys(_) => true,
        Body::HoldClose(hold) => hold.account_id.is_empty(),
        Body::ReleaseClose(release) => release.account_id.is_empty(),
    }
}

/// The account whose own record it is.
fn owner(body: &Body) -> Option<&str> {
    let account = match body {
        Body::AccountProfile(profile) => &profile.account_id,
        Body::Correction(correction) => &correction.account_id,
        Body::HoldClose(hold) => &hold.account_id,
        Body::ReleaseClose(release) => &release.account_id,
        Body::Policy(_) | Body::RateCard(_) | Body::OperatorKeys(_) => return None,
    };
    Some(account.as_str()).filter(|account| !account.is_empty())
}
