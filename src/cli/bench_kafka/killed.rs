//! Seconds from SIGKILL until every partition folds again: the same instance started again, and another without any state.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::topic::Topics;
use super::{BenchKafka, Scratch, failed, median};
use crate::cli::CliError;

/// How long a partition may take to fold again.
const FOLDED_WAIT: Duration = Duration::from_secs(180);

/// Longer than what is folded stays in memory only (`fold.flush_ms`).
const FLUSHED_AFTER: Duration = Duration::from_secs(36);

/// How long one waits before it asks again.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// A service; killed when it is let go.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(bench: &BenchKafka, topics: &Topics, data: &Path) -> Result<Self, CliError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(bench.given(&topics.settings, data))
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()),
            )
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| failed("no output of serve"))?;
        let mut lines = BufReader::new(output).lines();
        let address = loop {
            let line = lines.next().ok_or_else(|| failed("serve ended at once"))??;
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    fn kill(&mut self) -> Result<(), CliError> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends an event into every partition, and waits until a read of each shows it.
    fn folds(&self, topics: &Topics) -> Result<(), CliError> {
        let stamp = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let until = Instant::now() + FOLDED_WAIT;
        for (partition, (account, offset)) in topics.probe(&format!("probe-{stamp}"))? {
            let url = format!(
                "{}/v1/accounts/{account}/usage?at_least={partition}:{offset}",
                self.address
            );
            loop {
                let status = agent.get(&url).call().map_err(failed)?.status();
                if status == 200 {
                    break;
                }
                if Instant::now() > until {
                    return Err(failed(format!("partition {partition} isn't folded: {status}")));
                }
                std::thread::sleep(ASK_EVERY);
            }
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl BenchKafka {
    /// Kills services over a filled topic.
    pub(super) fn killed(&self, topics: &Topics) -> Result<Value, CliError> {
        topics.forget_outputs()?;
        let data = Scratch::make("killed")?;
        let began = Instant::now();
        let mut service = Service::start(self, topics, data.path())?;
        service.folds(topics)?;
        let first = began.elapsed().as_secs_f64();
        let again = |service: &mut Service| -> Result<f64, CliError> {
            service.kill()?;
            let began = Instant::now();
            *service = Service::start(self, topics, data.path())?;
            service.folds(topics)?;
            Ok(began.elapsed().as_secs_f64())
        };
        // At its worst: nothing is on disk yet.
        let unflushed = again(&mut service)?;
        let until = Instant::now() + FLUSHED_AFTER;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_secs(2));
            service.folds(topics)?;
        }
        let mut restarts = Vec::new();
        for _ in 0..self.rounds.max(1) {
            restarts.push(again(&mut service)?);
        }
        let mut takeovers = Vec::new();
        for n in 0..self.rounds.max(1) {
            let empty = Scratch::make(&format!("other-{n}"))?;
            service.kill()?;
            let began = Instant::now();
            service = Service::start(self, topics, empty.path())?;
            service.folds(topics)?;
            takeovers.push(began.elapsed().as_secs_f64());
            drop(empty);
        }
        Ok(json!({
            "first_start_s": first,
            "restart_nothing_flushed_s": unflushed,
            "restart_s": median(&restarts),
            "takeover_s": median(&takeovers),
            "session_timeout_s": topics.settings.session_timeout.as_secs_f64(),
        }))
    }
}
