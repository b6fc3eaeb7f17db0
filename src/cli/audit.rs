//! The auditor beside the machine: a second computation of calls and usage from the log's records.

use std::collections::BTreeMap;

use prost::Message;

use super::CliError;
use crate::auditor::{Auditor, ClockSource, Entry, Findings, Word};
use crate::log::{Batch, Log};
use crate::machine::clock::Source;
use crate::partition::host::Host;
use crate::partition::worker::Partition;
use crate::wire::check::instant_ms;
use crate::wire::pb;
use crate::wire::record::{self, Kind};

/// What the comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Calls whose verdicts were compared.
    pub calls: u64,
    /// Sums that were compared.
    pub sums: u64,
    /// The first differences, in words.
    pub differences: Vec<String>,
}

/// What a record says to the auditor.
pub fn word(kind: Kind, bytes: &[u8]) -> Word {
    match kind {
        Kind::Event if record::is_json(bytes) => {
            crate::wire::json::decode(bytes).map_or(Word::Unreadable, |read| Word::Event(read.event))
        }
        Kind::Event => pb::CallEvent::decode(bytes).map_or(Word::Unreadable, Word::Event),
        Kind::Control => crate::wire::control::decode(bytes).map_or(Word::Unreadable, Word::Control),
        Kind::Tick => {
            let at = pb::Tick::decode(bytes).ok().and_then(|t| t.at);
            at.map_or(Word::Unreadable, |at| Word::Tick(instant_ms(&at)))
        }
        Kind::Genesis => Word::Unreadable,
    }
}

fn audit(log: &dyn Log, number: u32) -> Result<Findings, CliError> {
    let mut batch = Batch::default();
    log.poll(number, 0, 1, &mut batch)?;
    let genesis_ms = batch.get(0).map_or(0, |r| r.append_ms);
    let genesis = batch.get(0).and_then(|r| pb::Genesis::decode(r.bytes).ok());
    let source = match log.identity().source {
        Source::Append => ClockSource::Append,
        Source::Ticks => ClockSource::Ticks,
    };
    let mut auditor = Auditor::new(source, genesis_ms);
    auditor.placed(number, log.identity().partition_count);
    if let Some(genesis) = genesis {
        auditor.signed(&genesis.log_id, &genesis.keys);
    }
    let (mut next, end) = (1, log.end(number)?);
    while next < end {
        log.poll(number, next, 4 << 20, &mut batch)?;
        for polled in batch.iter() {
            next = polled.offset + 1;
            auditor.take(&Entry {
                offset: polled.offset,
                append_ms: polled.append_ms,
                word: word(polled.kind, polled.bytes),
                bytes: polled.bytes,
                signature: polled.headers.signature,
                forwarded: polled.headers.forwarded.map(|first| first.append_ms),
            });
        }
    }
    Ok(auditor.findings())
}

fn compare_partition(partition: &Partition, findings: &Findings, compared: &mut Compared) -> Result<(), CliError> {
    let mut own: BTreeMap<(String, String), (String, String, bool)> = BTreeMap::new();
    partition.verdicts(|call| {
        own.insert(
            (call.account_id, call.call_id),
            (call.outcome, call.reason, call.billed),
        );
    })?;
    for (key, verdict) in &findings.calls {
        compared.calls += 1;
        let same = own.remove(key).is_some_and(|own| {
            (own.0.as_str(), own.1.as_str(), own.2) == (verdict.outcome, verdict.reason, verdict.billed)
        });
        if !same {
            compared.differences.push(format!(
                "call {} of {}: the auditor says {}",
                key.1, key.0, verdict.reason
            ));
        }
    }
    compared.differences.extend(
        own.into_keys()
            .map(|key| format!("call {} of {}: the auditor has none", key.1, key.0)),
    );
    let mut audited = findings.usage.clone();
    for ((account, month), usage) in partition.usage(None)? {
        for ((service, product, meter, class), nano) in usage.usage {
            compared.sums += 1;
            let key = (account.clone(), month.to_string(), service, product, meter, class);
            if audited.remove(&key) != Some(nano) {
                compared.differences.push(format!("usage {key:?} differs"));
            }
        }
    }
    compared.differences.extend(
        audited
            .into_keys()
            .map(|key| format!("usage {key:?} is the auditor's alone")),
    );
    Ok(())
}

/// Audits every partition from its first record on.
pub fn compare(host: &Host) -> Result<Compared, CliError> {
    let mut compared = Compared::default();
    for partition in &host.partitions {
        let findings = audit(host.log.as_ref(), partition.number)?;
        compare_partition(partition, &findings, &mut compared)?;
    }
    Ok(compared)
}
