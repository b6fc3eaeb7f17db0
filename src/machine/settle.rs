//! Giving a call its verdict, changing it when later evidence says otherwise, and booking the difference (RULES §5).

use smallvec::SmallVec;

use super::accounts::{Latest, Standing};
use super::calls::{Queue, Slot};
use super::digest::Mark;
use super::fold::Machine;
use super::names::{self, Shape, ShapeId};
use super::usage::{Bucket, LineKey, Span};
use super::verdict::{self, Ruling, Verdict};
use crate::model::Ms;
use crate::model::limits::ROLLUP_COMBINATIONS_MAX;
use crate::model::outcome::Class;
use crate::model::period::{Month, Zone};
use crate::model::quantity::Quantity;
use crate::wire::pb;
use crate::wire::settled::Settled;

/// Where a verdict is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    month: Month,
    day: i32,
    hour: i32,
    standing: Standing,
    dimensions: ShapeId,
}

impl Machine {
    /// The verdict that the evidence of a resident call comes to, every wait taken as over.
    pub fn verdict_of(&self, slot: Slot) -> Option<Verdict> {
        self.verdict_by(slot, None)
    }

    /// The same, by the row that the evidence is known to come to.
    fn verdict_by(&self, slot: Slot, ruling: Option<Ruling>) -> Option<Verdict> {
        let call = self.calls.get(slot)?;
        let correction = call.corrected.then(|| self.calls.corrections.get(&slot)).flatten();
        let correction = correction.map(AsRef::as_ref);
        let ruling = ruling.unwrap_or_else(|| verdict::rule(&call.evidence, self.policy_of(call.policy), correction));
        let bill = verdict::bill(&call.evidence, &ruling, correction, &self.names);
        Some(Verdict { ruling, bill })
    }

    /// After a change of an open call's evidence: settles it if its row waits for nothing, else lets it wait.
    pub(super) fn wait(&mut self, slot: Slot, offset: u64) {
        let now = self.now();
        // Its place in the queues hangs on what is changed here.
        self.calls.dequeue(slot);
        let Some(call) = self.calls.get_mut(slot) else {
            return;
        };
        (call.changed, call.changed_by) = (now, offset);
        let (policy, since, corrected) = (call.policy, call.since, call.corrected);
        let correction = corrected
            .then(|| self.calls.corrections.get(&slot))
            .flatten()
            .map(AsRef::as_ref);
        let Some(call) = self.calls.get(slot) else {
            return;
        };
        let policy = self.policy_of(policy);
        let ruling = verdict::rule(&call.evidence, policy, correction);
        let waits_until = now.saturating_add(ruling.wait.length_ms(policy));
        let open_until = since.saturating_add(policy.max_open_ms);
        let due = waits_until.min(open_until);
        if due <= now {
            // By the row that was found just now.
            self.settle_by(slot, Some(ruling));
            return;
        }
        self.enqueue(slot, ruling.wait, waits_until, open_until);
    }

    fn enqueue(&mut self, slot: Slot, wait: verdict::Wait, waits_until: Ms, open_until: Ms) {
        if open_until < waits_until {
            self.calls.enqueue_capped(slot, open_until);
        } else {
            self.calls.enqueue(slot, Queue::Waiting(wait));
        }
        self.wake(open_until.min(waits_until));
    }

    /// Puts an open call that was restored back where it waited. Calls come in the order of their last changes.
    pub fn requeue(&mut self, slot: Slot) {
        let Some(call) = self.calls.get(slot) else {
            return;
        };
        let correction = self.calls.corrections.get(&slot).map(AsRef::as_ref);
        let policy = self.policy_of(call.policy);
        let ruling = verdict::rule(&call.evidence, policy, correction);
        let waits_until = call.changed.saturating_add(ruling.wait.length_ms(policy));
        let open_until = call.since.saturating_add(policy.max_open_ms);
        self.enqueue(slot, ruling.wait, waits_until, open_until);
    }

