//! Opening a partition's RocksDB: options, the process's budget, and refusals that say what to do.

use std::path::{Path, PathBuf};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, Options,
    Snapshot, WriteBufferManager,
};
use thiserror::Error;

use super::bytes::{Damaged, Reader, Writer};
use super::keys::{self, CF_OPEN, CF_SETTLED, CF_SETTLED_IDS, Meta};
use crate::machine::clock::Source;

/// Version of keys and values. Raise it with every change of `keys.rs`, `values.rs`, `packed.rs` or `state.rs`.
pub const FORMAT_VERSION: u32 = 4;

/// Version of the fold: raised whenever the golden log's digest changes, so that no bill changes by accident.
pub const FOLD_VERSION: u32 = 5;

/// Why a store can't be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the store {path} is locked by another process; stop that one, or give this one another --data")]
    Locked {
        /// Where.
        path: PathBuf,
    },
    /// Written by another version.
    #[error(
        "the store {path} has {what} version {found}, this binary has {wanted}; run the binary that wrote it, or remove the \
         store: it is rebuilt from the log"
    )]
    Version {
        /// Where.
        path: PathBuf,
        /// Format or fold.
        what: &'static str,
        /// In the store.
        found: u32,
        /// In this binary.
        wanted: u32,
    },
    /// Folded from another log.
    #[error(
        "the store {path} was folded from {found}, not from {wanted}; point --data at the right log, or remove the store: it is \
         rebuilt from the log"
    )]
    OtherLog {
        /// Where.
        path: PathBuf,
        /// In the store.
        found: String,
        /// The log at hand.
        wanted: String,
    },
    /// No store there.
    #[error("there is no store at {path}; run `reckon init --data DIR` or an import first")]
    Absent {
        /// Where.
        path: PathBuf,
    },
    /// A value that can't be read.
    #[error("the store {path}: {damaged}")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What.
        damaged: Damaged,
    },
    /// No room on the disk.
    #[error("no room left on the disk of {path}: {cause}; make room and start again, nothing acknowledged is lost")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// RocksDB's words.
        cause: rocksdb::Error,
    },
    /// RocksDB's own.
    #[error("the store {path}: {cause}")]
    Rocks {
        /// Where.
        path: PathBuf,
        /// RocksDB's words.
        cause: rocksdb::Error,
    },
}

/// Memory that all partitions of a process share.
#[derive(Clone)]
pub struct Budget {
    cache: Cache,
    buffers: WriteBufferManager,
    buffer_bytes: usize,
}

impl Budget {
    /// A budget of that many bytes for cached blocks and for what isn't flushed yet.
    pub fn new(cache_bytes: usize, buffer_bytes: usize) -> Self {
        Self {
            cache: Cache::new_lru_cache(cache_bytes),
            buffers: WriteBufferManager::new_write_buffer_manager(buffer_bytes, false),
            buffer_bytes,
        }
    }
}

impl Default for Budget {
    /// 256 MiB of blocks, 512 MiB of write buffers.
    fn default() -> Self {
        Self::new(256 << 20, 512 << 20)
    }
}

/// Which log and partition a store belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The log's id, of its genesis.
    pub log_id: String,
    /// Which partition.
    pub partition: u32,
    /// Of how many.
    pub partition_count: u32,
    /// What moves its clock.
    pub source: Source,
    /// Where the log physically is; empty where it can't be mistaken.
    pub place: String,
}

impl StoreIdentity {
    fn describe(&self) -> String {
        format!(
            "log {:?} partition {} of {} (clock source {}{}{})",
            self.log_id,
            self.partition,
            self.partition_count,
            self.source.as_str(),
            if self.place.is_empty() { "" } else { "; " },
            self.place
        )
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.text(&self.log_id);
        w.uint(self.partition.into());
        w.uint(self.partition_count.into());
        w.byte(u8::from(self.source == Source::Ticks));
        w.text(&self.place);
        w.bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes, "identity");
        Ok(Self {
            log_id: r.text()?.to_owned(),
            partition: r.u32()?,
            partition_count: r.u32()?,
            source: if r.byte()? == 0 { Source::Append } else { Source::Ticks },
            place: r.text()?.to_owned(),
        })
    }
}

/// An open store.
pub struct Rocks {
    /// The database.
    pub db: DB,
    options: Options,
    /// Where it is.
    pub path: PathBuf,
    /// Nothing can be written.
    pub read_only: bool,
}

fn table_options(budget: &Budget, bloom: bool) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&budget.cache);
    table.set_block_size(16 * 1024);
    table.set_format_version(6);
    if bloom {
        table.set_bloom_filter(10.0, false);
    }
    table
}

