//! From an event's hand-over to the producer until the fold has it: measured by one clock over two processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::stage::Kind;
use super::topic::Topics;
use super::{BenchKafka, Scratch, failed};
use crate::cli::CliError;
use crate::cli::bench::times::Times;
use crate::workload::dense::Dense;

/// One event of so many is followed.
const STAMPED: u64 = 97;

/// How long a producer gathers, as Reckon's own does.
const LINGER_MS: u32 = 5;

impl BenchKafka {
    /// Sends `rate` events a second and says when they were folded.
    pub(super) fn visible(&self, rate: u64) -> Result<Value, CliError> {
        let topics = Topics::create(self.settings("live")?, self.partitions)?;
        let data = Scratch::make("live")?;
        let mut child = self.stage(Kind::Live, &topics.settings, data.path())?;
        let output = child.0.stdout.take().ok_or_else(|| failed("no output of a stage"))?;
        let mut lines = BufReader::new(output).lines();
        let mut line = || {
            lines
                .next()
                .unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()))
        };
        line()?;
        let calls = (rate * self.seconds / 3).max(1);
        let dense = Dense {
            accounts: self.accounts,
            gap_us: (3_000_000 / rate.max(1)).max(1),
            seed: 2,
            ..Dense::default()
        };
        let filled = topics.fill(dense, calls, LINGER_MS, STAMPED)?;
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for event in &filled.delivered {
            let end = ends.entry(event.partition).or_default();
            *end = event.offset.max(*end);
        }
        if let Some(input) = &mut child.0.stdin {
            writeln!(input, "{}", serde_json::to_string(&ends)?)?;
        }
        let row: Value = serde_json::from_str(&line()?)?;
        let stood: Vec<Vec<(u64, u64)>> = serde_json::from_value(row["stood"].clone())?;
        let mut waits = Times::default();
        for event in &filled.delivered {
            let stood = stood.get(event.partition as usize).map_or(&[][..], Vec::as_slice);
            let at = stood.partition_point(|(_, next_offset)| *next_offset <= event.offset);
            let seen = stood.get(at).ok_or_else(|| failed("an event was never folded"))?.0;
            waits.push(Duration::from_nanos(seen.saturating_sub(event.sent)));
        }
        let ms = |of_1000: usize| waits.percentile_us(of_1000) as f64 / 1_000.0;
        let ended = child.0.wait()?;
        topics.remove()?;
        if !ended.success() {
            return Err(failed("a stage has failed"));
        }
        Ok(json!({
            "asked_events_per_second": rate,
            "events_per_second": filled.events as f64 / filled.took.as_secs_f64(),
            "followed": filled.delivered.len(),
            "p50_ms": ms(500),
            "p99_ms": ms(990),
            "max_ms": ms(1_000),
            "fold_cpu_us_per_event": row["cpu_us"].as_f64().unwrap_or(0.0) / filled.events.max(1) as f64,
        }))
    }
}
