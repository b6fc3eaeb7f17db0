//! `reckon bench serve`: what a served embedded log takes and answers on this machine, client and service side by side.
//!
//! The service is a process of its own, started from this binary; the client is this one, over loopback sockets. Both share
//! the machine's cores, as the figures say.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::{Value, json};

use super::CliError;
use super::terminal::{Table, bytes, grouped};
use crate::model::Ms;
use crate::wire::pb;
use crate::workload::dense::{Dense, account_id};
use crate::workload::seed::Seed;

/// What a service on the embedded log takes and answers: events by format, reads, watchers
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  reckon bench serve --events 300000 --rounds 3")]
pub struct BenchServe {
    /// Events posted in each measured stage
    #[arg(long, default_value_t = 300_000)]
    events: u64,

    /// Events of a request
    #[arg(long, default_value_t = 1_000)]
    batch: usize,

    /// Connections that post at a time
    #[arg(long, default_value_t = 4)]
    connections: usize,

    /// Accounts
    #[arg(long, default_value_t = 10_000)]
    accounts: u64,

    /// Partitions
    #[arg(long, default_value_t = 4)]
    partitions: u32,

    /// Reads of each measured stage
    #[arg(long, default_value_t = 2_000)]
    reads: u64,

    /// Streams that are followed
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,

    /// Rounds with and without watchers; medians are given
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// How events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Ndjson,
    Protobuf,
    JsonBatch,
    CloudEvents,
}

impl Format {
    const ALL: [Self; 4] = [Self::Ndjson, Self::Protobuf, Self::JsonBatch, Self::CloudEvents];

    const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "NDJSON",
            Self::Protobuf => "protobuf",
            Self::JsonBatch => "JSON array",
            Self::CloudEvents => "CloudEvents batch",
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Protobuf => "application/x-protobuf; framing=delimited",
            Self::JsonBatch => "application/json",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    fn body(self, events: &[pb::CallEvent]) -> Bytes {
        let value = crate::wire::json::encode;
        match self {
            Self::Protobuf => {
                let mut bytes = Vec::new();
                for event in events {
                    // A growing Vec takes any message.
                    let _ = event.encode_length_delimited(&mut bytes);
                }
                bytes.into()
            }
            Self::Ndjson => {
                let lines: Vec<String> = events.iter().map(|e| format!("{}\n", value(e))).collect();
                lines.concat().into()
            }
            Self::JsonBatch => events.iter().map(value).collect::<Value>().to_string().into(),
            Self::CloudEvents => {
                let envelope = |(n, event): (usize, &pb::CallEvent)| {
                    json!({"specversion": "1.0", "id": format!("{}-{n}", event.call_id), "source": "/bench",
                        "type": "reckon.call_event.v1", "datacontenttype": "application/json", "data": value(event)})
                };
                events
                    .iter()
                    .enumerate()
                    .map(envelope)
                    .collect::<Value>()
                    .to_string()
                    .into()
            }
        }
    }
}

fn failed(what: impl std::fmt::Display) -> CliError {
    CliError::Finding(what.to_string())
}

/// The service as a process; killed when it is let go.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    fn start(data: &Path, partitions: u32) -> Result<Self, CliError> {
        let binary = std::env::current_exe()?;
        let made = Command::new(&binary)
            .args(["init", "--json", "--partitions", &partitions.to_string(), "--data"])
            .arg(data)
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            return Err(failed("no log could be made"));
        }
        let mut child = Command::new(&binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| failed("no output of serve"))?;
        let mut lines = BufReader::new(output).lines();
        let address = loop {
            let line = lines.next().ok_or_else(|| failed("serve ended at once"))??;
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.parse().map_err(failed)?;
            }
        };
        // Whatever else it prints must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    /// Bytes of memory that the process holds.
    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that is kept.
struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Result<Self, CliError> {
        let socket = tokio::net::TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    async fn begin(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<hyper::Response<hyper::body::Incoming>, CliError> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", content_type)
            .body(Full::new(body))
            .map_err(failed)?;
        self.sender.ready().await.map_err(failed)?;
        self.sender.send_request(request).await.map_err(failed)
    }

    async fn ask(&mut self, method: &str, path: &str, content_type: &str, body: Bytes) -> Result<Bytes, CliError> {
        let response = self.begin(method, path, content_type, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            // A refused batch says so a thousand times.
            let text: String = String::from_utf8_lossy(&body).chars().take(400).collect();
            Err(failed(format!("{method} {path}: {status}: {text}")))
        }
    }

    async fn get(&mut self, path: &str) -> Result<Bytes, CliError> {
        self.ask("GET", path, "application/json", Bytes::new()).await
    }

    /// Records in the log that aren't folded.
    async fn lag(&mut self) -> Result<u64, CliError> {
        let response = self.begin("GET", "/readyz", "application/json", Bytes::new()).await?;
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        let ready: Value = serde_json::from_slice(&body)?;
        let lags = ready["partitions"].as_array().into_iter().flatten();
        Ok(lags
            .filter_map(|p| p["lag_records"].as_str()?.parse::<u64>().ok())
            .sum())
    }

    /// Waits until everything is folded.
    async fn folded(&mut self) -> Result<(), CliError> {
        while self.lag().await? > 0 {
            // No event tells a client of it.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// Times, for percentiles.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn percentile(&self, of_1000: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * of_1000 / 1_000).copied().unwrap_or_default()
    }

    fn ms(&self, of_1000: usize) -> String {
        let us = self.percentile(of_1000).as_micros();
        format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
    }
}

/// What posting came to.
struct Posted {
    events: u64,
    acknowledged: Duration,
    folded: Duration,
    acks: Times,
}

impl Posted {
    fn rate(&self, time: Duration) -> u64 {
        (u128::from(self.events) * 1_000_000 / time.as_micros().max(1)) as u64
    }
}

/// Makes the bodies of a stage: calls that nobody has sent before, of the running minutes.
struct Bodies {
    dense: Dense,
    next_call: u64,
    batch: usize,
}

impl Bodies {
    fn make(&mut self, format: Format, events: u64) -> Vec<Bytes> {
        let calls = events / 3;
        let mut bodies = Vec::new();
        let mut waiting: Vec<pb::CallEvent> = Vec::new();
        self.dense
            .write(self.next_call, self.next_call + calls, |bytes, _: Ms| {
                waiting.extend(pb::CallEvent::decode(bytes));
                if waiting.len() == self.batch {
                    bodies.push(format.body(&waiting));
                    waiting.clear();
                }
            });
        if !waiting.is_empty() {
            bodies.push(format.body(&waiting));
        }
        self.next_call += calls;
        bodies
    }
}

/// Posts bodies over several connections; each sends the next one when the last is acknowledged, or at its turn if paced.
async fn post(
    address: SocketAddr,
    format: Format,
    bodies: Vec<Bytes>,
    events: u64,
    connections: usize,
    pace: Option<Duration>,
) -> Result<Posted, CliError> {
    let bodies = Arc::new(bodies);
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (bodies, next) = (Arc::clone(&bodies), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut acks = Times::default();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(body) = bodies.get(n as usize) else {
                    return Ok::<Times, CliError>(acks);
                };
                if let Some(pace) = pace {
                    tokio::time::sleep_until((began + pace * n as u32).into()).await;
                }
                let sent = Instant::now();
                client
                    .ask("POST", "/v1/events", format.content_type(), body.clone())
                    .await?;
                acks.0.push(sent.elapsed());
            }
        }));
    }
    let mut acks = Times::default();
    for task in tasks {
        acks.0.extend(task.await.map_err(failed)??.0);
    }
    let acknowledged = began.elapsed();
    Client::connect(address).await?.folded().await?;
    Ok(Posted {
        events,
        acknowledged,
        folded: began.elapsed(),
        acks,
    })
}

