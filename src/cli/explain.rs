//! `reckon explain`: why a call is billed, or not.

use std::path::Path;

use clap::Args;
use memchr::memmem;
use prost::Message;
use serde_json::{Map, Value, json};

use super::rows::CallRow;
use super::terminal::grouped;
use super::{CliError, Data};
use crate::log::Batch;
use crate::log::placement::partition_of;
use crate::machine::clock::Source;
use crate::machine::evidence::Scope;
use crate::model::limits::AHEAD_MS_MAX;
use crate::model::outcome::ROWS;
use crate::model::period::rfc3339;
use crate::model::quantity::Quantity;
use crate::partition::Settings;
use crate::partition::host::Host;
use crate::partition::read::KnownCall;
use crate::partition::worker::Partition;
use crate::store::rocks::Budget;
use crate::wire::json as wire_json;
use crate::wire::pb;
use crate::wire::record::{self, Kind};

/// Explain one call: verdict, rule, quantities, evidence, amendments and events
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon explain acme 01J8ZC6V1Y8Z4T3RDQ0XNWB5MA --data ./reckon-data")]
pub struct Explain {
    /// Who pays
    account: String,

    /// The call's id
    call: String,

    #[command(flatten)]
    data: Data,
}

/// One event of the call as the log has it.
pub(super) struct FoundEvent {
    offset: u64,
    append_ms: i64,
    event: Value,
}

/// Everything that is known of a call.
pub(super) struct Explained {
    account: String,
    call: String,
    partition: u32,
    known: Option<KnownCall>,
    /// Its verdict and amendments, oldest first.
    verdicts: Vec<CallRow>,
    events: Vec<FoundEvent>,
    log_start: u64,
    evidence: Value,
    quantities: Vec<(String, String, String)>,
}

impl Explain {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let explained = explain(&self.data.data, &self.account, &self.call)?;
        if json {
            println!("{}", explained.to_json());
        } else {
            print!("{explained}");
        }
        Ok(())
    }
}

/// Looks the call up beside whoever folds the log.
fn explain(data: &Path, account: &str, call: &str) -> Result<Explained, CliError> {
    let mut host = Host::open_beside(data, &Budget::default(), &Settings::default())?;
    of_host(&mut host, account, call)
}

/// Looks the call up.
pub(super) fn of_host(host: &mut Host, account: &str, call: &str) -> Result<Explained, CliError> {
    let number = partition_of(account, host.log.identity().partition_count);
    let log = std::sync::Arc::clone(&host.log);
    let partition = &mut host.partitions[number as usize];
    let known = partition.call(account, call)?;
    let mut verdicts = Vec::new();
    partition.verdicts(|v| {
        if v.account_id == account && v.call_id == call {
            verdicts.push(CallRow::from(v));
        }
    })?;
    if known.is_none() && verdicts.is_empty() {
        return Err(CliError::Finding(format!(
            "account {account:?} has no call {call:?} (partition {number}); `reckon export rejects` shows what was not folded"
        )));
    }
    let (evidence, quantities) = known
        .as_ref()
        .map_or((Value::Null, Vec::new()), |k| describe(partition, k));
    let events = find_events(log.as_ref(), partition, known.as_ref(), account, call)?;
    Ok(Explained {
        account: account.to_owned(),
        call: call.to_owned(),
        partition: number,
        known,
        verdicts,
        events,
        log_start: log.start(number)?,
        evidence,
        quantities,
    })
}

