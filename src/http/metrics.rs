//! `/metrics`: what the service says of itself, as Prometheus reads it.
//!
//! [`METRICS`] lists every metric; `deploy/METRICS.md` is written from it, and a test scrapes a real service and finds no other
//! name. What is counted where it happens goes through the `metrics` crate. All else is looked up when somebody asks, a
//! partition at a time, under its read lock and without a look at each account or call.
//!
//! Counters of the fold are those that its store keeps, so they go on after a restart. After a crash the fold repeats some
//! seconds; until a partition is where the log ended when it was opened, its counters aren't shown: none ever goes back.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics::{Label, Unit, counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::caller::Caller;
use super::health::Ready;
use super::problem::Problem;
use super::process::Process;
use super::service::{self, Service};
use crate::log::Log;
use crate::machine::clock::Source;
use crate::machine::output::Topic;
use crate::model::outcome::Reason;
use crate::model::reject::RejectReason;
use crate::partition::live::{Live, ReadError};
use crate::partition::sharing::Sharing;
use crate::partition::worker::Partition;
use crate::store::rocks::{FOLD_VERSION, FORMAT_VERSION};

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Stands where it stands.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, which ends in its unit; counters in `_total` after it.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

use Kind::{Counter, Gauge, Histogram};

/// Every metric.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("reckon_http_requests_total", Counter, &["route", "method", "status"], "Requests answered, by pattern of the route and status; client_gone: the client left before the answer"),
    metric("reckon_http_request_seconds", Histogram, &["route", "method"], "Time until the head of the answer was ready; of streams and long polls too"),
    metric("reckon_http_requests_in_progress", Gauge, &[], "Requests whose answer's head isn't ready"),
    metric("reckon_streams_open", Gauge, &[], "Streams of live totals that are being followed"),
    metric("reckon_stream_messages_computed_total", Counter, &[], "Messages of live totals computed: once for all who follow the same"),
    metric("reckon_ingest_events_total", Counter, &["result"], "Events posted: accepted (durable), or refused before the log, by reason"),
    metric("reckon_ingest_in_flight_bytes", Gauge, &[], "Bodies of requests that aren't durable yet"),
    metric("reckon_source_events_total", Counter, &["source"], "Events accepted, by producer as they name it; past 200 producers: other"),
    metric("reckon_source_refused_total", Counter, &["source"], "Events refused, by producer; unnamed: those that can't be told"),
    metric("reckon_source_starts_total", Counter, &["source"], "Events that say a call has started"),
    metric("reckon_source_ends_total", Counter, &["source"], "The edge's last words on calls: far fewer than starts means calls whose end nobody reports"),
    metric("reckon_source_ends_without_usage_total", Counter, &["source"], "Of the ends, those of completed calls that carry no usage"),
    metric("reckon_source_clock_skew_seconds", Gauge, &["source"], "How far the last event's occurred_at was ahead of this machine's clock"),
    metric("reckon_events_folded_total", Counter, &["partition"], "Events folded, copies included"),
    metric("reckon_events_copied_total", Counter, &["partition"], "Of the events folded, those that changed nothing"),
    metric("reckon_unknown_fields_total", Counter, &["partition"], "Fields of events that the contract doesn't have"),
    metric("reckon_rejects_total", Counter, &["partition", "reason"], "Records not folded, by reason of RULES 5"),
    metric("reckon_verdicts_total", Counter, &["partition", "reason"], "First verdicts, by reason of RULES 4"),
    metric("reckon_amendments_total", Counter, &["partition"], "Verdicts changed after their first"),
    metric("reckon_outputs_total", Counter, &["partition", "topic"], "Outputs decided: the last sequence of the topic"),
    metric("reckon_outbox_outputs", Gauge, &["partition"], "Outputs decided and not known to be delivered"),
    metric("reckon_fold_lag_records", Gauge, &["partition"], "Records in the log and not folded"),
    metric("reckon_fold_lag_seconds", Gauge, &["partition"], "Age of the oldest record that isn't folded; 0 if all are"),
    metric("reckon_clock_age_seconds", Gauge, &["partition"], "Wall time minus log time; not in logs whose clock is ticks alone"),
    metric("reckon_commit_seconds", Histogram, &[], "Time of a commit: until what changed is written to the store"),
    metric("reckon_commit_lock_seconds", Histogram, &[], "Of a commit, the time in which it kept readers out"),
    metric("reckon_deliver_seconds", Histogram, &[], "Time in which a commit's outputs were made durable"),
    metric("reckon_accounts", Gauge, &["partition"], "Accounts known"),
    metric("reckon_calls_open", Gauge, &["partition"], "Calls without a verdict"),
    metric("reckon_calls_remembered", Gauge, &["partition"], "Calls with a verdict that later evidence can still amend"),
    metric("reckon_closes_held", Gauge, &["partition"], "Closes of accounts' months that are due and held by the operator"),
    metric("reckon_memory_bytes", Gauge, &["partition", "part"], "Memory by part: calls, remembered_calls, accounts, names, write_buffers"),
    metric("reckon_store_bytes", Gauge, &["partition"], "The partition's store on disk"),
    metric("reckon_log_bytes", Gauge, &[], "Records and outputs of the embedded log on disk, without what is still in its write-ahead log"),
    metric("reckon_disk_free_bytes", Gauge, &[], "Room left on the data folder's disk"),
    metric("reckon_disk_size_bytes", Gauge, &[], "Size of the data folder's disk"),
    metric("reckon_partition_served", Gauge, &["partition"], "1: folded and readable; 0: waits for room on its disk, is being taken over, or has failed"),
    metric("reckon_partition_failed", Gauge, &[], "1: a partition has stopped for good"),
    metric("reckon_partition_halted", Gauge, &["partition"], "Kafka. 1: it can't be right to go on; it is looked at again each 30 s"),
    metric("reckon_partitions", Gauge, &[], "Kafka: partitions of the log, owned by this instance or another"),
    metric("reckon_partitions_owned", Gauge, &[], "Kafka: partitions that the group has given to this instance"),
    metric("reckon_group_joined", Gauge, &[], "Kafka. 1: the group has taken this instance in"),
    metric("reckon_held_up", Gauge, &[], "Kafka. 1: it was held up and answers no reads before the group has confirmed its partitions"),
    metric("reckon_rebalances_total", Counter, &[], "Kafka: times that the group gave or took partitions, be it none"),
    metric("reckon_reads_passed_on_total", Counter, &["result"], "Kafka: reads of what another instance owns: answered, moving, no_owner, owner_silent, refused (passed on to here by mistake)"),
    metric("reckon_events_forwarded_total", Counter, &["partition"], "Kafka: events found in another partition than their account's, and forwarded"),
    metric("reckon_publisher_replaced_total", Counter, &[], "Kafka: producers of events that failed for good (brokers lost what they had acknowledged) and were replaced"),
    metric("reckon_output_transactions_total", Counter, &[], "Kafka: transactions of outputs committed"),
    metric("reckon_output_transactions_failed_total", Counter, &["fenced"], "Kafka: transactions of outputs that failed, and take-overs; fenced: by another owner or a time-out"),
    metric("reckon_output_transaction_seconds", Histogram, &[], "Kafka: time of a committed transaction of outputs"),
    metric("reckon_tick_skew_ms", Gauge, &["partition"], "Kafka: the broker's time minus this machine's at the last tick, in milliseconds"),
    metric("reckon_unstable_records", Gauge, &["partition"], "Kafka: records and markers above the last stable offset, which may not be read yet"),
    metric("reckon_stable_offset_still_seconds", Gauge, &["partition"], "Kafka: how long the last stable offset has stood still below the partition's end, or the brokers haven't told either"),
    metric("reckon_ready", Gauge, &[], "1: what /readyz answers with 200"),
    metric("reckon_build_info", Gauge, &["version", "format_version", "fold_version"], "1"),
    metric("reckon_log_info", Gauge, &["log_id", "clock", "partitions"], "1"),
    metric("process_resident_memory_bytes", Gauge, &[], "Resident memory"),
    metric("process_cpu_seconds_total", Counter, &[], "User and system time, in whole seconds"),
    metric("process_open_fds", Gauge, &[], "Open file handles"),
    metric("process_max_fds", Gauge, &[], "File handles that it may open"),
    metric("process_threads", Gauge, &[], "Threads"),
    metric("process_start_time_seconds", Gauge, &[], "When it was started, in seconds since 1970"),
];

