//! Whose word changes money (RULES §1): whoever may write events may not write control records.

use super::clock::Source;
use super::fold::{Machine, Record};
use crate::model::Ms;
use crate::model::placement::partition_of;
use crate::model::reject::{Reject, RejectReason};
use crate::wire::operator_keys;
use crate::wire::pb;
use crate::wire::signature::{Keys, verify};

/// By what a partition knows the operator's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    /// The process is the log's only writer and has asked for a token: there is nothing to check.
    #[default]
    Process,
    /// Others write the log, too: the operator's records are signed.
    Signed {
        /// What signatures are for.
        log_id: String,
        /// Whose signatures hold.
        keys: Keys,
    },
}

impl Authority {
    /// What a genesis says. A key of it that is none is nobody's, so that the rest is asked for a signature all the same.
    pub fn of_genesis(genesis: &pb::Genesis) -> Self {
        if genesis.keys.is_empty() {
            return Self::Process;
        }
        let keys = genesis.keys.iter().map(std::slice::from_ref);
        Self::Signed {
            log_id: genesis.log_id.clone(),
            keys: keys
                .flat_map(|key| operator_keys::read(key).unwrap_or_default())
                .collect(),
        }
    }

    /// Whether records are signed.
    pub const fn is_signed(&self) -> bool {
        matches!(self, Self::Signed { .. })
    }

    /// Whether the record is the operator's.
    pub fn check(&self, record: &Record<'_>) -> Result<(), Reject> {
        let Self::Signed { log_id, keys } = self else {
            return Ok(());
        };
        match verify(record.headers.signature, log_id, record.bytes, keys) {
            Ok(_) => Ok(()),
            Err(cause) => Err(Reject::new(
                RejectReason::NotAuthorised,
                "reckon-signature",
                cause.to_string(),
            )),
        }
    }

    /// Changes the keys.
    pub(super) fn change(&mut self, change: &pb::OperatorKeys) -> Result<(), Reject> {
        let bad = |detail: String| Reject::new(RejectReason::BadControl, "operator_keys", detail);
        match self {
            Self::Process => Err(bad(
                "the log's genesis names no keys: its process is its only writer and asks for tokens".to_owned(),
            )),
            Self::Signed { keys, .. } => {
                *keys = operator_keys::changed(keys, change).map_err(|cause| bad(cause.to_string()))?;
                Ok(())
            }
        }
    }
}

impl Machine {
    /// Takes a tick in, or says why not. In a `ticks` log it is the operator's word.
    pub(super) fn take_tick(&mut self, record: &Record<'_>, at: Ms) -> Result<(), Reject> {
        // A tick may take many steps: its signature is looked at in the first.
        if self.clock.source == Source::Ticks && self.ticked_by != Some(record.offset) {
            self.authority.check(record)?;
            self.ticked_by = Some(record.offset);
        }
        self.clock.tick(at, record.append_ms)
    }

    /// Whether an account's own record is in the account's partition; one for everyone is everywhere in its place.
    pub(super) fn check_place(&self, account: Option<&str>) -> Result<(), Reject> {
        let Some(account) = account else { return Ok(()) };
        let home = partition_of(account, self.partition_count);
        if home == self.partition {
            return Ok(());
        }
        Err(Reject::new(
            RejectReason::WrongPartition,
            "account_id",
            format!("{account:?} lives in partition {home} of {}", self.partition_count),
        ))
    }
}
