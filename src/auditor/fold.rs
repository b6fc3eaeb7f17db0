//! RULES §2, §5 and §6: the records one after the other, the clock, the timers, and what they leave.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use chrono_tz::Tz;

use super::authority::Signed;
use super::call::{Call, Settled};
use super::evidence::{self, Kept};
use super::period::{self, Period};
use super::{CallVerdict, ClockSource, Entry, Findings, HOUR, MINUTE, Policy, Usage, Word, add_usage, reject};
use crate::wire::pb;

type Key = (String, String);
pub(super) type Reject = &'static str;

const TICK_LEAD: i64 = HOUR;
const TICK_SKEW: i64 = 5 * MINUTE;
const EVENT_LEAD: i64 = 5 * MINUTE;

/// Of the kinds of RULES §2, those that bear on usage; in the order that they fire in at one instant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Settle(Key),
    /// Of an account, the period that begins there.
    Close(String, i64),
}

pub(super) struct Account {
    pub zone: Tz,
    pub periods: Vec<Period>,
}

/// One partition, audited.
pub struct Auditor {
    pub(super) partition: u32,
    pub(super) partition_count: u32,
    pub(super) signed: Option<Signed>,
    pub(super) forwards: BTreeSet<u64>,
    pub(super) source: ClockSource,
    /// None: a `ticks` log before its first tick.
    pub(super) clock: Option<i64>,
    pub(super) last_tick: i64,
    pub(super) late_line: i64,
    pub(super) forget_line: i64,
    pub(super) timers: BTreeSet<(i64, Timer)>,
    pub(super) policy: Policy,
    pub(super) control_version: u64,
    pub(super) has_card: bool,
    /// Accepted control records by id, with the clock then.
    pub(super) ids: BTreeMap<String, (Option<i64>, pb::Control)>,
    /// (period, account), the account empty for all
    pub(super) holds: BTreeSet<(String, String)>,
    pub(super) accounts: BTreeMap<String, Account>,
    /// All lives of every call id, the latest one last.
    pub(super) calls: BTreeMap<Key, Vec<Call>>,
    pub(super) frozen: Usage,
    pub(super) rejects: BTreeMap<u64, Reject>,
}

impl Auditor {
    /// The partition after its genesis.
    pub fn new(source: ClockSource, genesis_append_ms: i64) -> Self {
        let mut auditor = Self {
            partition: 0,
            partition_count: 1,
            signed: None,
            forwards: BTreeSet::new(),
            source,
            clock: match source {
                ClockSource::Append => Some(genesis_append_ms),
                ClockSource::Ticks => None,
            },
            last_tick: genesis_append_ms,
            late_line: i64::MIN,
            forget_line: i64::MIN,
            timers: BTreeSet::new(),
            policy: Policy::first(),
            control_version: 0,
            has_card: false,
            ids: BTreeMap::new(),
            holds: BTreeSet::new(),
            accounts: BTreeMap::new(),
            calls: BTreeMap::new(),
            frozen: Usage::new(),
            rejects: BTreeMap::new(),
        };
        auditor.draw_lines();
        auditor
    }

    /// RULES §2: move the clock; fire every timer that is due; then the record.
    pub fn take(&mut self, entry: &Entry<'_>) {
        let bad_tick = self.move_clock(entry);
        self.draw_lines();
        self.fire();
        let refused = match &entry.word {
            Word::Event(event) if !event.account_id.is_empty() && self.elsewhere(&event.account_id) => {
                self.misplaced(entry)
            }
            Word::Event(event) => {
                let first = entry.forwarded.unwrap_or(entry.append_ms);
                self.event(event, entry.append_ms.min(first))
            }
            Word::Control(control) => self.control(control, entry),
            Word::Tick(_) => bad_tick,
            Word::Unreadable => None,
        };
        if let Some(reason) = refused {
            self.rejects.insert(entry.offset, reason);
        }
        // What the record itself made due would fire before the next one: nothing can come between.
        self.fire();
    }

    /// Only the owning partition judges and rejects; a second hop there isn't.
    fn misplaced(&mut self, entry: &Entry<'_>) -> Option<Reject> {
        if entry.forwarded.is_some() {
            return Some("wrong_partition");
        }
        self.forwards.insert(entry.offset);
        None
    }