/// Upper bounds of times, in seconds.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Makes the process count. Once: later calls change nothing.
pub fn install() {
    recorder();
}

fn recorder() -> Option<&'static PrometheusHandle> {
    let handle = RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS);
        match builder.and_then(PrometheusBuilder::install_recorder) {
            Ok(handle) => {
                METRICS.iter().for_each(describe);
                Some(handle)
            }
            Err(cause) => {
                tracing::error!(%cause, "nothing is counted");
                None
            }
        }
    });
    handle.as_ref()
}

fn describe(metric: &Metric) {
    let unit = if metric.name.contains("_seconds") {
        Unit::Seconds
    } else if metric.name.contains("_bytes") {
        Unit::Bytes
    } else {
        Unit::Count
    };
    match metric.kind {
        Counter => metrics::describe_counter!(metric.name, unit, metric.help),
        Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
        Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
    }
    // There from the start, so that the first rise is seen as one.
    match metric.kind {
        Counter if metric.labels.is_empty() => drop(counter!(metric.name)),
        Histogram if metric.labels.is_empty() => drop(metrics::histogram!(metric.name)),
        Counter if metric.labels == ["fenced"] => {
            drop((
                counter!(metric.name, "fenced" => "yes"),
                counter!(metric.name, "fenced" => "no"),
            ));
        }
        Gauge if metric.name.starts_with("reckon_") && metric.labels.is_empty() => drop(gauge!(metric.name)),
        Counter | Gauge | Histogram => {}
    }
}

