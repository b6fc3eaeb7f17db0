//! Everything that is known of one call, in the words of an answer: verdict, rule, quantities, evidence, events.

use memchr::memmem;
use prost::Message;
use serde_json::{Map, Value, json};

use super::PartitionError;
use super::read::KnownCall;
use super::worker::Partition;
use crate::log::batch::Polled;
use crate::log::{Batch, Log, LogError};
use crate::machine::clock::Source;
use crate::machine::evidence::Scope;
use crate::model::event::Progress;
use crate::model::limits::{AHEAD_MS_MAX, TICK_SKEW_MS_MAX};
use crate::model::outcome::ROWS;
use crate::model::period::{Month, rfc3339};
use crate::model::quantity::Quantity;
use crate::wire::json as wire_json;
use crate::wire::pb;
use crate::wire::protobuf;
use crate::wire::record::{self, Kind};

/// How long after a call's last change the log is still looked through, in its time: for copies that changed nothing.
const SCANNED_AFTER_MS: i64 = 3_600_000;

/// Bytes of records that are looked through at a time.
const SCAN_BYTES: usize = 4 << 20;

/// A quantity of the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedQuantity {
    /// What is counted.
    pub meter: String,
    /// How much, as a decimal.
    pub quantity: String,
    /// Where it comes from: `counted`, `corrected`, or the provenance that won.
    pub provenance: String,
}

/// One event or correction of the call as the log has it.
#[derive(Clone, Debug)]
pub struct FoundEvent {
    /// Where it stands in the partition.
    pub offset: u64,
    /// When the log took it.
    pub append_ms: i64,
    /// What it says.
    pub event: Value,
}

/// What is known of a call that isn't forgotten.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Who pays.
    pub account: String,
    /// Which call.
    pub call: String,
    /// Facts and verdict.
    pub known: KnownCall,
    /// The month it counts for, in the account's zone.
    pub period: Month,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// Endings, labels and amounts, as JSON.
    pub evidence: Value,
    /// Of the verdict.
    pub quantities: Vec<ExplainedQuantity>,
}

impl Partition {
    /// Explains a call, if it isn't forgotten.
    pub fn explain(&self, account: &str, call: &str) -> Result<Option<Explained>, PartitionError> {
        let known = self.call(account, call)?;
        Ok(known.map(|known| self.explained(account, call, known)))
    }

    /// Puts what is known of a call into words.
    pub(super) fn explained(&self, account: &str, call: &str, known: KnownCall) -> Explained {
        let (evidence, quantities) = describe(self, &known);
        let symbols = &self.machine.names.symbols;
        Explained {
            account: account.to_owned(),
            call: call.to_owned(),
            period: self.machine.month_of(known.call.account, known.verdict.ruling.at),
            service: symbols.name(known.verdict.bill.service).to_owned(),
            product: symbols.name(known.verdict.bill.product).to_owned(),
            evidence,
            quantities,
            known,
        }
    }
}

fn describe(partition: &Partition, known: &KnownCall) -> (Value, Vec<ExplainedQuantity>) {
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
        .filter(|l| l.names())
        .map(|l| {
            let shape = names.of(l.any);
            json!({"observer": l.observer.as_str(), "attempt": l.attempt,
                "service": symbols.name(shape.service), "product": symbols.name(shape.product)})
        })
        .collect();
    let progress: Vec<Value> = evidence
        .labels
        .iter()
        .filter(|l| l.progress != Progress::Unknown)
        .map(|l| json!({"attempt": l.attempt, "progress": l.progress.as_str()}))
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
            ExplainedQuantity {
                meter: symbols.name(meter).to_owned(),
                quantity: Quantity(nano).to_string(),
                provenance: source.to_owned(),
            }
        })
        .collect();
    let value = json!({"first": rfc3339(evidence.first), "last": rfc3339(evidence.last), "endings": endings,
        "facts": labels, "progress": progress, "quantities": amounts});
    (value, quantities)
}

/// Scans the partition for the call's events, from where its first one can be to an hour of the log's time after its last
/// change. Of a call that is forgotten no more is known than that the log may still have it.
pub fn find_events(
    log: &dyn Log,
    partition: &Partition,
    known: Option<&KnownCall>,
    account: &str,
    call: &str,
) -> Result<Vec<FoundEvent>, LogError> {
    let number = partition.number;
    let end = log.end(number)?;
    let mut next = log.start(number)?;
    // Append times never go back in the embedded log. In a `ticks` log they say when the history was imported.
    let source = partition.machine.clock.source;
    let earliest = match (source, known) {
        (Source::Append, Some(known)) => Some(known.call.evidence.first - AHEAD_MS_MAX),
        _ => None,
    };
    if let Some(earliest) = earliest {
        next = first_appended_at(log, number, next, end, earliest)?;
    }
    let over = known.map(|known| {
        let call = &known.call;
        let last = call.since.max(call.changed).max(call.evidence.last);
        last.saturating_add(SCANNED_AFTER_MS)
    });
    let finder = memmem::Finder::new(call);
    let mut batch = Batch::default();
    let mut events = Vec::new();
    while next < end {
        log.poll(number, next, SCAN_BYTES, &mut batch)?;
        if batch.is_empty() {
            break;
        }
        for polled in batch.iter() {
            next = polled.offset + 1;
            if polled.kind == Kind::Tick && over.is_some_and(|over| is_past(source, &polled, over)) {
                return Ok(events);
            }
            // JSON may have the id in other letters: a quote or a slash behind a backslash, or \u0061.
            let escaped = || record::is_json(polled.bytes) && memchr::memchr(b'\\', polled.bytes).is_some();
            if !matches!(polled.kind, Kind::Event | Kind::Control)
                || (finder.find(polled.bytes).is_none() && !escaped())
            {
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

/// Whether the log's clock has passed `over` for good with this tick. In an `append` log the records after an accepted one have
/// append times that aren't before it by more than what a tick may lie from its own.
fn is_past(source: Source, tick: &Polled<'_>, over: i64) -> bool {
    let Ok(at) = protobuf::decode_tick(tick.bytes) else {
        return false;
    };
    match source {
        Source::Ticks => at > over,
        Source::Append => {
            let accepted = at.abs_diff(tick.append_ms) <= TICK_SKEW_MS_MAX.unsigned_abs();
            accepted && at.saturating_sub(TICK_SKEW_MS_MAX) > over
        }
    }
}

fn first_appended_at(log: &dyn Log, number: u32, start: u64, end: u64, earliest: i64) -> Result<u64, LogError> {
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
    /// As JSON.
    pub fn to_json(&self) -> Map<String, Value> {
        let (known, ruling) = (&self.known, &self.known.verdict.ruling);
        let mut row = Map::new();
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
            .map(|q| {
                (
                    q.meter.clone(),
                    json!({"quantity": q.quantity, "provenance": q.provenance}),
                )
            })
            .collect();
        row.insert("quantities".to_owned(), quantities.into());
        if let Some(c) = &known.correction {
            let correction = json!({"control": c.control_id, "actor": c.actor, "bill": c.bill, "reason": c.reason});
            row.insert("correction".to_owned(), correction);
        }
        row.insert("evidence".to_owned(), self.evidence.clone());
        row
    }
}
