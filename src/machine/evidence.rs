//! All facts known about a call, merged (RULES §3): commutative, associative, idempotent, field by field.
//!
//! Arrival order never matters here. What a merge changed is returned, since waits, exposure, usage and the digest live on it.

use smallvec::SmallVec;

use super::names::{Names, OUTPUT_TOKENS, ShapeId};
use crate::model::Ms;
use crate::model::event::{Cause, EndMarker, Event, Observer, Phase, Progress, Provenance};
use crate::model::limits::{ATTEMPTS_PER_CALL_MAX, METERS_PER_CALL_MAX};
use crate::model::symbol::Sym;

/// What one observer's events at one attempt said, whatever their seq: the ranked facts. And the attempt's progress, which is one
/// fact, whoever states it ([`PROGRESS_BY`]): told again by another, nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// 0 = the call as a whole.
    pub attempt: u8,
    /// Who.
    pub observer: Observer,
    /// Maximum over all events at the attempt, superseded ones too; only where the observer is [`PROGRESS_BY`].
    pub progress: Progress,
    /// Greatest kind number of any event (low 4 bits) and of ended events (high 4 bits); 0 = unset.
    pub kinds: u8,
    /// Names on any event.
    pub any: ShapeId,
    /// Names on ended events.
    pub ended: ShapeId,
}

/// Whose label holds the progress of an attempt, by whomever it was stated. A label of this observer may hold nothing else, and
/// nothing at all where only the attempt's number is known.
pub const PROGRESS_BY: Observer = Observer::Edge;

impl Label {
    /// One that says nothing.
    const fn bare(attempt: u8, observer: Observer) -> Self {
        Self {
            attempt,
            observer,
            progress: Progress::Unknown,
            kinds: 0,
            any: ShapeId::NONE,
            ended: ShapeId::NONE,
        }
    }

    fn is_bare(&self) -> bool {
        *self == Self::bare(self.attempt, self.observer)
    }

    /// Whether its observer has named a service, a product, a kind or a rollup value.
    pub fn names(&self) -> bool {
        self.kinds != 0 || self.any != ShapeId::NONE
    }

    /// Greatest kind number of any event; 0 = unset.
    pub fn kind(&self) -> u8 {
        self.kinds & 15
    }

    /// Greatest kind number of ended events; 0 = unset.
    pub fn kind_ended(&self) -> u8 {
        self.kinds >> 4
    }
}

/// Whether an ending is the observer's last word or one try's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Phase `ended`.
    Call = 0,
    /// Phase `attempt_ended`.
    Attempt = 1,
}

/// One cause of the set that an observer gave at one attempt, its fields merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The set's seq: a higher one replaces the set.
    pub seq: u64,
    /// Earliest `occurred_at`.
    pub at: Ms,
    /// Greatest string.
    pub error: Sym,
    /// Maximum.
    pub client_status: u16,
    /// Maximum.
    pub upstream_status: u16,
    /// 0 = the call as a whole.
    pub attempt: u8,
    /// Who.
    pub observer: Observer,
    /// Ended or attempt ended.
    pub scope: Scope,
    /// As sent.
    pub cause: Cause,
    /// Maximum.
    pub progress: Progress,
    /// Missing > seen > unset.
    pub end_marker: EndMarker,
}

impl Ending {
    fn key(&self) -> (u8, Observer, Scope, Cause) {
        (self.attempt, self.observer, self.scope, self.cause)
    }

    fn group(&self) -> (u8, Observer, Scope) {
        (self.attempt, self.observer, self.scope)
    }
}

/// The best reading of one meter at one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// × 10^-scale, canonical (no trailing zeros).
    pub value: i64,
    /// Which meter.
    pub meter: Sym,
    /// 0 = the call as a whole.
    pub attempt: u8,
    /// 0..=9.
    pub scale: u8,
    /// Higher wins.
    pub provenance: Provenance,
}

impl Amount {
    /// In units of 10^-9.
    pub fn nano(&self) -> i128 {
        const POWERS: [i64; 10] = [
            1_000_000_000,
            100_000_000,
            10_000_000,
            1_000_000,
            100_000,
            10_000,
            1_000,
            100,
            10,
            1,
        ];
        // 63 × 30 bits: always fits, and unchecked it is one instruction.
        i128::from(self.value).wrapping_mul(i128::from(POWERS[usize::from(self.scale.min(9))]))
    }

    /// Whether it wins over `other`: higher provenance, then larger value (RULES §3).
    pub fn beats(&self, other: &Self) -> bool {
        (self.provenance, self.nano()) > (other.provenance, other.nano())
    }
}

