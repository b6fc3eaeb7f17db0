//! What was measured, for people and for programs.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde_json::{Value, json};

use super::BenchServe;
use super::bodies::Format;
use super::client::Posted;
use crate::cli::bench::times::{Times, median, ms};
use crate::cli::terminal::{Table, bytes, grouped};

/// Reads at full ingest.
pub struct Rest {
    pub posted: Posted,
    pub times: Times,
    /// The service's own p50 and p99, until the head of the answer was ready.
    pub within_us: [u64; 2],
}

/// Posting, with or without watchers.
pub struct Watched {
    pub posted: Posted,
    /// The service's.
    pub cpu: Duration,
    pub messages: u64,
}

impl Watched {
    /// Processor time of the service an event.
    fn ns_per_event(&self) -> u64 {
        (self.cpu.as_nanos() / u128::from(self.posted.events.max(1))) as u64
    }
}

/// Everything.
pub struct Report {
    pub bench: BenchServe,
    pub formats: Vec<(Format, Posted)>,
    pub idle: Times,
    pub busy: Vec<Rest>,
    pub alone: Times,
    pub half: Posted,
    pub seen: Times,
    pub without: Vec<Watched>,
    pub with: Vec<Watched>,
    pub resident_bytes: u64,
}

fn n(count: u64) -> String {
    grouped(&count.to_string())
}

/// Per mille as per cent.
fn percent(per_mille: i64) -> String {
    let sign = if per_mille < 0 { "-" } else { "" };
    format!("{sign}{}.{}", (per_mille / 10).abs(), (per_mille % 10).abs())
}

impl Report {
    fn folded(some: &[Watched]) -> u64 {
        median(some.iter().map(|w| w.posted.folded_per_s()))
    }

    fn ns_per_event(some: &[Watched]) -> u64 {
        median(some.iter().map(Watched::ns_per_event))
    }

    /// What watching takes from the rate of folding: the median of the rounds, each by itself.
    fn cost_per_mille(&self) -> i64 {
        let rounds = self.without.iter().zip(&self.with);
        let mut costs: Vec<i64> = rounds
            .map(|(without, with)| {
                let (without, with) = (without.posted.folded_per_s(), with.posted.folded_per_s());
                1_000 - (with * 1_000 / without.max(1)) as i64
            })
            .collect();
        costs.sort_unstable();
        costs.get(costs.len() / 2).copied().unwrap_or_default()
    }

    /// Hundredths of a message a watcher and second.
    fn messages_of_100(&self) -> u64 {
        let rate = |w: &Watched| {
            let watcher_ms = self.bench.watchers.max(1) as u128 * w.posted.folded.as_millis().max(1);
            (u128::from(w.messages) * 100_000 / watcher_ms) as u64
        };
        median(self.with.iter().map(rate))
    }

    fn busy_us(&self, of_1000: usize) -> u64 {
        median(self.busy.iter().map(|b| b.times.percentile_us(of_1000)))
    }

    fn within_us(&self, at: usize) -> u64 {
        median(self.busy.iter().map(|b| b.within_us[at]))
    }

    /// As one row.
    pub fn to_json(&self) -> Value {
        let formats: Value = self
            .formats
            .iter()
            .map(|(format, posted)| {
                json!({"format": format.name(), "events": posted.events,
                "acknowledged_per_s": posted.acknowledged_per_s(), "folded_per_s": posted.folded_per_s(),
                "ack_p50_ms": ms(posted.acks.percentile_us(500)), "ack_p99_ms": ms(posted.acks.percentile_us(990))})
            })
            .collect();
        let p = |times: &Times, of_1000| ms(times.percentile_us(of_1000));
        json!({"formats": formats,
            "read_idle_p50_ms": p(&self.idle, 500), "read_idle_p99_ms": p(&self.idle, 990),
            "read_full_p50_ms": ms(self.busy_us(500)), "read_full_p99_ms": ms(self.busy_us(990)),
            "read_full_within_p50_ms": ms(self.within_us(0)), "read_full_within_p99_ms": ms(self.within_us(1)),
            "full_events_per_s": median(self.busy.iter().map(|b| b.posted.folded_per_s())),
            "visible_alone_p50_ms": p(&self.alone, 500), "visible_alone_p99_ms": p(&self.alone, 990),
            "visible_half_p50_ms": p(&self.seen, 500), "visible_half_p99_ms": p(&self.seen, 990),
            "half_events_per_s": self.half.folded_per_s(), "watchers": self.bench.watchers,
            "folded_per_s_without_watchers": Self::folded(&self.without),
            "folded_per_s_with_watchers": Self::folded(&self.with),
            "watchers_cost_per_mille": self.cost_per_mille(),
            "messages_per_watcher_and_100_s": self.messages_of_100(),
            "server_cpu_ns_per_event_without_watchers": Self::ns_per_event(&self.without),
            "server_cpu_ns_per_event_with_watchers": Self::ns_per_event(&self.with),
            "resident_bytes": self.resident_bytes})
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bench = &self.bench;
        writeln!(
            f,
            "\nstages of {} s, {} events a request, {} connections, {} accounts, {} partitions; client and service share {} cores\n",
            bench.seconds,
            n(bench.batch as u64),
            bench.connections,
            n(bench.accounts),
            bench.partitions,
            std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
        )?;
        let mut table = Table::new(&[
            "events as",
            ">acknowledged/s",
            ">folded/s",
            ">ack p50 ms",
            ">ack p99 ms",
        ]);
        for (format, posted) in &self.formats {
            table.row([
                format.name().to_owned(),
                n(posted.acknowledged_per_s()),
                n(posted.folded_per_s()),
                ms(posted.acks.percentile_us(500)),
                ms(posted.acks.percentile_us(990)),
            ]);
        }
        writeln!(f, "{table}")?;
        let mut table = Table::new(&["time of", ">p50 ms", ">p99 ms"]);
        let full = n(median(self.busy.iter().map(|b| b.posted.folded_per_s())));
        let half = n(self.half.folded_per_s());
        let p = |times: &Times| [500, 990].map(|of_1000| ms(times.percentile_us(of_1000)));
        for (what, [p50, p99]) in [
            ("a usage read, idle".to_owned(), p(&self.idle)),
            (
                format!("a usage read at full ingest ({full}/s)"),
                [500, 990].map(|of_1000| ms(self.busy_us(of_1000))),
            ),
            (
                "… within the service".to_owned(),
                [0, 1].map(|at| ms(self.within_us(at))),
            ),
            ("an event until a read shows it, idle".to_owned(), p(&self.alone)),
            (
                format!("an event until a read shows it, at half load ({half}/s)"),
                p(&self.seen),
            ),
        ] {
            table.row([what, p50, p99]);
        }
        writeln!(f, "{table}")?;
        let messages = self.messages_of_100();
        writeln!(
            f,
            "{} watchers: {} events/s folded with them, {} without ({} % less in the median round); {}.{:02} messages a watcher and \
             second; the service's CPU {} ns an event with them, {} without",
            n(bench.watchers as u64),
            n(Self::folded(&self.with)),
            n(Self::folded(&self.without)),
            percent(self.cost_per_mille()),
            messages / 100,
            messages % 100,
            n(Self::ns_per_event(&self.with)),
            n(Self::ns_per_event(&self.without)),
        )?;
        write!(f, "memory of the service at the end: {}", bytes(self.resident_bytes))
    }
}
