//! `GET /v1/outputs/{topic}`: what was put out, in order, for consumers without Kafka. A cursor, and a long poll at its end.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{self, AsOf};
use super::caller::Caller;
use super::params::{Params, Places, Whole};
use super::problem::{Code, Problem, ProblemBody};
use super::rows::{AdjustmentNotice, ClosedStatement, MonthControl, RejectedRecord};
use super::service::{Service, blocking, read};
use crate::log::LogError;
use crate::machine::output::{Output, Topic, calls_of};
use crate::partition::live::{Live, ReadError};
use crate::partition::rows::{AdjustmentRow, CallRow, ControlRow, RejectRow, StatementRow};
use crate::wire::pb;
use crate::wire::pb::statement_record::Body;

/// Outputs in one answer, if not asked otherwise.
const LIMIT: usize = 100;
/// Outputs in one answer at most.
const LIMIT_MAX: usize = 1_000;
/// Bytes of outputs, as they are stored, after which an answer ends.
const BYTES_MAX: usize = 4 << 20;
/// Outputs read from the log at a time: of one topic they are of very different sizes.
const AT_A_TIME: usize = 8;
/// The same from Kafka, where each time is a question to the brokers.
const AT_A_TIME_SHARED: usize = 64;
/// How often a topic is looked at that others may be writing to.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A long poll waits so long at most.
const WAIT_MS_MAX: u64 = 30_000;

/// What is asked.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputParams {
    /// Which partition, from 0, which holds if it isn't given; each has its own gapless sequence.
    #[param(nullable = false, example = 0)]
    partition: Option<u32>,
    /// The last sequence that you have; 0 or none: from the first. One that isn't there yet is refused with 409 `beyond_end`.
    #[param(nullable = false, example = 0)]
    after: Option<u64>,
    /// Outputs at most, 1 to 1000; 100 if not given.
    #[param(nullable = false, value_type = Option<usize>, minimum = 1, maximum = 1000)]
    limit: Option<Whole<1, LIMIT_MAX>>,
    /// If there is nothing more yet, wait so long for something; at most 30000.
    #[param(nullable = false, maximum = 30000)]
    wait_ms: Option<u64>,
}

/// A topic by its name.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopicName {
    /// Closed statements, adjustments, control records.
    Statements,
    /// Each verdict and amendment.
    Calls,
    /// Reserved: empty until there are exposure and alerts.
    Alerts,
    /// What was not folded, and why.
    Rejects,
}

impl From<TopicName> for Topic {
    fn from(name: TopicName) -> Self {
        match name {
            TopicName::Statements => Self::Statements,
            TopicName::Calls => Self::Calls,
            TopicName::Alerts => Self::Alerts,
            TopicName::Rejects => Self::Rejects,
        }
    }
}

/// One output.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OutputRow {
    /// The same wherever and whenever it is read.
    #[schema(example = "statements/0/17")]
    pub id: String,
    /// Gapless per topic and partition, from 1.
    #[schema(example = "17")]
    pub sequence: String,
    /// What it says.
    #[serde(flatten)]
    pub body: OutputBody,
}

/// What an output says.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputBody {
    /// A closed statement, or a page of one that is too large for a record.
    PeriodClosed(Box<ClosedStatement>),
    /// A change of a closed period.
    AdjustmentNoticed(Box<AdjustmentNotice>),
    /// A month's sums of this partition.
    PeriodControl(Box<MonthControl>),
    /// Verdicts and amendments, in the order in which they were decided.
    Calls(Vec<CallRow>),
    /// A record that was not folded, and why.
    Rejected(Box<RejectedRecord>),
    /// An output of another version.
    Unreadable(String),
}

/// Outputs in their order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OutputsBody {
    /// Which topic.
    pub topic: &'static str,
    /// Up to where the partition's records are folded and all that they led to is in the topic: whoever has read on to the
    /// topic's end has it. (Verdicts of the last second of log time may still wait for their chunk of `calls`.) Absent where another instance folds it, and until it is known after a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<AsOf>,
    /// In order.
    pub outputs: Vec<OutputRow>,
    /// Give it as `after` to go on.
    #[schema(example = "17")]
    pub next_after: String,
}