/// A quantity that a merge changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountChange {
    /// `None`: the meter is new at the attempt.
    pub before: Option<Amount>,
    /// The best now.
    pub after: Amount,
}

/// What a merge changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Whether anything stored changed; a copy changes nothing.
    pub changed: bool,
    /// Whether an ending, label, kind, attempt or progress changed (not only quantities and times).
    pub words: bool,
    /// Quantities before and after.
    pub amounts: SmallVec<[AmountChange; 4]>,
}

/// Merged facts. Lists are sorted by their keys, so equal evidence is equal memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Sorted by (attempt, observer).
    pub labels: SmallVec<[Label; 2]>,
    /// Sorted by (attempt, observer, scope, cause).
    pub endings: SmallVec<[Ending; 1]>,
    /// Sorted by (attempt, meter).
    pub amounts: SmallVec<[Amount; 3]>,
    /// Earliest `occurred_at`.
    pub first: Ms,
    /// Latest `occurred_at`.
    pub last: Ms,
}

/// Progress that the event itself proves at its attempt.
fn proven_progress(event: &Event<'_>) -> Progress {
    let by_end = event.end.map_or(Progress::Unknown, |end| end.progress);
    if event.phase == Phase::ResponseStarted {
        by_end.max(Progress::ResponseStarted)
    } else {
        by_end
    }
}

impl Evidence {
    /// No facts yet; the first merge sets the times.
    pub fn new(at: Ms) -> Self {
        Self {
            first: at,
            last: at,
            ..Self::default()
        }
    }

    /// Merges one event whose names are already numbered: `shape` for its service, product and rollup values.
    pub fn merge(&mut self, event: &Event<'_>, shape: ShapeId, names: &mut Names, difference: &mut Difference) {
        difference.changed = false;
        difference.words = false;
        difference.amounts.clear();
        if event.occurred_at < self.first {
            self.first = event.occurred_at;
            difference.changed = true;
        }
        if event.occurred_at > self.last {
            self.last = event.occurred_at;
            difference.changed = true;
        }
        if event.attempt != 0 && !self.admit_attempt(event.attempt, names, difference) {
            for reading in &event.usage {
                let meter = names.symbols.intern(reading.meter);
                self.hold_name(meter, names, difference);
            }
            return;
        }
        let words = self.merge_label(event, shape, names) | self.merge_ending(event, names);
        for reading in &event.usage {
            let amount = Amount {
                value: reading.value,
                meter: names.symbols.intern(reading.meter),
                attempt: event.attempt,
                scale: reading.scale,
                provenance: reading.provenance,
            };
            self.merge_amount(amount, names, difference);
        }
        difference.words = words;
        difference.changed |= words | !difference.amounts.is_empty();
    }

    /// Of more than 64 numbered attempts the lowest hold: makes room, or says that there is none.
    fn admit_attempt(&mut self, attempt: u8, names: &Names, difference: &mut Difference) -> bool {
        if self.labels.len() < ATTEMPTS_PER_CALL_MAX {
            return true;
        }
        let mut count = 0;
        let mut highest = 0;
        for label in &self.labels {
            if label.attempt == attempt {
                return true;
            }
            if label.attempt != 0 && label.attempt != highest {
                highest = label.attempt;
                count += 1;
            }
        }
        if count < ATTEMPTS_PER_CALL_MAX {
            return true;
        }
        if attempt > highest {
            return false;
        }
        self.labels.retain(|l| l.attempt != highest);
        self.endings.retain(|e| e.attempt != highest);
        let dropped: Vec<Sym> = self
            .amounts
            .iter()
            .filter(|a| a.attempt == highest)
            .map(|a| a.meter)
            .collect();
        self.amounts.retain(|a| a.attempt != highest);
        for meter in dropped {
            self.hold_name(meter, names, difference);
        }
        true
    }

    /// A meter of an attempt that isn't held still counts among the least names, or it would matter which came first. A reserved
    /// amount of nothing keeps its place: no verdict and no bill looks at one.
    fn hold_name(&mut self, meter: Sym, names: &Names, difference: &mut Difference) {
        let name_alone = Amount {
            value: 0,
            meter,
            attempt: 0,
            scale: 0,
            provenance: Provenance::Reserved,
        };
        let (held, changes) = (self.amounts.len(), difference.amounts.len());
        self.merge_amount(name_alone, names, difference);
        let added = difference.amounts.len() - changes;
        difference.amounts.truncate(changes);
        // Only what it has driven out is a change.
        difference.changed |= self.amounts.len() < held + added;
    }

