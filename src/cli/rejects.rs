//! `reckon rejects`: what was not folded, why, and what to do about it.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine;
use clap::{Args, Subcommand};
use prost::Message;
use serde_json::{Value, json};

use super::CliError;
use super::source::{Outputs, Source};
use super::terminal::{Table, grouped, plain, put, say};
use crate::log::kafka::KafkaLog;
use crate::log::{Batch, Log, LogError};
use crate::machine::control as rules;
use crate::machine::output::Topic;
use crate::model::period::rfc3339;
use crate::model::reject::RejectReason;
use crate::wire::check::instant_ms;
use crate::wire::record::{self, Kind};
use crate::wire::{control, control_json, json as wire_json, pb};

/// Bytes of a record that are shown where it is in no known form.
const DUMP_BYTES_MAX: usize = 1_024;

/// Bytes a line of hex.
const DUMP_LINE: usize = 16;

/// Records that were not folded
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  reckon rejects list --data ./reckon-data --reason too_late\n  \
    reckon rejects show 3:1742 --kafka localhost:9092"
)]
pub struct Rejects {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
}

/// Count them by reason, and list the latest of each partition
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon rejects list --kafka localhost:9092 --reason not_authorised\n\nOffsets are those of the \
    rejected records in the input; `reckon rejects show PARTITION:OFFSET` tells more of one."
)]
struct List {
    #[command(flatten)]
    source: Source,

    /// Only those for this reason, such as too_late
    #[arg(long, value_parser = reason)]
    reason: Option<RejectReason>,

    /// Only those of records that name this account
    #[arg(long)]
    account: Option<String>,

    /// Only those of this partition
    #[arg(long)]
    partition: Option<u32>,

    /// List so many of each partition at most; the counts are of all
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

/// Show all that is known of one: the record as it was received, what is wrong with it, and the cure
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon rejects show 3:1742 --kafka localhost:9092")]
struct Show {
    /// Partition and offset of the rejected record
    #[arg(value_name = "PARTITION:OFFSET", value_parser = place)]
    place: (u32, u64),

    #[command(flatten)]
    source: Source,
}

fn reason(text: &str) -> Result<RejectReason, String> {
    let known = RejectReason::ALL.iter().find(|r| r.as_str() == text);
    known.copied().ok_or_else(|| {
        let names: Vec<&str> = RejectReason::ALL.iter().map(|r| r.as_str()).collect();
        format!("there is no such reason; there are {}", names.join(", "))
    })
}

fn place(text: &str) -> Result<(u32, u64), String> {
    let parsed = text
        .split_once(':')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| "give it as PARTITION:OFFSET, such as 3:1742".to_owned())
}

impl Rejects {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.command {
            Command::List(command) => command.run(json),
            Command::Show(command) => command.run(json),
        }
    }
}

fn decode(partition: u32, sequence: u64, body: &[u8]) -> Result<pb::Rejected, CliError> {
    pb::Rejected::decode(body)
        .map_err(|cause| CliError::Finding(format!("rejects partition {partition}: sequence {sequence}: {cause}")))
}

/// What kind a record seems to be where the log can't be asked: control records are read strictly, and name what they are.
fn kind_of(bytes: &[u8]) -> Kind {
    match control::decode(bytes) {
        Ok(control) if control.body.is_some() => Kind::Control,
        _ => Kind::Event,
    }
}

pub(super) fn account_of(bytes: &[u8]) -> Option<String> {
    match control::decode(bytes) {
        Ok(control) if control.body.is_some() => rules::account_of(&control).map(str::to_owned),
        _ => record::account_of(bytes),
    }
}

