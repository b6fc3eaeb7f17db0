//! One partition's fold: `advance` applies a record in steps (RULES §2): move the clock; fire every timer that is due, each
//! at its own due time; then the record.

use std::collections::{BTreeMap, BTreeSet};

use super::accounts::Accounts;
use super::adjust::{Adjustment, ClosedPeriod};
use super::authority::Authority;
use super::calls::{Call, Calls, Slot};
use super::clock::{Clock, Source};
use super::close::MonthTally;
use super::control::Ledger;
use super::digest::{Digest, Mark};
use super::evidence::Difference;
use super::names::{Names, Shape, ShapeId};
use super::output::{Outputs, Topic};
use super::usage::ColdBuckets;
use crate::model::Ms;
use crate::model::event::Event;
use crate::model::id::CallKey;
use crate::model::limits::AHEAD_MS_MAX;
use crate::model::period::Month;
use crate::model::policy::Policy;
use crate::model::rate_card::RateCards;
use crate::model::reject::{Reject, RejectReason};
use crate::model::symbol::Sym;
use crate::wire::pb;
use crate::wire::record::{Headers, Input};

/// One record of the partition, in log order.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Its place in the log.
    pub offset: u64,
    /// When the log took it.
    pub append_ms: Ms,
    /// As received, for the rejects output.
    pub bytes: &'a [u8],
    /// What stands beside the bytes.
    pub headers: Headers<'a>,
    /// Decoded.
    pub input: Input<'a>,
}

/// What the shell has looked up of an event's call, for many events at once: a hint, and none is as good.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Number of the event's account.
    pub account: u32,
    /// The event's call id, read.
    pub key: CallKey<'a>,
    /// The call's hash.
    pub hash: u64,
    /// Where the call was when it was looked up.
    pub slot: Option<Slot>,
}

/// How far the partition is folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Offset of the next record.
    pub next_offset: u64,
    /// Steps of it that are done.
    pub step: u64,
}

/// What [`Machine::advance`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The record is folded.
    Done,
    /// There is more to do for this record; a good place to commit.
    More,
    /// These periods' days and statements must be in memory first: fill them in, say so by [`Machine::loaded`], and go on.
    Load(Vec<(u32, Month)>),
}

/// Timers fired in one step before the shell may commit.
pub const TIMERS_PER_STEP: usize = 1_024;

/// Room for every reason of a verdict.
pub const REASONS_MAX: usize = 32;

const _: () = assert!(crate::model::outcome::Reason::ALL.len() <= REASONS_MAX);

/// Counts since the partition's first record, for `inspect` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events accepted, copies included.
    pub events: u64,
    /// Of these, those that changed nothing.
    pub copies: u64,
    /// Fields that the contract doesn't have.
    pub unknown_fields: u64,
    /// First verdicts.
    pub settled: u64,
    /// Changed verdicts.
    pub amended: u64,
    /// First verdicts by reason, in the order of [`Reason::ALL`](crate::model::outcome::Reason::ALL).
    pub verdicts: [u64; REASONS_MAX],
    /// Misplaced events that were passed on to their own partition.
    pub forwarded: u64,
    /// By reason.
    pub rejects: BTreeMap<RejectReason, u64>,
}

