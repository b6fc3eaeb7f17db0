//! `GET /v1/accounts/{account}/calls/{call}`: why a call is charged, or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{self, AsOf};
use super::caller::Caller;
use super::params::{Params, Places};
use super::problem::{Code, Problem, ProblemBody};
use super::service::{AtLeast, Service, read};
use crate::model::outcome::ROWS;
use crate::model::period::rfc3339;
use crate::partition::explain::Explained;
use crate::partition::live::Standing;

/// What is asked.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CallParams {
    /// PARTITION:OFFSET of a record that the answer must include; waits up to a second for it.
    #[param(nullable = false, pattern = r"^\d{1,9}:\d{1,18}$", example = "0:1")]
    at_least: Option<String>,
}

impl CallParams {
    /// The place in the log that the answer must include.
    pub fn at_least(&self) -> Result<Option<AtLeast>, Problem> {
        self.at_least.as_deref().map(str::parse).transpose()
    }
}

/// A quantity of a call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallQuantity {
    /// How much.
    #[schema(example = "412")]
    pub quantity: String,
    /// counted, corrected, or the provenance that won.
    pub provenance: String,
}

/// The operator's word on a call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallCorrection {
    /// Id of the control record.
    pub control: String,
    /// Who did it.
    pub actor: String,
    /// Billed or waived.
    pub bill: bool,
    /// Why.
    pub reason: String,
}

/// One call with its verdict and the evidence for it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallBody {
    /// Who pays.
    pub account: String,
    /// Which call.
    pub call: String,
    /// Where the answer stands.
    pub as_of: AsOf,
    /// Whether the verdict stands; else it is what the evidence so far would come to.
    pub settled: bool,
    /// When its wait ends, if it isn't settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// From 1, raised by each amendment; 0: not settled.
    pub revision: u32,
    /// success, disconnected or failed.
    pub outcome: &'static str,
    /// Why: a stable code.
    pub reason: &'static str,
    /// Row of the verdict table, 1 to 19.
    pub row: u8,
    /// The row in words.
    pub rule: &'static str,
    /// Whether it is charged.
    pub billed: bool,
    /// A quantity that counts was won by an estimate.
    pub estimated: bool,
    /// The period it counts for.
    pub period: String,
    /// The instant that decides the period.
    pub decided_at: String,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// The upstream try that served, 0: not told.
    pub serving_attempt: u8,
    /// By meter; also when it isn't charged.
    pub quantities: BTreeMap<String, CallQuantity>,
    /// The operator's word, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<CallCorrection>,
    /// The merged facts: endings by observer and attempt, labels, quantities by meter and attempt.
    #[schema(value_type = Object)]
    pub evidence: serde_json::Value,
}

impl CallBody {
    /// In the words of an answer.
    pub fn of(standing: Standing, explained: Explained) -> Self {
        let known = &explained.known;
        let ruling = &known.verdict.ruling;
        Self {
            as_of: standing.into(),
            settled: known.call.is_settled(),
            due: known.due.map(rfc3339),
            revision: known.call.revision,
            outcome: ruling.outcome.as_str(),
            reason: ruling.reason.as_str(),
            row: ruling.row,
            rule: ROWS[usize::from(ruling.row) - 1],
            billed: ruling.billed,
            estimated: known.verdict.bill.estimated,
            period: explained.period.to_string(),
            decided_at: rfc3339(ruling.at),
            serving_attempt: ruling.serving,
            correction: known.correction.as_ref().map(|c| CallCorrection {
                control: c.control_id.clone(),
                actor: c.actor.clone(),
                bill: c.bill,
                reason: c.reason.clone(),
            }),
            quantities: explained
                .quantities
                .into_iter()
                .map(|q| {
                    let quantity = CallQuantity {
                        quantity: q.quantity,
                        provenance: q.provenance,
                    };
                    (q.meter, quantity)
                })
                .collect(),
            account: explained.account,
            call: explained.call,
            service: explained.service,
            product: explained.product,
            evidence: explained.evidence,
        }
    }
}

/// One call
///
/// Its verdict, the rule in words and the evidence for it, also when it isn't charged or isn't settled yet.
#[utoipa::path(
    get,
    path = "/v1/accounts/{account}/calls/{call}",
    tag = "reads",
    params(
        ("account" = String, Path, description = "Who pays"),
        ("call" = String, Path, description = "Which call"),
        CallParams
    ),
    responses(
        (status = 200, description = "The call", body = CallBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("account" = []), ("operator" = []))
)]
pub async fn call(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places((account, call)): Places<(String, String)>,
    Params(params): Params<CallParams>,
) -> Result<Response, Problem> {
    caller.may_read(&account)?;
    let live = service.partition_of(&account, params.at_least()?).await?;
    let (of, id) = (account.clone(), call.clone());
    let (standing, explained) = read(move || live.explain(&of, &id)).await?;
    let explained = explained.ok_or_else(|| {
        Problem::new(
            Code::CallUnknown,
            format!("account {account:?} has no call {call:?} that is remembered"),
        )
    })?;
    Ok(answer::json(standing, CallBody::of(standing, explained)))
}