impl List {
    fn run(self, json: bool) -> Result<(), CliError> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut listed: BTreeMap<u32, VecDeque<(u64, pb::Rejected)>> = BTreeMap::new();
        let mut left_out = 0u64;
        self.source.open()?.read(Topic::Rejects, |partition, output| {
            let reject = decode(partition, output.sequence, &output.body)?;
            let wanted = self.partition.is_none_or(|p| p == partition)
                && self.reason.is_none_or(|r| r.as_str() == reject.reason)
                && self
                    .account
                    .as_ref()
                    .is_none_or(|a| account_of(&reject.record).as_ref() == Some(a));
            if wanted {
                *counts.entry(reject.reason.clone()).or_default() += 1;
                let latest = listed.entry(partition).or_default();
                latest.push_back((output.sequence, reject));
                if latest.len() > self.limit {
                    latest.pop_front();
                    left_out += 1;
                }
            }
            Ok(())
        })?;
        let rows = listed.into_values().flatten();
        if json {
            let rows: Vec<Value> = rows
                .map(|(sequence, reject)| {
                    json!({"partition": reject.partition, "offset": reject.offset, "sequence": sequence,
                        "reason": reject.reason, "field": reject.field, "detail": reject.detail,
                        "account": account_of(&reject.record)})
                })
                .collect();
            say!("{}", json!({"counts": counts, "rejects": rows, "left_out": left_out}))?;
            return Ok(());
        }
        if counts.is_empty() {
            say!("nothing was rejected")?;
            return Ok(());
        }
        let mut table = Table::new(&["reason", ">records", "cure"]);
        for (name, count) in &counts {
            let cure = reason(name).map(RejectReason::cure).unwrap_or_default();
            table.row([name, &grouped(&count.to_string()), cure]);
        }
        say!("{table}")?;
        let mut table = Table::new(&["record", "reason", "field", "account", "detail"]);
        for (_, reject) in rows {
            table.row([
                format!("{}:{}", reject.partition, reject.offset),
                reject.reason.clone(),
                reject.field.clone(),
                plain(&account_of(&reject.record).unwrap_or_default()),
                plain(&reject.detail),
            ]);
        }
        if !table.is_empty() {
            put(&table)?;
        }
        if left_out > 0 {
            say!("\n{left_out} earlier ones aren't listed: --limit")?;
        }
        Ok(())
    }
}

/// The rejected record as the log has it, if it still does.
#[derive(Default)]
struct Original {
    kind: Option<Kind>,
    append_ms: i64,
    signature: Option<String>,
    forwarded: Option<String>,
    bytes: Vec<u8>,
}

/// The record as the log has it; `None` if the log doesn't have it any more.
fn original(log: &dyn Log, partition: u32, offset: u64) -> Result<Option<Original>, LogError> {
    let mut batch = Batch::default();
    match log.poll(partition, offset, 1, &mut batch) {
        Err(LogError::OffsetGone { .. } | LogError::HistoryLost { .. }) => return Ok(None),
        result => result?,
    }
    let polled = batch.get(0).filter(|polled| polled.offset == offset);
    Ok(polled.map(|polled| Original {
        kind: Some(polled.kind),
        append_ms: polled.append_ms,
        signature: polled.headers.signature.map(str::to_owned),
        forwarded: polled.headers.forwarded.map(record::Forwarded::to_text),
        bytes: polled.bytes.to_vec(),
    }))
}

impl Show {
    fn run(self, json: bool) -> Result<(), CliError> {
        let (partition, offset) = self.place;
        let outputs = self.source.open()?;
        let mut found = None;
        outputs.read(Topic::Rejects, |number, output| {
            if number == partition {
                let reject = decode(partition, output.sequence, &output.body)?;
                if reject.offset == offset {
                    found = Some((output.sequence, reject));
                }
            }
            Ok(())
        })?;
        let Some((sequence, reject)) = found else {
            return Err(CliError::Finding(format!(
                "no record at {partition}:{offset} was rejected; `reckon rejects list` has those that were"
            )));
        };
        let looked = match &outputs {
            Outputs::Data(host) => original(host.log.as_ref(), partition, offset),
            Outputs::Kafka(settings) => KafkaLog::open(settings).and_then(|log| {
                let found = original(&log, partition, offset);
                log.leave();
                found
            }),
        };
        // Who may read the rejects alone sees what they hold of the record.
        let (whole, unread) = match looked {
            Ok(whole) => (whole, None),
            Err(cause) => (None, Some(cause.to_string())),
        };
        let in_log = whole.is_some();
        let record = whole.unwrap_or_else(|| Original {
            bytes: reject.record.clone(),
            ..Original::default()
        });
        let kind = record.kind.unwrap_or_else(|| kind_of(&record.bytes));
        let decoded = readable(kind, &record.bytes);
        let cure = reason(&reject.reason).map(RejectReason::cure).unwrap_or_default();
        let truncated = reject.truncated && !in_log;
        let append_time = in_log.then(|| rfc3339(record.append_ms));
        if json {
            let mut shown = json!({"partition": partition, "offset": offset, "sequence": sequence,
                "reason": reject.reason, "field": reject.field, "detail": reject.detail, "cure": cure,
                "kind": kind.as_str(), "append_time": append_time, "signature": record.signature,
                "forwarded": record.forwarded, "truncated": truncated, "bytes": record.bytes.len(), "log_unread": unread,
                "record_base64": base64::engine::general_purpose::STANDARD.encode(&record.bytes)});
            shown["record"] = decoded.unwrap_or_default();
            say!("{shown}")?;
            return Ok(());
        }
        let line = |name: &str, text: &str| {
            if text.is_empty() {
                return Ok(());
            }
            say!("{name:<11}{}", plain(text))
        };
        line("record", &format!("{partition}:{offset}, {}", kind.as_str()))?;
        line("reason", &reject.reason)?;
        line("field", &reject.field)?;
        line("detail", &reject.detail)?;
        line("cure", cure)?;
        match (&append_time, &unread) {
            (Some(at), _) => line("appended", at),
            (None, None) => line("appended", "not in the log any more"),
            (None, Some(cause)) => line("appended", &format!("unknown, for the log could not be read: {cause}")),
        }?;
        match (&record.signature, kind) {
            (Some(signature), _) => {
                let key = signature.split_once(':').map_or(signature.as_str(), |(key, _)| key);
                line("signed by", key)?;
            }
            (None, Kind::Control | Kind::Tick) if in_log => line("signed by", "nobody")?,
            _ => {}
        }
        if let Some(forwarded) = &record.forwarded {
            line("forwarded", &format!("{forwarded} (partition:offset:append time)"))?;
        }
        line(
            "rejected",
            &format!("sequence {sequence} of the rejects of partition {partition}"),
        )?;
        let cut = if truncated { ", the first of more" } else { "" };
        say!("\n{} bytes{cut}", grouped(&record.bytes.len().to_string()))?;
        match decoded {
            Some(value) => say!("{}", serde_json::to_string_pretty(&value)?)?,
            None => put(dump(&record.bytes))?,
        }
        Ok(())
    }
}

