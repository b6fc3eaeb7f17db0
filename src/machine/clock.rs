//! Log time (RULES §2): how far time has come in the log, and the two lines that never move back.

use crate::model::Ms;
use crate::model::limits::{CLOCK_LEAD_MS_MAX, TICK_SKEW_MS_MAX};
use crate::model::policy::Policy;
use crate::model::reject::{Reject, RejectReason};

/// What moves the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Append times, held back by ticks.
    Append,
    /// Ticks alone.
    Ticks,
}

impl Source {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Ticks => "ticks",
        }
    }
}

/// The clock of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What moves it.
    pub source: Source,
    /// Log time; `None` in a `ticks` log before the first tick.
    pub now: Option<Ms>,
    /// The last accepted tick; in an `append` log at first the genesis' append time.
    pub last_tick: Option<Ms>,
    /// Events that occurred before it are too late. Never moves back.
    pub late_line: Ms,
    /// Calls last known before it are forgotten. Never moves back.
    pub forget_line: Ms,
}

impl Clock {
    /// The clock of a log whose genesis was appended at `append_ms`.
    pub fn new(source: Source, append_ms: Ms) -> Self {
        let start = match source {
            Source::Append => Some(append_ms),
            Source::Ticks => None,
        };
        Self {
            source,
            now: start,
            last_tick: start,
            late_line: Ms::MIN,
            forget_line: Ms::MIN,
        }
    }

    /// Where a record that isn't a valid tick moves the clock to.
    pub fn target(&self, append_ms: Ms) -> Option<Ms> {
        match self.source {
            Source::Ticks => self.now,
            Source::Append => {
                let lead = self.last_tick.map(|t| t.saturating_add(CLOCK_LEAD_MS_MAX));
                let by_append = lead.map_or(append_ms, |l| append_ms.min(l));
                Some(self.now.map_or(by_append, |n| n.max(by_append)))
            }
        }
    }

    /// Takes a tick in, or says why not. The clock itself moves by [`Clock::target`] after.
    pub fn tick(&mut self, at: Ms, append_ms: Ms) -> Result<(), Reject> {
        if self.source == Source::Append && (at - append_ms).abs() > TICK_SKEW_MS_MAX {
            return Err(Reject::new(
                RejectReason::BadTick,
                "tick.at",
                format!("the tick is {} ms from its own append time", (at - append_ms).abs()),
            ));
        }
        self.last_tick = Some(at);
        Ok(())
    }

    /// Where a `ticks` log's clock goes by its last tick, and an `append` log's by the append time.
    pub fn target_of_tick(&self, at: Ms, append_ms: Ms) -> Option<Ms> {
        match self.source {
            Source::Ticks => Some(self.now.map_or(at, |n| n.max(at))),
            Source::Append => self.target(append_ms),
        }
    }

    /// Moves the clock; it never goes back.
    pub fn advance(&mut self, to: Ms, policy: &Policy) {
        let now = self.now.map_or(to, |n| n.max(to));
        self.now = Some(now);
        self.move_lines(policy);
    }

    /// Moves the late and the forget line to where clock and policy put them, never back (RULES §5).
    pub fn move_lines(&mut self, policy: &Policy) {
        if let Some(now) = self.now {
            let late = now.saturating_sub(policy.amend_window_ms);
            self.late_line = self.late_line.max(late);
            self.forget_line = self.forget_line.max(late.saturating_sub(policy.call_span_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Ms = 3_600_000;

    #[test]
    fn a_wild_append_time_leads_by_an_hour_at_most() {
        let mut clock = Clock::new(Source::Append, 0);
        let policy = Policy::default();
        assert_eq!(clock.target(31 * 24 * HOUR), Some(HOUR));
        clock.advance(HOUR, &policy);
        // The owner's tick disagrees with its own append time: rejected.
        assert!(clock.tick(HOUR, 31 * 24 * HOUR).is_err());
        assert!(clock.tick(HOUR, HOUR + TICK_SKEW_MS_MAX).is_ok());
        assert_eq!(clock.target(31 * 24 * HOUR), Some(2 * HOUR));
        // A step back is held.
        assert_eq!(clock.target(5), Some(HOUR));
    }

    #[test]
    fn the_lines_never_move_back() {
        let mut clock = Clock::new(Source::Ticks, 0);
        let mut policy = Policy::default();
        clock.advance(100 * 24 * HOUR, &policy);
        let (late, forget) = (clock.late_line, clock.forget_line);
        assert_eq!(late, 65 * 24 * HOUR);
        assert_eq!(forget, 62 * 24 * HOUR);
        policy.amend_window_ms *= 2;
        clock.advance(101 * 24 * HOUR, &policy);
        assert_eq!((clock.late_line, clock.forget_line), (late, forget));
    }
}
