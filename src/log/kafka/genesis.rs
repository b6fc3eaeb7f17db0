//! What a log on Kafka is: its identity, from the first record of each partition.

use std::collections::BTreeMap;

use super::READ_SILENCE;
use super::fetch::read_headers;
use super::reader::{Readers, Seen, Want};
use super::settings::KafkaSettings;
use crate::log::{Identity, LogError};
use crate::wire::pb;
use crate::wire::record::Kind;

/// What the log is, from the first record of each partition. Where retention has removed that one, a store may still go on that
/// has folded it: each partition says so for itself. One genesis must be left.
pub(super) fn read(readers: &Readers, settings: &KafkaSettings, count: u32) -> Result<Identity, LogError> {
    let events = settings.events();
    let mut from: Vec<(&str, u32, u64)> = Vec::new();
    let mut removed = Vec::new();
    for partition in 0..count {
        match readers.ends(&events, partition)?.0 {
            0 => from.push((&events, partition, 0)),
            start => removed.push((partition, start)),
        }
    }
    let mut found: BTreeMap<u32, Option<pb::Genesis>> = BTreeMap::new();
    let mut signature = String::new();
    let mut bad = None;
    readers.read(&from, READ_SILENCE, |_, partition, seen| {
        if let Seen::Record(message) = seen
            && message.offset() == 0
            && read_headers(message, &mut signature).0 == Kind::Genesis
        {
            let genesis = crate::log::memory::genesis_of(message.payload());
            if let Some(genesis) = &genesis
                && (genesis.partition != partition || genesis.partition_count != count)
            {
                bad = Some((partition, genesis.partition_count));
            }
            found.insert(partition, genesis);
        }
        Want::Enough
    })?;
    if let Some((partition, found)) = bad {
        return Err(LogError::PartitionCount {
            topic: events,
            partition,
            found: count,
            wanted: found,
        });
    }
    for (_, partition, _) in from {
        if found.get(&partition).is_none_or(Option::is_none) {
            return Err(LogError::NoGenesisRecord {
                topic: events,
                partition,
            });
        }
    }
    for (partition, start) in removed {
        tracing::warn!(
            partition,
            start,
            "records were removed from the log, its genesis among them: a store of this partition that is lost can't be rebuilt"
        );
    }
    let mut found = found
        .into_iter()
        .filter_map(|(partition, genesis)| Some((partition, genesis?)));
    let first = found.next().map(|(_, genesis)| genesis);
    // One log: the same id, clock and keys everywhere.
    let differs = |other: &pb::Genesis| {
        let same = |one: &pb::Genesis| {
            one.log_id == other.log_id && one.clock_source == other.clock_source && one.keys == other.keys
        };
        !first.as_ref().is_some_and(same)
    };
    if let Some((partition, _)) = found.find(|(_, other)| differs(other)) {
        return Err(LogError::Topics {
            what: format!(
                "{events}: the genesis of partition {partition} names another log, clock source or keys than the first one does; \
                 make a new log under another --topic-prefix"
            ),
        });
    }
    first
        .as_ref()
        .map(crate::log::local::identity_from)
        .ok_or(LogError::NoGenesisRecord {
            topic: events,
            partition: 0,
        })
}
