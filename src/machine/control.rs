//! Control records (RULES §1): the only way money rules change. Checked, remembered by id, applied.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_128;

use super::accounts::Profile;
use super::calls::Slot;
use super::clock::Source;
use super::close::EVERY_ACCOUNT;
use super::content;
use super::digest::Mark;
use super::fold::{Machine, Record};
use super::verdict::Correction;
use crate::model::Ms;
use crate::model::id::CallKey;
use crate::model::money::Currency;
use crate::model::period::{self, Month, Zone};
use crate::model::policy::Policy;
use crate::model::reject::{Reject, RejectReason};
use crate::model::symbol::Sym;
use crate::wire::check::instant_ms;
use crate::wire::control_fields::missing;
use crate::wire::pb;
use crate::wire::record::{Headers, Input};
use pb::control::Body;

/// The longest duration that a policy may set: ten years.
const DURATION_MS_MAX: u64 = 10 * 366 * 86_400_000;

/// What is remembered of accepted control records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Last accepted `control_version`.
    pub version: u64,
    /// By id: hash of the content, and the clock at acceptance.
    pub ids: BTreeMap<String, (u128, Ms)>,
    /// Ids by the clock at acceptance, so that the oldest are forgotten first.
    by_time: BTreeSet<(Ms, String)>,
    /// Ids accepted since the last commit.
    pub added: Vec<String>,
    /// Ids forgotten since the last commit.
    pub dropped: Vec<String>,
}

impl Ledger {
    /// Remembers an id.
    pub fn remember(&mut self, id: String, hash: u128, at: Ms) {
        self.by_time.insert((at, id.clone()));
        self.ids.insert(id, (hash, at));
    }

    /// Forgets ids accepted before `line`.
    fn forget(&mut self, line: Ms) {
        while let Some((at, id)) = self.by_time.first() {
            if *at >= line {
                return;
            }
            let key = (*at, id.clone());
            self.by_time.remove(&key);
            self.ids.remove(&key.1);
            self.dropped.push(key.1);
        }
    }
}

fn bad(field: &'static str, detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::BadControl, field, detail)
}

/// The content apart from its place in the order, which an appender may fill in.
fn content_hash(control: &pb::Control) -> u128 {
    use prost::Message;
    let content = pb::Control {
        control_version: 0,
        ..control.clone()
    };
    xxh3_128(&content.encode_to_vec())
}

/// Whether a record is for every partition, and so carries a control version.
pub fn is_for_everyone(control: &pb::Control) -> bool {
    match &control.body {
        Some(Body::Policy(_) | Body::RateCard(_) | Body::OperatorKeys(_)) => true,
        Some(Body::HoldClose(hold)) => hold.account_id.is_empty(),
        Some(Body::ReleaseClose(release)) => release.account_id.is_empty(),
        Some(Body::AccountProfile(_) | Body::Correction(_)) | None => false,
    }
}

/// The account that a record is about, if it is about one.
pub fn account_of(control: &pb::Control) -> Option<&str> {
    let id = match control.body.as_ref()? {
        Body::AccountProfile(profile) => &profile.account_id,
        Body::Correction(correction) => &correction.account_id,
        Body::HoldClose(hold) => &hold.account_id,
        Body::ReleaseClose(release) => &release.account_id,
        Body::Policy(_) | Body::RateCard(_) | Body::OperatorKeys(_) => return None,
    };
    (!id.is_empty()).then_some(id)
}

/// What is wrong with a record whatever a log has taken before: a fold that has seen nothing else judges it.
pub fn check_alone(control: &pb::Control) -> Result<(), Reject> {
    use prost::Message;
    let control = pb::Control {
        control_version: u64::from(is_for_everyone(control)),
        ..control.clone()
    };
    let bytes = control.encode_to_vec();
    let record = Record {
        offset: 1,
        append_ms: 0,
        bytes: &bytes,
        headers: Headers::default(),
        input: Input::Control(Ok(Box::new(control.clone()))),
    };
    let judged = Machine::new(0, 1, Source::Append, 0).accept(&record, &control);
    judged.or_else(|reject| match reject.reason {
        // The call that it is about may well be known to others.
        RejectReason::CallForgotten => Ok(()),
        _ => Err(reject),
    })
}

impl Machine {
    pub(super) fn control(&mut self, record: &Record<'_>, control: &pb::Control) {
        if let Err(reject) = self.accept(record, control) {
            self.reject(record, reject);
        }
    }

