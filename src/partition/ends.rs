//! Where the partitions of a shared log end, and whether what may be read of them moves.

use std::collections::BTreeMap;
use std::time::Instant;

use parking_lot::Mutex;

/// What the last stable offset of a partition has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StableEnd {
    /// Whether the two ends were ever told; else they are 0.
    pub known: bool,
    /// Offset after the last record, committed or not.
    pub high: u64,
    /// Offset after the last record that may be read.
    pub stable: u64,
    /// How long it hasn't moved though there are records above it, or nobody has told where it is, in milliseconds.
    pub still_ms: u64,
}

/// The ends of the partitions that are served here, as they were told last.
#[derive(Default)]
pub(super) struct Ends(Mutex<BTreeMap<u32, (StableEnd, Instant)>>);

impl Ends {
    /// Forgets those of other partitions.
    pub(super) fn retain(&self, is_ours: impl Fn(u32) -> bool) {
        self.0.lock().retain(|number, _| is_ours(*number));
    }

    /// Takes what the brokers have said of a partition's end and stable end; `None` if they didn't answer.
    pub(super) fn told(&self, number: u32, ends: Option<(u64, u64)>, now: Instant) {
        let mut all = self.0.lock();
        let (end, since) = all.entry(number).or_insert((StableEnd::default(), now));
        if let Some((high, stable)) = ends {
            if !end.known || end.stable != stable || stable >= high {
                *since = now;
            }
            (end.known, end.high, end.stable) = (true, high, stable);
        }
        // Silence is no sign of life.
        end.still_ms = now.saturating_duration_since(*since).as_millis() as u64;
    }

    /// All of them, by partition.
    pub(super) fn all(&self) -> BTreeMap<u32, StableEnd> {
        self.0.lock().iter().map(|(number, (end, _))| (*number, *end)).collect()
    }

    /// Where a partition's readable records end; `None` before it was told.
    pub(super) fn stable(&self, number: u32) -> Option<u64> {
        let all = self.0.lock();
        all.get(&number).filter(|(end, _)| end.known).map(|(end, _)| end.stable)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_that_nobody_tells_stands_still() {
        let ends = Ends::default();
        let began = Instant::now();
        let still_s = |seconds: u64, told: Option<(u64, u64)>| {
            ends.told(3, told, began + Duration::from_secs(seconds));
            ends.all()[&3].still_ms / 1_000
        };
        // Not even once: no end to reckon with, and time runs.
        assert_eq!(still_s(0, None), 0);
        assert_eq!(still_s(10, None), 10);
        assert_eq!(ends.stable(3), None);
        // All may be read, or more may be read than before.
        assert_eq!(still_s(12, Some((7, 7))), 0);
        assert_eq!(still_s(20, Some((9, 8))), 0);
        // A transaction is open.
        assert_eq!(still_s(30, Some((10, 8))), 10);
        // The brokers don't answer, then they do.
        assert_eq!(still_s(200, None), 180);
        assert_eq!(ends.stable(3), Some(8));
        assert_eq!(still_s(210, Some((10, 10))), 0);
        assert_eq!(still_s(300, None), 90);
        ends.retain(|number| number != 3);
        assert!(ends.all().is_empty());
    }
}
