//! Evidence and policy to verdict: the 19 rows of RULES §4, first match wins. Pure functions, no waiting done here:
//! a ruling says which wait its row needs, the clock says when that is over.

use smallvec::SmallVec;

use super::evidence::{Amount, Ending, Evidence, Scope};
use super::names::{self, Names};
use crate::model::Ms;
use crate::model::event::{CallKind, Cause, EndMarker, Observer, Progress, Provenance};
use crate::model::outcome::{Class, Outcome, Reason};
use crate::model::policy::Policy;
use crate::model::symbol::Sym;

/// What the operator decided about one call (RULES §4 row 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Bill or waive.
    pub bill: bool,
    /// Replace all measured ones but `requests`, if there are any and `bill`; sorted by meter.
    pub quantities: Vec<(Sym, i128)>,
    /// The control record's id.
    pub control_id: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What a row waits for, counted from the last change of the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Wait {
    /// `settle_grace`.
    Arrival = 0,
    /// `disconnect_grace`.
    Grace = 1,
    /// `call_deadline`.
    CallDeadline = 2,
    /// `task_deadline`.
    TaskDeadline = 3,
}

impl Wait {
    /// How many kinds of wait there are.
    pub const COUNT: usize = 4;

    /// How long, in ms, under `policy`.
    pub fn length_ms(self, policy: &Policy) -> Ms {
        match self {
            Self::Arrival => policy.settle_grace_ms,
            Self::Grace => policy.disconnect_grace_ms,
            Self::CallDeadline => policy.call_deadline_ms,
            Self::TaskDeadline => policy.task_deadline_ms,
        }
    }
}

/// The upstream's word; the order is the order of RULES §3 (greatest wins), `Expired` for tasks alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Nothing was said.
    Silent,
    /// Any other ending.
    Failed,
    /// A task ran out of time.
    Expired,
    /// Stopped because of the hang-up.
    Cancelled,
    /// Completed, no status of 400 or more.
    Completed,
}

/// Which row decided, and what it says. Small and `Copy`: labels and quantities come from [`bill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The instant that decides the period.
    pub at: Ms,
    /// 1..=19.
    pub row: u8,
    /// What it came to.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// Whether it is charged.
    pub billed: bool,
    /// What the row waits for.
    pub wait: Wait,
    /// The attempt whose facts count, beside attempt 0.
    pub serving: u8,
    /// Which kind of call it was taken for; 0 = unset.
    pub kind: u8,
}

/// What is summed for a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Default `api`.
    pub service: Sym,
    /// Default empty.
    pub product: Sym,
    /// (name, value) of the rollup dimensions known of the call.
    pub dimensions: SmallVec<[(Sym, Sym); 1]>,
    /// (meter, 10^-9 units), sorted by meter symbol, zeros left out, `requests` first.
    pub quantities: SmallVec<[(Sym, i128); 5]>,
    /// A quantity was won by an estimate.
    pub estimated: bool,
}

/// A whole verdict, as compared before and after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Row, outcome, reason, instant.
    pub ruling: Ruling,
    /// Labels and quantities.
    pub bill: Bill,
}

impl Verdict {
    /// Under which class the quantities are summed.
    pub fn class(&self) -> Class {
        Class::of(self.ruling.outcome, self.ruling.billed, self.bill.estimated)
    }
}

/// Row, outcome, reason, billed, wait.
type Row = (u8, Outcome, Reason, bool, Wait);

const fn failed(row: u8, reason: Reason, wait: Wait) -> Row {
    (row, Outcome::Failed, reason, false, wait)
}

/// An HTTP status of the client's side that means: the client closed the request (nginx 499, HAProxy/ALB 460).
const fn client_closed(status: u16) -> bool {
    matches!(status, 499 | 460)
}

/// The cause of an edge's word after RULES §3's normalisation.
fn normalised(ending: &Ending, task: bool) -> Cause {
    match (ending.cause, ending.client_status) {
        (Cause::Cancelled, _) if !task => Cause::ClientGone,
        (Cause::Completed, status) if client_closed(status) => Cause::ClientGone,
        (Cause::Completed, 400..=499) => Cause::Rejected,
        (Cause::Completed, 500..=599) => Cause::UpstreamError,
        (cause, _) => cause,
    }
}