    /// Gives an open call its verdict, now.
    pub(super) fn settle(&mut self, slot: Slot) {
        self.settle_by(slot, None);
    }

    fn settle_by(&mut self, slot: Slot, ruling: Option<Ruling>) {
        let now = self.now();
        let Some(verdict) = self.verdict_by(slot, ruling) else {
            return;
        };
        let Some(call) = self.calls.get_mut(slot) else {
            return;
        };
        call.revision = 1;
        call.since = now;
        call.changed = now;
        let account = call.account;
        self.calls.settled();
        self.calls.enqueue(slot, Queue::Warm);
        self.counters.settled += 1;
        self.counters.verdicts[verdict.ruling.reason as usize] += 1;
        let place = self.place(account, &verdict);
        self.book(account, &place, &verdict, 1, slot);
        self.announce(slot, &place, &verdict);
    }

    /// After a change of a settled call: books the difference, if there is one, and has the call packed anew.
    pub(super) fn amend(&mut self, slot: Slot, before: &Verdict) {
        let now = self.now();
        let Some(after) = self.verdict_of(slot) else {
            return;
        };
        let Some(call) = self.calls.get_mut(slot) else {
            return;
        };
        call.changed = now;
        let account = call.account;
        self.calls.enqueue(slot, Queue::Warm);
        if after == *before {
            return;
        }
        let old = self.place(account, before);
        let stays = before.ruling.at == after.ruling.at && before.bill.dimensions == after.bill.dimensions;
        let new = if stays { old } else { self.place(account, &after) };
        let key = |p: &Place, v: &Verdict| line_key(p, v);
        let (old_key, new_key) = (key(&old, before), key(&new, &after));
        let what = |v: &Verdict| (v.ruling.outcome, v.ruling.reason);
        if old == new && old_key == new_key && what(before) == what(&after) {
            let difference = quantity_difference(before, &after);
            if difference.is_empty() {
                // Only what no statement and no output shows: the flag of a billed success, an instant in the same hour.
                if before.bill.estimated == after.bill.estimated {
                    return;
                }
            } else {
                self.add(account, &new, new_key, &difference, 1, None, slot);
            }
        } else {
            // Both halves, when it moves.
            self.book(account, &old, before, -1, slot);
            self.book(account, &new, &after, 1, slot);
            let moved_by_the_hour = (old.month, old.day, old_key, what(before))
                == (new.month, new.day, new_key, what(&after))
                && before.bill.quantities == after.bill.quantities
                && before.bill.estimated == after.bill.estimated;
            if moved_by_the_hour {
                return;
            }
        }
        if let Some(call) = self.calls.get_mut(slot) {
            call.revision += 1;
            call.since = now;
        }
        self.counters.amended += 1;
        self.announce(slot, &new, &after);
    }

    /// Where the verdict is summed: its period (stored now if need be), day, hour and rollup combination.
    fn place(&mut self, account: u32, verdict: &Verdict) -> Place {
        let at = verdict.ruling.at;
        let period = self.period_at(account, at);
        let zone = self.accounts.profile(period.profile).zone;
        let (day, hour) = Self::local(zone, at);
        let dimensions = self.combination(account, period.month, period.rollup, verdict);
        Place {
            month: period.month,
            day,
            hour,
            standing: period.standing,
            dimensions,
        }
    }

    /// Day number and start of the hour, in minutes, of the instant in the zone.
    fn local(zone: Zone, at: Ms) -> (i32, i32) {
        let day = crate::model::period::day_of(at, zone).0;
        let hour = crate::model::period::hour_start(at, zone) / 60_000;
        (day, i32::try_from(hour).unwrap_or(i32::MAX))
    }

