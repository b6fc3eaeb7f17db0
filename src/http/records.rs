//! `POST /v1/records`: an operator's log records in their order: histories, and control.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use prost::Message;
use tokio::sync::Mutex;

use super::body::Arriving;
use super::caller::Caller;
use super::framing;
use super::gate::Held;
use super::intake::{EventsBody, Refusal, Results};
use super::params::{NoParams, Params};
use super::problem::{Code, Problem, ProblemBody};
use super::service::{Service, blocking};
use crate::log::appender::{place_of_control, place_of_event, tick};
use crate::log::{Identity, NewRecord, Place, Receipt};
use crate::machine::clock::Source;
use crate::machine::control::check_alone;
use crate::model::Ms;
use crate::model::reject::{Reject, RejectReason};
use crate::partition::live::Live;
use crate::partition::running::Running;
use crate::wire::envelope::{self, Signed};
use crate::wire::pb::{self, control::Body};
use crate::wire::record::{Kind, decode_event};
use crate::wire::record_file::{self, BadLine, Line};

/// How long a record that needs the next control version waits for the fold to have seen the one before.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// Serialises requests with records, and knows up to where a ledger must be folded before its version is the last one.
///
/// Which control version is next only the fold knows: it may reject a record (`not_effective`, a known id), and then its
/// version isn't used up. So a record without a version waits until the last one appended for everyone is folded.
pub struct Sequencer(Arc<Mutex<Vec<u64>>>);

impl Sequencer {
    /// Of a log that may hold records for everyone that aren't folded yet. A shared log takes signed records alone, which carry
    /// their versions.
    pub fn new(running: &Running) -> Self {
        if running.sharing.is_some() {
            return Self(Arc::new(Mutex::new(vec![0; running.partitions.len()])));
        }
        let ends = running.partitions.iter();
        // Every partition of the identity is there: an error can't come.
        let ends = ends.map(|live| running.log.end(live.number).unwrap_or_default());
        Self(Arc::new(Mutex::new(ends.collect())))
    }
}

/// One line, judged.
enum Judged {
    Refused(Refusal),
    Tick(Ms),
    Event(Place, Vec<u8>),
    Control(Box<pb::Control>),
    Signed(Place, Signed, Option<u64>),
}

/// What says of an unsigned record for a shared log how it gets there.
fn unsigned(kind: &str) -> Refusal {
    let detail = format!(
        "an unsigned {kind} record: on Kafka the operator's records are signed, and this service holds no operator key; sign and \
         write it with `reckon control publish`, or send it here as {{\"signed\": {{\"kind\", \"value\", \"signature\"}}}}"
    );
    Refusal::new(RejectReason::NotAuthorised, kind.to_owned(), detail)
}

fn judge_line(line: &[u8], identity: &Identity, shared: bool, scratch: &mut Vec<u8>) -> Result<Judged, Refusal> {
    let count = identity.partition_count;
    let undecodable = |detail: String| Refusal::new(RejectReason::Undecodable, "", detail);
    let text = std::str::from_utf8(line).map_err(|e| undecodable(e.to_string()))?;
    if let Some(opened) = envelope::open(text) {
        if !shared {
            return Err(undecodable(
                "signed records are for a log on Kafka: this one is written by its own service alone, send {\"control\": …}".to_owned(),
            ));
        }
        let signed = opened.map_err(|cause| Refusal::new(RejectReason::Undecodable, "signed", cause))?;
        return judge_signed(signed, count);
    }
    match record_file::parse(text) {
        Ok(Line::Tick(_)) if shared && identity.source == Source::Ticks => Err(unsigned("tick")),
        Ok(Line::Control(_)) if shared => Err(unsigned("control")),
        Ok(Line::Tick(at)) => Ok(Judged::Tick(at)),
        Ok(Line::Event(event)) => {
            if !event.starts_with('{') {
                return Err(undecodable("an event is a JSON object".to_owned()));
            }
            // Sizes are left to the fold, unlike a gateway's: a history's rejects stay those of `reckon import`, which names
            // what hangs on the clock first.
            let place = place_of_event(Some(decode_event(event.as_bytes(), scratch)?.account), count);
            Ok(Judged::Event(place, event.into_bytes()))
        }
        Ok(Line::Control(control)) => {
            check(&control, false)?;
            Ok(Judged::Control(control))
        }
        Err(BadLine::Tick(found)) => {
            let detail = format!("{found:?} is not a time of RFC 3339: write it as 2026-09-01T12:00:00Z");
            Err(Refusal {
                cure: "write a time of RFC 3339",
                ..Refusal::new(RejectReason::BadTick, "tick", detail)
            })
        }
        Err(BadLine::Control(reject)) => Err(reject.into()),
        Err(bad @ BadLine::Form(_)) => Err(undecodable(bad.to_string())),
    }
}