    fn accept(&mut self, record: &Record<'_>, control: &pb::Control) -> Result<(), Reject> {
        content::check(control, self.authority.is_signed(), record.bytes.len())?;
        self.authority.check(record)?;
        self.check_place(account_of(control))?;
        let Some(body) = &control.body else {
            return Err(missing("control.body"));
        };
        let hash = content_hash(control);
        let now = self.now();
        let issued_ms = control.issued_at.as_ref().map(instant_ms);
        let expired = issued_ms.filter(|&at| at < self.clock.late_line);
        self.ledger.forget(self.clock.forget_line);
        let known = self.ledger.ids.get(&control.id).map(|(known, _)| *known == hash);
        if known == Some(true) && expired.is_none() {
            return Ok(());
        }
        // From here on in the order of RULES §5.
        let everyone = is_for_everyone(control);
        let expected = if everyone {
            self.ledger.version.saturating_add(1)
        } else {
            0
        };
        if control.control_version != expected {
            return Err(Reject::new(
                RejectReason::BadVersion,
                "control.control_version",
                format!("{}; expected {expected}", control.control_version),
            ));
        }
        if let Body::Correction(correction) = body {
            self.check_correction(correction)?;
        }
        if known == Some(false) {
            return Err(Reject::new(
                RejectReason::ConflictingId,
                "control.id",
                format!("{:?} was accepted with other content", control.id),
            ));
        }
        if let Body::RateCard(card) = body {
            self.check_effective(card)?;
        }
        if let Some(issued_ms) = expired {
            return Err(Reject::new(
                RejectReason::Expired,
                "control.issued_at",
                format!("{} ms before the clock", now.saturating_sub(issued_ms)),
            ));
        }
        match body {
            Body::AccountProfile(profile) => self.take_profile(profile)?,
            Body::Correction(correction) => self.take_correction(record, control, correction)?,
            Body::Policy(policy) => self.take_policy(policy)?,
            Body::OperatorKeys(change) => self.authority.change(change)?,
            Body::RateCard(card) => self.take_card(card, control.control_version)?,
            Body::HoldClose(hold) => {
                let (month, account) = self.hold_key(&hold.period, &hold.account_id, "hold_close")?;
                self.holds.insert((month, account));
            }
            Body::ReleaseClose(release) => {
                let (month, account) = self.hold_key(&release.period, &release.account_id, "release_close")?;
                self.holds.remove(&(month, account));
                // The month's control record may have waited for it.
                self.wake(Ms::MIN);
                self.release(month, account);
            }
        }
        if everyone {
            self.ledger.version = control.control_version;
        }
        // An id is kept until its record has expired, also where the operator's clock is ahead of the log's: so none can be
        // replayed, whatever policies do to the windows meanwhile, for neither line moves back.
        let since = issued_ms.map_or(now, |at| at.max(now));
        self.ledger.remember(control.id.clone(), hash, since);
        self.ledger.added.push(control.id.clone());
        self.digest.note(
            Mark::Control,
            control.control_version,
            [hash as u64, (hash >> 64) as u64],
        );
        Ok(())
    }

    fn take_profile(&mut self, profile: &pb::AccountProfile) -> Result<(), Reject> {
        let zone = if profile.time_zone.is_empty() {
            Zone::UTC
        } else {
            Zone::parse(&profile.time_zone).map_err(|e| bad("account_profile.time_zone", e.to_string()))?
        };
        let currency = if profile.currency.is_empty() {
            Currency::USD
        } else {
            Currency::parse(&profile.currency).map_err(|e| bad("account_profile.currency", e.to_string()))?
        };
        let id = self.accounts.profile_id(Profile { zone, currency });
        let account = self.account(&profile.account_id);
        if let Some(owner) = self.accounts.get_mut(account) {
            owner.profile = id;
        }
        Ok(())
    }

    /// The call that a correction is about.
    fn check_correction(&mut self, correction: &pb::Correction) -> Result<Slot, Reject> {
        let key = CallKey::parse(&correction.call_id);
        self.accounts
            .find(&correction.account_id)
            .and_then(|account| self.find_call(account, &key, key.hash(account)))
            .ok_or_else(|| {
                Reject::new(
                    RejectReason::CallForgotten,
                    "correction.call_id",
                    format!("{:?} is not known", correction.call_id),
                )
            })
    }

    fn take_correction(
        &mut self,
        record: &Record<'_>,
        control: &pb::Control,
        correction: &pb::Correction,
    ) -> Result<(), Reject> {
        let slot = self.check_correction(correction)?;
        let mut quantities: Vec<(Sym, i128)> = content::quantities_of(correction)?
            .into_iter()
            .map(|(meter, nano)| (self.names.symbols.intern(meter), nano))
            .collect();
        quantities.sort_unstable();
        let bill = correction.bill.unwrap_or_default();
        let before = self
            .calls
            .get(slot)
            .is_some_and(super::calls::Call::is_settled)
            .then(|| self.verdict_of(slot))
            .flatten();
        self.calls.corrections.insert(
            slot,
            Box::new(Correction {
                bill,
                quantities,
                control_id: control.id.clone(),
                actor: control.actor.clone(),
                reason: correction.reason.clone(),
            }),
        );
        if let Some(call) = self.calls.get_mut(slot) {
            call.corrected = true;
        }
        match before {
            None => self.wait(slot, record.offset),
            Some(before) => self.amend(slot, &before),
        }
        Ok(())
    }