    fn move_clock(&mut self, entry: &Entry<'_>) -> Option<Reject> {
        match self.source {
            ClockSource::Append => {
                let mut refused = None;
                if let Word::Tick(at) = entry.word {
                    if at.abs_diff(entry.append_ms) > TICK_SKEW.unsigned_abs() {
                        refused = Some("bad_tick");
                    } else {
                        self.last_tick = at;
                    }
                }
                let allowed = entry.append_ms.min(self.last_tick.saturating_add(TICK_LEAD));
                self.clock = self.clock.max(Some(allowed));
                refused
            }
            ClockSource::Ticks => {
                let Word::Tick(at) = entry.word else { return None };
                if !self.authorised(entry) {
                    return Some("not_authorised");
                }
                self.clock = self.clock.max(Some(at));
                None
            }
        }
    }

    /// The late and the forget line. They never move back.
    fn draw_lines(&mut self) {
        let Some(clock) = self.clock else { return };
        let late = clock.saturating_sub(self.policy.amend_window);
        self.late_line = self.late_line.max(late);
        self.forget_line = self.forget_line.max(late.saturating_sub(self.policy.call_span));
        // Ids given before there was a clock age from its start.
        for (accepted, _) in self.ids.values_mut() {
            accepted.get_or_insert(clock);
        }
    }

    /// Fire what is due, each at its own due time.
    fn fire(&mut self) {
        let Some(clock) = self.clock else { return };
        while let Some((due, _)) = self.timers.first()
            && *due <= clock
            && let Some((due, timer)) = self.timers.pop_first()
        {
            match timer {
                Timer::Settle(key) => self.settle(&key, due),
                Timer::Close(account, from) => self.close(&account, from),
            }
        }
    }

    // Events

    fn event(&mut self, event: &pb::CallEvent, append_ms: i64) -> Option<Reject> {
        let refused = reject::event_content(event);
        if refused.is_some() {
            return refused;
        }
        let occurred_at = evidence::occurred_at(event);
        let latest = match self.source {
            ClockSource::Append => Some(append_ms.saturating_add(EVENT_LEAD)),
            ClockSource::Ticks => self.clock.map(|clock| clock.saturating_add(self.policy.amend_window)),
        };
        if latest.is_some_and(|latest| occurred_at > latest) {
            return Some("ahead");
        }
        let Some(clock) = self.clock else {
            return Some("no_clock");
        };
        if occurred_at < self.late_line {
            return Some("too_late");
        }
        if reject::event_too_large(event) {
            return Some("too_large");
        }
        self.fold(event, clock);
        None
    }

    fn fold(&mut self, event: &pb::CallEvent, clock: i64) {
        let key = (event.account_id.clone(), event.call_id.clone());
        let named = |name: &String| event.dimensions.get(name).map(|value| (name.clone(), value.clone()));
        let dimensions = self.policy.rollup_dimensions.iter().filter_map(named).collect();
        let kept = Kept {
            event: event.clone(),
            dimensions,
        };

        let lives = self.calls.entry(key.clone()).or_default();
        let known = lives.last().is_some_and(|call| !call.forgotten(self.forget_line));
        if !known {
            lives.push(Call {
                policy: self.policy.clone(),
                first_arrival: clock,
                last_change: clock,
                events: vec![kept],
                correction: None,
                due: clock,
                settled: None,
            });
            self.set_timer(&key);
            return;
        }
        let Some(call) = lives.last_mut() else { return };
        let before = call.evidence();
        call.events.push(kept);
        if call.evidence() == before {
            return;
        }
        self.changed(&key, clock);
    }

    /// The evidence of the call has changed: an open one waits anew, a settled one is judged again.
    pub(super) fn changed(&mut self, key: &Key, clock: i64) {
        let Some(call) = self.calls.get_mut(key).and_then(|lives| lives.last_mut()) else {
            return;
        };
        if call.settled.is_none() {
            call.last_change = clock;
            self.set_timer(key);
        } else {
            self.settle(key, clock);
        }
    }

    fn set_timer(&mut self, key: &Key) {
        let Some(call) = self.calls.get_mut(key).and_then(|lives| lives.last_mut()) else {
            return;
        };
        self.timers.remove(&(call.due, Timer::Settle(key.clone())));
        call.due = call.due_now();
        self.timers.insert((call.due, Timer::Settle(key.clone())));
    }