    fn merge_label(&mut self, event: &Event<'_>, shape: ShapeId, names: &mut Names) -> bool {
        let kind = event.kind.map_or(0, |k| k as u8);
        let ended = event.phase == Phase::Ended;
        let progress = proven_progress(event);
        let said = Label {
            progress: Progress::Unknown,
            kinds: if ended { kind << 4 | kind } else { kind },
            any: shape,
            ended: if ended { shape } else { ShapeId::NONE },
            ..Label::bare(event.attempt, event.observer)
        };
        let proven = Label {
            progress,
            ..Label::bare(event.attempt, PROGRESS_BY)
        };
        if event.observer == PROGRESS_BY {
            return self.put_label(Label { progress, ..said }, names) | self.know_attempt(event.attempt);
        }
        self.put_label(said, names) | self.put_label(proven, names) | self.know_attempt(event.attempt)
    }

    /// Merges what a label says; one that says nothing is no evidence and leaves no trace.
    fn put_label(&mut self, new: Label, names: &mut Names) -> bool {
        match self.find_label(new.attempt, new.observer) {
            Ok(at) => {
                let old = self.labels[at];
                let merged = Label {
                    progress: old.progress.max(new.progress),
                    kinds: old.kind_ended().max(new.kind_ended()) << 4 | old.kind().max(new.kind()),
                    any: names.merge(old.any, new.any),
                    ended: names.merge(old.ended, new.ended),
                    ..old
                };
                self.labels[at] = merged;
                merged != old
            }
            Err(_) if new.is_bare() => false,
            Err(at) => {
                self.labels.insert(at, new);
                if new.attempt != 0 {
                    // The attempt is known by this one now.
                    self.labels.retain(|l| l.attempt != new.attempt || !l.is_bare());
                }
                true
            }
        }
    }

    /// That there was a numbered attempt is evidence, though nothing is known of it: the serving one may be it.
    fn know_attempt(&mut self, attempt: u8) -> bool {
        if attempt == 0 || self.labels.iter().any(|l| l.attempt == attempt) {
            return false;
        }
        let Err(at) = self.find_label(attempt, PROGRESS_BY) else {
            return false;
        };
        self.labels.insert(at, Label::bare(attempt, PROGRESS_BY));
        true
    }

    fn find_label(&self, attempt: u8, observer: Observer) -> Result<usize, usize> {
        let key = (attempt, observer);
        self.labels.binary_search_by_key(&key, |l| (l.attempt, l.observer))
    }

    fn merge_ending(&mut self, event: &Event<'_>, names: &mut Names) -> bool {
        let scope = match event.phase {
            Phase::Ended => Scope::Call,
            Phase::AttemptEnded => Scope::Attempt,
            _ => return false,
        };
        let Some(end) = event.end else { return false };
        let new = Ending {
            seq: event.seq,
            at: event.occurred_at,
            error: names.symbols.intern(end.error_type),
            client_status: end.client_status,
            upstream_status: end.upstream_status,
            attempt: event.attempt,
            observer: event.observer,
            scope,
            cause: end.cause,
            progress: end.progress,
            end_marker: end.end_marker,
        };
        if let Some(seq) = self.endings.iter().find(|e| e.group() == new.group()).map(|e| e.seq) {
            if new.seq < seq {
                return false;
            }
            if new.seq > seq {
                self.endings.retain(|e| e.group() != new.group());
            }
        }
        match self.endings.binary_search_by_key(&new.key(), Ending::key) {
            Ok(at) => {
                let old = self.endings[at];
                let merged = Ending {
                    at: old.at.min(new.at),
                    error: names.symbols.greatest(old.error, new.error),
                    client_status: old.client_status.max(new.client_status),
                    upstream_status: old.upstream_status.max(new.upstream_status),
                    progress: old.progress.max(new.progress),
                    end_marker: old.end_marker.max(new.end_marker),
                    ..old
                };
                self.endings[at] = merged;
                merged != old
            }
            Err(at) => {
                self.endings.insert(at, new);
                true
            }
        }
    }

    fn merge_amount(&mut self, new: Amount, names: &Names, difference: &mut Difference) {
        let before = match self
            .amounts
            .binary_search_by_key(&(new.attempt, new.meter), |a| (a.attempt, a.meter))
        {
            Ok(at) => {
                let old = self.amounts[at];
                if !new.beats(&old) {
                    return;
                }
                self.amounts[at] = new;
                Some(old)
            }
            Err(at) => {
                let len = self.amounts.len();
                if !self.admit_meter(new.meter, names) {
                    return;
                }
                // Making room may have moved the place.
                let at = if self.amounts.len() == len {
                    at
                } else {
                    self.amounts
                        .partition_point(|a| (a.attempt, a.meter) < (new.attempt, new.meter))
                };
                self.amounts.insert(at, new);
                None
            }
        };
        difference.amounts.push(AmountChange { before, after: new });
    }

