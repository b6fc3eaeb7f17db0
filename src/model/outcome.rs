//! What a call came to: outcome, reason, class (RULES §4).

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All values in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The stable identifier.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
            /// The value with this place in [`Self::ALL`].
            pub fn from_index(index: u8) -> Option<Self> { Self::ALL.get(usize::from(index)).copied() }
        }
    };
}

named! {
    /// A call's final outcome.
    Outcome {
        /// The client got what it asked for.
        Success = "success",
        /// The client left mid-success.
        Disconnected = "disconnected",
        /// Anything else: not charged.
        Failed = "failed",
    }
}

named! {
    /// Why the outcome is what it is: the stable codes of RULES §4.
    Reason {
        /// Row 1.
        OperatorBilled = "operator_billed",
        /// Row 1.
        OperatorWaived = "operator_waived",
        /// Row 2.
        TaskCompleted = "task_completed",
        /// Row 2.
        TaskFailed = "task_failed",
        /// Row 2.
        TaskExpired = "task_expired",
        /// Row 2.
        TaskCancelled = "task_cancelled",
        /// Row 3.
        Conflict = "conflict",
        /// Row 4, client status 429.
        RejectedRateLimit = "rejected_rate_limit",
        /// Row 4, client status 402.
        RejectedCredit = "rejected_credit",
        /// Row 4, other.
        RejectedRequest = "rejected_request",
        /// Row 5.
        Overloaded = "overloaded",
        /// Row 5.
        InBandError = "in_band_error",
        /// Row 5.
        UpstreamError = "upstream_error",
        /// Row 5.
        UpstreamBroken = "upstream_broken",
        /// Row 5.
        UpstreamTimeout = "upstream_timeout",
        /// Row 6.
        GatewayAborted = "gateway_aborted",
        /// Row 7.
        Truncated = "truncated",
        /// Row 8.
        IdempotentReplay = "idempotent_replay",
        /// Row 9.
        UpstreamFailed = "upstream_failed",
        /// Row 10.
        Completed = "completed",
        /// Row 10, error type refusal.
        Refused = "refused",
        /// Rows 11 and 13.
        GoneCompleted = "gone_completed",
        /// Row 12.
        GoneUpstreamFailed = "gone_upstream_failed",
        /// Row 14.
        GoneOnTrack = "gone_on_track",
        /// Rows 15 and 16.
        GoneUnproven = "gone_unproven",
        /// Row 17.
        GoneBeforeAccept = "gone_before_accept",
        /// Row 18.
        UpstreamOnly = "upstream_only",
        /// Row 19.
        Unresolved = "unresolved",
    }
}

named! {
    /// The class under which a call's quantities are summed.
    Class {
        /// Billed success.
        Success = "success",
        /// Billed disconnected.
        Disconnected = "disconnected",
        /// Billed disconnected, a quantity won by an estimate.
        DisconnectedEstimated = "disconnected_estimated",
        /// Not billed: kept so that what wasn't charged can be shown.
        Unbilled = "unbilled",
    }
}

impl Class {
    /// RULES §4, *Class*.
    pub const fn of(outcome: Outcome, billed: bool, estimated: bool) -> Self {
        match (billed, outcome, estimated) {
            (true, Outcome::Disconnected, true) => Self::DisconnectedEstimated,
            (true, Outcome::Disconnected, false) => Self::Disconnected,
            (true, _, _) => Self::Success,
            (false, _, _) => Self::Unbilled,
        }
    }

    /// Whether quantities of this class are charged.
    pub const fn is_billed(self) -> bool {
        !matches!(self, Self::Unbilled)
    }
}

/// The 19 rows of the verdict table in words, for people; index = row − 1.
pub const ROWS: [&str; 19] = [
    "the operator corrected it",
    "the task ended",
    "the edge's words contradict each other",
    "the edge rejected the request",
    "the upstream answered with an error, broke off or took too long",
    "the gateway aborted the call",
    "completed, but the declared end of the stream is missing",
    "a stored answer was served again",
    "completed at the edge, but the upstream failed",
    "completed",
    "the client left, the upstream completed",
    "the client left, the upstream failed",
    "the client left after the answer was complete",
    "the client left while the answer was on its way",
    "the client left after the answer began, nothing was seen of it",
    "the client left after the request was forwarded, no answer seen",
    "the client left before the request was forwarded",
    "the edge never spoke, the upstream completed",
    "no evidence decided it in time",
];
