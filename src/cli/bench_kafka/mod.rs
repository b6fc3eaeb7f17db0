//! `reckon bench kafka`: what a fold from a Kafka topic costs on this machine, beside a bare consume of the same topic in the
//! same run.
//!
//! Every stage is a process of its own, started from this binary; rounds go through all stages in turn, so that each meets the
//! machine in the same moods. The broker shares the machine's cores.

mod killed;
mod spent;
mod stage;
mod topic;
mod visible;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::CliError;
use super::bench::failed;
use super::bench::scratch::Scratch;
use super::terminal::{Table, bytes, grouped};
use crate::config::Kafka;
use crate::log::kafka::KafkaSettings;
use crate::workload::dense::Dense;
use stage::Kind;
pub use stage::Stage;
use topic::{Filled, Topics};

/// Log time between two calls of the filled topic: it is filled at this pace.
const GAP_US: u64 = 20;

/// How long the producer of the filled topic gathers.
const LINGER_MS: u32 = 50;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Consuming and folding a filled topic.
    Fold,
    /// From event to visible at half load.
    Visible,
    /// From SIGKILL to folding again.
    Killed,
}

/// Events a second from a Kafka topic, beside a bare consume of it; how soon they are seen; how soon all goes on after a kill
///
/// Makes topics of its own, fills them (three events a call, lz4), and removes them at the end. Figures are medians of the rounds;
/// trust ratios, not single figures.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  reckon bench kafka --kafka localhost:9092 --calls 1000000 --rounds 3")]
pub struct BenchKafka {
    /// Brokers
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    kafka: String,

    /// Calls, three events each
    #[arg(long, default_value_t = 1_000_000)]
    calls: u64,

    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,

    /// Partitions
    #[arg(long, default_value_t = 12)]
    partitions: u32,

    /// Accounts
    #[arg(long, default_value_t = 100_000)]
    accounts: u64,

    /// Seconds of half load
    #[arg(long, default_value_t = 10)]
    seconds: u64,

    /// Events a second sent to see how soon they are folded, rather than half of what a fold takes
    #[arg(long)]
    rate: Option<u64>,

    /// Only these parts; may be given several times
    #[arg(long)]
    only: Vec<Part>,

    /// Only these stages of the fold's rounds; may be given several times
    #[arg(long, hide = true)]
    stage: Vec<Kind>,

    /// A librdkafka setting (TLS, SASL …); may be given several times
    #[arg(short = 'X', value_name = "NAME=VALUE")]
    properties: Vec<String>,

    /// A setting of the service, as `reckon config` lists them; may be given several times
    #[arg(long, value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A stage's process; killed when it is let go.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl BenchKafka {
    fn settings(&self, name: &str) -> Result<KafkaSettings, CliError> {
        let stamp = chrono::Utc::now().timestamp_millis();
        let kafka = Kafka {
            bootstrap: self.kafka.clone(),
            topic_prefix: format!("reckon-bench-{name}-{stamp}"),
            properties: self.properties.clone(),
            ..Kafka::default()
        };
        kafka
            .settings()
            .map_err(failed)?
            .ok_or_else(|| CliError::Usage("--kafka is empty: give it as HOST:PORT".to_owned()))
    }

    /// How a process of ours is told where topics and data are.
    fn given(&self, settings: &KafkaSettings, data: &Path) -> Vec<OsString> {
        let mut given: Vec<OsString> = Vec::new();
        for (name, value) in [("--kafka", &self.kafka), ("--topic-prefix", &settings.prefix)] {
            given.extend([name.into(), value.into()]);
        }
        given.extend(["--data".into(), data.into()]);
        for (name, values) in [("-X", &self.properties), ("--set", &self.set)] {
            values
                .iter()
                .for_each(|value| given.extend([name.into(), value.into()]));
        }
        given
    }

