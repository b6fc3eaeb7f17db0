//! Errors as RFC 9457 tells them: a stable code, what is wrong, the field and the cure.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::intake::{EventResult, EventsBody, Results};
use crate::log::LogError;
use crate::partition::PartitionError;
use crate::partition::live::ReadError;

/// Media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:ident, $title:literal, $cure:literal;)+) => {
        /// What can be wrong with a request, or with the service: stable codes that a client may branch on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $variant,)+ }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The stable identifier.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }
            /// The status of the answer.
            pub const fn status(self) -> StatusCode { match self { $(Self::$variant => StatusCode::$status,)+ } }
            /// The same for every problem of the code.
            pub const fn title(self) -> &'static str { match self { $(Self::$variant => $title,)+ } }
            /// What to do about it.
            pub const fn cure(self) -> &'static str { match self { $(Self::$variant => $cure,)+ } }
        }
    };
}

codes! {
    /// A parameter or a header that can't be read.
    BadParameter = "bad_parameter", BAD_REQUEST, "A parameter can't be read", "mend the parameter that `field` names; /docs shows its form";
    /// A body that can't be read.
    BadBody = "bad_body", BAD_REQUEST, "The body can't be read", "send what /docs shows for this content type";
    /// No token, or one that doesn't hold.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A valid token is needed", "send `Authorization: Bearer TOKEN`; `reckon token issue` makes one";
    /// The token doesn't allow it.
    Forbidden = "forbidden", FORBIDDEN, "The token doesn't allow this", "use a token of the scope that /docs names for this route";
    /// No such route.
    NoRoute = "no_route", NOT_FOUND, "There is no such route", "/docs lists the routes";
    /// No such account, as far as is folded.
    AccountUnknown = "account_unknown", NOT_FOUND, "Nothing is known of the account", "check the id; an account appears with its first folded record";
    /// Unknown or forgotten call.
    CallUnknown = "call_unknown", NOT_FOUND, "Nothing is known of the call", "check the id; calls are forgotten after the amendment window, their verdicts stay in the calls output";
    /// The account doesn't have the period.
    PeriodUnknown = "period_unknown", NOT_FOUND, "The account doesn't have the period", "list the account's periods";
    /// Hours of a closed period.
    HoursGone = "hours_gone", GONE, "Hours of a closed period aren't kept", "ask for window=day; hours are kept until their period closes";
    /// No such partition, topic.
    OutputUnknown = "output_unknown", NOT_FOUND, "There is no such output", "topics are statements, calls, alerts and rejects; partitions count from 0";
    /// Wrong method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route doesn't take this method", "/docs lists the methods";
    /// Doesn't fit the state of the log.
    Conflict = "conflict", CONFLICT, "The request doesn't fit the log", "see `detail`";
    /// A cursor that the outputs haven't come to.
    BeyondEnd = "beyond_end", CONFLICT, "There is no such output yet", "the cursor is another log's, or a backup was put back: compare what you have before you go on; see deploy/RUNBOOK.md";
    /// Over a limit.
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "The request is over a limit", "send at most 10,000 records or 10 MiB a request";
    /// Of a request's events or records none is in the log.
    NoneAccepted = "none_accepted", BAD_REQUEST, "Nothing of the request was accepted", "mend what `results` names, each with its reason, field and cure";
    /// A form that isn't taken.
    UnsupportedType = "unsupported_type", UNSUPPORTED_MEDIA_TYPE, "The content type isn't taken", "see the content types that /docs lists for this route";
    /// Memory would run out.
    TooBusy = "too_busy", TOO_MANY_REQUESTS, "More is coming in than can be taken", "send again after the time that Retry-After gives";
    /// The disk would run out.
    DiskLow = "disk_low", TOO_MANY_REQUESTS, "The disk is nearly full: no events are taken", "make room on the service's disk; send again after the time that Retry-After gives";
    /// The records asked for aren't folded yet.
    Behind = "behind", PRECONDITION_FAILED, "What was asked for isn't folded yet", "ask again after the time that Retry-After gives";
    /// A partition isn't served right now.
    NotServed = "not_served", SERVICE_UNAVAILABLE, "The account's partition isn't served right now", "ask again after the time that Retry-After gives";
    /// A partition has stopped for good.
    PartitionFailed = "partition_failed", SERVICE_UNAVAILABLE, "The account's partition has stopped", "`detail` says why; the operator restarts the service, see deploy/RUNBOOK.md";
    /// The owner of the partition, another instance, is silent.
    OwnerSilent = "owner_silent", SERVICE_UNAVAILABLE, "The instance that owns the partition doesn't answer", "ask again after the time that Retry-After gives; its partitions are given to others soon if it stays away";
    /// This instance may have lost its partitions without knowing it yet.
    HeldUp = "held_up", SERVICE_UNAVAILABLE, "This instance was held up and answers no reads yet", "ask again after the time that Retry-After gives, or ask another instance";
    /// Kafka can't be asked, or doesn't take what is sent.
    LogUnavailable = "log_unavailable", SERVICE_UNAVAILABLE, "The log can't be reached right now", "send again after the time that Retry-After gives; what isn't acknowledged may be sent again safely";
    /// It is being shut down.
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, "The service is shutting down", "send again after the time that Retry-After gives";
    /// It took too long.
    TimedOut = "timed_out", REQUEST_TIMEOUT, "The request took too long to arrive", "send the request without long pauses";
    /// Our fault.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The service failed", "the service's log says more under the request id; see deploy/RUNBOOK.md";
}

