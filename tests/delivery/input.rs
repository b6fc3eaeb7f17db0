//! The input partition: it grows, loses its oldest records, and may lose its newest.

use crate::fold::{Record, record};

/// No truncation.
pub const WHOLE: u8 = 127;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Input {
    pub start: u8,
    pub end: u8,
    /// Where an unclean election cut it off; what comes from there on is other content under a newer leader epoch.
    pub cut: u8,
    /// Its end before that.
    pub end_before: u8,
    /// The end that a deposed leader would still tell.
    pub stale: Option<u8>,
}

impl Input {
    pub const fn new(end: u8) -> Self {
        Self {
            start: 0,
            end,
            cut: WHOLE,
            end_before: 0,
            stale: None,
        }
    }

    pub const fn at(self, offset: u8) -> Record {
        record(offset, self.cut)
    }

    pub const fn truncated(self) -> bool {
        self.cut != WHOLE
    }

    pub fn truncate(&mut self, at: u8) {
        self.end_before = self.end;
        self.end = at;
        self.cut = at;
    }
}