/// What can be said of a signed record without the keys.
fn judge_signed(signed: Signed, count: u32) -> Result<Judged, Refusal> {
    let unreadable =
        |cause: prost::DecodeError| Refusal::new(RejectReason::Undecodable, "signed.value", cause.to_string());
    if signed.kind == Kind::Tick {
        pb::Tick::decode(signed.bytes.as_slice()).map_err(unreadable)?;
        return Ok(Judged::Signed(Place::All, signed, None));
    }
    let control = pb::Control::decode(signed.bytes.as_slice()).map_err(unreadable)?;
    check(&control, true)?;
    let missing = |field: &'static str, why: &str| Refusal::new(RejectReason::MissingField, field, why);
    if control.issued_at.is_none() {
        return Err(missing(
            "control.issued_at",
            "absent; a signed record says when it was issued",
        ));
    }
    let place = place_of_control(&control, count);
    if place == Place::All && control.control_version == 0 {
        return Err(missing(
            "control.control_version",
            "absent; whoever signs a record for everyone gives it the next version",
        ));
    }
    let version = (place == Place::All).then_some(control.control_version);
    Ok(Judged::Signed(place, signed, version))
}

/// What can be said of a control record without the state it is for. Changes of the keys need the keys, where there are any.
fn check(control: &pb::Control, is_signed: bool) -> Result<(), Reject> {
    let is_of_keys = matches!(control.body, Some(Body::OperatorKeys(_)));
    match check_alone(control) {
        Err(reject) if is_signed && is_of_keys && reject.reason == RejectReason::BadControl => Ok(()),
        judged => judged.map_err(Reject::for_sender),
    }
}

/// What waits to be appended, or was refused, in order.
enum Outcome {
    Refused(Refusal),
    One,
    All(Option<u64>),
}

/// The work on one request.
struct Batch {
    service: Arc<Service>,
    lines: VecDeque<Judged>,
    results: Results,
    records: Vec<(Place, NewRecord)>,
    outcomes: Vec<Outcome>,
    /// Name on the token; empty where no tokens are asked for.
    actor: String,
    _held: Held,
}

/// How far a batch has come.
enum Stage {
    /// The next record needs the next control version.
    NeedsVersion,
    Done,
}

impl Batch {
    fn parse(&mut self, body: &Bytes) -> Result<(), Problem> {
        let identity = self.service.running.log.identity();
        let shared = self.service.running.sharing.is_some();
        let lines = framing::lines(body);
        let limit = self.service.gate.limits.request_events;
        if lines.len() > limit {
            return Err(Problem::new(
                Code::TooLarge,
                format!("over {limit} records in one request"),
            ));
        }
        let mut scratch = Vec::new();
        for line in lines {
            let judged = judge_line(line, identity, shared, &mut scratch);
            self.lines.push_back(judged.unwrap_or_else(Judged::Refused));
        }
        let is_tick = |line: &Judged| match line {
            Judged::Tick(_) => true,
            Judged::Signed(_, signed, _) => signed.kind == Kind::Tick,
            _ => false,
        };
        // The wall clock moves this log's time, and a tick of another's would be the operator's word against it.
        if identity.source == Source::Append && self.lines.iter().any(is_tick) {
            let mut problem = Problem::new(
                Code::Conflict,
                "the log's clock goes by append times and the service's own ticks; records with ticks need a log made with \
                 `reckon init --clock ticks`",
            );
            problem.field = Some("tick".to_owned());
            return Err(problem);
        }
        Ok(())
    }