    /// The rollup combination under which the period sums the call: past the limit, in log order, `other` (RULES §6).
    fn combination(&mut self, account: u32, month: Month, rollup: u16, verdict: &Verdict) -> ShapeId {
        let Some(wanted) = self.rollups.get(usize::from(rollup)) else {
            return ShapeId::NONE;
        };
        if wanted.is_empty() {
            return ShapeId::NONE;
        }
        let mut dimensions: SmallVec<[_; 1]> = wanted
            .iter()
            .map(|&name| {
                let value = verdict.bill.dimensions.iter().find(|(n, _)| *n == name);
                (name, value.map_or(crate::model::symbol::Sym::NONE, |v| v.1))
            })
            .collect();
        dimensions.sort_unstable();
        let shape = self.names.shape(Shape {
            dimensions,
            ..Shape::default()
        });
        let known = self.combinations.entry((account, month)).or_default();
        if known.contains(&shape) {
            return shape;
        }
        if known.len() < ROLLUP_COMBINATIONS_MAX {
            known.push(shape);
            self.combinations_dirty.insert((account, month));
            return shape;
        }
        let mut other: SmallVec<[_; 1]> = self.rollups[usize::from(rollup)]
            .iter()
            .map(|&name| (name, names::OTHER))
            .collect();
        other.sort_unstable();
        self.names.shape(Shape {
            dimensions: other,
            ..Shape::default()
        })
    }

    /// Adds (`sign` 1) or takes back (−1) a verdict's quantities and its count.
    fn book(&mut self, account: u32, place: &Place, verdict: &Verdict, sign: i128, slot: Slot) {
        let key = line_key(place, verdict);
        let what = (verdict.ruling.outcome, verdict.ruling.reason);
        let quantities = &verdict.bill.quantities;
        self.add(account, place, key, quantities, sign, Some(what), slot);
    }

    #[allow(clippy::too_many_arguments, reason = "one booking, nothing to group")]
    fn add(
        &mut self,
        account: u32,
        place: &Place,
        key: LineKey,
        quantities: &[(crate::model::symbol::Sym, i128)],
        sign: i128,
        what: Option<(crate::model::outcome::Outcome, crate::model::outcome::Reason)>,
        slot: Slot,
    ) {
        for &(meter, nano) in quantities {
            // Not multiplied: that is a call for numbers this wide.
            self.digest.quantity(meter.0, if sign < 0 { -nano } else { nano });
        }
        let day = self.bucket(account, Span::Day, place.month, place.day);
        day.add(key, quantities, sign);
        if let Some(what) = what {
            day.count(what, if sign < 0 { -1 } else { 1 });
        }
        match place.standing {
            Standing::Open => {
                let hourly = LineKey {
                    dimensions: ShapeId::NONE,
                    ..key
                };
                self.bucket(account, Span::Hour, place.month, place.hour)
                    .add(hourly, quantities, sign);
            }
            Standing::Closed => {
                self.adjusted(account, place.month, key, quantities, sign, what, slot);
            }
        }
    }

    /// The bucket to add to: the account's latest of its kind, or a colder one.
    fn bucket(&mut self, account: u32, span: Span, month: Month, place: i32) -> &mut Bucket {
        let Some((day, hour)) = self.accounts.latest_mut(account) else {
            return self.cold.entry((account, span, month, place));
        };
        let latest = match span {
            Span::Day => day,
            Span::Hour => hour,
        };
        let order = latest
            .as_ref()
            .map_or(std::cmp::Ordering::Greater, |l| (month, place).cmp(&(l.month, l.place)));
        match (latest, order) {
            (_, std::cmp::Ordering::Less) => self.cold.entry((account, span, month, place)),
            (latest, std::cmp::Ordering::Greater) => {
                let new = Box::new(Latest {
                    month,
                    place,
                    bucket: Bucket::default(),
                });
                if let Some(old) = latest.replace(new) {
                    self.cold.retire((account, span, old.month, old.place), old.bucket);
                }
                &mut latest.get_or_insert_with(Default::default).bucket
            }
            (latest, std::cmp::Ordering::Equal) => &mut latest.get_or_insert_with(Default::default).bucket,
        }
    }

