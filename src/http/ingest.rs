//! `POST /v1/events`: what gateways send.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};

use super::body::{Arrival, Arriving};
use super::caller::Caller;
use super::event_schema::{CloudEvent, Events, Protobuf};
use super::framing::{self, Form};
use super::intake::{EventsBody, Intake, Results};
use super::params::{NoParams, Params};
use super::problem::{Problem, ProblemBody};
use super::service::{Service, blocking};

/// A streamed body's events are appended once there are so many bytes of them …
const STREAM_BYTES: usize = 1 << 20;

/// … or nothing more has come for so long: a gateway may keep a request open and send an event now and then.
const STREAM_PAUSE: Duration = Duration::from_millis(20);

/// Send events
///
/// One event or many, up to 10,000 or 10 MiB a request (decompressed; `Content-Encoding: gzip` is undone), each at most
/// 64 KiB. Each has a result, in the order of the request: partition and offset once it is durable, or why it was refused.
/// Good events count though others are bad.
///
/// 200: at least one was accepted; look at `refused`. 400 with code `none_accepted`: none was. Any other problem stopped the
/// request on its way: if it has `results`, the first so many events have been dealt with, the rest wasn't looked at. Sending
/// all of it again is always safe: the same event twice changes nothing.
///
/// Accepted means durable. What hangs on log time (`ahead`, `too_late`, `no_clock`) is judged by the fold: see the rejects
/// output.
///
/// NDJSON and length-delimited protobuf are taken while they arrive. Protobuf is one `CallEvent`, or with the media type's
/// parameter, `Content-Type: application/x-protobuf; framing=delimited`, many, each after its length as a varint. A CloudEvent has the type `reckon.call_event.v1` and the event
/// in `data` (JSON) or `data_base64` (protobuf); its id, source and time hold where the event has no event_id, source or
/// occurred_at.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    request_body(
        description = "Events: reckon.v1.CallEvent of proto/reckon/v1/events.proto",
        content(
            (Events = "application/json"),
            (String = "application/x-ndjson"),
            (Protobuf = "application/x-protobuf"),
            (CloudEvent = "application/cloudevents+json"),
            (Vec<CloudEvent> = "application/cloudevents-batch+json"),
        )
    ),
    responses(
        (status = 200, description = "At least one event is durable, or there was none", body = EventsBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("ingest" = []), ("operator" = []))
)]
pub async fn events(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Params(NoParams {}): Params<NoParams>,
    request: Request,
) -> Result<Json<EventsBody>, Problem> {
    let (parts, body) = request.into_parts();
    let mut arriving = Arriving::new(&service.gate, &parts.headers, body);
    let mut results = Results::default();
    let taken = async {
        caller.may_ingest()?;
        framing::check_encoding(&parts.headers)?;
        let form = Form::of(&parts.headers)?;
        service.check_gate()?;
        let intake = Arc::new(Intake { service, caller, form });
        take(&intake, &mut arriving, &mut results).await
    };
    match taken.await {
        Ok(()) => results.answer().map(Json),
        Err(problem) => {
            arriving.drain().await;
            Err(problem.with_results(results))
        }
    }
}

async fn take(intake: &Arc<Intake>, arriving: &mut Arriving, results: &mut Results) -> Result<(), Problem> {
    if !intake.form.streams() {
        let body = arriving.whole().await?;
        return append(intake, arriving, body, results).await;
    }
    let mut body = Vec::new();
    loop {
        let pause = (intake.form.whole(&body)? > 0).then_some(STREAM_PAUSE);
        let arrival = arriving.next(pause).await;
        let ended = match &arrival {
            Ok(Arrival::Bytes(bytes)) => {
                body.extend_from_slice(bytes);
                if body.len() < STREAM_BYTES {
                    continue;
                }
                false
            }
            Ok(Arrival::End) => true,
            // Whole events that came before a problem count.
            Ok(Arrival::Pause) | Err(_) => false,
        };
        let whole = match intake.form {
            // A last line needs no end.
            Form::Lines if ended => body.len(),
            form => form.whole(&body)?,
        };
        if whole > 0 {
            let rest = body.split_off(whole);
            append(intake, arriving, std::mem::replace(&mut body, rest), results).await?;
        }
        match arrival {
            Err(problem) => return Err(problem),
            // Says what is wrong with what is left.
            Ok(Arrival::End) => return intake.form.split(&body).map(|_| ()),
            Ok(_) => {}
        }
    }
}

/// Appends beside the tasks that serve sockets, and to the end though the client leaves.
async fn append(
    intake: &Arc<Intake>,
    arriving: &mut Arriving,
    body: Vec<u8>,
    results: &mut Results,
) -> Result<(), Problem> {
    let writer = intake.service.gate.writer().await?;
    let (intake, held) = (Arc::clone(intake), arriving.hand_over(body.len()));
    let mut own = std::mem::take(results);
    let (own, taken) = blocking(move || {
        let taken = intake.take(&body, &mut own);
        drop((writer, held));
        (own, taken)
    })
    .await?;
    *results = own;
    taken
}