/// A record's content, if it has the form of its kind.
fn readable(kind: Kind, bytes: &[u8]) -> Option<Value> {
    if record::is_json(bytes) {
        return serde_json::from_slice(bytes).ok();
    }
    match kind {
        Kind::Event => {
            let event = pb::CallEvent::decode(bytes).ok()?;
            Some(wire_json::encode(&event)).filter(|v| v.as_object().is_some_and(|o| !o.is_empty()))
        }
        Kind::Control => pb::Control::decode(bytes).ok().map(|c| control_json::encode(&c)),
        Kind::Tick => {
            let at = pb::Tick::decode(bytes).ok()?.at?;
            Some(json!({"at": rfc3339(instant_ms(&at))}))
        }
        Kind::Genesis => None,
    }
}

/// Bytes in hex, and as text beside it.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes[..bytes.len().min(DUMP_BYTES_MAX)].chunks(DUMP_LINE).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain: String = line
            .iter()
            .map(|&byte| {
                if byte.is_ascii_graphic() || byte == b' ' {
                    char::from(byte)
                } else {
                    '.'
                }
            })
            .collect();
        let width = DUMP_LINE * 3;
        text.push_str(&format!(
            "{:06x}  {:<width$} {plain}\n",
            number * DUMP_LINE,
            hex.join(" ")
        ));
    }
    if bytes.len() > DUMP_BYTES_MAX {
        text.push_str(&format!(
            "… {} bytes more: --json has all\n",
            bytes.len() - DUMP_BYTES_MAX
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        assert_eq!(
            readable(Kind::Event, br#"{"account_id": 1}"#),
            Some(json!({"account_id": 1}))
        );
        assert_eq!(readable(Kind::Event, b"\xff\xfe"), None);
        assert!(dump(b"\xffab").starts_with("000000  ff 61 62 "));
        assert!(dump(b"\xffab").ends_with(" .ab\n"));
        assert!(dump(&[0; 2_000]).contains("976 bytes more"));
    }

    #[test]
    fn a_control_record_is_told_from_an_event() {
        let control = pb::Control {
            id: "zone".to_owned(),
            body: Some(pb::control::Body::AccountProfile(pb::AccountProfile {
                account_id: "acme".to_owned(),
                ..pb::AccountProfile::default()
            })),
            ..pb::Control::default()
        };
        let bytes = control.encode_to_vec();
        assert_eq!(kind_of(&bytes), Kind::Control);
        assert_eq!(account_of(&bytes).as_deref(), Some("acme"));
        let event = pb::CallEvent {
            account_id: "acme".to_owned(),
            call_id: "c".to_owned(),
            phase: 5,
            ..pb::CallEvent::default()
        };
        assert_eq!(kind_of(&event.encode_to_vec()), Kind::Event);
        assert_eq!(account_of(&event.encode_to_vec()).as_deref(), Some("acme"));
    }
}