    fn stage(&self, kind: Kind, settings: &KafkaSettings, data: &Path) -> Result<Running, CliError> {
        let child = Command::new(std::env::current_exe()?)
            .args(["bench", "kafka-stage", kind.name()])
            .args(self.given(settings, data))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Running(child))
    }

    fn round(&self, topics: &Topics, results: &mut BTreeMap<Kind, Vec<Value>>) -> Result<(), CliError> {
        let mut there = 0;
        for kind in Kind::MEASURED {
            if !self.stage.is_empty() && !self.stage.contains(&kind) {
                continue;
            }
            if matches!(kind, Kind::Fold | Kind::Calls) {
                topics.forget_outputs()?;
            }
            let data = Scratch::make(kind.name())?;
            let mut child = self.stage(kind, &topics.settings, data.path())?;
            let output = child.0.stdout.take().ok_or_else(|| failed("no output of a stage"))?;
            let text = std::io::read_to_string(output)?;
            if !child.0.wait()?.success() {
                return Err(failed(format!("the stage {} has failed", kind.name())));
            }
            let row: Value = serde_json::from_str(&text)?;
            let records = row["records"].as_u64().unwrap_or(0);
            // The log only grows, by ticks: a fold that has seen fewer than a consume before it has skipped some.
            if records < there {
                let what = format!(
                    "the stage {} has seen {records} records of {there} at least",
                    kind.name()
                );
                return Err(failed(what));
            }
            there = records;
            tracing::info!(stage = kind.name(), %row, "measured");
            results.entry(kind).or_default().push(row);
        }
        Ok(())
    }

    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let wants = |part| self.only.is_empty() || self.only.contains(&part);
        let topics = Topics::create(self.settings("fold")?, self.partitions)?;
        let mut report = json!({});
        let mut filled = None;
        if wants(Part::Fold) || wants(Part::Killed) {
            let dense = Dense {
                accounts: self.accounts,
                gap_us: GAP_US,
                ..Dense::default()
            };
            let done = topics.fill(dense, self.calls, LINGER_MS, 0)?;
            report["events"] = done.events.into();
            report["bytes_per_event"] = (done.bytes as f64 / done.events.max(1) as f64).into();
            filled = Some(done);
        }
        let mut results = BTreeMap::new();
        if wants(Part::Fold) {
            for _ in 0..self.rounds.max(1) {
                self.round(&topics, &mut results)?;
            }
            report["stages"] = stages(&results);
        }
        if wants(Part::Visible) {
            let folded = report["stages"]["fold"]["events_per_second"].as_f64();
            let half = folded.map_or(100_000, |rate| rate as u64 / 2);
            report["visible"] = self.visible(self.rate.unwrap_or(half))?;
        }
        if wants(Part::Killed) {
            report["killed"] = self.killed(&topics)?;
        }
        topics.remove()?;
        if json {
            println!("{report}");
        } else {
            show(&report, filled.as_ref(), &results);
        }
        Ok(())
    }
}

/// Medians of the rounds, by stage.
fn stages(results: &BTreeMap<Kind, Vec<Value>>) -> Value {
    let mut stages = json!({});
    for (kind, rounds) in results {
        let of = |name: &str| {
            let values: Vec<f64> = rounds.iter().filter_map(|r| r[name].as_f64()).collect();
            (!values.is_empty()).then(|| median(&values))
        };
        let per_event = |us: f64| us / of("records").unwrap_or(0.0).max(1.0);
        let rates: Vec<f64> = rounds
            .iter()
            .filter_map(|r| Some(r["records"].as_f64()? / r["seconds"].as_f64()?))
            .collect();
        let mut threads: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, us) in rounds.iter().filter_map(|r| r["threads_us"].as_object()).flatten() {
            threads.entry(name).or_default().extend(us.as_f64());
        }
        let threads: BTreeMap<&str, f64> = threads
            .into_iter()
            .map(|(name, us)| (name, per_event(median(&us))))
            .collect();
        let mut row = json!({
            "records": of("records"),
            "events_per_second": median(&rates),
            "cpu_us_per_event": per_event(of("cpu_us").unwrap_or(0.0)),
            "memory_peak_bytes": of("memory_peak_bytes"),
            "threads_us_per_event": threads,
        });
        for name in [
            "start_seconds",
            "remembered_calls",
            "commits",
            "commit_seconds",
            "commit_bytes",
        ] {
            if let Some(value) = of(name) {
                row[name] = value.into();
            }
        }
        stages[kind.name()] = row;
    }
    // Ratios within a round, then their median.
    for kind in Kind::MEASURED {
        let ratio = |of: &dyn Fn(&Value) -> Option<f64>| {
            let pairs = results.get(&kind)?.iter().zip(results.get(&Kind::Prost)?);
            let ratios: Vec<f64> = pairs.filter_map(|(a, b)| Some(of(a)? / of(b)?)).collect();
            Some(median(&ratios))
        };
        let cpu = ratio(&|r| Some(r["cpu_us"].as_f64()? / r["records"].as_f64()?));
        let speed = ratio(&|r| Some(r["records"].as_f64()? / r["seconds"].as_f64()?));
        if let (Some(cpu), Some(speed)) = (cpu, speed) {
            stages[kind.name()]["cpu_to_prost_ratio"] = cpu.into();
            stages[kind.name()]["speed_to_prost_ratio"] = speed.into();
        }
    }
    stages
}

