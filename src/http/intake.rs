//! Events on their way into the log: each judged by itself, the good ones appended in one durable write.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::caller::Caller;
use super::framing::Form;
use super::metrics;
use super::problem::{Code, Problem};
use super::service::Service;
use super::sources::Tally;
use crate::log::placement::partition_of;
use crate::log::{NewRecord, Place, Receipt};
use crate::model::event::Event;
use crate::model::limits::RECORD_BYTES_MAX;
use crate::model::reject::{Reject, RejectReason};
use crate::wire::cloud_event;
use crate::wire::record::{Kind, decode_event, is_json, source_of, too_large};

/// Why one event or record was not appended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Refusal {
    /// A stable code: the fold's reasons (`undecodable`, `missing_field`, …), and `source_not_allowed`.
    #[schema(example = "missing_field")]
    pub reason: &'static str,
    /// The field at fault; empty if none.
    #[schema(value_type = String, example = "call_id")]
    pub field: Cow<'static, str>,
    /// What was found there.
    pub detail: String,
    /// What to do about it.
    pub cure: &'static str,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self {
            reason: reject.reason.as_str(),
            cure: reject.reason.cure(),
            field: reject.field,
            detail: reject.detail,
        }
    }
}

impl Refusal {
    /// By one of the fold's reasons.
    pub fn new(reason: RejectReason, field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Reject::new(reason, field, detail).into()
    }

    fn source_not_allowed(source: &str) -> Self {
        Self {
            reason: "source_not_allowed",
            field: "source".into(),
            detail: format!("the token doesn't let events of source {source:?} through"),
            cure: if source.is_empty() {
                "set the event's `source` to one that the token lets through"
            } else {
                "send the event with the producer's own token, or issue one for this source"
            },
        }
    }
}

/// What became of one event or record.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EventResult {
    /// It is in the log.
    Appended {
        /// Which partition.
        partition: u32,
        /// Where; as `at_least=PARTITION:OFFSET` a read includes it.
        #[schema(example = "17")]
        offset: String,
    },
    /// It is a record for everyone, in every partition's log.
    Everywhere {
        /// Partitions and offsets.
        places: Vec<RecordPlace>,
        /// Of a control record: the version it was given or had.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(example = "4")]
        control_version: Option<String>,
    },
    /// It is not.
    Refused(Refusal),
}

/// A place in the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecordPlace {
    /// Which partition.
    pub partition: u32,
    /// Where in it.
    #[schema(example = "17")]
    pub offset: String,
}

/// Results in the order of the request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EventsBody {
    /// One for each event, in the order of the request.
    #[schema(value_type = Vec<EventResult>)]
    pub results: Box<RawValue>,
    /// How many are in the log.
    pub accepted: usize,
    /// How many are not.
    pub refused: usize,
}

/// What a request has come to so far. Results are JSON text: ten thousand a request, so no tree of them is built.
#[derive(Debug, Default)]
pub struct Results {
    text: String,
    accepted: usize,
    refused: usize,
}

impl Results {
    /// Events or records that have a result.
    pub fn len(&self) -> usize {
        self.accepted + self.refused
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn separate(&mut self) {
        if !self.is_empty() {
            self.text.push(',');
        }
    }

    fn row(&mut self, row: &impl Serialize) {
        self.separate();
        match serde_json::to_string(row) {
            Ok(text) => self.text.push_str(&text),
            // Strings and numbers: nothing that JSON can't say. But the others' results must not be lost with this one's.
            Err(cause) => {
                tracing::error!(%cause, "a result can't be written");
                self.text.push_str("null");
            }
        }
    }

    /// The next event is in the log.
    pub fn appended(&mut self, partition: u32, offset: u64) {
        self.separate();
        // A String takes any text.
        let _ = write!(self.text, "{{\"partition\":{partition},\"offset\":\"{offset}\"}}");
        self.accepted += 1;
    }

    /// The next record is in every partition's log.
    pub fn appended_everywhere(&mut self, receipts: &[Receipt], control_version: Option<u64>) {
        let row = EventResult::Everywhere {
            places: receipts
                .iter()
                .map(|r| RecordPlace {
                    partition: r.partition,
                    offset: r.offset.to_string(),
                })
                .collect(),
            control_version: control_version.map(|v| v.to_string()),
        };
        self.row(&row);
        self.accepted += 1;
    }

    /// The next one is not.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.row(refusal);
        self.refused += 1;
    }

    /// The answer's body.
    pub fn into_body(self) -> Result<EventsBody, Problem> {
        let results = RawValue::from_string(format!("[{}]", self.text));
        Ok(EventsBody {
            results: results.map_err(|e| Problem::new(Code::Internal, e.to_string()))?,
            accepted: self.accepted,
            refused: self.refused,
        })
    }

