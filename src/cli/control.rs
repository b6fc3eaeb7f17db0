//! `reckon control publish`: the operator's records go to Kafka, signed, each at most once.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use prost::Message;
use serde_json::json;

use super::kafka::Cluster;
use super::terminal::say;
use super::{CliError, terminal};
use crate::config::operator_key::OperatorKeyFile;
use crate::log::appender::{place_of_control, place_of_event, tick};
use crate::log::kafka::KafkaLog;
use crate::log::kafka::publish::ControlWriter;
use crate::log::{Log, NewRecord, Place};
use crate::machine::clock::Source;
use crate::wire::check::timestamp;
use crate::wire::record::{self, Kind};
use crate::wire::record_file::{self, Line};
use crate::wire::signature::Signer;

/// Records of one transaction: either all of them count or none.
const TRANSACTION_RECORDS: usize = 500;

/// The operator's records on a Kafka log
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon control publish prices.ndjson --kafka localhost:9092 --key operator")]
pub struct Control {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Publish(Publish),
}

/// Sign control records and write them to the log, those for everyone to all partitions in one transaction
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    echo '{\"control\":{\"id\":\"zone-1\",\"account_profile\":{\"account_id\":\"acme\",\"time_zone\":\"UTC\"}}}' \\\n      \
    | reckon control publish - --kafka localhost:9092 --key operator\n\nA record whose id is \
    in the log already is left out: after a failure, publish the same file again. control_version and issued_at are given where \
    they are absent. In a log with clock source ticks the file may have ticks and events too: a history. Whether a record was \
    accepted the fold says: `reckon rejects list`.")]
struct Publish {
    /// File of log records, NDJSON, one a line; - is standard input
    file: PathBuf,

    #[command(flatten)]
    cluster: Cluster,

    /// The operator's private key, made by `reckon keygen`
    #[arg(long, value_name = "PATH")]
    key: PathBuf,
}

impl Control {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.command {
            Command::Publish(command) => command.run(json),
        }
    }
}

impl Publish {
    fn run(self, json: bool) -> Result<(), CliError> {
        let settings = self.cluster.settings()?;
        let signer = OperatorKeyFile::new(self.key.clone()).load()?;
        let lines = self.lines()?;
        let log = KafkaLog::open(&settings)?;
        let identity = log.identity().clone();
        // First the others are fenced, then what they wrote is read: nothing comes between.
        let writer = ControlWriter::take_over(&settings)?;
        let progress = terminal::progress(0, "reading the log");
        let mut known = log.control_records(|read, of| {
            progress.set_length(of);
            progress.set_position(read);
        })?;
        progress.finish_and_clear();
        let mut version = known.version;
        let (mut written, mut skipped) = (0u64, 0u64);
        let mut waiting: Vec<(Place, NewRecord)> = Vec::new();
        let sign = |bytes: Vec<u8>, kind| signed(&signer, &identity.log_id, kind, bytes);
        for (number, line) in lines {
            let history = identity.source == Source::Ticks;
            let (place, record) = match line {
                Line::Control(mut control) => {
                    // One that comes twice in the file would use up a version, and every later one would miss it.
                    if !known.ids.insert(control.id.clone()) {
                        skipped += 1;
                        continue;
                    }
                    let place = place_of_control(&control, identity.partition_count);
                    if place == Place::All {
                        if control.control_version == 0 {
                            control.control_version = version + 1;
                        }
                        version = control.control_version;
                    }
                    if control.issued_at.is_none() {
                        control.issued_at = Some(timestamp(chrono::Utc::now().timestamp_millis()));
                    }
                    (place, sign(control.encode_to_vec(), Kind::Control))
                }
                Line::Tick(at) if history => (Place::All, sign(tick(at), Kind::Tick)),
                Line::Event(event) if history => {
                    let account = record::account_of(event.as_bytes());
                    let place = place_of_event(account.as_deref(), identity.partition_count);
                    (place, NewRecord::new(Kind::Event, event.into_bytes()))
                }
                Line::Tick(_) | Line::Event(_) => {
                    return Err(CliError::Usage(format!(
                        "line {number}: only control records are published to a log with clock source append; gateways write \
                         its events, and owners its ticks"
                    )));
                }
            };
            waiting.push((place, record));
            written += 1;
            if waiting.len() >= TRANSACTION_RECORDS {
                writer.append(&std::mem::take(&mut waiting), identity.partition_count)?;
            }
        }
        if !waiting.is_empty() {
            writer.append(&waiting, identity.partition_count)?;
        }
        log.leave();
        if json {
            say!(
                "{}",
                json!({"written": written, "skipped": skipped, "control_version": version})
            )?;
        } else {
            let already = if skipped > 0 {
                format!("; {skipped} were in the log already, or in the file before")
            } else {
                String::new()
            };
            say!(
                "wrote {written} records, signed by {}{already}; control version {version}",
                signer.key_id()
            )?;
        }
        Ok(())
    }

    /// Every line, read before anything is written.
    fn lines(&self) -> Result<Vec<(usize, Line)>, CliError> {
        let failed = |cause| CliError::File {
            path: self.file.clone(),
            cause,
        };
        let mut text = String::new();
        if self.file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        } else {
            text = std::fs::read_to_string(&self.file).map_err(failed)?;
        }
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let line = record_file::parse(line)
                .map_err(|bad| CliError::Finding(format!("line {}: {bad}; nothing was written", number + 1)))?;
            lines.push((number + 1, line));
        }
        Ok(lines)
    }
}

fn signed(signer: &Signer, log_id: &str, kind: Kind, bytes: Vec<u8>) -> NewRecord {
    NewRecord {
        signature: Some(signer.sign(log_id, &bytes)),
        ..NewRecord::new(kind, bytes)
    }
}