/// What one ending of upstream, provider or a try says (RULES §3, *the upstream's word*).
fn word_of(ending: &Ending, task: bool) -> Word {
    let (client, upstream) = (ending.client_status, ending.upstream_status);
    if ending.cause == Cause::Completed && client < 400 && upstream < 400 {
        Word::Completed
    } else if matches!(ending.cause, Cause::Cancelled | Cause::ClientGone)
        || client == 499
        || upstream == 499
        || matches!(
            ending.error,
            names::CANCELLED | names::CLIENT_CLOSED_REQUEST | names::BROKEN_PIPE
        )
    {
        Word::Cancelled
    } else if task && ending.cause == Cause::Expired {
        Word::Expired
    } else {
        Word::Failed
    }
}

/// Whether the ending is one that the upstream's word is made of.
fn speaks_for_upstream(ending: &Ending) -> bool {
    ending.scope == Scope::Attempt || ending.observer != Observer::Edge
}

/// An observer's word: its ended event at attempt 0, else at the highest attempt. The causes, lowest number first.
fn word_endings(evidence: &Evidence, observer: Observer) -> &[Ending] {
    let mut chosen: &[Ending] = &[];
    let all = evidence.endings.as_slice();
    if let [only] = all {
        // Nearly every call.
        let is_word = only.observer == observer && only.scope == Scope::Call;
        return if is_word { all } else { chosen };
    }
    let mut at = 0;
    while at < all.len() {
        let head = &all[at];
        let len = all[at..]
            .iter()
            .take_while(|e| (e.attempt, e.observer, e.scope) == (head.attempt, head.observer, head.scope))
            .count();
        if head.observer == observer && head.scope == Scope::Call {
            chosen = &all[at..at + len];
            if head.attempt == 0 {
                break;
            }
        }
        at += len;
    }
    chosen
}

/// The serving attempt (RULES §3): the number on the edge's word; else, among numbered attempts not known to have failed by
/// themselves (if none, all), the one with most progress, then the highest number. 0 if no attempt has a number.
fn serving_attempt(evidence: &Evidence, edge_word: &[Ending]) -> u8 {
    if let Some(number) = edge_word.first().map(|e| e.attempt)
        && number != 0
    {
        return number;
    }
    let mut best: Option<(bool, Progress, u8)> = None;
    let mut previous = 0;
    for label in &evidence.labels {
        if label.attempt == 0 || label.attempt == previous {
            continue;
        }
        previous = label.attempt;
        let own = evidence
            .endings
            .iter()
            .filter(|e| e.attempt == label.attempt && speaks_for_upstream(e))
            .map(|e| word_of(e, false))
            .max()
            .unwrap_or(Word::Silent);
        let candidate = (own != Word::Failed, evidence.progress(label.attempt), label.attempt);
        best = best.max(Some(candidate));
    }
    best.map_or(0, |(_, _, number)| number)
}

/// The first rank that has a value (RULES §3, ranked facts). `pick` gives (any, ended) of a label; 0 is unset.
fn ranked<T: Copy + PartialEq + Default>(
    evidence: &Evidence,
    serving: u8,
    pick: impl Fn(&super::evidence::Label) -> (T, T),
    greatest: impl Fn(T, T) -> T,
) -> T {
    let unset = T::default();
    for observer in Observer::ALL {
        let (mut ended, mut at_serving, mut at_zero) = (unset, unset, unset);
        for label in evidence.labels.iter().filter(|l| l.observer == *observer) {
            let (any, on_ended) = pick(label);
            if label.attempt == serving {
                at_serving = any;
            }
            if label.attempt == 0 {
                at_zero = any;
            }
            if (label.attempt == serving || label.attempt == 0) && on_ended != unset {
                ended = if ended == unset {
                    on_ended
                } else {
                    greatest(ended, on_ended)
                };
            }
        }
        for value in [ended, at_serving, at_zero] {
            if value != unset {
                return value;
            }
        }
    }
    unset
}

/// Facts that the rows look at, worked out once.
struct Facts<'a> {
    evidence: &'a Evidence,
    policy: &'a Policy,
    serving: u8,
    upstream: Word,
}

