//! Reads over a partition as it stands in memory, with what the store holds beneath it.

use std::collections::BTreeMap;

use memchr::memmem;

use super::PartitionError;
use super::worker::Partition;
use crate::machine::calls::{Call, Slot};
use crate::machine::output::{Output, Topic, calls_of};
use crate::machine::paging::Joining;
use crate::machine::usage::{Bucket, BucketKey, Span};
use crate::machine::verdict::{self, Correction, Verdict};
use crate::model::Ms;
use crate::model::id::CallKey;
use crate::model::outcome::{Outcome, Reason};
use crate::model::period::Month;
use crate::store::bytes::Damaged;
use crate::store::keys::{self, table};
use crate::store::values::Stored;
use crate::wire::pb;
use crate::wire::pb::statement_record::Body;

/// Outputs read from the log at a time.
const OUTPUTS_AT_A_TIME: usize = 256;

/// Service, product, meter, class.
pub type UsageKey = (String, String, String, &'static str);

/// One account's month as now known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonthUsage {
    /// In units of 10^-9, zeros left out.
    pub usage: BTreeMap<UsageKey, i128>,
    /// Calls by outcome.
    pub outcomes: BTreeMap<&'static str, i64>,
    /// Calls by reason.
    pub reasons: BTreeMap<&'static str, i64>,
}

/// All that is known of one call.
#[derive(Clone, Debug)]
pub struct KnownCall {
    /// Its facts.
    pub call: Call,
    /// The operator's word.
    pub correction: Option<Correction>,
    /// What they come to now, every wait taken as over.
    pub verdict: Verdict,
    /// When its wait ends, if it is open.
    pub due: Option<Ms>,
}

impl Partition {
    /// Every account's months as now known: store, and what memory holds above it.
    pub fn usage(&self, account: Option<&str>) -> Result<BTreeMap<(String, Month), MonthUsage>, PartitionError> {
        let only = match account {
            Some(id) => match self.machine.accounts.find(id) {
                Some(number) => Some(number),
                None => return Ok(BTreeMap::new()),
            },
            None => None,
        };
        let mut months: BTreeMap<(u32, Month), MonthUsage> = BTreeMap::new();
        let mut prefix = vec![table::BUCKET];
        if let Some(number) = only {
            prefix.extend_from_slice(&number.to_be_bytes());
        }
        let cold = &self.machine.cold.buckets;
        self.rocks.scan(&prefix, |key, bytes| {
            let key = keys::parse_bucket(key).ok_or(Damaged {
                what: "key of a bucket",
            })?;
            // A whole bucket in memory stands for the stored one; a partial one comes on top of it.
            let replaced = cold.get(&key).is_some_and(|b| !b.partial);
            if key.1 == Span::Day && !replaced {
                self.sum(&mut months, key, &Bucket::from_bytes(bytes)?);
            }
            Ok(())
        })?;
        for (key, bucket) in cold.iter().filter(|(k, _)| k.1 == Span::Day) {
            if only.is_none_or(|number| number == key.0) {
                self.sum(&mut months, *key, bucket);
            }
        }
        for (number, owner) in self.machine.accounts.iter() {
            if let Some(latest) = &owner.day
                && only.is_none_or(|n| n == number)
            {
                self.sum(
                    &mut months,
                    (number, Span::Day, latest.month, latest.place),
                    &latest.bucket,
                );
            }
        }
        Ok(months
            .into_iter()
            .filter_map(|((number, month), mut usage)| {
                usage.usage.retain(|_, nano| *nano != 0);
                usage.outcomes.retain(|_, calls| *calls != 0);
                usage.reasons.retain(|_, calls| *calls != 0);
                let id = self.machine.accounts.get(number)?.id.to_string();
                Some(((id, month), usage))
            })
            .collect())
    }

    fn sum(&self, months: &mut BTreeMap<(u32, Month), MonthUsage>, key: BucketKey, bucket: &Bucket) {
        let symbols = &self.machine.names.symbols;
        let month = months.entry((key.0, key.2)).or_default();
        for line in &bucket.lines {
            for &(meter, nano) in &line.meters {
                let key = (
                    symbols.name(line.key.service).to_owned(),
                    symbols.name(line.key.product).to_owned(),
                    symbols.name(meter).to_owned(),
                    line.key.class.as_str(),
                );
                let sum = month.usage.entry(key).or_default();
                *sum = sum.saturating_add(nano);
            }
        }
        for &((outcome, reason), calls) in &bucket.counts {
            *month.outcomes.entry(Outcome::as_str(outcome)).or_default() += calls;
            *month.reasons.entry(Reason::as_str(reason)).or_default() += calls;
        }
    }

    /// The next outputs of a topic in order, those that aren't delivered yet included; none: there are no more.
    pub fn outputs_after(&self, topic: Topic, after: u64) -> Result<Vec<Output>, PartitionError> {
        let outputs = self.log.read_outputs(self.number, topic, after, OUTPUTS_AT_A_TIME)?;
        if !outputs.is_empty() {
            return Ok(outputs);
        }
        let mut after = after;
        let mut waiting = Vec::new();
        for output in self.unsent.iter().chain(&self.machine.outputs.pending) {
            if output.topic == topic && output.sequence > after {
                after = output.sequence;
                waiting.push(output.clone());
            }
        }
        Ok(waiting)
    }