/// The whole state of one partition. Everything that a bill can depend on is here and nowhere else.
#[derive(Debug)]
pub struct Machine {
    /// Which partition.
    pub partition: u32,
    /// Of how many.
    pub partition_count: u32,
    /// How far.
    pub position: Position,
    /// By what the operator's records are known.
    pub authority: Authority,
    /// Log time.
    pub clock: Clock,
    /// Symbols and shapes.
    pub names: Names,
    /// Policy versions; the last is in force.
    pub policies: Vec<Policy>,
    /// Lists of rollup names; the last is in force. Periods keep the number of theirs.
    pub rollups: Vec<Vec<Sym>>,
    /// All accepted rate cards.
    pub cards: RateCards,
    /// Accepted control records.
    pub ledger: Ledger,
    /// Accounts with their periods and latest totals.
    pub accounts: Accounts,
    /// Open calls and warm settled ones.
    pub calls: Calls,
    /// Totals that aren't an account's latest.
    pub cold: ColdBuckets,
    /// Rollup combinations per account and period, in the order of their first use.
    pub combinations: BTreeMap<(u32, Month), Vec<ShapeId>>,
    /// Combinations added since the last commit.
    pub combinations_dirty: BTreeSet<(u32, Month)>,
    /// When which account's period closes.
    pub closes: BTreeSet<(Ms, u32, Month)>,
    /// Due, but held: (month, account), with the due time.
    pub held: BTreeMap<(Month, u32), Ms>,
    /// Holds in force; `u32::MAX` is every account.
    pub holds: BTreeSet<(Month, u32)>,
    /// What closed periods have stated so far, where it is in memory.
    pub closed: BTreeMap<(u32, Month), ClosedPeriod>,
    /// Of these, changed since the last commit.
    pub closed_dirty: BTreeSet<(u32, Month)>,
    /// Changes of closed periods that no statement has named yet.
    pub adjustments: BTreeMap<(u32, Month), Adjustment>,
    /// Of these, changed since the last commit.
    pub adjustments_dirty: BTreeSet<(u32, Month)>,
    /// When which change is noticed.
    pub notices: BTreeSet<(Ms, u32, Month)>,
    /// Sums over the partition's accounts, by month; those whose control record is out are gone.
    pub months: BTreeMap<Month, MonthTally>,
    /// Months whose control record is out: its sequence, and what it says.
    pub finished: BTreeMap<Month, (u64, MonthTally)>,
    /// First month that the partition puts out a control record for, and the one from which on none is out but
    /// `controls_out`.
    pub controls: Option<(Month, Month)>,
    /// Months outside these two whose control record is out: one that is held keeps no later one back.
    pub controls_out: BTreeSet<Month>,
    /// Periods closed since the last commit: their hours are dropped.
    pub hours_over: Vec<(u32, Month)>,
    /// Decided outputs.
    pub outputs: Outputs,
    /// The running digest.
    pub digest: Digest,
    /// For people.
    pub counters: Counters,
    /// Set when a store stands behind the machine, so that totals may be elsewhere.
    pub backed: bool,
    pub(super) loaded: BTreeSet<(u32, Month)>,
    pub(super) next_due: Ms,
    pub(super) difference: Difference,
    /// Offset of the last tick whose authority was looked at.
    pub(super) ticked_by: Option<u64>,
    /// Timers fired in this step so far.
    fired: usize,
    /// The last record is folded, but what it left due at its own instant isn't all fired: [`Machine::settle_down`] goes on.
    pub settling: bool,
}

impl Machine {
    /// A partition that has folded its genesis and nothing else.
    pub fn new(partition: u32, partition_count: u32, source: Source, genesis_ms: Ms) -> Self {
        let mut machine = Self {
            partition,
            partition_count,
            position: Position {
                next_offset: 1,
                step: 0,
            },
            authority: Authority::Process,
            clock: Clock::new(source, genesis_ms),
            names: Names::default(),
            policies: vec![Policy::default()],
            rollups: vec![Vec::new()],
            cards: RateCards::default(),
            ledger: Ledger::default(),
            accounts: Accounts::default(),
            calls: Calls::default(),
            cold: ColdBuckets::default(),
            combinations: BTreeMap::new(),
            combinations_dirty: BTreeSet::new(),
            closes: BTreeSet::new(),
            held: BTreeMap::new(),
            holds: BTreeSet::new(),
            closed: BTreeMap::new(),
            closed_dirty: BTreeSet::new(),
            adjustments: BTreeMap::new(),
            adjustments_dirty: BTreeSet::new(),
            notices: BTreeSet::new(),
            months: BTreeMap::new(),
            finished: BTreeMap::new(),
            controls: None,
            controls_out: BTreeSet::new(),
            hours_over: Vec::new(),
            outputs: Outputs::default(),
            digest: Digest::default(),
            counters: Counters::default(),
            backed: false,
            loaded: BTreeSet::new(),
            next_due: Ms::MIN,
            difference: Difference::default(),
            ticked_by: None,
            fired: 0,
            settling: false,
        };
        if let Some(now) = machine.clock.now {
            machine.clock.move_lines(&Policy::default());
            machine.start_controls(now);
        }
        machine
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        // There is always a first one.
        &self.policies[self.policies.len() - 1]
    }

    /// The policy of a version.
    pub fn policy_of(&self, version: u16) -> &Policy {
        self.policies.get(usize::from(version)).unwrap_or_else(|| self.policy())
    }

