//! Waits between tries: longer and longer while it goes wrong, short again after it has gone well.

use std::time::Duration;

/// The first wait, and the longest one.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What has held for so long has gone well.
const WELL: Duration = Duration::from_secs(30);

/// The waits of one thing that is tried again.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) const fn new() -> Self {
        Self(WAIT.0)
    }

    /// How long to wait after what has failed had held for a time.
    pub(super) fn after(&mut self, held: Duration) -> Duration {
        if held > WELL {
            self.0 = WAIT.0;
        }
        let wait = self.0;
        self.0 = (wait * 2).min(WAIT.1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_short_again_after_a_good_time() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..8).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff.after(WELL).as_millis(), 5_000);
        assert_eq!(backoff.after(WELL + Duration::from_millis(1)).as_millis(), 100);
    }
}