/// Reads usage of drawn accounts, one after another.
async fn read(address: SocketAddr, accounts: u64, reads: u64, stop: &AtomicBool) -> Result<Times, CliError> {
    let mut client = Client::connect(address).await?;
    let mut draw = Seed::new(11);
    let mut times = Times::default();
    for _ in 0..reads {
        let path = format!("/v1/accounts/{}/usage", account_id(draw.below(accounts)));
        let sent = Instant::now();
        client.get(&path).await?;
        times.0.push(sent.elapsed());
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(times)
}

/// Posts single events and reads until each is visible: the time from the post to the answer that has it.
async fn see(address: SocketAddr, times_max: u64, stop: &AtomicBool) -> Result<Times, CliError> {
    let mut client = Client::connect(address).await?;
    let mut times = Times::default();
    for n in 0..times_max {
        let event = json!({"account_id": "seen", "call_id": format!("seen-{n}"), "phase": "ended",
            "occurred_at": chrono::Utc::now().to_rfc3339(), "product": "m-large", "end": {"cause": "completed"},
            "usage": [{"meter": "output_tokens", "value": 7}]});
        let sent = Instant::now();
        let body = Bytes::from(event.to_string());
        let answer = client.ask("POST", "/v1/events", "application/json", body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let result = &answer["results"][0];
        let (partition, offset) = (&result["partition"], result["offset"].as_str().unwrap_or_default());
        let path = format!("/v1/accounts/seen/usage?at_least={partition}:{offset}");
        client.get(&path).await?;
        times.0.push(sent.elapsed());
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(times)
}

/// Follows the streams of that many accounts until the guard is let go. Returns when all have their first message.
async fn watch(address: SocketAddr, watchers: usize, accounts: u64) -> Result<Vec<tokio::task::AbortHandle>, CliError> {
    let (seen, mut first) = tokio::sync::mpsc::channel(watchers.max(1));
    let mut handles = Vec::new();
    for n in 0..watchers {
        let seen = seen.clone();
        let path = format!("/v1/accounts/{}/usage/stream", account_id(n as u64 % accounts));
        let task = tokio::spawn(async move {
            let result = async {
                let mut client = Client::connect(address).await?;
                let response = client.begin("GET", &path, "text/event-stream", Bytes::new()).await?;
                if !response.status().is_success() {
                    return Err(failed(format!("{path}: {}", response.status())));
                }
                let mut body = response.into_body();
                let mut told = false;
                while let Some(frame) = body.frame().await {
                    frame.map_err(failed)?;
                    if !std::mem::replace(&mut told, true) {
                        // The bench may have given up already.
                        let _ = seen.send(Ok(())).await;
                    }
                }
                Ok(())
            };
            if let Err(cause) = result.await {
                let _ = seen.send(Err(cause)).await;
            }
        });
        handles.push(task.abort_handle());
    }
    for _ in 0..watchers {
        first.recv().await.ok_or_else(|| failed("a stream ended at once"))??;
    }
    Ok(handles)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl BenchServe {
    pub(super) fn run(self, as_json: bool) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(self.measure(as_json))
    }

    fn bodies(&self) -> Bodies {
        // The last events lie some seconds before now, none ahead of the clock.
        let calls = self.events / 3 * (8 + 2 * u64::from(self.rounds));
        let gap_us = 50;
        let start_ms = chrono::Utc::now().timestamp_millis() - (calls * gap_us / 1_000) as Ms - 60_000;
        Bodies {
            dense: Dense {
                accounts: self.accounts,
                gap_us,
                start_ms,
                seed: start_ms as u64,
                ..Dense::default()
            },
            next_call: 0,
            batch: self.batch,
        }
    }

    async fn measure(self, as_json: bool) -> Result<(), CliError> {
        let folder = Scratch::new()?;
        let service = Service::start(&folder.0, self.partitions)?;
        let address = service.address;
        let mut bodies = self.bodies();
        let say = |what: &str| {
            if !as_json {
                eprintln!("measuring {what} …");
            }
        };
        // Accounts, names and files come to be before anything is measured.
        let warm = bodies.make(Format::Ndjson, self.events / 3);
        post(address, Format::Ndjson, warm, self.events / 3, self.connections, None).await?;
        let mut formats = Vec::new();
        for format in Format::ALL {
            say(format.name());
            let made = bodies.make(format, self.events);
            formats.push((
                format,
                post(address, format, made, self.events, self.connections, None).await?,
            ));
        }
        say("reads");
        let go_on = AtomicBool::new(false);
        let idle = read(address, self.accounts, self.reads, &go_on).await?;
        let made = bodies.make(Format::Ndjson, self.events);
        let done = AtomicBool::new(false);
        let full = async {
            let posted = post(address, Format::Ndjson, made, self.events, self.connections, None).await;
            done.store(true, Ordering::Relaxed);
            posted
        };
        let (posted, busy) = tokio::join!(full, read(address, self.accounts, u64::MAX, &done));
        let (full, busy) = (posted?, busy?);
        say("event to visible");
        let alone = see(address, self.reads.min(500), &go_on).await?;
        let made = bodies.make(Format::Ndjson, self.events);
        let half_rate = full.rate(full.folded) / 2;
        let pace = Duration::from_micros(self.batch as u64 * 1_000_000 / half_rate.max(1));
        let done = AtomicBool::new(false);
        let half = async {
            let posted = post(address, Format::Ndjson, made, self.events, self.connections, Some(pace)).await;
            done.store(true, Ordering::Relaxed);
            posted
        };
        let (posted, seen) = tokio::join!(half, see(address, u64::MAX, &done));
        let (half, seen) = (posted?, seen?);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            say(&format!("watchers, round {} of {}", round + 1, self.rounds));
            let made = bodies.make(Format::Ndjson, self.events);
            let posted = post(address, Format::Ndjson, made, self.events, self.connections, None).await?;
            without.push(posted.rate(posted.folded));
            let watching = watch(address, self.watchers, self.accounts).await?;
            let made = bodies.make(Format::Ndjson, self.events);
            let posted = post(address, Format::Ndjson, made, self.events, self.connections, None).await?;
            with.push(posted.rate(posted.folded));
            watching.iter().for_each(tokio::task::AbortHandle::abort);
        }
        let (without, with) = (median(without), median(with));
        let cost_per_mille = 1_000i64 - (with * 1_000 / without.max(1)) as i64;
        let resident_bytes = service.resident_bytes();
        if as_json {
            let formats: Value = formats
                .iter()
                .map(|(format, posted)| {
                    json!({"format": format.name(), "events": posted.events,
                    "acknowledged_per_s": posted.rate(posted.acknowledged), "folded_per_s": posted.rate(posted.folded),
                    "ack_p50_ms": posted.acks.ms(500), "ack_p99_ms": posted.acks.ms(990)})
                })
                .collect();
            let row = json!({"formats": formats, "read_idle_p50_ms": idle.ms(500), "read_idle_p99_ms": idle.ms(990),
                "read_full_p50_ms": busy.ms(500), "read_full_p99_ms": busy.ms(990),
                "visible_alone_p50_ms": alone.ms(500), "visible_alone_p99_ms": alone.ms(990),
                "visible_half_p50_ms": seen.ms(500), "visible_half_p99_ms": seen.ms(990),
                "half_events_per_s": half.rate(half.folded), "watchers": self.watchers,
                "folded_per_s_without_watchers": without, "folded_per_s_with_watchers": with,
                "watchers_cost_per_mille": cost_per_mille, "resident_bytes": resident_bytes});
            println!("{row}");
            return Ok(());
        }
        let n = |count: u64| grouped(&count.to_string());
        println!(
            "\n{} events a stage, {} a request, {} connections, {} accounts, {} partitions; client and service share {} cores\n",
            n(self.events),
            n(self.batch as u64),
            self.connections,
            n(self.accounts),
            self.partitions,
            std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
        );
        let mut table = Table::new(&[
            "events as",
            ">acknowledged/s",
            ">folded/s",
            ">ack p50 ms",
            ">ack p99 ms",
        ]);
        for (format, posted) in &formats {
            table.row([
                format.name().to_owned(),
                n(posted.rate(posted.acknowledged)),
                n(posted.rate(posted.folded)),
                posted.acks.ms(500),
                posted.acks.ms(990),
            ]);
        }
        println!("{table}");
        let mut table = Table::new(&["time of", ">p50 ms", ">p99 ms"]);
        for (what, times) in [
            ("a usage read, idle".to_owned(), &idle),
            (
                format!("a usage read at full ingest ({}/s)", n(full.rate(full.acknowledged))),
                &busy,
            ),
            ("an event until a read shows it, idle".to_owned(), &alone),
            (
                format!(
                    "an event until a read shows it, at half load ({}/s)",
                    n(half.rate(half.folded))
                ),
                &seen,
            ),
        ] {
            table.row([what, times.ms(500), times.ms(990)]);
        }
        println!("{table}");
        println!(
            "{} watchers: {} events/s folded with them, {} without ({}.{} % less)",
            n(self.watchers as u64),
            n(with),
            n(without),
            cost_per_mille / 10,
            (cost_per_mille % 10).abs()
        );
        println!("memory of the service at the end: {}", bytes(resident_bytes));
        Ok(())
    }
}

/// A folder of its own under the system's temporary folder, removed when it is let go.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, CliError> {
        let stamp = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let path = std::env::temp_dir().join(format!("reckon-bench-{}-{stamp}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of worth is in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