impl Facts<'_> {
    fn counts(&self, attempt: u8) -> bool {
        attempt == self.serving || attempt == 0
    }

    fn progress(&self) -> Progress {
        let own = self.evidence.progress(self.serving);
        if self.serving == 0 {
            own
        } else {
            own.max(self.evidence.progress(0))
        }
    }

    /// RULES §3, *output seen*.
    fn output_seen(&self) -> bool {
        best_amounts(self.evidence, self.serving).iter().any(|a| {
            a.value > 0
                && !matches!(
                    a.meter,
                    names::REQUESTS
                        | names::INPUT_TOKENS_UNCACHED
                        | names::CACHE_READ_TOKENS
                        | names::CACHE_WRITE_TOKENS
                        | names::BYTES_IN
                        | names::COMPUTE_MS
                )
        })
    }

    /// Rows 4–17: one cause of the edge's word, judged alone.
    fn judge_edge(&self, ending: &Ending) -> Row {
        let arrival = Wait::Arrival;
        let upstream_failed =
            self.upstream == Word::Failed || (ending.upstream_status >= 400 && ending.upstream_status != 499);
        match normalised(ending, false) {
            Cause::Rejected => failed(4, rejected_reason(ending), arrival),
            Cause::UpstreamError => failed(5, upstream_error_reason(ending), arrival),
            Cause::UpstreamBroken => failed(5, Reason::UpstreamBroken, arrival),
            Cause::UpstreamTimeout | Cause::Expired => failed(5, Reason::UpstreamTimeout, arrival),
            Cause::GatewayAborted => failed(6, Reason::GatewayAborted, arrival),
            Cause::Completed => {
                if ending.end_marker == EndMarker::Missing {
                    failed(7, Reason::Truncated, arrival)
                } else if ending.error == names::IDEMPOTENT_REPLAY {
                    (8, Outcome::Success, Reason::IdempotentReplay, false, arrival)
                } else if ending.end_marker != EndMarker::Seen && upstream_failed {
                    failed(9, Reason::UpstreamFailed, arrival)
                } else {
                    let reason = if ending.error == names::REFUSAL {
                        Reason::Refused
                    } else {
                        Reason::Completed
                    };
                    (10, Outcome::Success, reason, true, arrival)
                }
            }
            Cause::ClientGone | Cause::Cancelled => self.judge_gone(upstream_failed),
        }
    }

    /// Rows 11–17.
    fn judge_gone(&self, upstream_failed: bool) -> Row {
        let gone = |row, reason, billed, wait| {
            if billed {
                (row, Outcome::Disconnected, reason, true, wait)
            } else {
                failed(row, reason, wait)
            }
        };
        if self.upstream == Word::Completed {
            return gone(11, Reason::GoneCompleted, true, Wait::Arrival);
        }
        if upstream_failed {
            return gone(12, Reason::GoneUpstreamFailed, false, Wait::Arrival);
        }
        let policy = self.policy;
        match self.progress() {
            Progress::Complete => gone(13, Reason::GoneCompleted, true, Wait::Arrival),
            Progress::ResponseStarted => {
                if self.output_seen() || self.upstream == Word::Cancelled {
                    gone(14, Reason::GoneOnTrack, true, Wait::Grace)
                } else {
                    gone(15, Reason::GoneUnproven, policy.bill_empty_disconnect, Wait::Grace)
                }
            }
            Progress::Forwarded => gone(16, Reason::GoneUnproven, policy.bill_unproven, Wait::Grace),
            Progress::NotForwarded | Progress::Unknown => gone(17, Reason::GoneBeforeAccept, false, Wait::Grace),
        }
    }

    /// Row 2, and rows 4 and 6 for a task: one cause of the edge's word, judged alone; `None` is dropped.
    fn judge_task_cause(&self, ending: &Ending) -> Option<Row> {
        let arrival = Wait::Arrival;
        Some(match normalised(ending, true) {
            Cause::ClientGone => return None,
            Cause::Completed => (2, Outcome::Success, Reason::TaskCompleted, true, arrival),
            Cause::Cancelled => self.task_cancelled(),
            Cause::Expired => failed(2, Reason::TaskExpired, arrival),
            Cause::UpstreamError | Cause::UpstreamBroken | Cause::UpstreamTimeout => {
                failed(2, Reason::TaskFailed, arrival)
            }
            Cause::Rejected => failed(4, rejected_reason(ending), arrival),
            Cause::GatewayAborted => failed(6, Reason::GatewayAborted, arrival),
        })
    }

    fn task_cancelled(&self) -> Row {
        let billed = self.policy.bill_cancelled_task;
        let outcome = if billed { Outcome::Disconnected } else { Outcome::Failed };
        (2, outcome, Reason::TaskCancelled, billed, Wait::Arrival)
    }

    /// Rows 18 and 19, when the edge is silent.
    fn judge_silence(&self, task: bool) -> Row {
        let wait = if task { Wait::TaskDeadline } else { Wait::CallDeadline };
        if self.upstream != Word::Completed {
            return failed(19, Reason::Unresolved, wait);
        }
        if self.policy.bill_upstream_only {
            (18, Outcome::Success, Reason::UpstreamOnly, true, wait)
        } else {
            failed(18, Reason::UpstreamOnly, wait)
        }
    }
}

