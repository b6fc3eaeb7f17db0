//! From folder and log to a partition that goes on where it stopped; everything that doesn't fit is refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::forwarding::Forwarding;
use super::worker::{Flushed, Partition, Work};
use super::{PartitionError, Settings};
use crate::log::{Batch, Log, LogError};
use crate::machine::authority::Authority;
use crate::machine::fold::Machine;
use crate::store::commit::{LastRecord, Written};
use crate::store::load::{Loaded, load};
use crate::store::rocks::{Budget, Rocks, StoreIdentity};
use crate::store::shelf::Shelf;
use crate::wire::operator_keys::{GenesisError, check_genesis};
use crate::wire::record::Kind;

impl StoreIdentity {
    /// What the store of a log's partition must say.
    pub fn of(log: &dyn Log, partition: u32) -> Self {
        let identity = log.identity();
        Self {
            log_id: identity.log_id.clone(),
            partition,
            partition_count: identity.partition_count,
            source: identity.source,
            place: log.place(),
        }
    }
}

impl Partition {
    /// Opens a partition's store, made if need be, to go on folding.
    pub fn open(
        log: Arc<dyn Log>,
        number: u32,
        path: &Path,
        budget: &Budget,
        settings: Settings,
    ) -> Result<Self, PartitionError> {
        let rocks = Rocks::open(path, &StoreIdentity::of(log.as_ref(), number), budget)?;
        Self::start(log, number, rocks, settings)
    }

    /// Goes on from an opened store.
    pub(super) fn start(
        log: Arc<dyn Log>,
        number: u32,
        rocks: Rocks,
        settings: Settings,
    ) -> Result<Self, PartitionError> {
        let began = Instant::now();
        let (loaded, written) = match load(&rocks)? {
            Some(loaded) => {
                let written = Written::of(&loaded.machine);
                (loaded, written)
            }
            None => {
                let loaded = Loaded {
                    machine: from_genesis(log.as_ref(), number, &settings)?,
                    shelf: Shelf::load(&rocks, 0, 0, None)?,
                    outbox: Vec::new(),
                    forwards: Vec::new(),
                };
                (loaded, Written::nothing())
            }
        };
        let Loaded {
            mut machine,
            shelf,
            outbox,
            forwards,
        } = loaded;
        machine.partition = number;
        machine.partition_count = log.identity().partition_count;
        machine.backed = true;
        let wanted = machine.position.next_offset;
        let (start, end) = (log.start(number)?, log.end(number)?);
        if start > wanted {
            return Err(LogError::HistoryLost {
                partition: number,
                start,
                wanted,
            }
            .into());
        }
        if end < wanted {
            return Err(LogError::Truncated {
                partition: number,
                end,
                wanted,
            }
            .into());
        }
        let last = LastRecord::read(&rocks)?;
        if let Some(last) = last.filter(|last| last.offset >= start)
            && log.record_at(number, last.offset)? != Some(last.fingerprint)
        {
            let offset = last.offset;
            return Err(LogError::OtherRecord {
                partition: number,
                offset,
            }
            .into());
        }
        let flushed = Flushed {
            position: machine.position,
            forget_line: machine.clock.forget_line,
        };
        let forwarding = Forwarding::resume(log.forwarded_below(number)?, forwards);
        let mut partition = Self {
            number,
            rocks: Arc::new(rocks),
            work: Work::default(),
            log,
            settings,
            written,
            unsent: outbox,
            delivered: Vec::new(),
            forwarding,
            flushed,
            flushing: None,
            flushed_at: Instant::now(),
            committed: machine.position,
            committed_at: Instant::now(),
            prune_below: None,
            caught_up: false,
            behind: false,
            last,
            scratch: Vec::new(),
            machine,
            shelf,
        };
        tracing::info!(
            partition = number,
            next_offset = partition.machine.position.next_offset,
            open_calls = partition.machine.calls.open(),
            remembered_calls = partition.shelf.len(),
            undelivered_outputs = partition.unsent.len(),
            unforwarded_events = partition.forwarding.unsent.len(),
            load_ms = began.elapsed().as_millis() as u64,
            "partition opened"
        );
        if !partition.rocks.read_only {
            partition.compare(&partition.unsent)?;
        }
        partition.send()?;
        Ok(partition)
    }
}

fn from_genesis(log: &dyn Log, number: u32, settings: &Settings) -> Result<Machine, PartitionError> {
    let start = log.start(number)?;
    if start > 0 {
        return Err(LogError::HistoryLost {
            partition: number,
            start,
            wanted: 0,
        }
        .into());
    }
    let mut batch = Batch::default();
    log.poll(number, 0, 1, &mut batch)?;
    let genesis = batch
        .get(0)
        .filter(|r| r.kind == Kind::Genesis)
        .ok_or(PartitionError::NoGenesis { partition: number })?;
    let bad = |cause| PartitionError::BadGenesis {
        partition: number,
        cause,
    };
    let named = check_genesis(genesis.bytes, &genesis.headers).map_err(bad)?;
    let identity = log.identity();
    if (named.partition, named.partition_count) != (number, identity.partition_count) || named.log_id != identity.log_id
    {
        return Err(bad(GenesisError::Other {
            log_id: named.log_id,
            partition: named.partition,
            count: named.partition_count,
        }));
    }
    let mut machine = Machine::new(number, identity.partition_count, identity.source, genesis.append_ms);
    machine.authority = Authority::of_genesis(&named);
    machine.outputs.calls_on = settings.calls_output;
    Ok(machine)
}
