//! RULES §3: what all events of a call together say.

use std::collections::{BTreeMap, BTreeSet};

use super::millis;
use crate::wire::pb;

const HELD_ATTEMPTS: usize = 64;
const HELD_METERS: usize = 64;
const CANCELLED_TYPES: [&str; 3] = ["cancelled", "client_closed_request", "broken_pipe"];

/// An accepted event, with the values of the rollup dimensions that were named when it was folded.
pub struct Kept {
    pub event: pb::CallEvent,
    pub dimensions: BTreeMap<String, String>,
}

/// One cause of an ending, its fields merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub client_status: u32,
    pub upstream_status: u32,
    pub progress: i32,
    pub end_marker: i32,
    pub error_type: String,
    pub at: i64,
}

/// The causes at the highest seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub seq: u64,
    pub causes: BTreeMap<pb::Cause, Said>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    Service,
    Product,
    Dimension(String),
}

/// RULES §3's scale of words, with tasks' `Expired` in its place. Silent is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Says {
    Failed,
    Expired,
    Cancelled,
    Completed,
}

/// A label of one (observer, attempt): an ended event's value beats another's; then the greatest.
type Ranked<T> = (bool, T);
type Endings = BTreeMap<(pb::Observer, u32), Ending>;

/// The facts of RULES §3's table, and nothing else. Two of them are equal if nothing stored has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub ended: Endings,
    pub attempt_ended: Endings,
    pub stated_progress: BTreeMap<u32, i32>,
    /// (attempt, meter) -> (provenance, value in 10^-9)
    pub quantities: BTreeMap<(u32, String), (pb::Provenance, i128)>,
    pub labels: BTreeMap<(pb::Observer, u32, Label), Ranked<String>>,
    pub kinds: BTreeMap<(pb::Observer, u32), Ranked<i32>>,
    /// The numbered attempts.
    pub attempts: BTreeSet<u32>,
    pub first: i64,
    pub last: i64,
}

pub fn observer(event: &pb::CallEvent) -> pb::Observer {
    match event.observer() {
        pb::Observer::Unspecified => pb::Observer::Edge,
        given => given,
    }
}

pub fn provenance(quantity: &pb::Quantity) -> pb::Provenance {
    match quantity.provenance() {
        pb::Provenance::Unspecified => pb::Provenance::EdgeCounted,
        given => given,
    }
}

/// A quantity in units of 10^-9.
pub fn at_one_scale(quantity: &pb::Quantity) -> i128 {
    let places = 9u32.saturating_sub(quantity.scale);
    i128::from(quantity.value).saturating_mul(10i128.saturating_pow(places))
}

pub fn occurred_at(event: &pb::CallEvent) -> i64 {
    event.occurred_at.as_ref().map_or(0, millis)
}

/// The ending that an event carries: only on the two phases that end something.
pub fn ending_of(event: &pb::CallEvent) -> Option<&pb::Termination> {
    match event.phase() {
        pb::Phase::Ended | pb::Phase::AttemptEnded => event.end.as_ref(),
        _ => None,
    }
}

/// Merge all events of a call.
pub fn merge(kept: &[Kept]) -> Evidence {
    let all = || kept.iter().map(|kept| &kept.event);

    // Limits: the lowest numbers and the least names hold. Attempt 0 is the call as a whole and always held.
    let attempts: BTreeSet<u32> = all().map(|event| event.attempt).filter(|number| *number > 0).collect();
    let attempts: BTreeSet<u32> = attempts.into_iter().take(HELD_ATTEMPTS).collect();
    let meters: BTreeSet<&str> = all()
        .flat_map(|event| &event.usage)
        .map(|quantity| quantity.meter.as_str())
        .collect();
    let meters: BTreeSet<&str> = meters.into_iter().take(HELD_METERS).collect();
    let held: Vec<&Kept> = kept
        .iter()
        .filter(|kept| kept.event.attempt == 0 || attempts.contains(&kept.event.attempt))
        .collect();

    let mut stated_progress = BTreeMap::new();
    let mut quantities = BTreeMap::new();
    let mut labels = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for kept in &held {
        let event = &kept.event;
        let (who, attempt) = (observer(event), event.attempt);

        let mut progress = ending_of(event).map_or(0, |end| end.progress);
        if event.phase() == pb::Phase::ResponseStarted {
            progress = progress.max(pb::Progress::ResponseStarted as i32);
        }
        if progress > 0 {
            greatest(&mut stated_progress, attempt, progress);
        }

        for quantity in &event.usage {
            if meters.contains(quantity.meter.as_str()) {
                let value = (provenance(quantity), at_one_scale(quantity));
                greatest(&mut quantities, (attempt, quantity.meter.clone()), value);
            }
        }

        let ended = event.phase() == pb::Phase::Ended;
        let named = [(Label::Service, &event.service), (Label::Product, &event.product)];
        let dimensions = kept
            .dimensions
            .iter()
            .map(|(name, value)| (Label::Dimension(name.clone()), value));
        for (label, value) in named.into_iter().chain(dimensions) {
            if !value.is_empty() {
                greatest(&mut labels, (who, attempt, label), (ended, value.clone()));
            }
        }
        if event.kind != 0 {
            greatest(&mut kinds, (who, attempt), (ended, event.kind));
        }
    }

    Evidence {
        ended: endings(&held, pb::Phase::Ended),
        attempt_ended: endings(&held, pb::Phase::AttemptEnded),
        stated_progress,
        quantities,
        labels,
        kinds,
        attempts,
        first: all().map(occurred_at).min().unwrap_or(0),
        last: all().map(occurred_at).max().unwrap_or(0),
    }
}

