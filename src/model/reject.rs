//! Why a record was not folded (RULES §5).

use std::borrow::Cow;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $cure:literal;)+) => {
        /// The reasons, in order of precedence: a record that several fit gets the first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum RejectReason { $($(#[$doc])* $variant,)+ }

        impl RejectReason {
            /// All reasons in order of precedence.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The stable identifier.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
            /// What the producer should do about it.
            pub const fn cure(self) -> &'static str { match self { $(Self::$variant => $cure,)+ } }
        }
    };
}

reasons! {
    /// No decoder could read the bytes.
    Undecodable = "undecodable", "send one CallEvent as protobuf or as a JSON object";
    /// A required field is absent or empty.
    MissingField = "missing_field", "set the field on every event";
    /// An id is over 128 bytes or has control characters.
    BadId = "bad_id", "use at most 128 bytes of UTF-8 without control characters";
    /// An enum number or name that the contract doesn't have.
    UnknownEnum = "unknown_enum", "use a value of proto/reckon/v1/events.proto";
    /// A quantity that can't be one.
    BadQuantity = "bad_quantity", "send cumulative, non-negative quantities of the contract's meters or x.<vendor>.<name>, scale 0 to 9";
    /// `occurred_at` lies too far ahead.
    Ahead = "ahead", "synchronise the producer's clock";
    /// A `ticks` log has had no tick yet.
    NoClock = "no_clock", "append a tick before the first event";
    /// `occurred_at` is before the late line.
    TooLate = "too_late", "deliver within the amendment window; later changes are manual adjustments";
    /// Larger than a limit allows.
    TooLarge = "too_large", "stay within the contract's sizes";
    /// A tick that disagrees with its own append time, or isn't a tick.
    BadTick = "bad_tick", "check the clock of the partition's owner";
    /// A control record or tick without the operator's authority.
    NotAuthorised = "not_authorised", "sign it with one of the log's operator keys";
    /// A control record, or an event that was forwarded once already, in a partition that isn't its account's.
    WrongPartition = "wrong_partition", "publish it to the account's partition";
    /// `control_version` isn't the last accepted + 1.
    BadVersion = "bad_version", "read the last control_version and publish with the next";
    /// A correction for a call that is unknown or forgotten.
    CallForgotten = "call_forgotten", "make a manual adjustment instead";
    /// The id of an accepted control record again, with other bytes.
    ConflictingId = "conflicting_id", "give every control record an id of its own";
    /// A rate card for a time that is already settled.
    NotEffective = "not_effective", "let it begin at the start of the running month at the earliest";
    /// Issued longer ago than the amendment window.
    Expired = "expired", "issue the record anew";
    /// A control record with content that can't hold.
    BadControl = "bad_control", "mend the field and publish it under a new id";
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A named rejection of one record: never an `Err` of the fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// The field at fault, as a path of proto names; empty if none.
    pub field: Cow<'static, str>,
    /// What was found there. The fold puts it into the rejects output, and so into the digest: its words never change.
    pub detail: String,
    /// The same in more words, with the cure, for whoever sent it. The fold leaves them out.
    told: Option<String>,
}

impl Reject {
    /// A rejection that blames `field`.
    pub fn new(reason: RejectReason, field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.into(),
            detail: detail.into(),
            told: None,
        }
    }

    /// With what its sender is told instead of the detail.
    #[must_use]
    pub fn telling(mut self, words: impl Into<String>) -> Self {
        self.told = Some(words.into());
        self
    }

    /// As its sender is told.
    #[must_use]
    pub fn for_sender(mut self) -> Self {
        if let Some(words) = self.told.take() {
            self.detail = words;
        }
        self
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if !self.field.is_empty() {
            write!(f, " in {}", self.field)?;
        }
        write!(f, ": {}; {}", self.detail, self.reason.cure())
    }
}