/// An output as JSON says it.
fn body_of(output: &Output) -> Result<OutputBody, prost::DecodeError> {
    use prost::Message;
    let (sequence, bytes) = (output.sequence, output.body.as_slice());
    Ok(match output.topic {
        Topic::Statements => match pb::StatementRecord::decode(bytes)?.body {
            Some(Body::PeriodClosed(closed)) => {
                OutputBody::PeriodClosed(Box::new(StatementRow::new(sequence, closed).into()))
            }
            Some(Body::AdjustmentNoticed(notice)) => {
                OutputBody::AdjustmentNoticed(Box::new(AdjustmentRow::new(sequence, notice).into()))
            }
            Some(Body::PeriodControl(control)) => {
                OutputBody::PeriodControl(Box::new(ControlRow::new(sequence, control).into()))
            }
            None => OutputBody::Unreadable("a record of a newer version".to_owned()),
        },
        Topic::Calls => OutputBody::Calls(calls_of(bytes)?.into_iter().map(CallRow::from).collect()),
        Topic::Rejects => OutputBody::Rejected(Box::new(RejectRow::from(pb::Rejected::decode(bytes)?).into())),
        Topic::Alerts => OutputBody::Unreadable("alerts have no form yet".to_owned()),
    })
}

fn rows(partition: u32, outputs: &[Output]) -> Vec<OutputRow> {
    let row = |output: &Output| OutputRow {
        id: format!("{}/{partition}/{}", output.topic.as_str(), output.sequence),
        sequence: output.sequence.to_string(),
        body: body_of(output).unwrap_or_else(|cause| OutputBody::Unreadable(cause.to_string())),
    };
    outputs.iter().map(row).collect()
}

/// Outputs, and whether the topic shows no more of them.
fn take(
    live: &Live,
    topic: Topic,
    after: u64,
    limit: usize,
    at_a_time: usize,
) -> Result<(Vec<Output>, bool), ReadError> {
    let mut taken = Vec::new();
    let (mut after, mut bytes) = (after, 0);
    while taken.len() < limit && bytes < BYTES_MAX {
        let some = live
            .log()
            .read_outputs(live.number, topic, after, (limit - taken.len()).min(at_a_time))?;
        let Some(last) = some.last() else {
            return Ok((taken, true));
        };
        after = last.sequence;
        bytes += some.iter().map(|o| o.body.len()).sum::<usize>();
        taken.extend(some);
    }
    Ok((taken, false))
}

/// Whether there is an output of that sequence.
fn is_there(live: &Live, topic: Topic, sequence: u64) -> Result<bool, LogError> {
    let Some(before) = sequence.checked_sub(1) else {
        return Ok(true);
    };
    match live.log().read_outputs(live.number, topic, before, 1) {
        Err(LogError::OffsetGone { .. }) => Ok(false),
        read => Ok(!read?.is_empty()),
    }
}

/// A cursor may stand at the last output, not after it: such a one is of another log, or of one that was put back.
fn check_cursor(live: &Live, topic: Topic, after: u64) -> Result<(), Problem> {
    if is_there(live, topic, after)? {
        return Ok(());
    }
    let end = match live.log().output_tail(live.number, topic) {
        Ok(tail) if tail.sequence >= after => return Ok(()),
        Ok(tail) => format!("end with sequence {}", tail.sequence),
        // Only its owner knows the end. Brokers that are silent show nothing, either: then the first one isn't seen.
        Err(_) if !is_there(live, topic, 1)? || is_there(live, topic, after)? => return Ok(()),
        Err(_) => "don't go so far".to_owned(),
    };
    let detail = format!(
        "`after` is {after}, and the {} of partition {} {end}",
        topic.as_str(),
        live.number
    );
    Err(Problem {
        field: Some("after".to_owned()),
        ..Problem::new(Code::BeyondEnd, detail)
    })
}