fn rejected_reason(ending: &Ending) -> Reason {
    match ending.client_status {
        429 => Reason::RejectedRateLimit,
        402 => Reason::RejectedCredit,
        _ => Reason::RejectedRequest,
    }
}

fn upstream_error_reason(ending: &Ending) -> Reason {
    let overloaded = |status| matches!(status, 503 | 529);
    if overloaded(ending.client_status) || overloaded(ending.upstream_status) || ending.error == names::OVERLOADED_ERROR
    {
        Reason::Overloaded
    } else if (200..=299).contains(&ending.upstream_status) {
        Reason::InBandError
    } else {
        Reason::UpstreamError
    }
}

/// Several causes at equal rank (row 3): the lowest number as sent if all come to one outcome and billing, else a conflict.
/// The causes come lowest number first; the time is that of the first.
fn agree(judged: impl Iterator<Item = (Row, Ms)>) -> Option<(Row, Ms)> {
    let mut judged = judged;
    let (first, at) = judged.next()?;
    for (row, _) in judged {
        if (row.1, row.3) != (first.1, first.3) {
            return Some((failed(3, Reason::Conflict, Wait::Arrival), at));
        }
    }
    Some((first, at))
}

/// The call's kind by rank (RULES §3); 0 = unset.
fn kind_of(evidence: &Evidence, serving: u8) -> u8 {
    // Nearly always all events name one kind.
    let first = evidence.labels.first().map_or(0, super::evidence::Label::kind);
    let uniform = evidence.labels.iter().all(|l| {
        l.kind() == first
            && (l.kind_ended() == first || l.kind_ended() == 0)
            && (l.attempt == serving || l.attempt == 0)
    });
    if uniform {
        return first;
    }
    ranked(evidence, serving, |l| (l.kind(), l.kind_ended()), u8::max)
}

/// The verdict's row, without the operator's word.
fn rule_evidence(evidence: &Evidence, policy: &Policy) -> Ruling {
    let edge = word_endings(evidence, Observer::Edge);
    let serving = serving_attempt(evidence, edge);
    let kind = kind_of(evidence, serving);
    let task = kind == CallKind::AsyncTask as u8 || kind == CallKind::BatchItem as u8;
    let upstream = evidence
        .endings
        .iter()
        .filter(|e| speaks_for_upstream(e) && (e.attempt == serving || e.attempt == 0))
        .map(|e| word_of(e, false))
        .max()
        .unwrap_or(Word::Silent);
    let facts = Facts {
        evidence,
        policy,
        serving,
        upstream,
    };
    let decided = match edge {
        _ if task => judge_task(&facts, edge),
        [] => None,
        [only] => Some((facts.judge_edge(only), only.at)),
        several => agree(several.iter().map(|e| (facts.judge_edge(e), e.at))),
    };
    let (row, at) = decided.unwrap_or_else(|| {
        // Row 18 or 19: the general order; the edge's words, if any, were dropped.
        let at = [Observer::Upstream, Observer::Provider]
            .into_iter()
            .find_map(|o| word_endings(evidence, o).first())
            .map_or(evidence.last, |e| e.at);
        (facts.judge_silence(task), at)
    });
    Ruling {
        at,
        row: row.0,
        outcome: row.1,
        reason: row.2,
        billed: row.3,
        wait: row.4,
        serving,
        kind,
    }
}

/// RULES §4, *Tasks*: upstream's and provider's ended events first; if they are silent, the edge's causes.
fn judge_task(facts: &Facts<'_>, edge: &[Ending]) -> Option<(Row, Ms)> {
    let mut word = Word::Silent;
    let mut at = Ms::MAX;
    for ending in facts
        .evidence
        .endings
        .iter()
        .filter(|e| e.scope == Scope::Call && e.observer != Observer::Edge && facts.counts(e.attempt))
    {
        let this = word_of(ending, true);
        if this > word {
            (word, at) = (this, ending.at);
        } else if this == word {
            at = at.min(ending.at);
        }
    }
    let row = match word {
        Word::Completed => (2, Outcome::Success, Reason::TaskCompleted, true, Wait::Arrival),
        Word::Cancelled => facts.task_cancelled(),
        Word::Expired => failed(2, Reason::TaskExpired, Wait::Arrival),
        Word::Failed => failed(2, Reason::TaskFailed, Wait::Arrival),
        Word::Silent => {
            return agree(
                edge.iter()
                    .filter_map(|e| facts.judge_task_cause(e).map(|row| (row, e.at))),
            );
        }
    };
    Some((row, at))
}