    fn take_policy(&mut self, change: &pb::Policy) -> Result<(), Reject> {
        let mut policy: Policy = self.policy().clone();
        let durations = [
            (
                change.settle_grace_ms,
                &mut policy.settle_grace_ms,
                "policy.settle_grace_ms",
            ),
            (
                change.disconnect_grace_ms,
                &mut policy.disconnect_grace_ms,
                "policy.disconnect_grace_ms",
            ),
            (
                change.call_deadline_ms,
                &mut policy.call_deadline_ms,
                "policy.call_deadline_ms",
            ),
            (
                change.task_deadline_ms,
                &mut policy.task_deadline_ms,
                "policy.task_deadline_ms",
            ),
            (
                change.close_grace_ms,
                &mut policy.close_grace_ms,
                "policy.close_grace_ms",
            ),
            (
                change.amend_window_ms,
                &mut policy.amend_window_ms,
                "policy.amend_window_ms",
            ),
            (change.max_open_ms, &mut policy.max_open_ms, "policy.max_open_ms"),
            (change.call_span_ms, &mut policy.call_span_ms, "policy.call_span_ms"),
        ];
        for (new, held, field) in durations {
            let Some(new) = new else { continue };
            if new > DURATION_MS_MAX {
                return Err(bad(field, format!("{new} ms; at most {DURATION_MS_MAX}")));
            }
            *held = new as Ms;
        }
        let switches = [
            (change.bill_unproven, &mut policy.bill_unproven),
            (change.bill_empty_disconnect, &mut policy.bill_empty_disconnect),
            (change.bill_upstream_only, &mut policy.bill_upstream_only),
            (change.bill_cancelled_task, &mut policy.bill_cancelled_task),
        ];
        for (new, held) in switches {
            if let Some(new) = new {
                *held = new;
            }
        }
        if let Some(names) = &change.rollup_dimensions {
            let field = "policy.rollup_dimensions";
            for (i, name) in names.names.iter().enumerate() {
                if name.is_empty() {
                    return Err(bad(field, "an empty name"));
                }
                if names.names[..i].contains(name) {
                    return Err(bad(field, format!("name {name:?} twice")));
                }
            }
            policy.rollup_dimensions.clone_from(&names.names);
        }
        if self.policies.len() > usize::from(u16::MAX) {
            return Err(bad("policy", "65,536 versions have been used up"));
        }
        let rollup: Vec<Sym> = policy
            .rollup_dimensions
            .iter()
            .map(|name| self.names.symbols.intern(name))
            .collect();
        if self.rollups.last() != Some(&rollup) {
            self.rollups.push(rollup);
        }
        self.clock.move_lines(&policy);
        self.policies.push(policy);
        // A shorter close grace may make a month's control record due.
        self.wake(Ms::MIN);
        Ok(())
    }

    /// That a card isn't for a time which is settled already; the log's first may be.
    fn check_effective(&self, card: &pb::RateCard) -> Result<(), Reject> {
        let (Some(now), Some(from)) = (self.clock.now, &card.effective_from) else {
            return Ok(());
        };
        let (from, line) = (instant_ms(from), period::latest_month_start_utc_plus_14(now));
        if self.cards.is_empty() || from >= line {
            return Ok(());
        }
        Err(Reject::new(
            RejectReason::NotEffective,
            "rate_card.effective_from",
            format!(
                "{}; the earliest that can still take effect is {}",
                period::rfc3339(from),
                period::rfc3339(line)
            ),
        ))
    }

    fn take_card(&mut self, card: &pb::RateCard, version: u64) -> Result<(), Reject> {
        self.cards
            .push(crate::wire::prices::rate_card(card, version).map_err(|e| bad("rate_card", e.to_string()))?);
        Ok(())
    }

    fn hold_key(&mut self, month: &str, account: &str, body: &'static str) -> Result<(Month, u32), Reject> {
        let month: Month = month
            .parse()
            .map_err(|_| bad("period", format!("{body}: {month:?} is not a month such as 2026-09")))?;
        if account.is_empty() {
            return Ok((month, EVERY_ACCOUNT));
        }
        Ok((month, self.account(account)))
    }

    /// Lets held closes of the month go on, unless another hold still holds them.
    fn release(&mut self, month: Month, account: u32) {
        let range = if account == EVERY_ACCOUNT {
            (month, 0)..=(month, u32::MAX)
        } else {
            (month, account)..=(month, account)
        };
        let released: Vec<((Month, u32), Ms)> = self
            .held
            .range(range)
            .map(|(key, due)| (*key, *due))
            .filter(|((month, account), _)| {
                !self.holds.contains(&(*month, EVERY_ACCOUNT)) && !self.holds.contains(&(*month, *account))
            })
            .collect();
        for ((month, account), due) in released {
            self.held.remove(&(month, account));
            self.closes.insert((due, account, month));
            self.wake(due);
        }
    }
}
