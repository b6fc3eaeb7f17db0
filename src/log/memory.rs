//! A log in memory whose append times are scripted: for tests and simulations.

use std::sync::Arc;
use std::time::Duration;

use super::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention, next_outputs};
use crate::machine::output::{Output, Tail, Topic};
use crate::model::Ms;
use crate::wire::pb;
use crate::wire::record::Kind;
use parking_lot::{Condvar, Mutex, MutexGuard};

#[derive(Clone, Debug, Default)]
struct Partition {
    start: u64,
    records: Vec<(Ms, NewRecord)>,
    outputs: [Vec<Output>; 4],
    acknowledged: u64,
}

#[derive(Debug, Default)]
struct State {
    now_ms: Ms,
    partitions: Vec<Partition>,
}

/// The log; a clone is the same log.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    identity: Identity,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl MemoryLog {
    /// A log whose genesis records are appended at `now_ms`.
    pub fn new(identity: Identity, now_ms: Ms) -> Self {
        let partitions = (0..identity.partition_count)
            .map(|partition| Partition {
                records: vec![(
                    now_ms,
                    NewRecord::new(Kind::Genesis, super::local::genesis_bytes(&identity, partition)),
                )],
                ..Partition::default()
            })
            .collect();
        Self {
            identity,
            state: Arc::new((Mutex::new(State { now_ms, partitions }), Condvar::new())),
        }
    }

    /// A log whose genesis records are these, one a partition in their order.
    pub fn with_genesis(identity: Identity, now_ms: Ms, genesis: Vec<NewRecord>) -> Self {
        let log = Self::new(identity, now_ms);
        for (partition, record) in log.lock().partitions.iter_mut().zip(genesis) {
            partition.records = vec![(now_ms, record)];
        }
        log
    }

    /// The append time of what is appended from now on. It may go back, as a broker's can.
    pub fn set_now(&self, now_ms: Ms) {
        self.lock().now_ms = now_ms;
    }

    /// Removes delivered outputs above a sequence, as a broker does that loses an unacknowledged tail.
    pub fn cut_outputs(&self, partition: u32, topic: Topic, after: u64) {
        if let Some(p) = self.lock().partitions.get_mut(partition as usize) {
            p.outputs[topic as usize].retain(|o| o.sequence <= after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock()
    }

    fn with<T>(&self, partition: u32, take: impl FnOnce(&mut Partition, Ms) -> T) -> Result<T, LogError> {
        let mut state = self.lock();
        let now = state.now_ms;
        match state.partitions.get_mut(partition as usize) {
            Some(p) => Ok(take(p, now)),
            None => Err(LogError::NoPartition {
                partition,
                count: self.identity.partition_count,
            }),
        }
    }
}

impl Log for MemoryLog {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.with(partition, |p, _| p.start)
    }

    fn end(&self, partition: u32) -> Result<u64, LogError> {
        self.with(partition, |p, _| p.start + p.records.len() as u64)
    }

    fn poll(&self, partition: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError> {
        batch.clear();
        self.with(partition, |p, _| {
            if from < p.start {
                return Err(LogError::HistoryLost {
                    partition,
                    start: p.start,
                    wanted: from,
                });
            }
            for (n, (append_ms, record)) in p.records.iter().enumerate().skip((from - p.start) as usize) {
                if batch.bytes_len() >= max_bytes {
                    break;
                }
                let offset = p.start + n as u64;
                batch.push_led(offset, 0, *append_ms, record.kind, record.headers(), &record.bytes);
            }
            Ok(())
        })?
    }

    fn append_placed(&self, records: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        let count = self.identity.partition_count;
        for (place, _) in &records {
            place.partitions(count)?;
        }
        let mut state = self.lock();
        let append_ms = state.now_ms;
        let mut receipts = Vec::with_capacity(records.len());
        for (place, record) in records {
            for partition in place.partitions(count)? {
                let p = &mut state.partitions[partition as usize];
                receipts.push(Receipt {
                    partition,
                    offset: p.start + p.records.len() as u64,
                    append_ms,
                });
                p.records.push((append_ms, record.clone()));
            }
        }
        drop(state);
        self.state.1.notify_all();
        Ok(receipts)
    }

    fn wait(&self, partition: u32, from: u64, timeout: Duration) -> Result<bool, LogError> {
        let has = |state: &State| {
            let p = state.partitions.get(partition as usize);
            p.is_some_and(|p| p.start + p.records.len() as u64 > from)
        };
        let mut state = self.lock();
        self.state.1.wait_while_for(&mut state, |state| !has(state), timeout);
        Ok(has(&state))
    }

    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
        self.with(partition, |p, _| {
            for topic in Topic::ALL {
                let delivered = &p.outputs[topic as usize];
                let tail = delivered.last().map_or_else(Tail::default, |o| Tail {
                    sequence: o.sequence,
                    chain: o.chain,
                });
                let chain = |sequence| Ok(delivered.iter().find(|o| o.sequence == sequence).map(|o| o.chain));
                let new: Vec<Output> =
                    next_outputs(partition, tail, outputs.iter().filter(|o| o.topic == topic), chain)?
                        .into_iter()
                        .cloned()
                        .collect();
                p.outputs[topic as usize].extend(new);
            }
            Ok(())
        })?
    }

    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError> {
        self.with(partition, |p, _| {
            p.outputs[topic as usize].last().map_or_else(Tail::default, |o| Tail {
                sequence: o.sequence,
                chain: o.chain,
            })
        })
    }

    fn read_outputs(&self, partition: u32, topic: Topic, after: u64, max: usize) -> Result<Vec<Output>, LogError> {
        self.with(partition, |p, _| {
            let all = p.outputs[topic as usize].iter();
            all.filter(|o| o.sequence > after).take(max).cloned().collect()
        })
    }

    fn forwarded_below(&self, partition: u32) -> Result<u64, LogError> {
        self.with(partition, |p, _| p.acknowledged)
    }

    fn acknowledge(&self, partition: u32, below: u64) -> Result<(), LogError> {
        self.with(partition, |p, _| p.acknowledged = p.acknowledged.max(below))
    }

    fn prune(&self, partition: u32, needed_from: u64, retention: Retention) -> Result<(), LogError> {
        self.with(partition, |p, now| {
            let mut bytes: u64 = p.records.iter().map(|r| r.1.bytes.len() as u64).sum();
            // The genesis stays where it can: it says whose log it is.
            while p.start < needed_from {
                let Some((append_ms, record)) = p.records.first() else {
                    break;
                };
                let too_old = retention.age_ms.is_some_and(|age| *append_ms < now - age);
                let too_large = retention.bytes.is_some_and(|limit| bytes > limit);
                if !too_old && !too_large {
                    break;
                }
                bytes -= record.bytes.len() as u64;
                p.records.remove(0);
                p.start += 1;
            }
        })
    }
}

/// A genesis as it was written.
pub fn genesis_of(bytes: &[u8]) -> Option<pb::Genesis> {
    prost::Message::decode(bytes).ok()
}
