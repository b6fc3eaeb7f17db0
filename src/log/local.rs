//! The embedded log: records and outputs in one RocksDB, with its write-ahead log on and one sync a group commit.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `default` | `identity` | genesis of partition 0 |
//! | `default` | `start`, partition u32 | first offset that is kept |
//! | `default` | `appended`, partition u32 | bytes of batches appended so far: u64 |
//! | `default` | `forwarded`, partition u32 | misplaced events below this offset are in their own partitions: u64 |
//! | `default` | `removed`, partition u32 | of them, bytes removed by retention: u64 |
//! | `records` | partition u32, first offset u64 | a batch: checksum, count, append times, kinds, bytes |
//! | `outputs` | partition u32, topic u8, sequence u64 | chain, then the body |

mod append;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockWriteGuard};
use prost::Message;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options,
};
use rocksdb::{WriteBatch, WriteOptions};

use self::append::Appender;
use super::batch::Entry;
use super::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention, next_outputs};
use crate::machine::clock::Source;
use crate::machine::output::{Output, Tail, Topic};
use crate::model::Ms;
use crate::wire::pb;
use crate::wire::record::{Headers, Kind};

const CF_RECORDS: &str = "records";
const CF_OUTPUTS: &str = "outputs";
const IDENTITY: &[u8] = b"identity";
const START: &[u8] = b"start";
const APPENDED: &[u8] = b"appended";
const REMOVED: &[u8] = b"removed";
const FORWARDED: &[u8] = b"forwarded";

/// Wall time for append times; tests and imports may bring their own.
pub type WallClock = Arc<dyn Fn() -> Ms + Send + Sync>;

/// Where a partition's records end.
#[derive(Default)]
struct End {
    offset: AtomicU64,
    grown: (Mutex<()>, Condvar),
}

