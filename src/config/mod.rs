//! How the service is set up: one struct a concern, a default for every field, units in the fields' names.
//!
//! Defaults < a TOML file < environment (`RECKON_SECTION__FIELD`) < flags; [`sources`] puts them together and remembers where
//! each value came from. Nothing here changes what a call costs: that is in the log.
//!
//! `deploy/reckon.toml` lists every key with its default; a test holds them together.

mod bounds;
pub mod operator_key;
pub mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::http::gate::IngestLimits;
use crate::http::health::Readiness;
use crate::http::server::Limits;
use crate::http::token_keys::KeyFolder;
use crate::log::Retention;
use crate::log::kafka::KafkaSettings;
use crate::partition::Settings;
use crate::store::rocks::Budget;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where the log and the stores are.
    pub data: Data,
    /// The log on Kafka.
    pub kafka: Kafka,
    /// Sockets.
    pub listen: Listen,
    /// Who may do what.
    pub tokens: Tokens,
    /// What comes in: sizes, back-pressure.
    pub ingest: Ingest,
    /// The fold: commits, flushes, memory.
    pub fold: Fold,
    /// How long the log is kept.
    pub retention: LogRetention,
    /// Backups that the running service makes.
    pub backup: Backup,
    /// When the service calls itself ready.
    pub health: Health,
    /// What it says of itself.
    pub telemetry: Telemetry,
}

/// Where the log and the stores are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Folder, made by `reckon init`; relative to where the process is started.
    pub path: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            path: PathBuf::from("reckon-data"),
        }
    }
}

/// The log on Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kafka {
    /// Brokers, `HOST:PORT` separated by commas; empty: the embedded log.
    pub bootstrap: String,
    /// First part of the topics' names, and the group's name.
    pub topic_prefix: String,
    /// This instance's name, another for every instance; empty: one that is made once and kept in the data folder.
    pub instance: String,
    /// Where other instances reach this one, `http://HOST:PORT`; empty: the address that it listens on.
    pub advertise: String,
    /// How long the group keeps the partitions of an instance that is silent.
    pub session_timeout_ms: u64,
    /// librdkafka settings, `NAME=VALUE` each: TLS, SASL …
    pub properties: Vec<String>,
}

impl Default for Kafka {
    fn default() -> Self {
        let settings = KafkaSettings::default();
        Self {
            bootstrap: String::new(),
            topic_prefix: settings.prefix,
            instance: String::new(),
            advertise: String::new(),
            session_timeout_ms: settings.session_timeout.as_millis() as u64,
            properties: Vec::new(),
        }
    }
}

impl Kafka {
    /// As the log takes them; `None`: the embedded log.
    pub fn settings(&self) -> Result<Option<KafkaSettings>, ConfigError> {
        if self.bootstrap.is_empty() {
            return Ok(None);
        }
        let bad = |what: String| ConfigError::BadValue {
            key: "kafka.properties".to_owned(),
            origin: "kafka".to_owned(),
            what,
        };
        let mut passed = BTreeMap::new();
        for property in &self.properties {
            let (name, value) = property
                .split_once('=')
                .ok_or_else(|| bad("one of them is not NAME=VALUE".to_owned()))?;
            passed.insert(name.trim().to_owned(), value.to_owned());
        }
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let settings = KafkaSettings {
            bootstrap: self.bootstrap.clone(),
            prefix: self.topic_prefix.clone(),
            instance: given(&self.instance),
            advertise: given(&self.advertise),
            session_timeout: Duration::from_millis(self.session_timeout_ms),
            passed,
        };
        match settings.forbidden() {
            Some(what) => Err(bad(what)),
            None => Ok(Some(settings)),
        }
    }
}

/// Sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listen {
    /// Address to answer on; port 0 takes a free one.
    pub address: SocketAddr,
    /// Connections at a time; more wait to be accepted.
    pub connections_max: usize,
    /// A request's head must arrive within it; an idle connection is closed after it.
    pub head_timeout_ms: u64,
    /// A client that reads nothing of its answer for so long is cut off; one that reads slowly has a second more for every KiB.
    pub write_timeout_ms: u64,
    /// At the end: how long `/readyz` says 503 before connections are refused, so that balancers look away first.
    pub unready_ms: u64,
    /// At the end: how long requests that are under way may take.
    pub drain_timeout_ms: u64,
}

impl Default for Listen {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 7070)),
            connections_max: limits.connections,
            head_timeout_ms: limits.head_timeout.as_millis() as u64,
            write_timeout_ms: limits.write_timeout.as_millis() as u64,
            unready_ms: 250,
            drain_timeout_ms: limits.drain_timeout.as_millis() as u64,
        }
    }
}

impl Listen {
    /// As the sockets take it.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.connections_max,
            head_timeout: Duration::from_millis(self.head_timeout_ms),
            write_timeout: Duration::from_millis(self.write_timeout_ms),
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
        }
    }
}

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Folder of the keys that tokens are checked by; empty: `keys` in the data folder.
    pub keys_path: PathBuf,
}

/// What comes in: sizes, back-pressure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ingest {
    /// Bytes of a request's body, decompressed.
    pub request_bytes_max: usize,
    /// Events or records of a request.
    pub request_events_max: usize,
    /// Body bytes of all requests that aren't durable yet; memory in use is about four times as much.
    pub in_flight_bytes_max: usize,
    /// Requests whose events are decoded and appended at a time; more wait.
    pub writers: usize,
    /// Posts are turned away while more records than that wait to be folded in one partition.
    pub lag_records_max: u64,
    /// Posts are turned away while fewer bytes than that are free on the log's disk.
    pub free_disk_bytes_min: u64,
    /// Between two pieces of a body.
    pub idle_timeout_ms: u64,
    /// For a whole body.
    pub body_timeout_ms: u64,
}

impl Default for Ingest {
    fn default() -> Self {
        let limits = IngestLimits::default();
        Self {
            request_bytes_max: limits.request_bytes,
            request_events_max: limits.request_events,
            in_flight_bytes_max: limits.in_flight_bytes,
            writers: limits.writers,
            lag_records_max: limits.lag_records,
            free_disk_bytes_min: limits.free_disk_bytes,
            idle_timeout_ms: limits.idle_timeout.as_millis() as u64,
            body_timeout_ms: limits.body_timeout.as_millis() as u64,
        }
    }
}

impl Ingest {
    /// As the gate takes them.
    pub fn limits(&self) -> IngestLimits {
        IngestLimits {
            request_bytes: self.request_bytes_max,
            request_events: self.request_events_max,
            in_flight_bytes: self.in_flight_bytes_max,
            writers: self.writers,
            lag_records: self.lag_records_max,
            free_disk_bytes: self.free_disk_bytes_min,
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            body_timeout: Duration::from_millis(self.body_timeout_ms),
        }
    }
}

/// The fold: commits, flushes, memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fold {
    /// Events after which a partition commits; five times as many while it is far behind.
    pub commit_events: u64,
    /// Milliseconds after which a partition commits what it has folded; five times as many while it is far behind.
    pub commit_ms: u64,
    /// Bytes in write buffers after which a partition puts them on disk.
    pub flush_bytes: u64,
    /// Milliseconds after which it does in any case: a restart folds about so much again.
    pub flush_ms: u64,
    /// Log time that a settled call stays in memory, since its usage often comes then.
    pub hold_ms: i64,
    /// Bytes of records read from the log at a time.
    pub poll_bytes: usize,
    /// Whether a new log's verdicts go to the calls output; an old one's stay as they are.
    pub calls_output: bool,
    /// Bytes of store blocks kept in memory, for all partitions.
    pub cache_bytes: usize,
    /// Bytes of write buffers, for all partitions.
    pub buffer_bytes: usize,
}