    /// Log time, or the epoch in a log that has none yet.
    pub fn now(&self) -> Ms {
        self.clock.now.unwrap_or(0)
    }

    /// After everything has been put back: all timers are looked at anew.
    pub fn restored(&mut self) {
        self.next_due = Ms::MIN;
    }

    /// Lets go of what the store holds too. Only between records, or where [`Machine::advance`] said there is more.
    pub fn evict(&mut self) {
        self.cold.evict_clean();
        self.closed.clear();
        self.loaded.clear();
    }

    /// Says that a period's days and statement are in memory.
    pub fn loaded(&mut self, account: u32, month: Month) {
        self.loaded.insert((account, month));
    }

    /// Applies one step of a record. Call again with the same record until [`Advance::Done`].
    pub fn advance(&mut self, record: &Record<'_>) -> Advance {
        self.advance_known(record, None)
    }

    /// The same, for an event whose call has been looked up.
    pub fn advance_known(&mut self, record: &Record<'_>, known: Option<&Known<'_>>) -> Advance {
        // Offsets have gaps on Kafka.
        debug_assert!(record.offset >= self.position.next_offset);
        // A tick counts before the clock moves; a bad one only moves it as any record does.
        let mut tick = None;
        let target = match &record.input {
            Input::Tick(Ok(at)) => {
                let taken = self.take_tick(record, *at);
                let target = match taken {
                    Ok(()) => self.clock.target_of_tick(*at, record.append_ms),
                    Err(_) => self.clock.target(record.append_ms),
                };
                tick = Some(taken);
                target
            }
            _ => self.clock.target(record.append_ms),
        };
        if let Some(target) = target {
            if self.clock.now.is_none() {
                self.start_controls(target);
            }
            if self.next_due <= target {
                match self.fire(target) {
                    Advance::Done => {}
                    Advance::More => {
                        self.finish_step(record.offset);
                        return Advance::More;
                    }
                    load @ Advance::Load(_) => return load,
                }
            }
            let policy = &self.policies[self.policies.len() - 1];
            self.clock.advance(target, policy);
            self.outputs.close_calls(target);
        }
        match &record.input {
            Input::Event(Ok(event)) => self.event(record, event, known),
            Input::Tick(Ok(_)) => {
                if let Some(Err(reject)) = tick {
                    self.reject(record, reject);
                }
            }
            Input::Control(Ok(control)) => self.control(record, control),
            Input::Event(Err(reject)) => self.bad_event(record, reject),
            Input::Tick(Err(reject)) | Input::Control(Err(reject)) => self.reject(record, reject.clone()),
            Input::Genesis => {}
        }
        self.digest.seal(record.offset);
        self.position = Position {
            next_offset: record.offset + 1,
            step: 0,
        };
        Advance::Done
    }

    /// Fires what a record left due at its own instant (a released close). The next record would do it too.
    pub fn settle_down(&mut self) -> Advance {
        let Some(now) = self.clock.now else {
            return Advance::Done;
        };
        if self.next_due > now {
            return Advance::Done;
        }
        let fired = self.fire(now);
        match fired {
            Advance::Done => {
                // What was left was a step too: whoever has committed up to the one before has something to commit again.
                self.position.step += u64::from(std::mem::take(&mut self.settling));
                self.digest.seal(self.position.next_offset);
            }
            Advance::More => {
                self.settling = true;
                self.finish_step(self.position.next_offset);
            }
            Advance::Load(_) => {}
        }
        fired
    }

    fn finish_step(&mut self, offset: u64) {
        self.position.step += 1;
        self.digest.seal(offset);
    }

    /// Fires timers due by `target`, in order of (due time, kind, key), at most [`TIMERS_PER_STEP`]. What has to be loaded on
    /// the way doesn't begin a new step: steps depend on the log alone.
    fn fire(&mut self, target: Ms) -> Advance {
        while self.fired < TIMERS_PER_STEP {
            match self.fire_first(target) {
                Fired::Nothing => {
                    self.fired = 0;
                    return Advance::Done;
                }
                Fired::One => self.fired += 1,
                Fired::Needs(load) => return Advance::Load(load),
            }
        }
        self.fired = 0;
        Advance::More
    }