    /// Every output of a topic in order, those that aren't delivered yet included.
    pub fn outputs(
        &self,
        topic: Topic,
        mut take: impl FnMut(&Output) -> Result<(), PartitionError>,
    ) -> Result<(), PartitionError> {
        let mut after = 0;
        loop {
            let outputs = self.outputs_after(topic, after)?;
            let Some(last) = outputs.last() else {
                return Ok(());
            };
            after = last.sequence;
            outputs.iter().try_for_each(&mut take)?;
        }
    }

    /// Every verdict and amendment in the order in which they were decided.
    pub fn verdicts(&self, take: impl FnMut(pb::CallSettled)) -> Result<(), PartitionError> {
        self.verdicts_in(|_| true, take)
    }

    /// Those of one call. Only what holds its id is decoded.
    pub fn verdicts_of(
        &self,
        account: &str,
        call: &str,
        mut take: impl FnMut(pb::CallSettled),
    ) -> Result<(), PartitionError> {
        let id = memmem::Finder::new(call);
        self.verdicts_in(
            |chunk| id.find(chunk).is_some(),
            |verdict| {
                if verdict.account_id == account && verdict.call_id == call {
                    take(verdict);
                }
            },
        )
    }

    fn verdicts_in(
        &self,
        wanted: impl Fn(&[u8]) -> bool,
        mut take: impl FnMut(pb::CallSettled),
    ) -> Result<(), PartitionError> {
        let mut chunk = |body: &[u8]| {
            if wanted(body) {
                let calls = calls_of(body).map_err(|_| {
                    self.rocks.damaged(Damaged {
                        what: "chunk of the calls output",
                    })
                })?;
                calls.into_iter().for_each(&mut take);
            }
            Ok(())
        };
        self.outputs(Topic::Calls, |output| chunk(&output.body))?;
        chunk(&self.machine.outputs.calls)
    }

    /// All that the statements topic says in order, with its sequence; a statement's pages put together, under the first one's.
    pub fn statements(&self, mut take: impl FnMut(u64, Body)) -> Result<(), PartitionError> {
        let mut joining = Joining::default();
        self.outputs(Topic::Statements, |output| {
            let record: pb::StatementRecord = prost::Message::decode(output.body.as_slice()).map_err(|_| {
                self.rocks.damaged(Damaged {
                    what: "statement record",
                })
            })?;
            match record.body {
                Some(Body::PeriodClosed(page)) => {
                    if let Some((sequence, closed)) = joining.take(output.sequence, page) {
                        take(sequence, Body::PeriodClosed(closed));
                    }
                }
                Some(body) => take(output.sequence, body),
                None => {}
            }
            Ok(())
        })
    }

    /// One call, if it isn't forgotten.
    pub fn call(&self, account: &str, call: &str) -> Result<Option<KnownCall>, PartitionError> {
        let Some(account) = self.machine.accounts.find(account) else {
            return Ok(None);
        };
        let key = CallKey::parse(call);
        let hash = key.hash(account);
        if let Some(slot) = self.machine.calls.find(account, &key, hash) {
            return Ok(self.resident(slot));
        }
        let Some(packed) = self.shelf.find(&self.rocks, account, &key, hash)? else {
            return Ok(None);
        };
        let correction = packed.correction.map(|c| *c);
        Ok(Some(KnownCall {
            verdict: verdict::verdict(
                &packed.call.evidence,
                self.machine.policy_of(packed.call.policy),
                correction.as_ref(),
                &self.machine.names,
            ),
            call: packed.call,
            correction,
            due: None,
        }))
    }

    pub(super) fn resident(&self, slot: Slot) -> Option<KnownCall> {
        let call = self.machine.calls.get(slot)?.clone();
        let verdict = self.machine.verdict_of(slot)?;
        let policy = self.machine.policy_of(call.policy);
        let due = (!call.is_settled()).then(|| {
            let wait = call.changed.saturating_add(verdict.ruling.wait.length_ms(policy));
            wait.min(call.since.saturating_add(policy.max_open_ms))
        });
        Some(KnownCall {
            correction: self.machine.calls.corrections.get(&slot).map(|c| c.as_ref().clone()),
            call,
            verdict,
            due,
        })
    }

    /// When the last timer is due that isn't a month's control record; `None` if there is none.
    pub fn last_timer(&self) -> Option<Ms> {
        let machine = &self.machine;
        let calls = machine
            .calls
            .iter()
            .filter(|(_, call)| !call.is_settled())
            .filter_map(|(slot, _)| self.resident(slot)?.due)
            .max();
        let closes = machine.closes.last().map(|c| c.0);
        let notices = machine.notices.last().map(|n| n.0);
        let controls = machine.months.keys().last().map(|&month| {
            crate::model::period::end_of_month_utc_minus_12(month).saturating_add(machine.policy().close_grace_ms)
        });
        // The control record of a month with a held account waits for its release.
        let controls = controls.filter(|due| machine.held.is_empty() || machine.now() < *due);
        [calls, closes, notices, controls].into_iter().flatten().max()
    }
}
