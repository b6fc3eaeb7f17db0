//! Times and medians.

use std::time::Duration;

/// Times, for percentiles.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// In microseconds.
    pub fn percentile_us(&self, of_1000: usize) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = sorted.get(last * of_1000 / 1_000);
        at.copied().unwrap_or_default().as_micros() as u64
    }
}

/// Microseconds as milliseconds.
pub fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

/// The middle one of some values.
pub fn median(values: impl IntoIterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.into_iter().collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