    /// Of more than 64 meters the least names hold: makes room, or says that there is none.
    fn admit_meter(&mut self, meter: Sym, names: &Names) -> bool {
        if self.amounts.len() < METERS_PER_CALL_MAX {
            return true;
        }
        let mut meters: Vec<Sym> = self.amounts.iter().map(|a| a.meter).collect();
        meters.sort_unstable();
        meters.dedup();
        if meters.len() < METERS_PER_CALL_MAX || meters.binary_search(&meter).is_ok() {
            return true;
        }
        let Some(greatest) = meters.into_iter().max_by_key(|m| names.symbols.name(*m)) else {
            return true;
        };
        if names.symbols.name(meter) > names.symbols.name(greatest) {
            return false;
        }
        self.amounts.retain(|a| a.meter != greatest);
        true
    }

    /// Merged progress of one attempt, by whomever; best `output_tokens` above 0, not reserved, proves that the response started.
    pub fn progress(&self, attempt: u8) -> Progress {
        let told = self
            .find_label(attempt, PROGRESS_BY)
            .map_or(Progress::Unknown, |at| self.labels[at].progress);
        if told >= Progress::ResponseStarted {
            return told;
        }
        let output = self.amounts.iter().any(|a| {
            a.attempt == attempt && a.meter == OUTPUT_TOKENS && a.provenance != Provenance::Reserved && a.value > 0
        });
        if output { Progress::ResponseStarted } else { told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_fits_its_budget() {
        assert_eq!(size_of::<Label>(), 12);
        assert_eq!(size_of::<Ending>(), 32);
        assert_eq!(size_of::<Amount>(), 16);
        assert!(size_of::<Evidence>() <= 144, "{}", size_of::<Evidence>());
    }

    /// An event of an attempt with readings of these meters.
    fn event(attempt: u32, meters: &[u32]) -> Vec<u8> {
        use prost::Message;
        crate::wire::pb::CallEvent {
            account_id: "acme".to_owned(),
            call_id: "c".to_owned(),
            phase: Phase::UsageReported as i32,
            occurred_at: Some(prost_types::Timestamp::default()),
            attempt,
            usage: meters
                .iter()
                .map(|meter| crate::wire::pb::Quantity {
                    meter: format!("x.m{meter:03}"),
                    value: i64::from(*meter) + 1,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
        .encode_to_vec()
    }

    fn merged(events: &[&Vec<u8>], names: &mut Names) -> Evidence {
        let (mut evidence, mut difference) = (Evidence::new(0), Difference::default());
        for bytes in events {
            let Ok(event) = crate::wire::protobuf::decode(bytes) else {
                panic!("not an event")
            };
            evidence.merge(&event, ShapeId::NONE, names, &mut difference);
        }
        evidence
    }

    #[test]
    fn past_both_limits_it_does_not_matter_what_came_first() {
        let mut names = Names::default();
        (0..100).for_each(|meter| {
            names.symbols.intern(&format!("x.m{meter:03}"));
        });
        // Attempt 65 is driven out by attempt 1, and with it the one reading of the least name.
        let mut events = vec![event(65, &[0]), event(1, &[]), event(2, &[99])];
        events.extend((3..65).map(|attempt| event(attempt, &[attempt])));
        events.extend((66..90).map(|attempt| event(attempt, &[attempt % 7, attempt])));
        let one_after_the_other: Vec<&Vec<u8>> = events.iter().collect();
        let expected = merged(&one_after_the_other, &mut names);
        let mut order: Vec<usize> = (0..events.len()).collect();
        for round in 0..200 {
            // Any step without a common divisor visits all.
            let step = [1, 2, 4, 5, 7, 8, 11, 13, 16, 17][round % 10];
            for (place, at) in order.iter_mut().enumerate() {
                *at = (place * step + round) % events.len();
            }
            let again: Vec<&Vec<u8>> = order.iter().map(|&at| &events[at]).collect();
            assert_eq!(merged(&again, &mut names), expected, "round {round}");
            // Copies of all, too: what was driven out doesn't come back by them.
            let twice: Vec<&Vec<u8>> = again.iter().copied().chain(&events).collect();
            assert_eq!(merged(&twice, &mut names), expected, "round {round}, twice");
        }
    }
}