    fn push(&mut self, place: Place, kind: Kind, bytes: Vec<u8>, outcome: Outcome) {
        self.records.push((place, NewRecord::new(kind, bytes)));
        self.outcomes.push(outcome);
    }

    /// Appends up to the next record that needs a version, or all; with `version` that one has it. `folded_from` is raised
    /// over the records for everyone.
    fn advance(&mut self, mut version: Option<u64>, folded_from: &mut [u64]) -> Result<Stage, Problem> {
        let count = self.service.running.log.identity().partition_count;
        while let Some(line) = self.lines.pop_front() {
            match line {
                Judged::Refused(refusal) => self.outcomes.push(Outcome::Refused(refusal)),
                Judged::Tick(at) => self.push(Place::All, Kind::Tick, tick(at), Outcome::All(None)),
                Judged::Event(place, bytes) => self.push(place, Kind::Event, bytes, Outcome::One),
                Judged::Signed(place, signed, version) => {
                    self.records.push((
                        place,
                        NewRecord {
                            signature: Some(signed.signature),
                            ..NewRecord::new(signed.kind, signed.bytes)
                        },
                    ));
                    self.outcomes.push(match place {
                        Place::All => Outcome::All(version),
                        Place::One(_) => Outcome::One,
                    });
                }
                Judged::Control(mut control) => {
                    // The audit trail says who did it; the token says who sent it.
                    if control.actor.is_empty() {
                        control.actor.clone_from(&self.actor);
                    }
                    let place = place_of_control(&control, count);
                    if place == Place::All && control.control_version == 0 {
                        let Some(next) = version.take() else {
                            self.lines.push_front(Judged::Control(control));
                            self.flush(folded_from)?;
                            return Ok(Stage::NeedsVersion);
                        };
                        control.control_version = next;
                    }
                    let outcome = match place {
                        Place::All => Outcome::All(Some(control.control_version)),
                        Place::One(_) => Outcome::One,
                    };
                    self.push(place, Kind::Control, control.encode_to_vec(), outcome);
                }
            }
        }
        self.flush(folded_from)?;
        Ok(Stage::Done)
    }

    /// Appends what waits, in one durable write.
    fn flush(&mut self, folded_from: &mut [u64]) -> Result<(), Problem> {
        let log = &self.service.running.log;
        let receipts = if self.records.is_empty() {
            Vec::new()
        } else {
            log.append_placed(std::mem::take(&mut self.records))?
        };
        let mut receipts: &[Receipt] = &receipts;
        for outcome in self.outcomes.drain(..) {
            let own = match &outcome {
                Outcome::Refused(_) => 0,
                Outcome::One => 1,
                Outcome::All(_) => folded_from.len(),
            };
            let (taken, rest) = receipts.split_at(own.min(receipts.len()));
            receipts = rest;
            match (outcome, taken) {
                (Outcome::Refused(refusal), _) => self.results.refused(&refusal),
                (Outcome::One, taken) => taken.iter().for_each(|r| self.results.appended(r.partition, r.offset)),
                (Outcome::All(version), taken) => {
                    if version.is_some() {
                        for receipt in taken {
                            folded_from[receipt.partition as usize] = receipt.offset + 1;
                        }
                    }
                    self.results.appended_everywhere(taken, version);
                }
            }
        }
        Ok(())
    }
}

