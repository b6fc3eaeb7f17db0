//! Putting histories into a log: each record into its partition, ticks and records for everyone into all.

use super::placement::partition_of;
use super::{Log, LogError, NewRecord};
use crate::machine::control;
use crate::model::Ms;
use crate::wire::check::timestamp;
use crate::wire::pb;
use crate::wire::record::Kind;
use prost::Message;

/// Records collected before they are appended.
const RECORDS_MAX: usize = 8_192;

/// Bytes collected before they are appended.
const BYTES_MAX: usize = 4 << 20;

/// Collects records in their order and appends them many at a time.
pub struct Appender<'a> {
    log: &'a dyn Log,
    waiting: Vec<Vec<NewRecord>>,
    records: usize,
    bytes: usize,
    /// Latest tick of each partition.
    ticked: Vec<Ms>,
    /// Last `control_version` given or seen.
    control_version: u64,
    /// Records appended, ticks counted once a partition.
    pub appended: u64,
}

impl<'a> Appender<'a> {
    /// Appends to `log`, whose last accepted control version is known.
    pub fn new(log: &'a dyn Log, control_version: u64) -> Self {
        let count = log.identity().partition_count as usize;
        Self {
            log,
            waiting: vec![Vec::new(); count],
            records: 0,
            bytes: 0,
            ticked: vec![Ms::MIN; count],
            control_version,
            appended: 0,
        }
    }

    fn push(&mut self, partition: u32, kind: Kind, bytes: Vec<u8>) -> Result<(), LogError> {
        self.records += 1;
        self.bytes += bytes.len();
        self.waiting[partition as usize].push(NewRecord { kind, bytes });
        if self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// An event as received; one that names no account goes to partition 0, to be rejected there.
    pub fn event(&mut self, account: Option<&str>, bytes: Vec<u8>) -> Result<(), LogError> {
        let count = self.log.identity().partition_count;
        let partition = account.map_or(0, |a| partition_of(a, count));
        self.push(partition, Kind::Event, bytes)
    }

    /// The same after a tick of its partition, if time has gone on since its last one.
    pub fn event_at(&mut self, account: Option<&str>, bytes: Vec<u8>, now: Option<Ms>) -> Result<(), LogError> {
        let count = self.log.identity().partition_count;
        let partition = account.map_or(0, |a| partition_of(a, count));
        if let Some(now) = now
            && now > self.ticked[partition as usize]
        {
            self.ticked[partition as usize] = now;
            self.push(partition, Kind::Tick, tick(now))?;
        }
        self.push(partition, Kind::Event, bytes)
    }

    /// A tick for all partitions.
    pub fn tick(&mut self, at: Ms) -> Result<(), LogError> {
        for partition in 0..self.log.identity().partition_count {
            self.ticked[partition as usize] = at;
            self.push(partition, Kind::Tick, tick(at))?;
        }
        Ok(())
    }

    /// A control record: into its account's partition, or into all at once with the next version if it has none.
    pub fn control(&mut self, mut control: pb::Control) -> Result<(), LogError> {
        if control::is_for_everyone(&control) {
            if control.control_version == 0 {
                control.control_version = self.control_version + 1;
            }
            self.control_version = control.control_version;
            self.flush()?;
            self.appended += u64::from(self.log.identity().partition_count);
            self.log.broadcast(vec![NewRecord {
                kind: Kind::Control,
                bytes: control.encode_to_vec(),
            }])?;
            return Ok(());
        }
        let count = self.log.identity().partition_count;
        let partition = control::account_of(&control).map_or(0, |a| partition_of(a, count));
        self.push(partition, Kind::Control, control.encode_to_vec())
    }

    /// Appends what is collected.
    pub fn flush(&mut self) -> Result<(), LogError> {
        for (partition, records) in self.waiting.iter_mut().enumerate() {
            if !records.is_empty() {
                self.appended += records.len() as u64;
                self.log.append(partition as u32, std::mem::take(records))?;
            }
        }
        (self.records, self.bytes) = (0, 0);
        Ok(())
    }
}

/// A tick's bytes.
pub fn tick(at: Ms) -> Vec<u8> {
    pb::Tick {
        at: Some(timestamp(at)),
    }
    .encode_to_vec()
}
