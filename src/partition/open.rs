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

/// A partition's store and what it held, before the log was asked whether it fits.
pub(super) struct Stored {
    rocks: Rocks,
    /// `None`: nothing was committed to it yet.
    loaded: Option<Loaded>,
    load_ms: u64,
}

impl Stored {
    /// Opens a partition's store, made if need be, and loads what memory holds of it. The log isn't asked anything.
    pub(super) fn open(log: &dyn Log, number: u32, path: &Path, budget: &Budget) -> Result<Self, PartitionError> {
        let began = Instant::now();
        let rocks = Rocks::open(path, &StoreIdentity::of(log, number), budget)?;
        let open_ms = began.elapsed().as_millis() as u64;
        let stored = Self::load(rocks)?;
        tracing::debug!(partition = number, open_ms, load_ms = stored.load_ms, "store loaded");
        Ok(stored)
    }

    fn load(rocks: Rocks) -> Result<Self, PartitionError> {
        let began = Instant::now();
        Ok(Self {
            loaded: load(&rocks)?,
            rocks,
            load_ms: began.elapsed().as_millis() as u64,
        })
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
        let stored = Stored::open(log.as_ref(), number, path, budget)?;
        Self::checked(log, number, stored, settings)
    }

    /// Goes on from an opened store.
    pub(super) fn start(
        log: Arc<dyn Log>,
        number: u32,
        rocks: Rocks,
        settings: Settings,
    ) -> Result<Self, PartitionError> {
        Self::checked(log, number, Stored::load(rocks)?, settings)
    }

    fn checked(log: Arc<dyn Log>, number: u32, stored: Stored, settings: Settings) -> Result<Self, PartitionError> {
        let mut partition = Self::of(log, number, stored, settings)?;
        partition.check()?;
        partition.send()?;
        Ok(partition)
    }

    /// The partition as its store has it. Until it was checked it may be folded in memory, and nothing may be committed.
    pub(super) fn of(
        log: Arc<dyn Log>,
        number: u32,
        stored: Stored,
        settings: Settings,
    ) -> Result<Self, PartitionError> {
        let Stored { rocks, loaded, load_ms } = stored;
        let (loaded, written) = match loaded {
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
        let flushed = Flushed {
            position: machine.position,
            forget_line: machine.clock.forget_line,
        };
        let partition = Self {
            number,
            last: LastRecord::read(&rocks)?,
            rocks: Arc::new(rocks),
            work: Work::default(),
            log,
            settings,
            written,
            unsent: outbox,
            delivered: Vec::new(),
            forwarding: Forwarding::resume(0, forwards),
            flushed,
            flushing: None,
            flushed_at: Instant::now(),
            committed: machine.position,
            committed_at: Instant::now(),
            prune_below: None,
            caught_up: false,
            behind: false,
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
            load_ms,
            "partition opened"
        );
        Ok(partition)
    }

    /// Whether the log is the one that the store was folded from, and what was delivered is what the outbox holds. Asked once
    /// the partition is taken over, for only then nobody can tell of an older log or of older outputs; and of what is
    /// committed, for what was folded since is thrown away if it isn't.
    pub(super) fn check(&mut self) -> Result<(), PartitionError> {
        let (partition, wanted) = (self.number, self.committed.next_offset);
        let (start, end) = self.log.range(partition)?;
        if start > wanted {
            return Err(LogError::HistoryLost {
                partition,
                start,
                wanted,
            }
            .into());
        }
        if end < wanted {
            return Err(LogError::Truncated { partition, end, wanted }.into());
        }
        let last = LastRecord::read(&self.rocks)?;
        if let Some(last) = last.filter(|last| last.offset >= start)
            && self.log.record_at(partition, last.offset)? != Some(last.fingerprint)
        {
            let offset = last.offset;
            return Err(LogError::OtherRecord { partition, offset }.into());
        }
        self.forwarding.known_below(self.log.forwarded_below(partition)?);
        if !self.rocks.read_only {
            self.compare(&self.unsent)?;
        }
        Ok(())
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