    /// The answer: all or some were taken, or a problem if none was.
    pub fn answer(self) -> Result<EventsBody, Problem> {
        if self.accepted == 0 && self.refused > 0 {
            let detail = format!("{} refused, none accepted; `results` says why", self.refused);
            return Err(Problem::new(Code::NoneAccepted, detail).with_results(self));
        }
        self.into_body()
    }
}

/// The work on one request's events; it may outlive the request.
pub struct Intake {
    /// What it works on.
    pub service: Arc<Service>,
    /// For whom.
    pub caller: Caller,
    /// How the events come.
    pub form: Form,
}

/// Judges one event by all that needs no clock.
///
/// What the fold would reject whatever its clock is refused here and not appended: the producer hears of it while it still
/// has the event at hand, and a broken producer fills neither the log nor the rejects. What hangs on log time (`ahead`,
/// `too_late`, `no_clock`) is left to the fold, for only the log's order says what time it is. Only sizes are judged in an
/// earlier order than the fold's: an event that is too large and too late is told the first.
fn judge<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Event<'a>, Reject> {
    if bytes.len() > RECORD_BYTES_MAX {
        let detail = format!("{} bytes; at most {RECORD_BYTES_MAX}", bytes.len());
        return Err(Reject::new(RejectReason::TooLarge, "record", detail));
    }
    let event = decode_event(bytes, scratch)?;
    match event.too_large {
        Some(field) => Err(too_large(field, bytes)),
        None => Ok(event),
    }
}

impl Intake {
    /// The bytes to append for one event as it came.
    fn unwrapped(&self, piece: &[u8]) -> Result<Option<Vec<u8>>, Reject> {
        match self.form {
            Form::CloudEvent | Form::CloudEvents => cloud_event::unwrap(piece).map(Some),
            // Else it would be read as protobuf.
            Form::Json | Form::Lines if !is_json(piece) => {
                Err(Reject::new(RejectReason::Undecodable, "", "an event is a JSON object"))
            }
            _ => Ok(None),
        }
    }

    /// Takes whole events: judges each, appends the good ones, adds to the results. Waits for the disk.
    pub fn take(&self, body: &[u8], results: &mut Results) -> Result<(), Problem> {
        let gate = &self.service.gate;
        let mut pieces = self.form.split(body)?;
        let room = gate.limits.request_events - results.len().min(gate.limits.request_events);
        let over = pieces.len() > room;
        if over {
            if !self.form.streams() {
                return Err(self.too_many());
            }
            pieces.truncate(room);
        }
        let count = self.service.running.log.identity().partition_count;
        let now = chrono::Utc::now().timestamp_millis();
        let mut tally = Tally::default();
        let mut records = Vec::with_capacity(pieces.len());
        let mut refusals: Vec<Option<Refusal>> = Vec::with_capacity(pieces.len());
        let mut scratch = Vec::new();
        for piece in pieces {
            let unwrapped = self.unwrapped(piece);
            let judged = match &unwrapped {
                Err(reject) => Err(reject.clone().into()),
                Ok(own) => {
                    let judged = judge(own.as_deref().unwrap_or(piece), &mut scratch);
                    judged.map_err(Refusal::from).and_then(|event| {
                        if !self.caller.may_send(event.source) {
                            return Err(Refusal::source_not_allowed(event.source));
                        }
                        tally.take(&event, now);
                        Ok(Place::One(partition_of(event.account, count)))
                    })
                }
            };
            match judged {
                Err(refusal) => {
                    let source = source_of(piece).filter(|source| self.caller.may_send(source));
                    // Not under a name that may be another's.
                    tally.refuse(source.as_deref().unwrap_or_default());
                    refusals.push(Some(refusal));
                }
                Ok(place) => {
                    let bytes = unwrapped.ok().flatten().unwrap_or_else(|| piece.to_vec());
                    records.push((place, NewRecord::new(Kind::Event, bytes)));
                    refusals.push(None);
                }
            }
        }
        let receipts = if records.is_empty() {
            Vec::new()
        } else {
            self.service.check_gate()?;
            self.service.running.log.append_placed(records)?
        };
        metrics::accepted(receipts.len());
        let mut receipts = receipts.into_iter();
        for refusal in &refusals {
            match refusal {
                Some(refusal) => {
                    metrics::refused(refusal.reason);
                    results.refused(refusal);
                }
                None => {
                    // What isn't known to be durable isn't acknowledged.
                    let Some(receipt) = receipts.next() else {
                        let detail = "the log has given fewer receipts than it was given records; send them again";
                        return Err(Problem::new(Code::Internal, detail));
                    };
                    results.appended(receipt.partition, receipt.offset);
                }
            }
        }
        self.service.sources.add(&tally);
        if over { Err(self.too_many()) } else { Ok(()) }
    }

    fn too_many(&self) -> Problem {
        let limit = self.service.gate.limits.request_events;
        Problem::new(Code::TooLarge, format!("over {limit} events in one request"))
    }
}