fn describe(partition: &Partition, known: &KnownCall) -> (Value, Vec<(String, String, String)>) {
    let names = &partition.machine.names;
    let symbols = &names.symbols;
    let evidence = &known.call.evidence;
    let endings: Vec<Value> = evidence
        .endings
        .iter()
        .map(|e| {
            json!({"observer": e.observer.as_str(), "attempt": e.attempt,
                "phase": if e.scope == Scope::Call { "ended" } else { "attempt_ended" },
                "cause": e.cause.as_str(), "progress": e.progress.as_str(), "client_status": e.client_status,
                "upstream_status": e.upstream_status, "end_marker": e.end_marker.as_str(),
                "error_type": symbols.name(e.error), "seq": e.seq, "at": rfc3339(e.at)})
        })
        .collect();
    let labels: Vec<Value> = evidence
        .labels
        .iter()
        .map(|l| {
            let shape = names.of(l.any);
            json!({"observer": l.observer.as_str(), "attempt": l.attempt, "progress": l.progress.as_str(),
                "service": symbols.name(shape.service), "product": symbols.name(shape.product)})
        })
        .collect();
    let amounts: Vec<Value> = evidence
        .amounts
        .iter()
        .map(|a| {
            json!({"meter": symbols.name(a.meter), "attempt": a.attempt, "provenance": a.provenance.as_str(),
                "quantity": Quantity(a.nano()).to_string()})
        })
        .collect();
    let quantities = known
        .verdict
        .bill
        .quantities
        .iter()
        .map(|&(meter, nano)| {
            let best = crate::machine::verdict::best_amounts(evidence, known.verdict.ruling.serving);
            let provenance = best.iter().find(|a| a.meter == meter).map(|a| a.provenance.as_str());
            let corrected = known
                .correction
                .as_ref()
                .is_some_and(|c| c.bill && !c.quantities.is_empty());
            let source = match (provenance, corrected) {
                _ if meter == crate::machine::names::REQUESTS => "counted",
                (_, true) => "corrected",
                (Some(provenance), false) => provenance,
                (None, false) => "",
            };
            (
                symbols.name(meter).to_owned(),
                Quantity(nano).to_string(),
                source.to_owned(),
            )
        })
        .collect();
    let value = json!({"first": rfc3339(evidence.first), "last": rfc3339(evidence.last), "endings": endings,
        "facts": labels, "quantities": amounts});
    (value, quantities)
}

/// Scans the partition for the call's events, from where its first one can be.
fn find_events(
    log: &dyn crate::log::Log,
    partition: &Partition,
    known: Option<&KnownCall>,
    account: &str,
    call: &str,
) -> Result<Vec<FoundEvent>, CliError> {
    let number = partition.number;
    let end = log.end(number)?;
    let mut next = log.start(number)?;
    // Append times never go back in the embedded log. In a `ticks` log they say when the history was imported.
    let earliest = match (partition.machine.clock.source, known) {
        (Source::Append, Some(known)) => Some(known.call.evidence.first - AHEAD_MS_MAX),
        _ => None,
    };
    if let Some(earliest) = earliest {
        next = first_appended_at(log, number, next, end, earliest)?;
    }
    let finder = memmem::Finder::new(call);
    let mut batch = Batch::default();
    let mut events = Vec::new();
    while next < end {
        log.poll(number, next, 4 << 20, &mut batch)?;
        if batch.is_empty() {
            break;
        }
        for polled in batch.iter() {
            next = polled.offset + 1;
            if !matches!(polled.kind, Kind::Event | Kind::Control) || finder.find(polled.bytes).is_none() {
                continue;
            }
            if let Some(event) = matching(polled.kind, polled.bytes, account, call) {
                events.push(FoundEvent {
                    offset: polled.offset,
                    append_ms: polled.append_ms,
                    event,
                });
            }
        }
    }
    Ok(events)
}