/// Events of a request are in the log.
pub fn accepted(events: usize) {
    counter!("reckon_ingest_events_total", "result" => "accepted").increment(events as u64);
}

/// An event isn't, for one of a few reasons.
pub fn refused(reason: &'static str) {
    counter!("reckon_ingest_events_total", "result" => reason).increment(1);
}

/// Sorts what histograms were given into their buckets. Due every some seconds, or it piles up while nobody scrapes.
pub fn tidy() {
    if let Some(recorder) = recorder() {
        recorder.run_upkeep();
    }
}

/// The table of `deploy/METRICS.md`.
pub fn table() -> String {
    let mut text = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for Metric {
        name,
        kind,
        labels,
        help,
    } in METRICS
    {
        let kind = format!("{kind:?}").to_lowercase();
        text.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    text
}

/// What the service says of itself, for Prometheus
///
/// `deploy/METRICS.md` lists the metrics. Wants a metrics or an operator token, also from the same machine: a proxy there brings
/// strangers from a loopback address, and needn't say so.
#[utoipa::path(get, path = "/metrics", tag = "running", security(("metrics" = []), ("operator" = [])), responses(
    (status = 200, description = "Prometheus text", body = String, content_type = "text/plain"),
    (status = 401, description = "No valid token", body = super::problem::ProblemBody),
    (status = 403, description = "Neither a metrics nor an operator token", body = super::problem::ProblemBody)))]
