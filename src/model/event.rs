//! One fact that one observer reports about one call: the borrowed form that every decoder fills.
//!
//! Numbers are those of `proto/reckon/v1/events.proto`. Unknown numbers never get here: they are rejected, `unknown_enum`.

use smallvec::SmallVec;

use super::Ms;

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)+ }

        impl $name {
            /// All values, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value with this contract number, if there is one.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The short JSON name, in lower case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

wire_enum! {
    /// What part of the call's life the event tells of.
    Phase {
        /// Admitted.
        Started = 1, "started";
        /// Upstream 2xx headers or first token.
        ResponseStarted = 2, "response_started";
        /// Still running.
        Progress = 3, "progress";
        /// One upstream try ended.
        AttemptEnded = 4, "attempt_ended";
        /// The observer's last word.
        Ended = 5, "ended";
        /// Quantities or status that come after the end.
        UsageReported = 6, "usage_reported";
    }
}

wire_enum! {
    /// Who saw it.
    Observer {
        /// Holds the client's socket.
        Edge = 1, "edge";
        /// Does the work.
        Upstream = 2, "upstream";
        /// A third party's report.
        Provider = 3, "provider";
    }
}

wire_enum! {
    /// What kind of call it is; unset is 0 in evidence and read as unary at the verdict.
    CallKind {
        /// One request, one answer.
        Unary = 1, "unary";
        /// A streamed answer.
        Stream = 2, "stream";
        /// A task that runs on without the client.
        AsyncTask = 3, "async_task";
        /// One item of a batch.
        BatchItem = 4, "batch_item";
        /// A slice of a long-lived connection.
        SessionSlice = 5, "session_slice";
    }
}

wire_enum! {
    /// How an observer saw the call, or an attempt, end.
    Cause {
        /// Ended by itself.
        Completed = 1, "completed";
        /// Disconnect, reset or client time-out.
        ClientGone = 2, "client_gone";
        /// Error status, or an error inside a 200 stream.
        UpstreamError = 3, "upstream_error";
        /// Reset or premature close.
        UpstreamBroken = 4, "upstream_broken";
        /// Upstream took too long.
        UpstreamTimeout = 5, "upstream_timeout";
        /// 4xx before the work was accepted.
        Rejected = 6, "rejected";
        /// Shutdown, reload, a gateway limit.
        GatewayAborted = 7, "gateway_aborted";
        /// Stopped because client or gateway cancelled; of a task, an explicit cancel.
        Cancelled = 8, "cancelled";
        /// A task that ran out of time.
        Expired = 9, "expired";
    }
}

wire_enum! {
    /// How far the request provably got; the order is the order of merging.
    Progress {
        /// Nothing known.
        Unknown = 0, "unspecified";
        /// Known not to have been forwarded.
        NotForwarded = 1, "not_forwarded";
        /// Forwarded to the upstream.
        Forwarded = 2, "forwarded";
        /// The answer had begun.
        ResponseStarted = 3, "response_started";
        /// The answer was complete.
        Complete = 4, "complete";
    }
}

wire_enum! {
    /// The application's own end of stream; the order is the order of merging (RULES §3).
    EndMarker {
        /// This producer can't see it.
        Unset = 0, "unspecified";
        /// Seen.
        Seen = 1, "seen";
        /// Declared missing.
        Missing = 2, "missing";
    }
}

wire_enum! {
    /// Where a quantity comes from; higher wins.
    Provenance {
        /// What the call may come to: exposure only, never billed.
        Reserved = 1, "reserved";
        /// Estimated.
        Estimated = 2, "estimated";
        /// Counted at the edge.
        EdgeCounted = 3, "edge_counted";
        /// Measured by the upstream.
        UpstreamMeasured = 4, "upstream_measured";
        /// Invoiced by the provider.
        ProviderInvoiced = 5, "provider_invoiced";
    }
}

/// How an observer saw it end; meaningful on `ended` and `attempt_ended` only (RULES §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// Why.
    pub cause: Cause,
    /// How far it had got.
    pub progress: Progress,
    /// Status line that reached the client's side; 0 = none. Larger than 65,535 is kept as 65,535: no rule tells them apart.
    pub client_status: u16,
    /// Status that the upstream gave; 0 = none.
    pub upstream_status: u16,
    /// The application's own end of stream.
    pub end_marker: EndMarker,
    /// `overloaded_error`, `refusal`, …; empty = none.
    pub error_type: &'a str,
}

/// One meter's cumulative quantity, `value × 10^-scale`, trailing zeros stripped so that equal amounts have one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The meter's name.
    pub meter: &'a str,
    /// Never negative.
    pub value: i64,
    /// 0..=9.
    pub scale: u8,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// A decoded event that passed every check which needs no clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Who pays.
    pub account: &'a str,
    /// Minted by the operator's edge.
    pub call: &'a str,
    /// What part of the call's life.
    pub phase: Phase,
    /// Who saw it.
    pub observer: Observer,
    /// Producer's clock.
    pub occurred_at: Ms,
    /// 0 = the call as a whole, or not known.
    pub attempt: u8,
    /// Monotonic per observer and call; 0 = not given.
    pub seq: u64,
    /// Empty = not given.
    pub service: &'a str,
    /// Empty = not given.
    pub product: &'a str,
    /// `None` = not given.
    pub kind: Option<CallKind>,
    /// On `ended` and `attempt_ended` always there; on other phases dropped by the decoder.
    pub end: Option<End<'a>>,
    /// Cumulative for the attempt.
    pub usage: SmallVec<[Reading<'a>; 4]>,
    /// Which producer; empty = not given. No evidence: who may send it and whether it is well hang on it.
    pub source: &'a str,
    /// At most 16 pairs; order as sent, a key twice: the last holds (as protobuf maps do).
    pub dimensions: SmallVec<[(&'a str, &'a str); 2]>,
    /// Set when a size limit is exceeded: the field. Judged after the clock's checks (RULES §5, order of reasons).
    pub too_large: Option<&'static str>,
    /// Fields that the contract doesn't have: left out and counted.
    pub unknown_fields: u32,
}
