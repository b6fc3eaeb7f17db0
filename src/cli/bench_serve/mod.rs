//! `reckon bench serve`: what a served embedded log takes and answers on this machine, client and service side by side.
//!
//! The service is a process of its own, started from this binary; the client is this one, over loopback sockets. Both share
//! the machine's cores, as the figures say. Reads come from one thread, streams are followed by another, and posts by a third
//! and fourth, so that none waits behind another in the client.

mod bodies;
mod client;
mod reading;
mod report;

mod watching;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use self::bodies::{Bodies, Format};
use self::client::{Posted, post};
use self::reading::{answered, percentile_us, read, see};
use self::report::{Report, Rest, Watched};
use self::watching::Watching;
use super::CliError;
use super::bench::failed;
use super::bench::scratch::Scratch;
use super::bench::served::Served;
use super::bench::times::{self, Times};
use crate::model::Ms;
use crate::workload::dense::Dense;

/// Events for which bodies are made; they are sent again with new call ids.
const EVENTS_MADE: u64 = 100_000;

/// What a service on the embedded log takes and answers: events by format, reads, watchers
///
/// Some four minutes by default. Figures are medians of the rounds; trust ratios of one run, not single figures.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  reckon bench serve --seconds 10 --rounds 3")]
pub struct BenchServe {
    /// Seconds of a measured stage
    #[arg(long, default_value_t = 10)]
    seconds: u64,

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

    /// Streams that are followed
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,

    /// Rounds of reads, and of stages with and without watchers
    #[arg(long, default_value_t = 3)]
    rounds: u32,

    /// Another build of reckon to be measured; this one, if not given
    #[arg(long, value_name = "BINARY")]
    server: Option<PathBuf>,
}

/// What all stages share.
struct Stages<'a> {
    bench: &'a BenchServe,
    served: Served,
    address: SocketAddr,
    dense: Dense,
    /// Those that events are posted of.
    accounts: Arc<[u64]>,
    quiet: bool,
}

impl BenchServe {
    pub(super) fn run(self, as_json: bool) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let report = runtime.block_on(self.measure(as_json))?;
        if as_json {
            println!("{}", report.to_json());
        } else {
            println!("{report}");
        }
        Ok(())
    }

    async fn measure(&self, quiet: bool) -> Result<Report, CliError> {
        let folder = Scratch::make("serve")?;
        let binary = match &self.server {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?,
        };
        let made = Command::new(&binary)
            .args(["init", "--json", "--partitions", &self.partitions.to_string(), "--data"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            return Err(failed("no log could be made"));
        }
        let served = Served::start(&binary, [OsStr::new("--data"), folder.path().as_os_str()])?;
        // The last events lie some seconds before now, none ahead of the clock.
        let start_ms = chrono::Utc::now().timestamp_millis() - (EVENTS_MADE / 60) as Ms - 60_000;
        let dense = Dense {
            accounts: self.accounts,
            start_ms,
            seed: start_ms as u64,
            ..Dense::default()
        };
        let accounts: BTreeSet<u64> = (0..EVENTS_MADE / 3).map(|call| dense.account(call)).collect();
        let stages = Stages {
            bench: self,
            address: served.address,
            served,
            dense,
            accounts: accounts.into_iter().collect(),
            quiet,
        };
        stages.all().await
    }

    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl Stages<'_> {
    fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("measuring {what} …");
        }
    }

    async fn all(&self) -> Result<Report, CliError> {
        let bench = self.bench;
        let made = |format, sent| Arc::new(Bodies::make(&self.dense, format, EVENTS_MADE, bench.batch, sent));
        // Accounts, names and files come to be before anything is measured.
        let mut bodies = made(Format::Ndjson, 0);
        while bodies.sent() < 2 {
            self.post(&bodies, bench.length() / 3, None).await?;
        }
        let mut formats = Vec::new();
        for format in Format::ALL {
            self.say(format.name());
            // Ids go on where they were, so that no call is sent twice.
            bodies = made(format, bodies.sent());
            formats.push((format, self.post(&bodies, bench.length(), None).await?));
        }
        let bodies = made(Format::Ndjson, bodies.sent());
        self.say("reads, idle");
        let idle = read(self.address, &self.accounts)?;
        tokio::time::sleep(bench.length() / 2).await;
        let idle = idle.stop()?;
        let mut busy = Vec::new();
        for round in 0..bench.rounds {
            self.say(&format!(
                "reads at full ingest, round {} of {}",
                round + 1,
                bench.rounds
            ));
            busy.push(self.busy(&bodies).await?);
        }
        self.say("event to visible");
        let alone = see(self.address, "alone")?;
        tokio::time::sleep(bench.length() / 2).await;
        let alone = alone.stop()?;
        let full = times::median(busy.iter().map(|b| b.posted.folded_per_s()));
        let pace = Duration::from_micros(bench.batch as u64 * 1_000_000 / (full / 2).max(1));
        let seen = see(self.address, "half")?;
        let half = self.post(&bodies, bench.length(), Some(pace)).await?;
        let seen = seen.stop()?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..bench.rounds {
            self.say(&format!("watchers, round {} of {}", round + 1, bench.rounds));
            // In turns, for the store grows.
            for watched in [round % 2 == 1, round % 2 == 0] {
                if watched {
                    with.push(self.watched(&bodies).await?);
                } else {
                    without.push(self.unwatched(&bodies).await?);
                }
            }
        }
        Ok(Report {
            bench: bench.clone(),
            formats,
            idle,
            busy,
            alone,
            half,
            seen,
            without,
            with,
            resident_bytes: self.served.process().resident_bytes(),
        })
    }

    async fn post(&self, bodies: &Arc<Bodies>, length: Duration, pace: Option<Duration>) -> Result<Posted, CliError> {
        post(self.address, bodies, self.bench.connections, length, pace).await
    }

    /// Reads while all that can be is posted.
    async fn busy(&self, bodies: &Arc<Bodies>) -> Result<Rest, CliError> {
        let before = answered(self.address)?;
        let reading = read(self.address, &self.accounts)?;
        let posted = self.post(bodies, self.bench.length(), None).await?;
        let times: Times = reading.stop()?;
        let after = answered(self.address)?;
        Ok(Rest {
            posted,
            times,
            within_us: [percentile_us(&before, &after, 500), percentile_us(&before, &after, 990)],
        })
    }

    async fn unwatched(&self, bodies: &Arc<Bodies>) -> Result<Watched, CliError> {
        let cpu = self.served.process().cpu();
        let posted = self.post(bodies, self.bench.length(), None).await?;
        Ok(Watched {
            cpu: self.served.process().cpu().saturating_sub(cpu),
            posted,
            messages: 0,
        })
    }

    async fn watched(&self, bodies: &Arc<Bodies>) -> Result<Watched, CliError> {
        let watching = Watching::start(self.address, self.bench.watchers, &self.accounts).await?;
        let before = watching.messages();
        let watched = self.unwatched(bodies).await?;
        Ok(Watched {
            messages: watching.messages() - before,
            ..watched
        })
    }
}