/// The control version that comes next, once every partition has folded up to `folded_from`.
async fn next_version(partitions: &[Arc<Live>], folded_from: &[u64]) -> Result<u64, Problem> {
    let until = tokio::time::Instant::now() + VERSION_WAIT;
    let mut last = 0;
    for (live, from) in partitions.iter().zip(folded_from) {
        let mut standing = live.watch();
        let folded = standing.wait_for(|s| s.next_offset >= *from);
        if !matches!(tokio::time::timeout_at(until, folded).await, Ok(Ok(_))) {
            let detail = format!(
                "partition {} is folded up to offset {}; the next control version is known at {from}",
                live.number,
                live.standing().next_offset
            );
            return Err(Problem::new(Code::Behind, detail).retry_after(2));
        }
        last = last.max(live.read(|p| p.machine.ledger.version)?);
    }
    Ok(last + 1)
}

/// Appends all records of one request; results stay with the batch whatever comes of it.
async fn append(mut batch: Batch, body: Bytes) -> (Results, Result<(), Problem>) {
    let sequence = Arc::clone(&batch.service.sequencer.0);
    let mut folded_from = sequence.lock_owned().await;
    let mut version = None;
    let mut parsed = false;
    loop {
        let body = body.clone();
        let worked = blocking(move || {
            let stage = if parsed { Ok(()) } else { batch.parse(&body) };
            let stage = stage.and_then(|()| batch.advance(version, &mut folded_from));
            (batch, folded_from, stage)
        });
        let stage;
        (batch, folded_from, stage) = match worked.await {
            Ok(worked) => worked,
            Err(problem) => return (Results::default(), Err(problem)),
        };
        parsed = true;
        match stage {
            Ok(Stage::Done) => return (batch.results, Ok(())),
            Ok(Stage::NeedsVersion) => match next_version(&batch.service.running.partitions, &folded_from).await {
                Ok(next) => version = Some(next),
                Err(problem) => return (batch.results, Err(problem)),
            },
            Err(problem) => return (batch.results, Err(problem)),
        }
    }
}

/// Append log records
///
/// NDJSON: `{"event": …}`, `{"tick": "2026-09-01T00:00:00Z"}` or `{"control": …}` a line, appended in their order. Events and
/// an account's own records go to the account's partition, ticks and records for everyone to all partitions. A record for
/// everyone without `control_version` is given the next one, a control record without `actor` the name on the token. Lines that can't be right are refused one by one and not
/// appended; what hangs on the log's state is rejected by the fold, see the rejects output.
///
/// On Kafka control records are taken as their signer made them, `{"signed": {"kind": "control", "value": BASE64 of the bytes,
/// "signature": "KEYID:BASE64"}}`, and unsigned ones are refused: the service holds no operator key.
///
/// Ticks are only taken by a log that was made with `--clock ticks`. Sending the same records again is safe if its control
/// records have ids of their own, as they must.
#[utoipa::path(
    post,
    path = "/v1/records",
    tag = "events",
    request_body(content = String, content_type = "application/x-ndjson", description = "Log records, one a line"),
    responses(
        (status = 200, description = "At least one record is durable, or there was none", body = EventsBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("operator" = []))
)]
pub async fn records(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Params(NoParams {}): Params<NoParams>,
    request: Request,
) -> Result<Json<EventsBody>, Problem> {
    let (parts, body) = request.into_parts();
    let mut arriving = Arriving::new(&service.gate, &parts.headers, body);
    let arrived = async {
        caller.may_operate()?;
        framing::check_encoding(&parts.headers)?;
        framing::check_lines(&parts.headers)?;
        service.check_gate()?;
        arriving.whole().await
    };
    let body = match arrived.await {
        Ok(body) => Bytes::from(body),
        Err(problem) => {
            arriving.drain().await;
            return Err(problem);
        }
    };
    let batch = Batch {
        service,
        lines: VecDeque::new(),
        results: Results::default(),
        records: Vec::new(),
        outcomes: Vec::new(),
        actor: caller.name,
        _held: arriving.hand_over(body.len()),
    };
    // In a task of its own: what is begun is brought to its end though the client leaves.
    let appended = tokio::spawn(append(batch, body)).await;
    let (results, appended) =
        appended.map_err(|_| Problem::new(Code::Internal, "the work for this request has panicked"))?;
    match appended {
        Ok(()) => results.answer().map(Json),
        Err(problem) => Err(problem.with_results(results)),
    }
}