/// Outputs of a topic
///
/// In order, after a sequence. With `wait_ms` an answer waits until there is something.
#[utoipa::path(
    get,
    path = "/v1/outputs/{topic}",
    tag = "outputs",
    params(
        ("topic" = inline(TopicName), Path, description = "Which topic"),
        OutputParams
    ),
    responses(
        (status = 200, description = "Outputs, none if there are no more yet", body = OutputsBody),
        (status = 409, description = "There is no output of the sequence `after` yet; `detail` says where they end", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("operator" = []))
)]
pub async fn outputs(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(topic): Places<TopicName>,
    Params(params): Params<OutputParams>,
) -> Result<Response, Problem> {
    caller.may_operate()?;
    service.check_held_up()?;
    let topic = Topic::from(topic);
    let limit = params.limit.map_or(LIMIT, |Whole(limit)| limit);
    let wait_ms = params.wait_ms.unwrap_or(0);
    if wait_ms > WAIT_MS_MAX {
        return Err(Problem::parameter(
            "wait_ms",
            format!("{wait_ms} is over {WAIT_MS_MAX}"),
        ));
    }
    let live = Arc::clone(service.partition(params.partition.unwrap_or(0))?);
    let after = params.after.unwrap_or(0);
    // What another instance puts out is only seen in the topic.
    let shared = service.running.sharing.as_ref();
    let at_a_time = if shared.is_some() { AT_A_TIME_SHARED } else { AT_A_TIME };
    let mut delivered = live.watch_delivered();
    let give_up = tokio::time::sleep(Duration::from_millis(wait_ms));
    tokio::pin!(give_up);
    let mut checked = false;
    let (standing, outputs) = loop {
        delivered.borrow_and_update();
        let reader = Arc::clone(&live);
        let taken = read(move || {
            // Before the outputs: what is delivered later may not be among them.
            let standing = reader.delivered().ok().flatten();
            let tail = reader
                .log()
                .output_tail(reader.number, topic)
                .map_or(0, |tail| tail.sequence);
            let taken = take(&reader, topic, after, limit, at_a_time);
            Ok(match taken {
                // Brokers say that outputs are delivered before they show them: then the end that is seen isn't the end.
                Ok((outputs, true)) => {
                    let is_end = outputs.last().map_or(after, |last| last.sequence) >= tail;
                    (standing.filter(|_| is_end), Ok(outputs))
                }
                Ok((outputs, false)) => (standing, Ok(outputs)),
                Err(cause) => (standing, Err(cause)),
            })
        });
        let (standing, taken) = taken.await?;
        // A cursor that is beyond the end may also be refused by the log.
        let outputs = match taken {
            Ok(outputs) if !outputs.is_empty() => break (standing, outputs),
            taken => {
                if !checked {
                    let reader = Arc::clone(&live);
                    blocking(move || check_cursor(&reader, topic, after)).await??;
                    checked = true;
                }
                taken?
            }
        };
        if wait_ms == 0 {
            break (standing, outputs);
        }
        tokio::select! {
            () = &mut give_up => break (standing, outputs),
            () = service.closing.cancelled() => break (standing, outputs),
            changed = delivered.changed() => if changed.is_err() { break (standing, outputs) },
            () = tokio::time::sleep(LOOK_EVERY), if shared.is_some() => {}
        }
    };
    let own = shared.is_none_or(|sharing| sharing.may_answer(live.number));
    let standing = standing.filter(|_| own);
    let body = OutputsBody {
        topic: topic.as_str(),
        as_of: standing.map(AsOf::from),
        next_after: outputs.last().map_or(after, |o| o.sequence).to_string(),
        outputs: rows(live.number, &outputs),
    };
    Ok(match standing {
        Some(standing) => answer::json(standing, body),
        None => answer::uncached(body),
    })
}