impl Default for Fold {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            // Reads are answered from memory, but outputs leave with a commit: they shouldn't wait for a second.
            commit_events: 50_000,
            commit_ms: 200,
            flush_bytes: settings.flush_bytes,
            flush_ms: settings.flush_ms,
            hold_ms: settings.hold_ms,
            poll_bytes: settings.poll_bytes,
            calls_output: settings.calls_output,
            cache_bytes: 256 << 20,
            buffer_bytes: 512 << 20,
        }
    }
}

/// How long the log is kept. Records that a store still needs are kept in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogRetention {
    /// A partition's oldest records go once it is larger; 0: no limit.
    pub log_bytes: u64,
    /// Records older than it go; 0: no limit.
    pub log_age_s: u64,
}

/// Backups that the running service makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backup {
    /// They are written below this folder only; empty: into any empty folder outside the data, for whoever has an operator's
    /// token.
    pub root: PathBuf,
}

impl Backup {
    /// The folder, if there is one.
    pub fn root(&self) -> Option<PathBuf> {
        (!self.root.as_os_str().is_empty()).then(|| self.root.clone())
    }
}

/// When the service calls itself ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `/readyz` says 503 while more records than that wait to be folded in one partition.
    pub lag_records_max: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            lag_records_max: Readiness::default().lag_records_max,
        }
    }
}

/// What the service says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// Which lines: a level, or directives as `RUST_LOG` takes them. One line a request is at debug; failures are at warn.
    pub log_filter: String,
    /// `auto`: text on a terminal, JSON otherwise.
    pub log_format: LogFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_filter: "info".to_owned(),
            log_format: LogFormat::Auto,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Why a configuration isn't taken.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A key that isn't one.
    #[error("{origin}: there is no setting {key:?}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// As given.
        key: String,
        /// By whom.
        origin: String,
        /// The one most like it.
        nearest: Option<String>,
    },
    /// A value that a key doesn't take.
    #[error("{origin}: {key}: {what}")]
    BadValue {
        /// Which.
        key: String,
        /// By whom.
        origin: String,
        /// What is wrong.
        what: String,
    },
    /// Something else that the file's form or the layers got wrong.
    #[error("configuration: {0}")]
    Form(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `reckon config` lists them all".to_owned(),
        |name| format!("; did you mean {name:?}? `reckon config` lists them all"),
    )
}

/// Milliseconds that notice, drain and the rest of an end may take.
pub const SHUTDOWN_MS: u64 = 9_500;

impl Config {
    /// Where the keys are that tokens are checked by.
    pub fn key_folder(&self) -> KeyFolder {
        if self.tokens.keys_path.as_os_str().is_empty() {
            KeyFolder::of_data(&self.data.path)
        } else {
            KeyFolder::new(self.tokens.keys_path.clone())
        }
    }

    /// How partitions are folded.
    pub fn settings(&self) -> Settings {
        let limit = |value: u64| (value > 0).then_some(value);
        Settings {
            commit_events: self.fold.commit_events,
            commit_ms: self.fold.commit_ms,
            flush_bytes: self.fold.flush_bytes,
            flush_ms: self.fold.flush_ms,
            hold_ms: self.fold.hold_ms,
            poll_bytes: self.fold.poll_bytes,
            calls_output: self.fold.calls_output,
            retention: Retention {
                bytes: limit(self.retention.log_bytes),
                // Bounded by a century.
                age_ms: limit(self.retention.log_age_s)
                    .map(|s| i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000)),
            },
        }
    }

    /// The memory that the stores share.
    pub fn budget(&self) -> Budget {
        Budget::new(self.fold.cache_bytes, self.fold.buffer_bytes)
    }

    /// When it calls itself ready.
    pub fn readiness(&self) -> Readiness {
        Readiness {
            lag_records_max: self.health.lag_records_max,
        }
    }
}