fn first_appended_at(
    log: &dyn crate::log::Log,
    number: u32,
    start: u64,
    end: u64,
    earliest: i64,
) -> Result<u64, CliError> {
    let mut batch = Batch::default();
    let (mut low, mut high) = (start, end);
    while low < high {
        let middle = low + (high - low) / 2;
        log.poll(number, middle, 1, &mut batch)?;
        if batch.get(0).is_some_and(|r| r.append_ms < earliest) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn matching(kind: Kind, bytes: &[u8], account: &str, call: &str) -> Option<Value> {
    if kind == Kind::Control {
        let control = crate::wire::control::decode(bytes).ok()?;
        return match control.body? {
            pb::control::Body::Correction(c) if c.account_id == account && c.call_id == call => Some(
                json!({"correction": {"id": control.id, "actor": control.actor, "bill": c.bill, "reason": c.reason}}),
            ),
            _ => None,
        };
    }
    let event = if record::is_json(bytes) {
        wire_json::decode(bytes).ok()?.event
    } else {
        pb::CallEvent::decode(bytes).ok()?
    };
    (event.account_id == account && event.call_id == call).then(|| wire_json::encode(&event))
}

impl Explained {
    fn to_json(&self) -> Value {
        let mut row = Map::new();
        row.insert("account".to_owned(), self.account.clone().into());
        row.insert("call".to_owned(), self.call.clone().into());
        row.insert("partition".to_owned(), self.partition.into());
        if let Some(known) = &self.known {
            let ruling = &known.verdict.ruling;
            row.insert("settled".to_owned(), known.call.is_settled().into());
            row.insert(
                "verdict".to_owned(),
                json!({"outcome": ruling.outcome.as_str(), "reason": ruling.reason.as_str(), "row": ruling.row,
                    "rule": ROWS[usize::from(ruling.row) - 1], "billed": ruling.billed,
                    "estimated": known.verdict.bill.estimated, "serving_attempt": ruling.serving,
                    "decided_at": rfc3339(ruling.at)}),
            );
            row.insert("due".to_owned(), known.due.map(rfc3339).into());
            let quantities: Map<String, Value> = self
                .quantities
                .iter()
                .map(|(meter, quantity, source)| (meter.clone(), json!({"quantity": quantity, "provenance": source})))
                .collect();
            row.insert("quantities".to_owned(), quantities.into());
            if let Some(c) = &known.correction {
                let correction = json!({"control": c.control_id, "actor": c.actor, "bill": c.bill, "reason": c.reason});
                row.insert("correction".to_owned(), correction);
            }
        }
        row.insert("evidence".to_owned(), self.evidence.clone());
        let verdicts = self.verdicts.iter().filter_map(|v| serde_json::to_value(v).ok());
        row.insert("revisions".to_owned(), verdicts.collect());
        let events: Vec<Value> = self
            .events
            .iter()
            .map(|e| json!({"offset": e.offset, "appended_at": rfc3339(e.append_ms), "record": e.event}))
            .collect();
        row.insert("events".to_owned(), events.into());
        row.insert("log_reaches_back_to_offset".to_owned(), self.log_start.into());
        row.into()
    }
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "call {} of account {} (partition {})",
            self.call, self.account, self.partition
        )?;
        match &self.known {
            None => writeln!(f, "  its evidence is forgotten; what was decided is below")?,
            Some(known) => {
                let ruling = &known.verdict.ruling;
                let charged = if ruling.billed { "charged" } else { "not charged" };
                let so_far = if known.call.is_settled() {
                    ""
                } else {
                    " (open: this is what it would come to now)"
                };
                writeln!(
                    f,
                    "  {}, {}: {}{so_far}",
                    ruling.outcome.as_str(),
                    ruling.reason.as_str(),
                    charged
                )?;
                writeln!(f, "  rule {}: {}", ruling.row, ROWS[usize::from(ruling.row) - 1])?;
                if let Some(due) = known.due {
                    writeln!(
                        f,
                        "  settles at {} of the log's clock if nothing more comes",
                        rfc3339(due)
                    )?;
                }
                for (meter, quantity, source) in &self.quantities {
                    writeln!(f, "    {:>14} {meter} ({source})", grouped(quantity))?;
                }
                if let Some(c) = &known.correction {
                    let word = if c.bill { "bill" } else { "waive" };
                    writeln!(f, "  corrected by {} ({}): {word}, {}", c.actor, c.control_id, c.reason)?;
                }
                writeln!(f, "  evidence")?;
                for ending in self.evidence["endings"].as_array().into_iter().flatten() {
                    writeln!(
                        f,
                        "    {} {} {}: {}, progress {}, client {}, upstream {}, end marker {}{}",
                        ending["at"].as_str().unwrap_or_default(),
                        ending["observer"].as_str().unwrap_or_default(),
                        ending["phase"].as_str().unwrap_or_default(),
                        ending["cause"].as_str().unwrap_or_default(),
                        ending["progress"].as_str().unwrap_or_default(),
                        ending["client_status"],
                        ending["upstream_status"],
                        ending["end_marker"].as_str().unwrap_or_default(),
                        match ending["error_type"].as_str() {
                            None | Some("") => String::new(),
                            Some(error) => format!(", error {error}"),
                        }
                    )?;
                }
                for fact in self.evidence["facts"].as_array().into_iter().flatten() {
                    writeln!(
                        f,
                        "    {} at attempt {}: progress {}, service {:?}, product {:?}",
                        fact["observer"].as_str().unwrap_or_default(),
                        fact["attempt"],
                        fact["progress"].as_str().unwrap_or_default(),
                        fact["service"].as_str().unwrap_or_default(),
                        fact["product"].as_str().unwrap_or_default(),
                    )?;
                }
            }
        }
        if !self.verdicts.is_empty() {
            writeln!(f, "  decided")?;
        }
        for v in &self.verdicts {
            let quantities: Vec<String> = v
                .quantities
                .iter()
                .map(|(m, q)| format!("{} {m}", grouped(q)))
                .collect();
            writeln!(
                f,
                "    revision {}: {} {} in {}: {}",
                v.revision,
                v.outcome,
                v.reason,
                v.period,
                quantities.join(", ")
            )?;
        }
        writeln!(f, "  events")?;
        for e in &self.events {
            writeln!(f, "    {}:{} {}", self.partition, e.offset, e.event)?;
        }
        if self.log_start > 0 {
            writeln!(f, "    the log reaches back to offset {} only", self.log_start)?;
        }
        Ok(())
    }
}
