//! Putting histories into a log: each record into its partition, ticks and records for everyone into all.

use super::placement::partition_of;
use super::{Log, LogError, NewRecord, Place};
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

/// Where an event goes; one that names no account goes to partition 0, to be rejected there.
pub fn place_of_event(account: Option<&str>, count: u32) -> Place {
    Place::One(account.map_or(0, |a| partition_of(a, count)))
}

/// Where a control record goes: into its account's partition, or into all.
pub fn place_of_control(control: &pb::Control, count: u32) -> Place {
    if control::is_for_everyone(control) {
        Place::All
    } else {
        place_of_event(control::account_of(control), count)
    }
}

/// Collects records in their order and appends them many at a time.
pub struct Appender<'a> {
    log: &'a dyn Log,
    waiting: Vec<(Place, NewRecord)>,
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
        Self {
            log,
            waiting: Vec::new(),
            bytes: 0,
            ticked: vec![Ms::MIN; log.identity().partition_count as usize],
            control_version,
            appended: 0,
        }
    }

    fn push(&mut self, place: Place, kind: Kind, bytes: Vec<u8>) -> Result<(), LogError> {
        self.bytes += bytes.len();
        self.waiting.push((place, NewRecord::new(kind, bytes)));
        if self.waiting.len() >= RECORDS_MAX || self.bytes >= BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn count(&self) -> u32 {
        self.log.identity().partition_count
    }

    /// An event as received.
    pub fn event(&mut self, account: Option<&str>, bytes: Vec<u8>) -> Result<(), LogError> {
        self.event_at(account, bytes, None)
    }

    /// The same after a tick of its partition, if time has gone on since its last one.
    pub fn event_at(&mut self, account: Option<&str>, bytes: Vec<u8>, now: Option<Ms>) -> Result<(), LogError> {
        let place = place_of_event(account, self.count());
        if let (Some(now), Place::One(partition)) = (now, place)
            && now > self.ticked[partition as usize]
        {
            self.ticked[partition as usize] = now;
            self.push(place, Kind::Tick, tick(now))?;
        }
        self.push(place, Kind::Event, bytes)
    }

    /// A tick for all partitions.
    pub fn tick(&mut self, at: Ms) -> Result<(), LogError> {
        self.ticked.fill(at);
        self.push(Place::All, Kind::Tick, tick(at))
    }

    /// A control record: into its account's partition, or into all at once with the next version if it has none.
    pub fn control(&mut self, mut control: pb::Control) -> Result<(), LogError> {
        let place = place_of_control(&control, self.count());
        if place == Place::All {
            if control.control_version == 0 {
                control.control_version = self.control_version.saturating_add(1);
            }
            self.control_version = control.control_version;
        }
        self.push(place, Kind::Control, control.encode_to_vec())
    }

    /// Says what the last accepted control version is, now that everything appended is folded: a record that was rejected has
    /// taken none.
    pub fn accepted(&mut self, control_version: u64) {
        self.control_version = control_version;
    }

    /// A record as it stands, to be rejected where it is folded.
    pub fn unreadable(&mut self, kind: Kind, bytes: Vec<u8>) -> Result<(), LogError> {
        self.push(Place::One(0), kind, bytes)
    }

    /// Appends what is collected.
    pub fn flush(&mut self) -> Result<(), LogError> {
        if !self.waiting.is_empty() {
            self.bytes = 0;
            let receipts = self.log.append_placed(std::mem::take(&mut self.waiting))?;
            self.appended += receipts.len() as u64;
        }
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
