//! Group commit: appends that wait together are one write and one sync.
//!
//! Each append has a fate of its own, so nobody is woken who has nothing to do. Whoever has written tells the first of those that
//! came meanwhile to write next; also if the write has panicked.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rocksdb::{WriteBatch, WriteOptions};

use super::{APPENDED, CF_RECORDS, End, FORWARDED, LocalLog, number_key, record_key};
use crate::log::batch::Entry;
use crate::log::{Batch, LogError, NewRecord, Place, Receipt};
use crate::model::Ms;

/// One append on its way to the disk.
struct Pending {
    records: Vec<(Place, NewRecord)>,
    fate: Arc<Fate>,
}

/// What becomes of an append. Each has its own, so that nobody wakes who has nothing to do.
#[derive(Default)]
struct Fate {
    state: Mutex<FateState>,
    told: Condvar,
}

#[derive(Default)]
enum FateState {
    #[default]
    Waiting,
    /// It is this one's turn to write for all that wait.
    Lead,
    Done(Result<Vec<Receipt>, String>),
}

impl Fate {
    fn tell(&self, state: FateState) {
        *self.state.lock() = state;
        self.told.notify_one();
    }
}

/// What waits to be appended, and what was.
pub(super) struct Appender {
    /// Bytes of batches appended so far, by partition.
    pub appended: Vec<u64>,
    last_ms: Ms,
    queue: VecDeque<Pending>,
    /// Whether somebody writes, or was told to.
    writing: bool,
}

impl Default for Appender {
    fn default() -> Self {
        Self {
            appended: Vec::new(),
            last_ms: Ms::MIN,
            queue: VecDeque::new(),
            writing: false,
        }
    }
}

/// A group that is being written; if that comes to no end, those who wait for it are told so, and the next may write.
struct Group<'l> {
    log: &'l LocalLog,
    pending: Vec<Pending>,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        for pending in self.pending.drain(..) {
            let cause = "the append has panicked; what became of it isn't known".to_owned();
            pending.fate.tell(FateState::Done(Err(cause)));
        }
        let mut appender = self.log.appender.lock();
        match appender.queue.front() {
            Some(next) => next.fate.tell(FateState::Lead),
            None => appender.writing = false,
        }
    }
}

impl LocalLog {
    /// Group commit: whoever comes first writes for all that wait, with one sync, and then tells the next one to.
    pub(super) fn submit(&self, records: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        let fate = Arc::new(Fate::default());
        let leads = {
            let mut appender = self.appender.lock();
            appender.queue.push_back(Pending {
                records,
                fate: Arc::clone(&fate),
            });
            !std::mem::replace(&mut appender.writing, true)
        };
        if leads {
            self.lead();
        }
        let mut state = fate.state.lock();
        loop {
            match std::mem::take(&mut *state) {
                FateState::Done(result) => return result.map_err(|cause| self.append_failed(cause)),
                FateState::Lead => {
                    drop(state);
                    self.lead();
                    state = fate.state.lock();
                }
                FateState::Waiting => fate.told.wait(&mut state),
            }
        }
    }

    fn append_failed(&self, cause: String) -> LogError {
        let path = self.path.clone();
        if cause.contains("No space left") {
            LogError::DiskFull { path, cause }
        } else {
            LogError::Storage { path, cause }
        }
    }

    /// Writes what waits, and tells all whose records are in it.
    fn lead(&self) {
        let (mut group, mut appended, last_ms) = {
            let mut appender = self.appender.lock();
            let pending = appender.queue.drain(..).collect();
            let group = Group { log: self, pending };
            (group, appender.appended.clone(), appender.last_ms)
        };
        let before: Vec<u64> = self.ends.iter().map(End::get).collect();
        let mut ends = before.clone();
        // Append times never go back, also when the machine's clock does.
        let append_ms = (self.clock)().max(last_ms);
        let result = self.write_group(&group.pending, &mut ends, &mut appended, append_ms);
        match result {
            Ok(receipts) => {
                let mut appender = self.appender.lock();
                appender.appended = appended;
                appender.last_ms = append_ms;
                drop(appender);
                let grown = self.ends.iter().zip(before.iter().zip(&ends));
                for (end, (_, after)) in grown.filter(|(_, (before, after))| before != after) {
                    end.grow(*after);
                }
                for (pending, receipts) in group.pending.drain(..).zip(receipts) {
                    pending.fate.tell(FateState::Done(Ok(receipts)));
                }
            }
            Err(cause) => {
                let cause = match cause {
                    LogError::DiskFull { cause, .. } | LogError::Storage { cause, .. } => cause,
                    other => other.to_string(),
                };
                for pending in group.pending.drain(..) {
                    pending.fate.tell(FateState::Done(Err(cause.clone())));
                }
            }
        }
    }

    fn write_group(
        &self,
        group: &[Pending],
        ends: &mut [u64],
        appended: &mut [u64],
        append_ms: Ms,
    ) -> Result<Vec<Vec<Receipt>>, LogError> {
        let mut of_partition: Vec<Vec<Entry<'_>>> = vec![Vec::new(); ends.len()];
        let first_offsets = ends.to_vec();
        let mut receipts = Vec::with_capacity(group.len());
        for pending in group {
            let mut own = Vec::with_capacity(pending.records.len());
            for (place, record) in &pending.records {
                for partition in place.partitions(self.identity.partition_count)? {
                    let end = &mut ends[partition as usize];
                    of_partition[partition as usize].push(Entry {
                        kind: record.kind,
                        append_ms,
                        headers: record.headers(),
                        bytes: &record.bytes,
                    });
                    own.push(Receipt {
                        partition,
                        offset: *end,
                        append_ms,
                    });
                    *end += 1;
                }
            }
            receipts.push(own);
        }
        let records = self.family(CF_RECORDS)?;
        let mut batch = WriteBatch::default();
        // With the events themselves: so none is forwarded twice. They come in the order of their offsets.
        for from in group
            .iter()
            .flat_map(|p| &p.records)
            .filter_map(|(_, record)| record.forwarded)
        {
            batch.put(number_key(FORWARDED, from.partition), (from.offset + 1).to_be_bytes());
        }
        for (partition, of_one) in of_partition.iter().enumerate() {
            if !of_one.is_empty() {
                let key = record_key(partition as u32, first_offsets[partition]);
                let stored = Batch::encode(of_one);
                appended[partition] += stored.len() as u64;
                batch.put_cf(records, key, stored);
                batch.put(
                    number_key(APPENDED, partition as u32),
                    appended[partition].to_be_bytes(),
                );
            }
        }
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        self.db.write_opt(batch, &durable).map_err(|e| self.explain(&e))?;
        Ok(receipts)
    }
}