impl End {
    fn get(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    fn grow(&self, offset: u64) {
        self.offset.store(offset, Ordering::Release);
        // Whoever looked before it has begun to wait by now.
        drop(self.grown.0.lock());
        self.grown.1.notify_all();
    }
}

/// The log.
pub struct LocalLog {
    db: DB,
    path: PathBuf,
    identity: Identity,
    clock: WallClock,
    appender: Mutex<Appender>,
    /// By partition. Only who writes lets them grow.
    ends: Vec<End>,
    /// Pruning shares it; a backup that needs what is there now holds it alone.
    keep: RwLock<()>,
}

/// Bytes of a partition's first record.
pub fn genesis_bytes(identity: &Identity, partition: u32) -> Vec<u8> {
    genesis(identity, partition).encode_to_vec()
}

/// A partition's first record, without operator keys.
pub fn genesis(identity: &Identity, partition: u32) -> pb::Genesis {
    let clock_source = match identity.source {
        Source::Append => pb::ClockSource::Append,
        Source::Ticks => pb::ClockSource::Ticks,
    };
    pb::Genesis {
        log_id: identity.log_id.clone(),
        partition,
        partition_count: identity.partition_count,
        clock_source: clock_source.into(),
        keys: Vec::new(),
    }
}

fn identity_of(bytes: &[u8]) -> Option<Identity> {
    pb::Genesis::decode(bytes).ok().as_ref().map(identity_from)
}

/// What the log of a genesis is.
pub fn identity_from(genesis: &pb::Genesis) -> Identity {
    Identity {
        source: match genesis.clock_source() {
            pb::ClockSource::Ticks => Source::Ticks,
            pb::ClockSource::Append | pb::ClockSource::Unspecified => Source::Append,
        },
        log_id: genesis.log_id.clone(),
        partition_count: genesis.partition_count,
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_missing_column_families(true);
    // A torn last write is cut off; damage before it is refused, for it was acknowledged.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(256 << 20);
    options.set_max_open_files(-1);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options
}

fn family(name: &str) -> ColumnFamilyDescriptor {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(64 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(64 * 1024);
    options.set_block_based_table_factory(&table);
    ColumnFamilyDescriptor::new(name, options)
}

const FAMILIES: [&str; 3] = ["default", CF_RECORDS, CF_OUTPUTS];

fn record_key(partition: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

fn output_key(partition: u32, topic: Topic, sequence: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4] = topic as u8;
    key[5..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Key of a number that the default column family keeps for a partition.
fn number_key(name: &[u8], partition: u32) -> Vec<u8> {
    [name, &partition.to_be_bytes()].concat()
}

fn offset_of(key: &[u8]) -> u64 {
    key.get(4..12)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

fn explain(path: &Path, cause: &rocksdb::Error) -> LogError {
    let text = cause.to_string();
    let path = path.to_owned();
    if text.contains("lock file") || text.contains("LOCK") {
        LogError::Locked { path }
    } else if text.contains("No space left") {
        LogError::DiskFull { path, cause: text }
    } else {
        LogError::Storage { path, cause: text }
    }
}

/// The machine's wall time in ms.
pub fn wall_clock() -> WallClock {
    Arc::new(|| chrono::Utc::now().timestamp_millis())
}

impl LocalLog {
    /// Makes a log with its genesis records.
    pub fn create(path: &Path, identity: &Identity, clock: WallClock) -> Result<Self, LogError> {
        if path.join("CURRENT").exists() {
            let what = match Self::open(path, clock) {
                Ok(log) => format!(
                    "{:?} with {} partitions",
                    log.identity.log_id, log.identity.partition_count
                ),
                Err(cause) => cause.to_string(),
            };
            return Err(LogError::Exists {
                path: path.to_owned(),
                what,
            });
        }
        let mut options = options();
        options.create_if_missing(true);
        let db = DB::open_cf_descriptors(&options, path, FAMILIES.map(family)).map_err(|e| explain(path, &e))?;
        let mut batch = WriteBatch::default();
        let now = clock();
        let records = db.cf_handle(CF_RECORDS).ok_or_else(|| no_genesis(path))?;
        for partition in 0..identity.partition_count {
            let genesis = genesis_bytes(identity, partition);
            let stored = Batch::encode(&[Entry {
                kind: Kind::Genesis,
                append_ms: now,
                headers: Headers::default(),
                bytes: &genesis,
            }]);
            batch.put(number_key(APPENDED, partition), (stored.len() as u64).to_be_bytes());
            batch.put_cf(records, record_key(partition, 0), stored);
        }
        batch.put(IDENTITY, genesis_bytes(identity, 0));
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        db.write_opt(batch, &durable).map_err(|e| explain(path, &e))?;
        drop(db);
        Self::open(path, clock)
    }

    /// Opens a log to append to it.
    pub fn open(path: &Path, clock: WallClock) -> Result<Self, LogError> {
        if !path.join("CURRENT").exists() {
            return Err(no_genesis(path));
        }
        let db = DB::open_cf_descriptors(&options(), path, FAMILIES.map(family)).map_err(|e| explain(path, &e))?;
        Self::ready(db, path, clock)
    }

    /// Opens a log beside the process that appends to it. `scratch` takes RocksDB's own log.
    pub fn open_beside(path: &Path, scratch: &Path) -> Result<Self, LogError> {
        if !path.join("CURRENT").exists() {
            return Err(no_genesis(path));
        }
        let db = DB::open_cf_descriptors_as_secondary(&options(), path, scratch, FAMILIES.map(family))
            .map_err(|e| explain(path, &e))?;
        db.try_catch_up_with_primary().map_err(|e| explain(path, &e))?;
        Self::ready(db, path, wall_clock())
    }

    fn ready(db: DB, path: &Path, clock: WallClock) -> Result<Self, LogError> {
        let bytes = db.get(IDENTITY).map_err(|e| explain(path, &e))?;
        let identity = bytes.as_deref().and_then(identity_of).ok_or_else(|| no_genesis(path))?;
        let mut log = Self {
            db,
            path: path.to_owned(),
            identity,
            clock,
            appender: Mutex::default(),
            ends: Vec::new(),
            keep: RwLock::new(()),
        };
        let (mut ends, mut appended) = (Vec::new(), Vec::new());
        for partition in 0..log.identity.partition_count {
            let end = End::default();
            end.grow(log.find_end(partition)?);
            ends.push(end);
            appended.push(match log.number(APPENDED, partition)? {
                Some(bytes) => bytes,
                None => log.measure(partition)?,
            });
        }
        log.appender.get_mut().appended = appended;
        log.ends = ends;
        Ok(log)
    }

    /// Copies the log as it is now into `to`, which must not exist: by links where that is the same file system.
    pub fn checkpoint(&self, to: &Path) -> Result<(), LogError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(|e| self.explain(&e))?;
        checkpoint.create_checkpoint(to).map_err(|e| self.explain(&e))
    }

    /// Nothing is removed from the log until the guard is let go.
    pub fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.keep.write()
    }

    fn number(&self, name: &[u8], partition: u32) -> Result<Option<u64>, LogError> {
        let row = self
            .db
            .get_pinned(number_key(name, partition))
            .map_err(|e| self.explain(&e))?;
        Ok(row.and_then(|b| b.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    /// Bytes of all batches of a partition: read once, in a log that was written before they were counted.
    fn measure(&self, partition: u32) -> Result<u64, LogError> {
        let mut rows = self.db.raw_iterator_cf(self.family(CF_RECORDS)?);
        rows.seek(record_key(partition, self.start(partition)?));
        let mut bytes = 0;
        while let Some((_, stored)) = rows.item().filter(|(k, _)| k.starts_with(&partition.to_be_bytes())) {
            bytes += stored.len() as u64;
            rows.next();
        }
        rows.status().map_err(|e| self.explain(&e))?;
        Ok(bytes)
    }

    fn family(&self, name: &'static str) -> Result<&ColumnFamily, LogError> {
        self.db.cf_handle(name).ok_or_else(|| no_genesis(&self.path))
    }

    fn explain(&self, cause: &rocksdb::Error) -> LogError {
        explain(&self.path, cause)
    }

    fn corrupt(partition: u32, offset: u64, what: impl Into<String>) -> LogError {
        LogError::Corrupt {
            partition,
            offset,
            what: what.into(),
        }
    }

    fn find_end(&self, partition: u32) -> Result<u64, LogError> {
        let mut rows = self.db.raw_iterator_cf(self.family(CF_RECORDS)?);
        rows.seek_for_prev(record_key(partition, u64::MAX));
        rows.status().map_err(|e| Self::corrupt(partition, 0, e.to_string()))?;
        match rows.item() {
            Some((key, stored)) if key.starts_with(&partition.to_be_bytes()) => {
                let first = offset_of(key);
                let mut batch = Batch::default();
                batch
                    .decode(first, stored, u64::MAX)
                    .map_err(|_| Self::corrupt(partition, first, "the last batch's checksum is wrong"))
            }
            _ => Err(no_genesis(&self.path)),
        }
    }

    fn check(&self, partition: u32) -> Result<(), LogError> {
        let count = self.identity.partition_count;
        if partition < count {
            Ok(())
        } else {
            Err(LogError::NoPartition { partition, count })
        }
    }

    /// Bytes of records and outputs on disk.
    pub fn disk_bytes(&self) -> u64 {
        [CF_RECORDS, CF_OUTPUTS]
            .iter()
            .filter_map(|name| self.db.cf_handle(name))
            .filter_map(|cf| {
                self.db
                    .property_int_value_cf(cf, "rocksdb.total-sst-files-size")
                    .ok()
                    .flatten()
            })
            .sum()
    }
}

fn no_genesis(path: &Path) -> LogError {
    LogError::NoGenesis { path: path.to_owned() }
}

impl Log for LocalLog {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.check(partition)?;
        Ok(self.number(START, partition)?.unwrap_or(0))
    }

    fn end(&self, partition: u32) -> Result<u64, LogError> {
        self.check(partition)?;
        Ok(self.ends[partition as usize].get())
    }

    fn poll(&self, partition: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError> {
        batch.clear();
        let end = self.end(partition)?;
        let start = self.start(partition)?;
        if from < start {
            return Err(LogError::HistoryLost {
                partition,
                start,
                wanted: from,
            });
        }
        if from >= end {
            return Ok(());
        }
        let mut rows = self.db.raw_iterator_cf(self.family(CF_RECORDS)?);
        rows.seek_for_prev(record_key(partition, from));
        let mut next = from;
        while next < end && batch.bytes_len() < max_bytes {
            let Some((key, stored)) = rows.item().filter(|(k, _)| k.starts_with(&partition.to_be_bytes())) else {
                rows.status()
                    .map_err(|e| Self::corrupt(partition, next, e.to_string()))?;
                return Err(Self::corrupt(partition, next, "records are missing"));
            };
            let first = offset_of(key);
            let before = batch.len();
            if first > next {
                return Err(Self::corrupt(partition, next, "records are missing"));
            }
            let after = batch
                .decode(first, stored, next)
                .map_err(|_| Self::corrupt(partition, first, "the batch's checksum is wrong"))?;
            if batch.len() == before {
                return Err(Self::corrupt(partition, next, "records are missing"));
            }
            next = after;
            rows.next();
        }
        Ok(())
    }

    fn append_placed(&self, records: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        // Here, so that one wrong place doesn't fail a whole group.
        for (place, _) in &records {
            place.partitions(self.identity.partition_count)?;
        }
        self.submit(records)
    }

    fn wait(&self, partition: u32, from: u64, timeout: Duration) -> Result<bool, LogError> {
        self.check(partition)?;
        let end = &self.ends[partition as usize];
        if end.get() > from {
            return Ok(true);
        }
        let until = Instant::now() + timeout;
        let mut grown = end.grown.0.lock();
        while end.get() <= from {
            if end.grown.1.wait_until(&mut grown, until).timed_out() {
                return Ok(end.get() > from);
            }
        }
        Ok(true)
    }

    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
        let family = self.family(CF_OUTPUTS)?;
        let mut batch = WriteBatch::default();
        for topic in Topic::ALL {
            let of_topic = || outputs.iter().filter(|o| o.topic == topic);
            if of_topic().next().is_none() {
                continue;
            }
            let tail = self.output_tail(partition, topic)?;
            let chain = |sequence| {
                let key = output_key(partition, topic, sequence);
                let row = self.db.get_pinned_cf(family, key).map_err(|e| self.explain(&e))?;
                Ok(row.and_then(|r| r.get(..16)?.try_into().ok()).map(u128::from_le_bytes))
            };
            for output in next_outputs(partition, tail, of_topic(), chain)? {
                let mut row = Vec::with_capacity(16 + output.body.len());
                row.extend_from_slice(&output.chain.to_le_bytes());
                row.extend_from_slice(&output.body);
                batch.put_cf(family, output_key(partition, topic, output.sequence), row);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        self.db.write_opt(batch, &durable).map_err(|e| self.explain(&e))
    }

    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError> {
        self.check(partition)?;
        let mut rows = self.db.raw_iterator_cf(self.family(CF_OUTPUTS)?);
        rows.seek_for_prev(output_key(partition, topic, u64::MAX));
        let prefix = output_key(partition, topic, 0);
        let tail = match rows.item() {
            Some((key, row)) if key.starts_with(&prefix[..5]) => read_output(topic, key, row).map(|o| Tail {
                sequence: o.sequence,
                chain: o.chain,
            }),
            _ => Some(Tail::default()),
        };
        rows.status().map_err(|e| self.explain(&e))?;
        tail.ok_or_else(|| Self::corrupt(partition, 0, "an output can't be read"))
    }

    fn read_outputs(&self, partition: u32, topic: Topic, after: u64, max: usize) -> Result<Vec<Output>, LogError> {
        self.check(partition)?;
        let mut rows = self.db.raw_iterator_cf(self.family(CF_OUTPUTS)?);
        let prefix = output_key(partition, topic, 0);
        rows.seek(output_key(partition, topic, after.saturating_add(1)));
        let mut outputs = Vec::new();
        while outputs.len() < max
            && let Some((key, row)) = rows.item()
            && key.starts_with(&prefix[..5])
        {
            let output = read_output(topic, key, row);
            outputs.push(output.ok_or_else(|| Self::corrupt(partition, 0, "an output can't be read"))?);
            rows.next();
        }
        rows.status().map_err(|e| self.explain(&e))?;
        Ok(outputs)
    }

    fn forwarded_below(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.number(FORWARDED, partition)?.unwrap_or(0))
    }

    fn prune(&self, partition: u32, needed_from: u64, retention: Retention) -> Result<(), LogError> {
        if retention.bytes.is_none() && retention.age_ms.is_none() {
            return Ok(());
        }
        // While a backup is made nothing goes; it goes after the next flush.
        let Some(_keep) = self.keep.try_read() else {
            return Ok(());
        };
        let now = (self.clock)();
        let family = self.family(CF_RECORDS)?;
        let start = self.start(partition)?;
        let mut removed = self.number(REMOVED, partition)?.unwrap_or(0);
        let appended = self.appender.lock().appended[partition as usize];
        let end = self.end(partition)?;
        // Oldest first, whole batches, as long as there is too much or they are too old; the last batch says where the log ends.
        let mut rows = self.db.raw_iterator_cf(family);
        rows.seek(record_key(partition, start));
        let mut keep = start;
        while let Some((key, stored)) = rows.item().filter(|(k, _)| k.starts_with(&partition.to_be_bytes())) {
            let damaged = |_| Self::corrupt(partition, keep, "a batch can't be read");
            let after = offset_of(key) + Batch::stored_len(stored).map_err(damaged)?;
            let since = Batch::stored_since(stored).map_err(damaged)?;
            let goes = retention
                .bytes
                .is_some_and(|limit| appended.saturating_sub(removed) > limit)
                || retention.age_ms.is_some_and(|age| since < now - age);
            if !goes || after > needed_from || after >= end {
                break;
            }
            removed += stored.len() as u64;
            keep = after;
            rows.next();
        }
        rows.status().map_err(|e| self.explain(&e))?;
        if keep == start {
            return Ok(());
        }
        let (first, kept) = (record_key(partition, start), record_key(partition, keep));
        let mut batch = WriteBatch::default();
        batch.put(number_key(START, partition), keep.to_be_bytes());
        batch.put(number_key(REMOVED, partition), removed.to_be_bytes());
        batch.delete_range_cf(family, first, kept);
        self.db.write(batch).map_err(|e| self.explain(&e))
    }
}

fn read_output(topic: Topic, key: &[u8], row: &[u8]) -> Option<Output> {
    Some(Output {
        topic,
        sequence: u64::from_be_bytes(key.get(5..13)?.try_into().ok()?),
        chain: u128::from_le_bytes(row.get(..16)?.try_into().ok()?),
        body: row.get(16..)?.to_vec(),
    })
}
