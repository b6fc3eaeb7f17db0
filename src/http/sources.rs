//! How each producer fares: what it sends, what is refused of it, starts without ends, ends without usage, its clock.

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::model::Ms;
use crate::model::event::{Cause, Event, Observer, Phase};

/// Producers that are told apart; the rest is [`OTHER`]. Whoever may send events may make up names, and each costs memory.
pub const SOURCES_MAX: usize = 200;

/// Bytes of a producer's name that are shown: it becomes a label of metrics.
pub const NAME_BYTES_MAX: usize = 128;

/// Stands for every producer past [`SOURCES_MAX`].
pub const OTHER: &str = "other";

/// Stands for events that name no producer, or can't be read.
pub const UNNAMED: &str = "unnamed";

/// One producer's counts since the service began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Events taken.
    pub events: u64,
    /// Events refused.
    pub refused: u64,
    /// Events that say a call has started.
    pub starts: u64,
    /// The edge's last words on a call. Far fewer than starts: calls end that nobody reports.
    pub ends: u64,
    /// Those of a completed call that carry no usage. A hint: usage may come apart.
    pub ends_without_usage: u64,
    /// How far the last event's `occurred_at` was ahead of this machine's clock, in ms.
    pub skew_ms: Option<Ms>,
}

impl Health {
    fn add(&mut self, more: &Self) {
        self.events += more.events;
        self.refused += more.refused;
        self.starts += more.starts;
        self.ends += more.ends;
        self.ends_without_usage += more.ends_without_usage;
        self.skew_ms = more.skew_ms.or(self.skew_ms);
    }
}

/// Counts by producer, no more than [`SOURCES_MAX`] of them: of one request, or of all.
#[derive(Debug, Default)]
pub struct Tally(HashMap<String, Health>);

/// As much of a name as is shown.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

impl Tally {
    fn of(&mut self, source: &str) -> &mut Health {
        let name = if source.is_empty() { UNNAMED } else { cut(source) };
        let name = if self.0.contains_key(name) || self.0.len() < SOURCES_MAX {
            name
        } else {
            OTHER
        };
        // Names are owned once, not for every event.
        self.0.entry_ref(name).or_default()
    }

    /// An event that was taken.
    pub fn take(&mut self, event: &Event<'_>, now: Ms) {
        let health = self.of(event.source);
        health.events += 1;
        health.skew_ms = Some(event.occurred_at.saturating_sub(now));
        match (event.phase, event.observer, &event.end) {
            (Phase::Started, ..) => health.starts += 1,
            (Phase::Ended, Observer::Edge, Some(end)) => {
                health.ends += 1;
                if end.cause == Cause::Completed && event.usage.is_empty() {
                    health.ends_without_usage += 1;
                }
            }
            _ => {}
        }
    }

    /// An event that was refused.
    pub fn refuse(&mut self, source: &str) {
        self.of(source).refused += 1;
    }
}

/// Counts of all producers.
#[derive(Debug, Default)]
pub struct Sources(Mutex<Tally>);

impl Sources {
    /// Adds a request's.
    pub fn add(&self, request: &Tally) {
        let mut all = self.0.lock();
        for (source, health) in &request.0 {
            all.of(source).add(health);
        }
    }

    /// All, by name.
    pub fn snapshot(&self) -> Vec<(String, Health)> {
        let mut rows: Vec<_> = self.0.lock().0.iter().map(|(name, h)| (name.clone(), *h)).collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        let mut tally = Tally::default();
        tally.refuse(&"ä".repeat(60_000));
        tally.refuse(&format!("x{}", "ä".repeat(100)));
        let mut names: Vec<String> = tally.0.into_keys().collect();
        names.sort_unstable();
        assert_eq!(names, [format!("x{}", "ä".repeat(63)), "ä".repeat(64)]);
    }

    #[test]
    fn made_up_names_end_in_other() {
        let sources = Sources::default();
        for n in 0..SOURCES_MAX * 2 {
            let mut tally = Tally::default();
            tally.refuse(&format!("s-{n}"));
            tally.refuse("");
            sources.add(&tally);
        }
        let rows = sources.snapshot();
        assert!(rows.len() <= SOURCES_MAX + 1, "{}", rows.len());
        let refused: u64 = rows.iter().map(|(_, h)| h.refused).sum();
        assert_eq!(refused, 4 * SOURCES_MAX as u64);
        assert!(
            rows.iter()
                .any(|(name, h)| name == UNNAMED && h.refused == 2 * SOURCES_MAX as u64)
        );
        assert!(rows.iter().any(|(name, _)| name == OTHER));
    }
}