fn show(report: &Value, filled: Option<&Filled>, results: &BTreeMap<Kind, Vec<Value>>) {
    let number = |value: &Value, places: usize| value.as_f64().map_or(String::new(), |v| format!("{v:.places$}"));
    let whole = |value: &Value| grouped(&number(value, 0));
    if let Some(filled) = filled {
        println!(
            "{} events of {} bytes, sent at {}/s\n",
            grouped(&filled.events.to_string()),
            filled.bytes / filled.events.max(1),
            grouped(&((filled.events as f64 / filled.took.as_secs_f64()) as u64).to_string())
        );
    }
    if !results.is_empty() {
        let mut table = Table::new(&[
            "stage (medians)",
            ">events/s",
            ">of prost's",
            ">CPU µs/event",
            ">× prost's",
            ">memory",
        ]);
        for kind in results.keys() {
            let row = &report["stages"][kind.name()];
            table.row([
                kind.title().to_owned(),
                whole(&row["events_per_second"]),
                row["speed_to_prost_ratio"]
                    .as_f64()
                    .map_or(String::new(), |r| format!("{:.0} %", r * 100.0)),
                number(&row["cpu_us_per_event"], 2),
                number(&row["cpu_to_prost_ratio"], 2),
                bytes(row["memory_peak_bytes"].as_f64().unwrap_or(0.0) as u64),
            ]);
        }
        println!("{table}");
        for kind in results.keys().filter(|k| matches!(k, Kind::Fold | Kind::Calls)) {
            let row = &report["stages"][kind.name()];
            let mut table = Table::new(&[&format!("{}: thread", kind.title()), ">CPU µs/event"]);
            let mut threads: Vec<(&String, f64)> = row["threads_us_per_event"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(name, us)| Some((name, us.as_f64()?)))
                .collect();
            threads.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (name, us) in threads.into_iter().filter(|(_, us)| *us >= 0.005) {
                table.row([name.clone(), format!("{us:.3}")]);
            }
            println!(
                "{table}  {} commits of {} each took {} s; first record after {} s; {} calls remembered\n",
                whole(&row["commits"]),
                bytes(
                    (row["commit_bytes"].as_f64().unwrap_or(0.0) / row["commits"].as_f64().unwrap_or(1.0).max(1.0))
                        as u64
                ),
                number(&row["commit_seconds"], 2),
                number(&row["start_seconds"], 2),
                whole(&row["remembered_calls"]),
            );
        }
    }
    for (name, title) in [
        ("visible", "event to visible"),
        ("killed", "SIGKILL to all partitions folding"),
    ] {
        if let Some(row) = report[name].as_object() {
            let mut table = Table::new(&[title, ">value"]);
            for (name, value) in row {
                let shown = if value.is_u64() || value.as_f64().is_some_and(|v| v >= 1_000.0) {
                    whole(value)
                } else {
                    number(value, 2)
                };
                table.row([name.replace('_', " "), shown]);
            }
            println!("{table}");
        }
    }
}
