//! Instances that share a log, each with a data folder of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::served::Served;
use crate::topics::Topics;

/// How long the group waits for a silent instance, in these tests.
pub const SESSION_MS: u64 = 6_000;

/// Instances of one log.
pub struct Fleet {
    folder: TempDir,
    arguments: Vec<String>,
}

impl Fleet {
    /// None yet.
    pub fn of(topics: &Topics, more: &[&str]) -> Self {
        let mut arguments = topics.arguments();
        arguments.push("--set".to_owned());
        arguments.push(format!("kafka.session_timeout_ms={SESSION_MS}"));
        arguments.extend(more.iter().map(|&a| a.to_owned()));
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            arguments,
        }
    }

    /// An instance's data folder.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where an instance's log lines are.
    pub fn lines(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Starts an instance, or starts it again: it answers, and what it owns comes.
    pub fn start(&self, name: &str) -> Served {
        let lines = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.lines(name))
            .expect("a file");
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        Served::start_logging(&self.data(name), &arguments, Stdio::from(lines))
    }

    /// An instance's log lines.
    pub fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.lines(name)).unwrap_or_default()
    }
}

/// A test that fails tells what its instances said: their folders go with it.
impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for file in std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                println!("--- {} said\n{text}", path.display());
            }
        }
    }
}

/// Waits until it holds, and says what was waited for if it doesn't in time.
pub fn eventually<T>(what: &str, within: Duration, mut holds: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An account's usage as one instance answers it; `None` while its partition moves.
pub fn usage(served: &Served, account: &str, period: &str) -> Option<Value> {
    let answer = served.get(&format!(
        "/v1/accounts/{account}/usage?period={period}&group_by=service,product,meter,class"
    ));
    match answer.status {
        200 => Some(answer.json()),
        503 => None,
        other => panic!("{other}: {}", answer.text),
    }
}

/// Waits until an instance serves every partition.
pub fn ready(served: &Served, within: Duration) {
    eventually("every partition served", within, || {
        (served.get("/readyz").status == 200).then_some(())
    });
}