    fn fire_first(&mut self, target: Ms) -> Fired {
        let settle = {
            let policies = &self.policies;
            self.calls
                .first_due(|version, wait| policies.get(usize::from(version)).map_or(0, |p| wait.length_ms(p)))
        };
        let close = self.closes.first().copied();
        let control = self.control_due().map(|(due, _)| due);
        let notice = self.notices.first().copied();
        // Kinds in the order of RULES §2; a partition's control record comes after the closes of its instant.
        let first = [
            settle.map(|s| (s.0, 0)),
            close.map(|c| (c.0, 1)),
            control.map(|c| (c, 2)),
            notice.map(|n| (n.0, 3)),
        ]
        .into_iter()
        .flatten()
        .min();
        let Some((due, kind)) = first else {
            self.next_due = Ms::MAX;
            return Fired::Nothing;
        };
        self.next_due = due;
        if due > target {
            return Fired::Nothing;
        }
        match (kind, settle, close, notice) {
            (0, Some((_, slot)), _, _) => {
                self.move_clock(due);
                self.settle(slot);
            }
            (1, _, Some((_, account, month)), _) => {
                if let Some(load) = self.missing_for_close(account, month, target) {
                    return Fired::Needs(load);
                }
                self.move_clock(due);
                self.close(account, month);
            }
            (2, ..) => {
                self.move_clock(due);
                self.close_month();
            }
            (_, _, _, Some((_, account, month))) => {
                if self.backed && !self.loaded.contains(&(account, month)) {
                    return Fired::Needs(vec![(account, month)]);
                }
                self.move_clock(due);
                self.notice(account, month);
            }
            _ => {}
        }
        Fired::One
    }

    fn move_clock(&mut self, due: Ms) {
        let policy = &self.policies[self.policies.len() - 1];
        self.clock.advance(due, policy);
    }

    /// Makes sure that a timer at `due` is looked at.
    pub(super) fn wake(&mut self, due: Ms) {
        self.next_due = self.next_due.min(due);
    }

    /// Puts a record into the rejects output.
    pub(super) fn reject(&mut self, record: &Record<'_>, reject: Reject) {
        *self.counters.rejects.entry(reject.reason).or_default() += 1;
        let kept = record
            .bytes
            .get(..crate::model::limits::RECORD_BYTES_MAX)
            .unwrap_or(record.bytes);
        let body = pb::Rejected {
            partition: self.partition,
            offset: record.offset,
            reason: reject.reason.as_str().to_owned(),
            field: reject.field.into_owned(),
            detail: format!("{}; {}", reject.detail, reject.reason.cure()),
            record: kept.to_vec(),
            truncated: kept.len() < record.bytes.len(),
            sequence: 0,
        };
        self.emit(Topic::Rejects, &body);
    }

    /// Decides an output.
    pub(super) fn emit(&mut self, topic: Topic, message: &impl prost::Message) -> u64 {
        let body = message.encode_to_vec();
        let tail = self.outputs.push(topic, body);
        self.digest.note(
            Mark::Output,
            topic as u64,
            [tail.chain as u64, (tail.chain >> 64) as u64],
        );
        tail.sequence
    }

    /// The checks that need the clock, in the order of RULES §5.
    fn check_event(&self, record: &Record<'_>, event: &Event<'_>) -> Result<Ms, Reject> {
        let at = event.occurred_at;
        let arrived_ms = record.arrived_ms();
        if self.clock.source == Source::Append && at > arrived_ms.saturating_add(AHEAD_MS_MAX) {
            return Err(Reject::new(
                RejectReason::Ahead,
                "occurred_at",
                format!(
                    "{} ms after the append time; at most {AHEAD_MS_MAX} are taken",
                    at.saturating_sub(arrived_ms)
                ),
            ));
        }
        let Some(now) = self.clock.now else {
            return Err(Reject::new(
                RejectReason::NoClock,
                "occurred_at",
                "the log's clock has not begun",
            ));
        };
        if self.clock.source == Source::Ticks {
            let window = self.policy().amend_window_ms;
            if at > now.saturating_add(window) {
                return Err(Reject::new(
                    RejectReason::Ahead,
                    "occurred_at",
                    format!("{} ms after the log's clock; at most {window} are taken", at - now),
                ));
            }
        }
        if at < self.clock.late_line {
            return Err(Reject::new(
                RejectReason::TooLate,
                "occurred_at",
                format!("{} ms before the late line", self.clock.late_line - at),
            ));
        }
        if let Some(field) = event.too_large {
            return Err(Reject::new(RejectReason::TooLarge, field, "over the contract's size"));
        }
        Ok(now)
    }