    /// Give the call its verdict, for the first time or anew.
    fn settle(&mut self, key: &Key, now: i64) {
        let Some(judged) = self.calls.get(key).and_then(|lives| lives.last()).map(Call::judge) else {
            return;
        };
        let (period, day) = self.period(&key.0, judged.decided_at, now);
        let verdict = CallVerdict {
            outcome: judged.outcome,
            reason: judged.reason,
            row: judged.row,
            billed: judged.billed,
            period,
            service: judged.service,
            product: judged.product,
            quantities: judged.quantities,
            estimated: judged.estimated,
        };
        let Some(call) = self.calls.get_mut(key).and_then(|lives| lives.last_mut()) else {
            return;
        };
        // The row is ours, it is not part of what is told: another row for the same reason changes nothing. Nor does another
        // instant of the same day: a verdict has a period, and days carry the price.
        let same = call.settled.as_ref().is_some_and(|old| {
            let old_verdict = CallVerdict {
                row: verdict.row,
                ..old.verdict.clone()
            };
            old_verdict == verdict && old.day == day
        });
        let changed_at = match &call.settled {
            Some(old) if same => old.changed_at,
            _ => now,
        };
        call.settled = Some(Settled {
            verdict,
            day,
            changed_at,
        });
    }

    // Periods

    pub(super) fn account(&mut self, account: &str) -> &mut Account {
        self.accounts.entry(account.to_owned()).or_insert_with(|| Account {
            zone: Tz::UTC,
            periods: Vec::new(),
        })
    }

    /// The name of the account's period with this instant, stored if it wasn't, and the day there.
    fn period(&mut self, account_id: &str, at: i64, now: i64) -> (String, Option<NaiveDate>) {
        let close_grace = self.policy.close_grace;
        let holds = self.holds.clone();
        let account = self.account(account_id);
        let Some(mut periods) = period::needed(&account.periods, at, account.zone, close_grace) else {
            return (String::new(), None);
        };
        let mut timers = Vec::new();
        for period in &mut periods {
            if account.periods.iter().any(|stored| stored.month == period.month) {
                continue;
            }
            // Already due when first needed: closed, with an empty statement.
            period.closed = period.close_due <= now && !held(&holds, period, account_id);
            if !period.closed {
                timers.push((period.close_due, Timer::Close(account_id.to_owned(), period.from)));
            }
        }
        let found = periods.iter().find(|period| period.from <= at && at < period.until);
        let name = found.map(|period| period::name(period.month)).unwrap_or_default();
        let day = found.and_then(|period| period::day(at, period.zone));
        account.periods = periods;
        self.timers.extend(timers);
        (name, day)
    }

    fn close(&mut self, account_id: &str, from: i64) {
        let Some(account) = self.accounts.get_mut(account_id) else {
            return;
        };
        let Some(period) = account.periods.iter_mut().find(|period| period.from == from) else {
            return;
        };
        if period.closed || held(&self.holds, period, account_id) {
            return;
        }
        period.closed = true;
        let name = period::name(period.month);
        let from_key = (account_id.to_owned(), String::new());
        let of_account = self
            .calls
            .range(from_key..)
            .take_while(|((account, _), _)| account == account_id);
        for settled in of_account
            .flat_map(|(_, lives)| lives)
            .filter_map(|call| call.settled.as_ref())
        {
            if settled.verdict.period == name {
                add_usage(&mut self.frozen, account_id, &settled.verdict);
            }
        }
    }

    /// After a release: what isn't closed is due as it was.
    pub(super) fn close_again(&mut self) {
        for (account_id, account) in &self.accounts {
            for period in account.periods.iter().filter(|period| !period.closed) {
                self.timers
                    .insert((period.close_due, Timer::Close(account_id.clone(), period.from)));
            }
        }
    }

    // Findings

    /// What is known now.
    pub fn findings(&self) -> Findings {
        let mut findings = Findings {
            frozen: self.frozen.clone(),
            rejects: self.rejects.clone(),
            forwards: self.forwards.clone(),
            ..Findings::default()
        };
        for (key, lives) in &self.calls {
            for call in lives {
                let Some(settled) = &call.settled else {
                    findings.open = findings.open.saturating_add(1);
                    continue;
                };
                let verdict = &settled.verdict;
                add_usage(&mut findings.usage, &key.0, verdict);
                let counted = (key.0.clone(), verdict.period.clone(), verdict.outcome, verdict.reason);
                let count = findings.counts.entry(counted).or_insert(0);
                *count = count.saturating_add(1);
                findings.calls.insert(key.clone(), verdict.clone());
            }
        }
        findings
    }
}

fn held(holds: &BTreeSet<(String, String)>, period: &Period, account: &str) -> bool {
    let name = period::name(period.month);
    holds.contains(&(name.clone(), String::new())) || holds.contains(&(name, account.to_owned()))
}
