//! The control records of a log: which ids are in it, and which version was the last.
//!
//! Anybody who may write events can write what looks like a control record: so only those count that an operator's key has signed,
//! of the keys that hold at that place, as for the fold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;

use super::KafkaLog;
use super::emitter::read_output;
use super::fetch::read_headers;
use super::reader::{Readers, Seen, Want};
use crate::log::{Log, LogError};
use crate::machine::authority::Authority;
use crate::machine::control::is_for_everyone;
use crate::machine::output::Topic;
use crate::wire::pb::control::Body;
use crate::wire::record::Kind;
use crate::wire::signature::{Keys, verify};
use crate::wire::{control, operator_keys, pb};

/// How long the brokers may be silent while the log is read.
const SILENCE: Duration = Duration::from_secs(60);

/// Records between two words on how far it is.
const PROGRESS_EVERY: u64 = 16_384;

/// Control records that are in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Ids of those that weren't rejected.
    pub ids: BTreeSet<String>,
    /// Last `control_version` that wasn't rejected.
    pub version: u64,
}

/// The records of one partition, in their order.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// By which records hold at this place.
    keys: Keys,
    /// Keys that ever held.
    ever: Keys,
    /// The genesis names keys.
    is_signed: bool,
    /// The first records are gone: neither which keys hold now nor the version can be told from what is left.
    is_cut: bool,
    known: Known,
}

impl Ledger {
    fn genesis(&mut self, bytes: &[u8]) {
        let genesis = pb::Genesis::decode(bytes).unwrap_or_default();
        if let Authority::Signed { keys, .. } = Authority::of_genesis(&genesis) {
            self.ever.clone_from(&keys);
            (self.keys, self.is_signed) = (keys, true);
        }
    }

    /// Takes a record that isn't among the rejects. The fold may not have come to it yet.
    fn take(&mut self, log_id: &str, bytes: &[u8], signature: Option<&str>) {
        let keys = if self.is_cut { &self.ever } else { &self.keys };
        if self.is_signed && verify(signature, log_id, bytes, keys).is_err() {
            return;
        }
        let Ok(control) = control::decode(bytes) else { return };
        // A copy says nothing new, whoever made it.
        if self.known.ids.contains(&control.id) {
            return;
        }
        if is_for_everyone(&control) && !self.is_cut {
            if control.control_version != self.known.version + 1 {
                return;
            }
            if let Some(Body::OperatorKeys(change)) = &control.body {
                let Ok(keys) = operator_keys::changed(&self.keys, change) else {
                    return;
                };
                self.ever.extend(keys.clone());
                self.keys = keys;
            }
            self.known.version = control.control_version;
        }
        self.known.ids.insert(control.id);
    }
}

impl KafkaLog {
    /// Reads every partition from its first record to its end as it is now, so nothing that a writer wrote is missed which was
    /// fenced before. `progress` is told how many offsets are read, and of how many.
    pub fn control_records(&self, mut progress: impl FnMut(u64, u64)) -> Result<Known, LogError> {
        let readers = Readers::of_much(self.settings().clone());
        let rejected = self.rejected(&readers)?;
        let events = self.settings().events();
        let mut bounds = BTreeMap::new();
        for partition in 0..self.identity().partition_count {
            // To the end of what isn't committed yet too: behind a transaction that is still open there may be control records.
            let start = readers.ends(&events, partition)?.0;
            bounds.insert(partition, (start, self.high_and_stable(partition)?.0));
        }
        let total: u64 = bounds.values().map(|(start, end)| end.saturating_sub(*start)).sum();
        let mut done = 0;
        let mut known = Known::default();
        let (mut ever, mut is_signed) = (Keys::new(), false);
        // Those that have their genesis tell the keys also for those that lost it; what is for everyone is in each of them.
        for is_cut in [false, true] {
            let from: Vec<(&str, u32, u64)> = bounds
                .iter()
                .filter(|(_, (start, _))| (*start > 0) == is_cut)
                .map(|(partition, (start, _))| (events.as_str(), *partition, *start))
                .collect();
            let new = Ledger {
                ever: ever.clone(),
                is_signed,
                is_cut,
                ..Ledger::default()
            };
            let mut ledgers: BTreeMap<u32, Ledger> = from.iter().map(|(_, p, _)| (*p, new.clone())).collect();
            self.read_ledgers(&readers, &from, &bounds, &rejected, &mut ledgers, |records| {
                progress(done + records, total);
            })?;
            for (partition, ledger) in ledgers {
                let (start, end) = bounds[&partition];
                done += end.saturating_sub(start);
                ever.extend(ledger.ever);
                is_signed |= ledger.is_signed;
                known.version = known.version.max(ledger.known.version);
                known.ids.extend(ledger.known.ids);
            }
        }
        Ok(known)
    }

    /// Offsets of the input that were rejected, as far as that is known.
    fn rejected(&self, readers: &Readers) -> Result<BTreeSet<(u32, u64)>, LogError> {
        let rejects = self.settings().output(Topic::Rejects);
        let mut starts = Vec::new();
        for partition in 0..self.identity().partition_count {
            starts.push((rejects.as_str(), partition, readers.ends(&rejects, partition)?.0));
        }
        let mut rejected = BTreeSet::new();
        readers.read(&starts, SILENCE, |_, partition, seen| match seen {
            Seen::Record(message) => {
                let output = read_output(Topic::Rejects, message);
                if let Some(reject) = output.and_then(|o| pb::Rejected::decode(o.body.as_slice()).ok()) {
                    rejected.insert((partition, reject.offset));
                }
                Want::More
            }
            Seen::End(_) => Want::Enough,
        })?;
        Ok(rejected)
    }