    /// Notes the verdict in the digest and, if it is on, in the calls output.
    fn announce(&mut self, slot: Slot, place: &Place, verdict: &Verdict) {
        let Some(call) = self.calls.get(slot) else {
            return;
        };
        let ruling = &verdict.ruling;
        let hash = call.id.key().hash(call.account);
        self.digest.note(
            Mark::Verdict,
            hash,
            [
                u64::from(call.revision) << 32
                    | u64::from(ruling.row) << 24
                    | (ruling.outcome as u64) << 16
                    | (ruling.reason as u64) << 8
                    | u64::from(ruling.billed) << 1
                    | u64::from(verdict.bill.estimated),
                u64::from(place.month.0) << 32 | u64::from(place.day as u32),
            ],
        );
        if self.outputs.calls_on {
            self.put_out(slot, place.month, verdict);
        }
    }

    /// Adds the verdict to the calls output.
    fn put_out(&mut self, slot: Slot, month: Month, verdict: &Verdict) {
        let symbols = &self.names.symbols;
        let Some(call) = self.calls.get(slot) else { return };
        let Some(account) = self.accounts.get(call.account) else {
            return;
        };
        let mut quantities: SmallVec<[_; 6]> = verdict
            .bill
            .quantities
            .iter()
            .filter(|(_, nano)| *nano != 0)
            .map(|&(meter, nano)| (symbols.name(meter), Quantity(nano)))
            .collect();
        quantities.sort_unstable_by_key(|q| q.0);
        let settled = Settled {
            account: &account.id,
            call: call.id.key(),
            revision: call.revision,
            outcome: verdict.ruling.outcome,
            reason: verdict.ruling.reason,
            billed: verdict.ruling.billed,
            estimated: verdict.bill.estimated,
            period: month,
            service: symbols.name(verdict.bill.service),
            product: symbols.name(verdict.bill.product),
            quantities: &quantities,
            settled_at: call.since,
            decided_at: verdict.ruling.at,
        };
        let now = self.clock.now.unwrap_or(0);
        self.outputs.push_call(&settled, now);
    }

    /// Quantities by meter name, sorted by name.
    pub(super) fn meter_quantities(&self, quantities: &[(crate::model::symbol::Sym, i128)]) -> Vec<pb::MeterQuantity> {
        let mut named: Vec<pb::MeterQuantity> = quantities
            .iter()
            .filter(|(_, nano)| *nano != 0)
            .map(|&(meter, nano)| pb::MeterQuantity {
                meter: self.names.symbols.name(meter).to_owned(),
                quantity: Quantity(nano).to_string(),
            })
            .collect();
        named.sort_unstable_by(|a, b| a.meter.cmp(&b.meter));
        named
    }
}

fn line_key(place: &Place, verdict: &Verdict) -> LineKey {
    LineKey {
        service: verdict.bill.service,
        product: verdict.bill.product,
        dimensions: place.dimensions,
        class: Class::of(verdict.ruling.outcome, verdict.ruling.billed, verdict.bill.estimated),
    }
}

/// What `after` has more (or less) of than `before`, by meter.
fn quantity_difference(before: &Verdict, after: &Verdict) -> SmallVec<[(crate::model::symbol::Sym, i128); 5]> {
    let mut difference = SmallVec::new();
    let (mut old, mut new) = (
        before.bill.quantities.iter().peekable(),
        after.bill.quantities.iter().peekable(),
    );
    loop {
        let (meter, change) = match (old.peek(), new.peek()) {
            (None, None) => return difference,
            (Some(&&(meter, nano)), None) => {
                old.next();
                (meter, -nano)
            }
            (None, Some(&&(meter, nano))) => {
                new.next();
                (meter, nano)
            }
            (Some(&&(a, was)), Some(&&(b, is))) => match a.cmp(&b) {
                std::cmp::Ordering::Less => {
                    old.next();
                    (a, -was)
                }
                std::cmp::Ordering::Greater => {
                    new.next();
                    (b, is)
                }
                std::cmp::Ordering::Equal => {
                    old.next();
                    new.next();
                    (a, is - was)
                }
            },
        };
        if change != 0 {
            difference.push((meter, change));
        }
    }
}