/// All codes are named, so that a client's generated code can branch on them.
impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let codes = Self::ALL.iter().map(|code| code.as_str());
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(codes))
            .description(Some("Stable: branch on this."))
            .examples([Self::BadParameter.as_str()])
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> std::borrow::Cow<'static, str> {
        "ProblemCode".into()
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// What is wrong this time.
    pub detail: String,
    /// The parameter or field at fault.
    pub field: Option<String>,
    /// What to do about it; as for every problem of the code, unless this one has a cure of its own.
    pub cure: &'static str,
    /// Seconds after which to try again.
    pub retry_after_s: Option<u32>,
    /// What had been dealt with when it arose.
    pub results: Option<Box<EventsBody>>,
}

/// A problem as it is sent (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// Of the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:reckon:problem:bad_parameter")]
    pub kind: String,
    /// The same for every problem of the code.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Stable: branch on this.
    #[schema(value_type = Code)]
    pub code: &'static str,
    /// What is wrong this time.
    pub detail: String,
    /// The parameter or field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    pub cure: &'static str,
    /// The request's first events or records, as far as they had been dealt with; the rest wasn't looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventResult>>)]
    pub results: Option<Box<RawValue>>,
    /// How many of `results` are in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<usize>,
    /// How many of `results` are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<usize>,
}

impl Problem {
    /// A problem of that code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            field: None,
            cure: code.cure(),
            retry_after_s: matches!(
                code.status(),
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::PRECONDITION_FAILED
            )
            .then_some(1),
            results: None,
        }
    }

    /// One that blames a parameter.
    pub fn parameter(field: &str, detail: impl Into<String>) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::new(Code::BadParameter, detail)
        }
    }

    /// Nothing is known of the account.
    pub fn account_unknown(account: &str) -> Self {
        Self::new(
            Code::AccountUnknown,
            format!("no record of account {account:?} is folded"),
        )
    }

    /// With a cure of its own.
    #[must_use]
    pub fn with_cure(mut self, cure: &'static str) -> Self {
        self.cure = cure;
        self
    }

    /// With another time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// With what had been dealt with before.
    #[must_use]
    pub fn with_results(mut self, results: Results) -> Self {
        if !results.is_empty() {
            self.results = results.into_body().ok().map(Box::new);
        }
        self
    }

    /// The body.
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:reckon:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.as_str(),
            detail: self.detail.clone(),
            field: self.field.clone(),
            cure: self.cure,
            results: self.results.as_ref().map(|r| r.results.clone()),
            accepted: self.results.as_ref().map(|r| r.accepted),
            refused: self.results.as_ref().map(|r| r.refused),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        if status.is_server_error() && self.code == Code::Internal {
            tracing::error!(detail = %self.detail, "a request failed");
        }
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ReadError> for Problem {
    fn from(cause: ReadError) -> Self {
        match cause {
            ReadError::NotServed { .. } => Self::new(Code::NotServed, cause.to_string()),
            ReadError::Stopped { .. } => Self::new(Code::PartitionFailed, cause.to_string()),
            ReadError::Failed(PartitionError::Log(cause)) => cause.into(),
            ReadError::Failed(_) => Self::new(Code::Internal, cause.to_string()),
        }
    }
}

impl From<LogError> for Problem {
    fn from(cause: LogError) -> Self {
        match cause {
            LogError::DiskFull { .. } => Self::new(Code::DiskLow, cause.to_string()).retry_after(10),
            LogError::NoPartition { .. } => Self::new(Code::OutputUnknown, cause.to_string()),
            LogError::HistoryLost { .. } => Self::new(Code::Conflict, cause.to_string()),
            LogError::Kafka { .. } => Self::new(Code::LogUnavailable, cause.to_string()).retry_after(2),
            LogError::Interrupted { .. } | LogError::NotOwned { .. } => Self::new(Code::NotServed, cause.to_string()),
            _ => Self::new(Code::Internal, cause.to_string()),
        }
    }
}