fn greatest<K: Ord, V: Ord>(map: &mut BTreeMap<K, V>, key: K, value: V) {
    match map.get(&key) {
        Some(present) if *present >= value => {}
        _ => {
            map.insert(key, value);
        }
    }
}

/// Group by (observer, attempt), keep the highest seq, merge its causes field by field.
fn endings(held: &[&Kept], phase: pb::Phase) -> Endings {
    let mut groups: BTreeMap<(pb::Observer, u32), Vec<&pb::CallEvent>> = BTreeMap::new();
    for kept in held {
        if kept.event.phase() == phase {
            groups
                .entry((observer(&kept.event), kept.event.attempt))
                .or_default()
                .push(&kept.event);
        }
    }
    let merged = groups.into_iter().map(|(key, events)| {
        let seq = events.iter().map(|event| event.seq).max().unwrap_or(0);
        let mut causes: BTreeMap<pb::Cause, Said> = BTreeMap::new();
        for event in events.into_iter().filter(|event| event.seq == seq) {
            let Some(end) = &event.end else { continue };
            let at = occurred_at(event);
            let said = causes.entry(end.cause()).or_insert_with(|| Said {
                client_status: 0,
                upstream_status: 0,
                progress: 0,
                end_marker: 0,
                error_type: String::new(),
                at,
            });
            said.client_status = said.client_status.max(end.client_status);
            said.upstream_status = said.upstream_status.max(end.upstream_status);
            said.progress = said.progress.max(end.progress);
            // The contract's numbers are in the order missing > seen > unset.
            said.end_marker = said.end_marker.max(end.end_marker);
            if end.error_type > said.error_type {
                said.error_type.clone_from(&end.error_type);
            }
            said.at = said.at.min(at);
        }
        (key, Ending { seq, causes })
    });
    merged.collect()
}

/// What one cause of an ending of the one who does the work comes to.
pub fn says(cause: pb::Cause, said: &Said) -> Says {
    let statuses = [said.client_status, said.upstream_status];
    let hung_up = matches!(cause, pb::Cause::Cancelled | pb::Cause::ClientGone)
        || statuses.contains(&499)
        || CANCELLED_TYPES.contains(&said.error_type.as_str());
    if cause == pb::Cause::Completed && statuses.iter().all(|status| *status < 400) {
        Says::Completed
    } else if hung_up {
        Says::Cancelled
    } else if cause == pb::Cause::Expired {
        Says::Expired
    } else {
        Says::Failed
    }
}

impl Evidence {
    /// An observer's ended event at attempt 0, else at the highest attempt: with the edge, the edge's word.
    pub fn word_of(&self, who: pb::Observer) -> Option<(u32, &Ending)> {
        let of_observer = self.ended.iter().filter(|((by, _), _)| *by == who);
        let chosen = match self.ended.get(&(who, 0)) {
            Some(ending) => Some((0, ending)),
            None => of_observer.map(|((_, attempt), ending)| (*attempt, ending)).next_back(),
        };
        chosen.filter(|(_, ending)| !ending.causes.is_empty())
    }

