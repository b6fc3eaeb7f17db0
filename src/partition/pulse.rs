//! Whether this process was held up: stopped, starved, swapped out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether this process was held up.
pub(super) const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Whether this process was held up (stopped, starved, swapped out) for so long that the group may have given its partitions to
/// others, and it hasn't heard of that yet. Then it is in doubt until the group has confirmed each of them.
pub(super) struct Pulse {
    began: Instant,
    /// Milliseconds from `began` to the last beat.
    beat_ms: AtomicU64,
    in_doubt: AtomicBool,
    /// Silence after which the group may have acted: the last heartbeat may be a quarter of the session old when it begins.
    silence: Duration,
}

impl Pulse {
    pub(super) fn new(session: Duration) -> Self {
        Self {
            began: Instant::now(),
            beat_ms: AtomicU64::new(0),
            in_doubt: AtomicBool::new(false),
            silence: session / 2,
        }
    }

    fn was_held_up(&self) -> bool {
        let silent = (self.began.elapsed().as_millis() as u64).saturating_sub(self.beat_ms.load(Ordering::Acquire));
        u128::from(silent) > self.silence.as_millis()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire) || self.was_held_up()
    }

    /// Doubt comes before the beat that would hide the silence, and goes once the group has spoken.
    pub(super) fn beat(&self, confirmed: impl FnOnce() -> bool) {
        if self.was_held_up() {
            tracing::warn!(
                "this process was held up: it answers no reads before the group has confirmed its partitions"
            );
            self.in_doubt.store(true, Ordering::Release);
        }
        if self.in_doubt.load(Ordering::Acquire) && confirmed() {
            self.in_doubt.store(false, Ordering::Release);
        }
        self.beat_ms
            .store(self.began.elapsed().as_millis() as u64, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_held_up_is_in_doubt_until_the_group_has_spoken() {
        let pulse = Pulse::new(Duration::from_millis(100));
        pulse.beat(|| false);
        assert!(!pulse.is_in_doubt());
        std::thread::sleep(Duration::from_millis(80));
        // Before the first beat after it, and after it.
        assert!(pulse.is_in_doubt());
        pulse.beat(|| false);
        assert!(pulse.is_in_doubt());
        pulse.beat(|| true);
        assert!(!pulse.is_in_doubt());
    }
}