/// The verdict's row: first match wins.
pub fn rule(evidence: &Evidence, policy: &Policy, correction: Option<&Correction>) -> Ruling {
    let ruling = rule_evidence(evidence, policy);
    match correction {
        // A correction does not move the period.
        Some(correction) => {
            let (outcome, reason) = if correction.bill {
                (Outcome::Success, Reason::OperatorBilled)
            } else {
                (Outcome::Failed, Reason::OperatorWaived)
            };
            Ruling {
                row: 1,
                outcome,
                reason,
                billed: correction.bill,
                wait: Wait::Arrival,
                ..ruling
            }
        }
        None => ruling,
    }
}

/// The best amount per meter of the serving attempt and attempt 0, reserved ones left out (RULES §4, *billed quantities*).
pub fn best_amounts(evidence: &Evidence, serving: u8) -> SmallVec<[Amount; 5]> {
    let mut best: SmallVec<[Amount; 5]> = SmallVec::new();
    let amounts = &evidence.amounts;
    // Nearly every call has amounts at one attempt: then each meter stands there once.
    let several = amounts.first().map(|a| a.attempt) != amounts.last().map(|a| a.attempt);
    for amount in amounts {
        if (amount.attempt != serving && amount.attempt != 0) || amount.provenance == Provenance::Reserved {
            continue;
        }
        match best.iter_mut().find(|b| several && b.meter == amount.meter) {
            Some(held) => {
                if amount.beats(held) {
                    *held = *amount;
                }
            }
            None => best.push(*amount),
        }
    }
    best
}

/// One whole request, in units of 10^-9.
pub const ONE_REQUEST: i128 = 1_000_000_000;

/// Labels and quantities of a ruling.
pub fn bill(evidence: &Evidence, ruling: &Ruling, correction: Option<&Correction>, names: &Names) -> Bill {
    let serving = ruling.serving;
    let greatest = |a, b| names.symbols.greatest(a, b);
    let mut bill = Bill {
        service: names::API,
        ..Bill::default()
    };
    // Nearly always all events name one shape.
    let first = evidence.labels.first().map_or_else(Default::default, |l| l.any);
    let uniform = evidence.labels.iter().all(|l| {
        l.any == first
            && (l.ended == first || l.ended == names::ShapeId::NONE)
            && (l.attempt == serving || l.attempt == 0)
    });
    if uniform {
        let shape = names.of(first);
        bill.service = shape.service;
        bill.product = shape.product;
        if !shape.dimensions.is_empty() {
            bill.dimensions.clone_from(&shape.dimensions);
        }
    } else {
        let shapes = |pick: &dyn Fn(&names::Shape) -> Sym| {
            ranked(
                evidence,
                serving,
                |l| (pick(names.of(l.any)), pick(names.of(l.ended))),
                greatest,
            )
        };
        bill.service = shapes(&|s| s.service);
        bill.product = shapes(&|s| s.product);
        let mut dimensions: SmallVec<[Sym; 4]> = SmallVec::new();
        for label in &evidence.labels {
            for &(name, _) in &names.of(label.any).dimensions {
                if !dimensions.contains(&name) {
                    dimensions.push(name);
                }
            }
        }
        dimensions.sort_unstable();
        for name in dimensions {
            let value = shapes(&|s| s.dimension(name));
            if !value.is_none() {
                bill.dimensions.push((name, value));
            }
        }
    }
    if bill.service.is_none() {
        bill.service = names::API;
    }
    bill.quantities.push((names::REQUESTS, ONE_REQUEST));
    match correction {
        Some(correction) if correction.bill && !correction.quantities.is_empty() => {
            bill.quantities
                .extend(correction.quantities.iter().filter(|(_, q)| *q != 0).copied());
        }
        _ => {
            for amount in best_amounts(evidence, serving) {
                bill.estimated |= amount.provenance == Provenance::Estimated;
                if amount.value != 0 {
                    bill.quantities.push((amount.meter, amount.nano()));
                }
            }
        }
    }
    bill.quantities[1..].sort_unstable_by_key(|(meter, _)| *meter);
    bill
}

/// Ruling and bill together.
pub fn verdict(evidence: &Evidence, policy: &Policy, correction: Option<&Correction>, names: &Names) -> Verdict {
    let ruling = rule(evidence, policy, correction);
    let bill = bill(evidence, &ruling, correction, names);
    Verdict { ruling, bill }
}