    /// The serving attempt, if there is any numbered one.
    pub fn serving(&self) -> Option<u32> {
        if let Some((number, _)) = self.word_of(pb::Observer::Edge)
            && number > 0
        {
            return Some(number);
        }
        let failed_by_itself = |number: &u32| self.greatest_word(&[*number]) == Some(Says::Failed);
        let standing: Vec<u32> = self
            .attempts
            .iter()
            .copied()
            .filter(|number| !failed_by_itself(number))
            .collect();
        let candidates = if standing.is_empty() {
            self.attempts.iter().copied().collect()
        } else {
            standing
        };
        candidates
            .into_iter()
            .max_by_key(|number| (self.progress(*number), *number))
    }

    /// The attempts whose facts count: the serving one and 0.
    pub fn counting(&self) -> Vec<u32> {
        match self.serving() {
            Some(number) => vec![number, 0],
            None => vec![0],
        }
    }

    /// Progress of one attempt, with what its best `output_tokens` prove.
    pub fn progress(&self, attempt: u32) -> i32 {
        let stated = self.stated_progress.get(&attempt).copied().unwrap_or(0);
        match self.quantities.get(&(attempt, "output_tokens".to_owned())) {
            Some((provenance, value)) if *provenance != pb::Provenance::Reserved && *value > 0 => {
                stated.max(pb::Progress::ResponseStarted as i32)
            }
            _ => stated,
        }
    }

    /// The upstream's word on the serving attempt and attempt 0; `None` is silent. Never `Expired`.
    pub fn upstream_word(&self) -> Option<Says> {
        self.greatest_word(&self.counting())
    }

    fn greatest_word(&self, attempts: &[u32]) -> Option<Says> {
        let workers = self.ended.iter().filter(|((who, _), _)| *who != pb::Observer::Edge);
        let words = workers
            .chain(self.attempt_ended.iter())
            .filter(|((_, attempt), _)| attempts.contains(attempt))
            .flat_map(|(_, ending)| ending.causes.iter())
            .map(|(cause, said)| match says(*cause, said) {
                Says::Expired => Says::Failed,
                other => other,
            });
        words.max()
    }

    /// The word on a task of those who do the work, and its time: the earliest of the causes that make it.
    pub fn task_word(&self) -> Option<(Says, i64)> {
        let counting = self.counting();
        let words: Vec<(Says, i64)> = self
            .ended
            .iter()
            .filter(|((who, attempt), _)| *who != pb::Observer::Edge && counting.contains(attempt))
            .flat_map(|(_, ending)| ending.causes.iter())
            .map(|(cause, said)| (says(*cause, said), said.at))
            .collect();
        let word = words.iter().map(|(word, _)| *word).max()?;
        let at = words
            .iter()
            .filter(|(other, _)| *other == word)
            .map(|(_, at)| *at)
            .min()?;
        Some((word, at))
    }

    /// The best per meter of the serving attempt and attempt 0, whatever is only reserved left out.
    pub fn billed(&self) -> BTreeMap<String, (pb::Provenance, i128)> {
        let counting = self.counting();
        let mut best = BTreeMap::new();
        for ((attempt, meter), quantity) in &self.quantities {
            if counting.contains(attempt) && quantity.0 != pb::Provenance::Reserved {
                greatest(&mut best, meter.clone(), *quantity);
            }
        }
        best
    }

    /// A label by its rank; `None` if nobody set it.
    pub fn label(&self, label: &Label) -> Option<String> {
        self.by_rank(|who, attempt| self.labels.get(&(who, attempt, label.clone())))
    }

    pub fn kind(&self) -> pb::CallKind {
        let number = self.by_rank(|who, attempt| self.kinds.get(&(who, attempt)));
        match number.map(pb::CallKind::try_from) {
            Some(Ok(kind)) if kind != pb::CallKind::Unspecified => kind,
            _ => pb::CallKind::Unary,
        }
    }

    /// Ranks 1–3 of the edge, 4–6 of upstream, 7–9 of the provider.
    fn by_rank<'a, T: Ord + Clone + 'a>(
        &'a self,
        find: impl Fn(pb::Observer, u32) -> Option<&'a Ranked<T>>,
    ) -> Option<T> {
        let counting = self.counting();
        for who in [pb::Observer::Edge, pb::Observer::Upstream, pb::Observer::Provider] {
            // Its ended events at the serving attempt and attempt 0: the greatest.
            let found = counting.iter().filter_map(|attempt| find(who, *attempt));
            if let Some((_, value)) = found.filter(|(ended, _)| *ended).max() {
                return Some(value.clone());
            }
            // Its events at the serving attempt, then those at attempt 0.
            if let Some((_, value)) = counting.iter().find_map(|attempt| find(who, *attempt)) {
                return Some(value.clone());
            }
        }
        None
    }
}
