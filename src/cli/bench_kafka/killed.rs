//! Seconds from SIGKILL until every partition folds again: the same instance started again, and another without any state.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::topic::Topics;
use super::{BenchKafka, median};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::scratch::Scratch;
use crate::cli::bench::served::Served;

/// How long a partition may take to fold again.
const FOLDED_WAIT: Duration = Duration::from_secs(180);

/// Longer than what is folded stays in memory only (`fold.flush_ms`).
const FLUSHED_AFTER: Duration = Duration::from_secs(6);

/// How long one waits before it asks again.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Sends an event into every partition, and waits until a read of each shows it.
fn folds(service: &Served, topics: &Topics) -> Result<(), CliError> {
    let stamp = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let until = Instant::now() + FOLDED_WAIT;
    for (partition, (account, offset)) in topics.probe(&format!("probe-{stamp}"))? {
        let url = format!(
            "http://{}/v1/accounts/{account}/usage?at_least={partition}:{offset}",
            service.address
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

impl BenchKafka {
    /// Kills services over a filled topic.
    pub(super) fn killed(&self, topics: &Topics) -> Result<Value, CliError> {
        topics.forget_outputs()?;
        let data = Scratch::make("killed")?;
        let began = Instant::now();
        let start = |data: &Path| Served::start(&std::env::current_exe()?, self.given(&topics.settings, data));
        let mut service = start(data.path())?;
        folds(&service, topics)?;
        let first = began.elapsed().as_secs_f64();
        let again = |service: &mut Served| -> Result<f64, CliError> {
            service.kill()?;
            let began = Instant::now();
            *service = start(data.path())?;
            folds(service, topics)?;
            Ok(began.elapsed().as_secs_f64())
        };
        // At its worst: it has folded everything a moment ago, and little of it is on disk.
        let at_once = again(&mut service)?;
        let until = Instant::now() + FLUSHED_AFTER;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_secs(2));
            folds(&service, topics)?;
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
            service = start(empty.path())?;
            folds(&service, topics)?;
            takeovers.push(began.elapsed().as_secs_f64());
            drop(empty);
        }
        Ok(json!({
            "first_start_s": first,
            "restart_at_once_s": at_once,
            "restart_s": median(&restarts),
            "takeover_s": median(&takeovers),
            "session_timeout_s": topics.settings.session_timeout.as_secs_f64(),
        }))
    }
}