fn family(name: &str, budget: &Budget) -> ColumnFamilyDescriptor {
    let mut options = Options::default();
    options.set_write_buffer_size(budget.buffer_bytes);
    let compression = match name {
        // Packed already, and hashes: nothing to gain.
        CF_SETTLED_IDS => DBCompressionType::None,
        CF_SETTLED => DBCompressionType::Zstd,
        _ => DBCompressionType::Lz4,
    };
    options.set_compression_type(compression);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_block_based_table_factory(&table_options(budget, name == "default"));
    ColumnFamilyDescriptor::new(name, options)
}

/// Tables that a partition's store keeps open.
const OPEN_FILES_MAX: i32 = 1_024;

/// How often a store is opened beside its writer before a table that is gone counts as lost. Each merge can spoil one attempt.
const OPEN_BESIDE_ATTEMPTS: u32 = 20;

fn options(budget: &Budget) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_write_buffer_manager(&budget.buffers);
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_background_jobs(2);
    // Packed calls are many files, most of them never asked for again.
    options.set_max_open_files(OPEN_FILES_MAX);
    options.enable_statistics();
    options.set_statistics_level(rocksdb::statistics::StatsLevel::ExceptDetailedTimers);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options
}

const FAMILIES: [&str; 4] = ["default", CF_OPEN, CF_SETTLED, CF_SETTLED_IDS];

