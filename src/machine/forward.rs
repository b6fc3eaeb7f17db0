//! Events found in another partition than their account's (RULES §1): forwarded once, judged there.

use super::accounts::Accounts;
use super::digest::Mark;
use super::fold::{Machine, Record};
use crate::model::Ms;
use crate::model::placement::partition_of;
use crate::model::reject::{Reject, RejectReason};
use crate::wire::record::account_of;

/// An event that is to be appended to its own partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where it was found.
    pub offset: u64,
    /// The partition it belongs to.
    pub to: u32,
    /// When the log took it where it was found.
    pub append_ms: Ms,
    /// As received.
    pub bytes: Vec<u8>,
}

impl Record<'_> {
    /// When the log took the event first: a forwarded one may have been under way for long.
    pub fn arrived_ms(&self) -> Ms {
        match self.headers.forwarded {
            Some(first) => self.append_ms.min(first.append_ms),
            None => self.append_ms,
        }
    }
}

impl Machine {
    /// Whether the event of an account without a number here belongs elsewhere; then it is dealt with. Those that have a number
    /// are at home: a misplaced one never gets one.
    pub(super) fn passes_on(&mut self, record: &Record<'_>, account: &str) -> bool {
        let to = partition_of(account, self.partition_count);
        if to == self.partition {
            return false;
        }
        if record.headers.forwarded.is_some() {
            let detail = format!("forwarded once already; {account:?} lives in partition {to}");
            self.reject(record, Reject::new(RejectReason::WrongPartition, "account_id", detail));
            return true;
        }
        self.counters.forwarded += 1;
        self.digest.note(
            Mark::Forward,
            Accounts::hash(account),
            [to.into(), record.append_ms as u64],
        );
        self.outputs.pass_on(Forward {
            offset: record.offset,
            to,
            append_ms: record.append_ms,
            bytes: record.bytes.to_vec(),
        });
        true
    }

    /// An event that no decoder could read, or that can't be one: rejected where its account lives, if it names one.
    pub(super) fn bad_event(&mut self, record: &Record<'_>, reject: &Reject) {
        let elsewhere = self.partition_count > 1
            && account_of(record.bytes).is_some_and(|account| self.passes_on(record, &account));
        if !elsewhere {
            self.reject(record, reject.clone());
        }
    }
}
