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