impl Rocks {
    /// Opens the store of a partition to write, made if need be.
    pub fn open(path: &Path, identity: &StoreIdentity, budget: &Budget) -> Result<Self, StoreError> {
        let families = FAMILIES.map(|name| family(name, budget));
        let options = options(budget);
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|cause| explain(path, cause))?;
        let rocks = Self {
            db,
            options,
            path: path.to_owned(),
            read_only: false,
        };
        if rocks.get(&keys::meta(Meta::Versions))?.is_none() {
            let mut w = Writer::default();
            w.uint(FORMAT_VERSION.into());
            w.uint(FOLD_VERSION.into());
            let mut batch = rocksdb::WriteBatch::default();
            batch.put(keys::meta(Meta::Versions), w.bytes);
            batch.put(keys::meta(Meta::Identity), identity.to_bytes());
            rocks.write(batch)?;
            rocks.flush()?;
        }
        rocks.check(identity)?;
        Ok(rocks)
    }

    /// Opens the store beside the process that writes it: what that one has flushed is seen. `scratch` takes RocksDB's own log.
    pub fn open_beside(
        path: &Path,
        identity: &StoreIdentity,
        budget: &Budget,
        scratch: &Path,
    ) -> Result<Self, StoreError> {
        if !path.join("CURRENT").exists() {
            return Err(StoreError::Absent { path: path.to_owned() });
        }
        let mut options = options(budget);
        // Every table is opened now and stays open: the writer removes what it has merged, also while it is read here.
        options.set_max_open_files(-1);
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::open_secondary(path, identity, budget, &options, scratch) {
                // Between the reading of the manifest and the opening of a table the writer has merged it away. The next
                // manifest names what it was merged into.
                Err(StoreError::Rocks { cause, .. }) if is_gone(&cause) && attempts < OPEN_BESIDE_ATTEMPTS => (),
                opened => return opened,
            }
        }
    }

    fn open_secondary(
        path: &Path,
        identity: &StoreIdentity,
        budget: &Budget,
        options: &Options,
        scratch: &Path,
    ) -> Result<Self, StoreError> {
        let families = FAMILIES.map(|name| family(name, budget));
        let db = DB::open_cf_descriptors_as_secondary(options, path, scratch, families)
            .map_err(|cause| explain(path, cause))?;
        let rocks = Self {
            db,
            options: options.clone(),
            path: path.to_owned(),
            read_only: true,
        };
        rocks.check(identity)?;
        Ok(rocks)
    }

    fn check(&self, identity: &StoreIdentity) -> Result<(), StoreError> {
        let absent = || StoreError::Absent {
            path: self.path.clone(),
        };
        let versions = self.get(&keys::meta(Meta::Versions))?.ok_or_else(absent)?;
        let mut r = Reader::new(&versions, "versions");
        for (what, wanted) in [("format", FORMAT_VERSION), ("fold", FOLD_VERSION)] {
            let found = r.u32().map_err(|d| self.damaged(d))?;
            if found != wanted {
                return Err(StoreError::Version {
                    path: self.path.clone(),
                    what,
                    found,
                    wanted,
                });
            }
        }
        let found = self.get(&keys::meta(Meta::Identity))?.ok_or_else(absent)?;
        let found = StoreIdentity::from_bytes(&found).map_err(|d| self.damaged(d))?;
        if found != *identity {
            return Err(StoreError::OtherLog {
                path: self.path.clone(),
                found: found.describe(),
                wanted: identity.describe(),
            });
        }
        Ok(())
    }

    /// The error for a value that can't be read.
    pub fn damaged(&self, damaged: Damaged) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            damaged,
        }
    }

    /// RocksDB's error with its place.
    pub fn explain(&self, cause: rocksdb::Error) -> StoreError {
        explain(&self.path, cause)
    }

    /// A row of the default column family.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(|e| self.explain(e))
    }

    /// A column family; all are made at opening.
    pub fn family(&self, name: &'static str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or(StoreError::Absent {
            path: self.path.clone(),
        })
    }

    /// Rows of the default column family whose keys begin with `prefix`, in order.
    pub fn scan(
        &self,
        prefix: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Damaged>,
    ) -> Result<(), StoreError> {
        let mut rows = self.db.raw_iterator();
        rows.seek(prefix);
        while let Some((key, value)) = rows.item() {
            if !key.starts_with(prefix) {
                break;
            }
            take(key, value).map_err(|d| self.damaged(d))?;
            rows.next();
        }
        rows.status().map_err(|e| self.explain(e))
    }

    /// The rows as they are now, whatever is written after.
    pub fn snapshot(&self) -> Snapshot<'_> {
        self.db.snapshot()
    }

    /// Rows of the default column family from one key to another, both included, as a snapshot has them.
    pub fn scan_snapshot(
        &self,
        snapshot: &Snapshot<'_>,
        first: &[u8],
        last: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Damaged>,
    ) -> Result<(), StoreError> {
        let mut rows = snapshot.raw_iterator();
        rows.seek(first);
        while let Some((key, value)) = rows.item().filter(|(key, _)| *key <= last) {
            take(key, value).map_err(|d| self.damaged(d))?;
            rows.next();
        }
        rows.status().map_err(|e| self.explain(e))
    }

    /// Writes a batch without a write-ahead log.
    pub fn write(&self, batch: rocksdb::WriteBatch) -> Result<(), StoreError> {
        self.db.write_without_wal(batch).map_err(|e| self.explain(e))
    }

    /// Puts everything written on disk, all column families at once, and waits for it.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.flush_families(true)
    }

    /// Begins to put everything written on disk, all column families at once.
    pub fn start_flush(&self) -> Result<(), StoreError> {
        self.flush_families(false)
    }

    /// Whether a flush that was begun still goes on.
    pub fn is_flushing(&self) -> bool {
        FAMILIES
            .iter()
            .filter_map(|name| self.db.cf_handle(name))
            .filter_map(|cf| {
                self.db
                    .property_int_value_cf(cf, "rocksdb.num-immutable-mem-table")
                    .ok()
                    .flatten()
            })
            .any(|waiting| waiting > 0)
    }

    fn flush_families(&self, wait: bool) -> Result<(), StoreError> {
        let mut families = Vec::with_capacity(FAMILIES.len());
        for name in FAMILIES {
            families.push(self.family(name)?);
        }
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.db.flush_cfs_opt(&families, &options).map_err(|e| self.explain(e))
    }

    /// Copies the store as it is written now into `to`, which must not exist: by links where that is the same file system.
    /// What lies in memory is flushed first, all column families at once, for there is no write-ahead log to copy.
    pub fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(|e| self.explain(e))?;
        checkpoint.create_checkpoint(to).map_err(|e| self.explain(e))
    }

    /// Bytes that lie in memory, not flushed.
    pub fn unflushed_bytes(&self) -> u64 {
        FAMILIES
            .iter()
            .filter_map(|name| self.db.cf_handle(name))
            .filter_map(|cf| {
                self.db
                    .property_int_value_cf(cf, "rocksdb.cur-size-all-mem-tables")
                    .ok()
                    .flatten()
            })
            .sum()
    }

    /// Bytes written to the disk since it was opened, by flushes and compactions.
    pub fn written_bytes(&self) -> u64 {
        use rocksdb::statistics::Ticker;
        self.options.get_ticker_count(Ticker::FlushWriteBytes)
            + self.options.get_ticker_count(Ticker::CompactWriteBytes)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        FAMILIES
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

fn is_gone(cause: &rocksdb::Error) -> bool {
    cause.to_string().contains("No such file or directory")
}

fn explain(path: &Path, cause: rocksdb::Error) -> StoreError {
    let text = cause.to_string();
    let path = path.to_owned();
    if text.contains("lock file") || text.contains("LOCK") {
        StoreError::Locked { path }
    } else if text.contains("No space left") {
        StoreError::DiskFull { path, cause }
    } else {
        StoreError::Rocks { path, cause }
    }
}