    fn event(&mut self, record: &Record<'_>, event: &Event<'_>, known: Option<&Known<'_>>) {
        let numbered = match known {
            Some(known) => Some(known.account),
            None => self.accounts.find(event.account),
        };
        if numbered.is_none() && self.passes_on(record, event.account) {
            return;
        }
        let now = match self.check_event(record, event) {
            Ok(now) => now,
            Err(reject) => return self.reject(record, reject),
        };
        self.counters.events += 1;
        self.counters.unknown_fields += u64::from(event.unknown_fields);
        let known = match known {
            Some(known) => *known,
            None => {
                let account = numbered.unwrap_or_else(|| self.account(event.account));
                let key = CallKey::parse(event.call);
                let hash = key.hash(account);
                Known {
                    account,
                    key,
                    hash,
                    slot: None,
                }
            }
        };
        let Known { account, key, hash, .. } = known;
        let shape = self.shape(event);
        let (slot, new) = match self.find_known(&known) {
            Some(slot) => (slot, false),
            None => {
                let policy = (self.policies.len() - 1) as u16;
                let call = Call::new(key.to_owned(), account, policy, now, event.occurred_at);
                (self.calls.insert(call), true)
            }
        };
        let Some(call) = self.calls.get(slot) else {
            return;
        };
        let before = call.is_settled().then(|| self.verdict_of(slot)).flatten();
        if let Some(call) = self.calls.get_mut(slot) {
            call.evidence.merge(event, shape, &mut self.names, &mut self.difference);
        }
        if new || self.difference.changed {
            self.digest.note(
                Mark::Evidence,
                hash,
                [
                    event.occurred_at as u64,
                    u64::from(event.attempt) << 16 | (event.phase as u64) << 8 | event.observer as u64,
                ],
            );
            for change in &self.difference.amounts {
                self.digest.quantity(change.after.meter.0, change.after.nano());
            }
            match before {
                None => self.wait(slot, record.offset),
                Some(before) => self.amend(slot, &before),
            }
        } else {
            self.counters.copies += 1;
        }
    }

    /// The account's number; a new one is noted.
    pub(super) fn account(&mut self, id: &str) -> u32 {
        let (number, new) = self.accounts.number(id);
        if new {
            self.digest.note(Mark::Account, Accounts::hash(id), [number.into(), 0]);
        }
        number
    }

    /// The resident call, unless it is forgotten: then it makes room for a new life of its id.
    pub(super) fn find_call(&mut self, account: u32, key: &CallKey<'_>, hash: u64) -> Option<Slot> {
        self.find_known(&Known {
            account,
            key: *key,
            hash,
            slot: None,
        })
    }

    fn find_known(&mut self, known: &Known<'_>) -> Option<Slot> {
        let (calls, account, key) = (&self.calls, known.account, &known.key);
        let slot = known
            .slot
            .filter(|&slot| calls.holds(slot, account, key))
            .or_else(|| calls.find(account, key, known.hash))?;
        let call = self.calls.get(slot)?;
        if call.is_settled() && call.remembered_until() < self.clock.forget_line {
            self.calls.remove(slot);
            return None;
        }
        Some(slot)
    }

    /// Numbers the event's service, product and the rollup values that the policy in force names.
    fn shape(&mut self, event: &Event<'_>) -> ShapeId {
        let rollup = &self.rollups[self.rollups.len() - 1];
        if rollup.is_empty() || event.dimensions.is_empty() {
            return self.names.plain_shape(event.service, event.product);
        }
        let symbols = &mut self.names.symbols;
        let mut shape = Shape {
            service: symbols.intern(event.service),
            product: symbols.intern(event.product),
            ..Shape::default()
        };
        for &name in rollup {
            let wanted = symbols.name(name);
            let value = event
                .dimensions
                .iter()
                .rev()
                .find(|(n, _)| *n == wanted)
                .map_or("", |(_, v)| *v);
            let value = symbols.intern(value);
            if !value.is_none() {
                shape.dimensions.push((name, value));
            }
        }
        shape.dimensions.sort_unstable();
        self.names.shape(shape)
    }
}

enum Fired {
    Nothing,
    One,
    Needs(Vec<(u32, Month)>),
}