pub async fn scrape(caller: Caller, State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    caller.may_scrape()?;
    let text = service::blocking(move || {
        collect(&service);
        let text = recorder().map(PrometheusHandle::render).unwrap_or_default();
        match &service.running.sharing {
            Some(sharing) => of_owned(&text, &sharing.owned()),
            None => text,
        }
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// Without the samples of partitions that are another instance's: those that were ours stand still here and go on there.
fn of_owned(text: &str, owned: &[u32]) -> String {
    let is_ours = |line: &&str| {
        let number = line
            .split_once("partition=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .and_then(|(number, _)| number.parse::<u32>().ok());
        number.is_none_or(|number| owned.contains(&number))
    };
    text.split_inclusive('\n').filter(is_ours).collect()
}

/// What is known of the group, and of what it has given to this instance.
fn collect_sharing(sharing: &Sharing) {
    let owned = sharing.owned();
    gauge!("reckon_partitions").set(f64::from(sharing.log.identity().partition_count));
    gauge!("reckon_partitions_owned").set(owned.len() as f64);
    gauge!("reckon_group_joined").set(f64::from(u8::from(sharing.has_joined())));
    gauge!("reckon_held_up").set(f64::from(u8::from(sharing.is_stale())));
    let (halted, ends, skews_ms) = (sharing.halted(), sharing.stable_ends(), sharing.tick_skews_ms());
    for number in owned {
        let of_partition = [Label::new("partition", number.to_string())];
        let is_halted = halted.contains_key(&number);
        gauge!("reckon_partition_halted", of_partition.iter()).set(f64::from(u8::from(is_halted)));
        if let Some(skew_ms) = skews_ms.get(&number) {
            gauge!("reckon_tick_skew_ms", of_partition.iter()).set(*skew_ms as f64);
        }
        if let Some(end) = ends.get(&number) {
            let unstable = end.high.saturating_sub(end.stable);
            gauge!("reckon_unstable_records", of_partition.iter()).set(unstable as f64);
            gauge!("reckon_stable_offset_still_seconds", of_partition.iter()).set(end.still_ms as f64 / 1_000.0);
        }
    }
}

/// Looks up what isn't counted where it happens.
fn collect(service: &Service) {
    let running = &service.running;
    let (now_ms, source) = (chrono::Utc::now().timestamp_millis(), running.log.identity().source);
    let owned = running.sharing.as_ref().map(|sharing| {
        collect_sharing(sharing);
        sharing.owned()
    });
    for live in &running.partitions {
        if owned.as_ref().is_some_and(|owned| !owned.contains(&live.number)) {
            continue;
        }
        let number = live.number.to_string();
        let of_partition = || vec![Label::new("partition", number.clone())];
        let lag = match &running.sharing {
            // No question to the cluster: what is said here is wanted most when it doesn't answer.
            Some(sharing) => sharing.lag_records(live).unwrap_or_default(),
            None => live.lag_records().unwrap_or_default(),
        };
        gauge!("reckon_fold_lag_records", of_partition()).set(lag as f64);
        // All folded: the log needn't be looked at.
        let since = if lag == 0 {
            None
        } else {
            live.waiting_since().ok().flatten()
        };
        let waiting_ms = since.map_or(0, |since| (now_ms - since).max(0));
        gauge!("reckon_fold_lag_seconds", of_partition()).set(waiting_ms as f64 / 1_000.0);
        let read = collect_partition(live, &of_partition);
        gauge!("reckon_partition_served", of_partition()).set(f64::from(u8::from(read.is_ok())));
        if let Some(clock) = live.standing().clock.filter(|_| source == Source::Append) {
            gauge!("reckon_clock_age_seconds", of_partition()).set((now_ms - clock) as f64 / 1_000.0);
        }
    }
    accepted(0);
    gauge!("reckon_ingest_in_flight_bytes").set(service.gate.in_flight_bytes() as f64);
    for (source, health) in service.sources.snapshot() {
        let of_source = || vec![Label::new("source", source.clone())];
        counter!("reckon_source_events_total", of_source()).absolute(health.events);
        counter!("reckon_source_refused_total", of_source()).absolute(health.refused);
        counter!("reckon_source_starts_total", of_source()).absolute(health.starts);
        counter!("reckon_source_ends_total", of_source()).absolute(health.ends);
        counter!("reckon_source_ends_without_usage_total", of_source()).absolute(health.ends_without_usage);
        if let Some(skew_ms) = health.skew_ms {
            gauge!("reckon_source_clock_skew_seconds", of_source()).set(skew_ms as f64 / 1_000.0);
        }
    }
    let failed = running.failed().borrow().is_some();
    gauge!("reckon_partition_failed").set(f64::from(u8::from(failed)));
    gauge!("reckon_ready").set(f64::from(u8::from(Ready::of(service).ready)));
    if let Some(log) = running.local_log() {
        gauge!("reckon_log_bytes").set(log.disk_bytes() as f64);
    }
    if let Ok(disk) = fs4::statvfs(&running.data) {
        gauge!("reckon_disk_free_bytes").set(disk.available_space() as f64);
        gauge!("reckon_disk_size_bytes").set(disk.total_space() as f64);
    }
    let identity = running.log.identity();
    let labels = [
        ("log_id", identity.log_id.clone()),
        ("clock", identity.source.as_str().to_owned()),
        ("partitions", identity.partition_count.to_string()),
    ];
    gauge!("reckon_log_info", &labels).set(1);
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("format_version", FORMAT_VERSION.to_string()),
        ("fold_version", FOLD_VERSION.to_string()),
    ];
    gauge!("reckon_build_info", &labels).set(1);
    Process::now().export();
}

/// What a partition is asked for under its lock.
struct Taken {
    events: u64,
    copies: u64,
    forwarded: u64,
    unknown_fields: u64,
    amended: u64,
    verdicts: Vec<u64>,
    rejects: Vec<(&'static str, u64)>,
    outputs: [u64; 4],
    gauges: [(&'static str, u64); 5],
    memory: [(&'static str, usize); 4],
    rocks: Arc<crate::store::rocks::Rocks>,
}

impl Taken {
    fn from(partition: &Partition) -> Self {
        let machine = &partition.machine;
        let counters = &machine.counters;
        let remembered = partition.shelf.len() + machine.calls.resident() - machine.calls.open();
        Self {
            events: counters.events,
            copies: counters.copies,
            forwarded: counters.forwarded,
            unknown_fields: counters.unknown_fields,
            amended: counters.amended,
            verdicts: counters.verdicts.to_vec(),
            rejects: counters.rejects.iter().map(|(r, n)| (r.as_str(), *n)).collect(),
            outputs: Topic::ALL.map(|topic| machine.outputs.tails[topic as usize].sequence),
            gauges: [
                ("reckon_outbox_outputs", partition.undelivered() as u64),
                ("reckon_accounts", machine.accounts.len() as u64),
                ("reckon_calls_open", machine.calls.open()),
                ("reckon_calls_remembered", remembered),
                ("reckon_closes_held", machine.held.len() as u64),
            ],
            memory: [
                ("calls", machine.calls.memory_bytes()),
                ("remembered_calls", partition.shelf.memory_bytes()),
                ("accounts", machine.accounts.table_bytes()),
                ("names", machine.names.memory_bytes()),
            ],
            rocks: Arc::clone(&partition.rocks),
        }
    }
}

fn collect_partition(live: &Live, of_partition: &impl Fn() -> Vec<Label>) -> Result<(), ReadError> {
    let taken = live.read(Taken::from)?;
    let with = |name: &'static str, value: &'static str| {
        let mut labels = of_partition();
        labels.push(Label::from_static_parts(name, value));
        labels
    };
    if live.is_caught_up() {
        counter!("reckon_events_folded_total", of_partition()).absolute(taken.events);
        counter!("reckon_events_copied_total", of_partition()).absolute(taken.copies);
        counter!("reckon_events_forwarded_total", of_partition()).absolute(taken.forwarded);
        counter!("reckon_unknown_fields_total", of_partition()).absolute(taken.unknown_fields);
        counter!("reckon_amendments_total", of_partition()).absolute(taken.amended);
        for (reason, count) in Reason::ALL.iter().zip(&taken.verdicts) {
            counter!("reckon_verdicts_total", with("reason", reason.as_str())).absolute(*count);
        }
        // From nothing on, so that the first one is seen as a rise.
        for reason in RejectReason::ALL {
            let found = taken.rejects.iter().find(|(name, _)| *name == reason.as_str());
            let count = found.map_or(0, |(_, count)| *count);
            counter!("reckon_rejects_total", with("reason", reason.as_str())).absolute(count);
        }
        for (topic, sequence) in Topic::ALL.into_iter().zip(taken.outputs) {
            counter!("reckon_outputs_total", with("topic", topic.as_str())).absolute(sequence);
        }
    }
    for (name, value) in taken.gauges {
        gauge!(name, of_partition()).set(value as f64);
    }
    for (part, bytes) in taken.memory {
        gauge!("reckon_memory_bytes", with("part", part)).set(bytes as f64);
    }
    // Without the lock: RocksDB has its own.
    let unflushed = taken.rocks.unflushed_bytes();
    gauge!("reckon_memory_bytes", with("part", "write_buffers")).set(unflushed as f64);
    gauge!("reckon_store_bytes", of_partition()).set(taken.rocks.disk_bytes() as f64);
    Ok(())
}