    fn read_ledgers(
        &self,
        readers: &Readers,
        from: &[(&str, u32, u64)],
        bounds: &BTreeMap<u32, (u64, u64)>,
        rejected: &BTreeSet<(u32, u64)>,
        ledgers: &mut BTreeMap<u32, Ledger>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), LogError> {
        let log_id = &self.identity().log_id;
        let mut signature = String::new();
        let mut records = 0u64;
        let want = |partition: u32, read_to: u64| {
            let is_over = bounds.get(&partition).is_none_or(|(_, end)| read_to >= *end);
            if is_over { Want::Enough } else { Want::More }
        };
        readers.read(from, SILENCE, |_, partition, seen| {
            let message = match seen {
                Seen::Record(message) => message,
                Seen::End(end) => return want(partition, end),
            };
            records += 1;
            if records.is_multiple_of(PROGRESS_EVERY) {
                progress(records);
            }
            let kind = read_headers(message, &mut signature).0;
            let Some(ledger) = ledgers.get_mut(&partition) else {
                return Want::Enough;
            };
            match kind {
                Kind::Genesis if message.offset() == 0 => ledger.genesis(message.payload()),
                Kind::Control if !rejected.contains(&(partition, message.offset())) => {
                    let signature = (!signature.is_empty()).then_some(signature.as_str());
                    ledger.take(log_id, message.payload(), signature);
                }
                _ => {}
            }
            want(partition, message.offset() + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::key_pair::KeyPair;
    use crate::wire::signature::Signer;

    const LOG: &str = "log-1";

    fn signer(id: &str, secret: u8) -> Signer {
        Signer::new(id, KeyPair::from_secret(&[secret; 32]))
    }

    fn record(id: &str, version: u64, body: Body) -> Vec<u8> {
        pb::Control {
            id: id.to_owned(),
            control_version: version,
            body: Some(body),
            ..pb::Control::default()
        }
        .encode_to_vec()
    }

    fn hold(id: &str, version: u64) -> Vec<u8> {
        let hold = pb::HoldClose {
            period: "2026-09".to_owned(),
            account_id: String::new(),
        };
        record(id, version, Body::HoldClose(hold))
    }

    fn ledger(signer: &Signer) -> Ledger {
        let mut ledger = Ledger::default();
        let genesis = pb::Genesis {
            keys: vec![signer.operator_key()],
            ..pb::Genesis::default()
        };
        ledger.genesis(&genesis.encode_to_vec());
        ledger
    }

    #[test]
    fn what_no_operator_has_signed_is_no_record() {
        let (ops, other) = (signer("ops", 1), signer("ops", 2));
        let mut ledger = ledger(&ops);
        let wish = hold("prices-2026-10", 1_000_000_000_000);
        ledger.take(LOG, &wish, None);
        ledger.take(LOG, &wish, Some(&other.sign(LOG, &wish)));
        ledger.take(LOG, &wish, Some(&ops.sign("log-2", &wish)));
        assert_eq!(ledger.known, Known::default());
        // Signed, but not the next one: the fold will reject it.
        ledger.take(LOG, &wish, Some(&ops.sign(LOG, &wish)));
        assert_eq!(ledger.known, Known::default());
        let good = hold("prices-2026-10", 1);
        ledger.take(LOG, &good, Some(&ops.sign(LOG, &good)));
        assert_eq!(
            (ledger.known.version, ledger.known.ids.contains("prices-2026-10")),
            (1, true)
        );
    }

    #[test]
    fn the_keys_are_those_of_the_place() {
        let (old, new) = (signer("old", 1), signer("new", 2));
        let mut ledger = ledger(&old);
        let change = record(
            "rotate",
            1,
            Body::OperatorKeys(pb::OperatorKeys {
                add: vec![new.operator_key()],
                remove: vec!["old".to_owned()],
            }),
        );
        let first = hold("a", 1);
        ledger.take(LOG, &first, Some(&new.sign(LOG, &first)));
        assert_eq!(ledger.known.version, 0, "not yet a key of the log");
        ledger.take(LOG, &change, Some(&old.sign(LOG, &change)));
        let (by_old, by_new) = (hold("b", 2), hold("c", 2));
        ledger.take(LOG, &by_old, Some(&old.sign(LOG, &by_old)));
        ledger.take(LOG, &by_new, Some(&new.sign(LOG, &by_new)));
        let ids: Vec<&str> = ledger.known.ids.iter().map(String::as_str).collect();
        assert_eq!((ledger.known.version, ids), (2, vec!["c", "rotate"]));
        // Where the beginning is gone, both may have held, and the version is told by the others.
        let mut cut = Ledger {
            ever: ledger.ever.clone(),
            is_signed: true,
            is_cut: true,
            ..Ledger::default()
        };
        for (bytes, by) in [(&by_old, &old), (&by_new, &new), (&first, &signer("old", 9))] {
            cut.take(LOG, bytes, Some(&by.sign(LOG, bytes)));
        }
        let ids: Vec<&str> = cut.known.ids.iter().map(String::as_str).collect();
        assert_eq!((cut.known.version, ids), (0, vec!["b", "c"]));
    }
}
