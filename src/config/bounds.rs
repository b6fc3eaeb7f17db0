//! From where to where each number may be set: beyond, something would be cut off, overflow, or never end.

use super::{Config, SHUTDOWN_MS};

const KIB: i128 = 1_024;
const GIB: i128 = KIB * KIB * KIB;
const HOUR_MS: i128 = 3_600_000;
const CENTURY_S: i128 = 100 * 366 * 24 * 3_600;
const TRILLION: i128 = 1_000_000_000_000;

/// Milliseconds of these that remain at least for the partitions to put everything on disk.
const CLOSE_MS_MIN: u64 = 2_000;

impl Config {
    /// Every number, and from where to where it may be set: beyond, something would be cut off, overflow or never end.
    fn numbers(&self) -> [(&'static str, i128, i128, i128); 25] {
        let (listen, ingest, fold) = (&self.listen, &self.ingest, &self.fold);
        let size = |bytes: usize| bytes as i128;
        [
            (
                "kafka.session_timeout_ms",
                self.kafka.session_timeout_ms.into(),
                1_000,
                HOUR_MS,
            ),
            ("listen.connections_max", size(listen.connections_max), 1, 1_000_000),
            ("listen.head_timeout_ms", listen.head_timeout_ms.into(), 100, HOUR_MS),
            ("listen.write_timeout_ms", listen.write_timeout_ms.into(), 100, HOUR_MS),
            ("listen.unready_ms", listen.unready_ms.into(), 0, HOUR_MS),
            ("listen.drain_timeout_ms", listen.drain_timeout_ms.into(), 0, HOUR_MS),
            ("ingest.request_bytes_max", size(ingest.request_bytes_max), KIB, GIB),
            (
                "ingest.request_events_max",
                size(ingest.request_events_max),
                1,
                10_000_000,
            ),
            // One whole request has to fit.
            (
                "ingest.in_flight_bytes_max",
                size(ingest.in_flight_bytes_max),
                size(ingest.request_bytes_max),
                1_024 * GIB,
            ),
            ("ingest.writers", size(ingest.writers), 1, 10_000),
            ("ingest.lag_records_max", ingest.lag_records_max.into(), 1, TRILLION),
            (
                "ingest.free_disk_bytes_min",
                ingest.free_disk_bytes_min.into(),
                0,
                1_024 * 1_024 * GIB,
            ),
            ("ingest.idle_timeout_ms", ingest.idle_timeout_ms.into(), 100, HOUR_MS),
            (
                "ingest.body_timeout_ms",
                ingest.body_timeout_ms.into(),
                100,
                24 * HOUR_MS,
            ),
            ("fold.commit_events", fold.commit_events.into(), 1, 1_000_000_000),
            ("fold.commit_ms", fold.commit_ms.into(), 0, HOUR_MS),
            ("fold.flush_bytes", fold.flush_bytes.into(), KIB * KIB, 1_024 * GIB),
            ("fold.flush_ms", fold.flush_ms.into(), 1_000, 24 * HOUR_MS),
            ("fold.hold_ms", fold.hold_ms.into(), 0, 24 * HOUR_MS),
            ("fold.poll_bytes", size(fold.poll_bytes), KIB, GIB),
            ("fold.cache_bytes", size(fold.cache_bytes), 0, 16 * 1_024 * GIB),
            ("fold.buffer_bytes", size(fold.buffer_bytes), 8 * KIB * KIB, 1_024 * GIB),
            (
                "retention.log_bytes",
                self.retention.log_bytes.into(),
                0,
                1_024 * 1_024 * GIB,
            ),
            ("retention.log_age_s", self.retention.log_age_s.into(), 0, CENTURY_S),
            (
                "health.lag_records_max",
                self.health.lag_records_max.into(),
                1,
                TRILLION,
            ),
        ]
    }

    /// The first value that can't hold, and why.
    pub(super) fn misfit(&self) -> Option<(&'static str, String)> {
        let beyond = |(key, value, least, most): (&'static str, i128, i128, i128)| {
            if value < least {
                Some((key, format!("{value} is too little; at least {least}")))
            } else if value > most {
                Some((key, format!("{value} is too much; at most {most}")))
            } else {
                None
            }
        };
        let most = SHUTDOWN_MS - CLOSE_MS_MIN;
        let notice_and_drain = self.listen.unready_ms.saturating_add(self.listen.drain_timeout_ms);
        self.numbers().into_iter().find_map(beyond).or_else(|| {
            (notice_and_drain > most).then(|| {
                let what = format!(
                    "with unready_ms it comes to {notice_and_drain} ms; the two may take {most}, so that a shutdown ends within 10 s"
                );
                ("listen.drain_timeout_ms", what)
            })
        })
    }
}
