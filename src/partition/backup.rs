//! A backup: the stores as they are committed, then the log, which so has all that they have folded; the manifest last.
//!
//! ```text
//! DIR/store/0..n     a checkpoint of each partition's store
//! DIR/log            a checkpoint of the log
//! DIR/manifest.json  where each store stands, read back from its checkpoint, and a hash of every file
//! ```
//!
//! Files are linked where `DIR` is on the data's file system, else copied. No lock is held: the fold, appends and reads go on.
//! Without a manifest a backup is incomplete, and restore refuses it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use xxhash_rust::xxh3::Xxh3;

use super::PartitionError;
use super::host::{Scratch, folder, log_path, store_path};
use super::live::ReadError;
use super::running::Running;
use crate::log::local::LocalLog;
use crate::log::{Log, LogError};
use crate::model::period::rfc3339;
use crate::store::keys::{Meta, meta};
use crate::store::rocks::{Budget, FOLD_VERSION, FORMAT_VERSION, Rocks, StoreError, StoreIdentity};
use crate::store::state;

/// Name of the file that makes a backup complete.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest.
pub const MANIFEST_FORMAT: u32 = 1;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Why there is no backup, or none that can be restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// Not an absolute path.
    #[error("{path} is not an absolute path without `..`; name the folder from / on")]
    NotAbsolute {
        /// As asked for.
        path: PathBuf,
    },
    /// There is something already.
    #[error("{path} is not empty; name a folder that is empty or doesn't exist")]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// A backup in the data that it is of, or outside the folder for backups.
    #[error("{path} is {what}; name a folder {wanted}")]
    Misplaced {
        /// As asked for.
        path: PathBuf,
        /// Where it is.
        what: String,
        /// Where it should be.
        wanted: String,
    },
    /// The log is no folder.
    #[error(
        "the log of this instance is Kafka's, which keeps it: back the cluster up. A store that is lost is folded anew from it"
    )]
    SharedLog,
    /// One at a time.
    #[error("another backup is being made; wait until it is done")]
    Busy,
    /// No manifest.
    #[error("{path} has no {MANIFEST}: it is no backup, or one that was cut off; take another one")]
    Incomplete {
        /// The backup.
        path: PathBuf,
    },
    /// A manifest that can't be read.
    #[error("the manifest {path} can't be read: {cause}; take another backup")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A manifest or a store of another version.
    #[error(
        "the backup {path} has {what} version {found}, this binary has {wanted}; restore it with reckon {reckon}, which made it"
    )]
    Version {
        /// The backup.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// In the manifest.
        found: u32,
        /// In this binary.
        wanted: u32,
        /// The version of reckon that made it.
        reckon: String,
    },
    /// A file that isn't what it was.
    #[error("{path} is damaged: {what}; nothing was restored. Take another backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// A store that isn't what the manifest says.
    #[error(
        "partition {partition} of the backup stands at {found}, but its manifest says {wanted}; nothing was restored. Take another backup"
    )]
    Differs {
        /// Which.
        partition: u32,
        /// In the store.
        found: String,
        /// In the manifest.
        wanted: String,
    },
    /// A file or folder.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A partition that isn't served.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Log or store.
    #[error(transparent)]
    Partition(#[from] PartitionError),
}

impl From<LogError> for BackupError {
    fn from(cause: LogError) -> Self {
        Self::Partition(cause.into())
    }
}

impl From<StoreError> for BackupError {
    fn from(cause: StoreError) -> Self {
        Self::Partition(cause.into())
    }
}

pub(super) fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    |cause| BackupError::File { path, cause }
}

/// Where a backup's store stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionStanding {
    /// Which partition.
    pub partition: u32,
    /// Every record below is folded.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "1042")]
    pub next_offset: u64,
    /// Steps of the next record that are done.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "0")]
    pub step: u64,
    /// Log time; absent: it hasn't begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    /// The fold's digest there; absent: nothing was committed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// First offset that the backup's log keeps.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "0")]
    pub log_start: u64,
    /// Offset after the last record of the backup's log.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "1057")]
    pub log_end: u64,
}

impl PartitionStanding {
    /// Offset, step and digest in words.
    pub(super) fn place(next_offset: u64, step: u64, digest: Option<&str>) -> String {
        format!("offset {next_offset} step {step} digest {}", digest.unwrap_or("none"))
    }
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    /// Below the backup's folder.
    #[schema(example = "log/000012.sst")]
    pub path: String,
    /// Its size.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "65536")]
    pub bytes: u64,
    /// XXH3 (128 bit) of its bytes, in hexadecimal: it shows damage, not ill will.
    pub xxh3: String,
}

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// Version of the manifest.
    pub format: u32,
    /// Version of the stores' rows.
    pub store_format: u32,
    /// Version of the fold.
    pub fold_version: u32,
    /// Version of reckon that made it.
    pub reckon: String,
    /// When it was complete, by the machine's clock.
    pub made_at: String,
    /// The log's id.
    pub log_id: String,
    /// What moves its clocks.
    pub clock_source: String,
    /// By number.
    pub partitions: Vec<PartitionStanding>,
    /// All files, by path.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// 64-bit integers as decimal strings, as everywhere in JSON.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
    pub(super) fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Whether a folder can take a backup, or what is restored: it is empty, or isn't there.
pub(super) fn check_empty(path: &Path) -> Result<(), BackupError> {
    match std::fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(BackupError::NotEmpty { path: path.to_owned() }),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(file_error(path)(cause)),
    }
}

/// Where a path is on the disk, links followed, though its last parts may not exist yet.
fn resolved(path: &Path) -> Result<PathBuf, BackupError> {
    let plain = |c| {
        use std::path::Component::{Normal, RootDir};
        matches!(c, RootDir | Normal(_))
    };
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(BackupError::NotAbsolute { path: path.to_owned() });
    }
    for there in path.ancestors() {
        match there.canonicalize() {
            Ok(found) => return Ok(found.join(path.strip_prefix(there).unwrap_or(Path::new("")))),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(file_error(path)(cause)),
        }
    }
    Err(BackupError::NotAbsolute { path: path.to_owned() })
}

/// Whether a running service may write a backup there: an absolute path, below `root` if there is one, not in the data itself.
fn check_place(to: &Path, data: &Path, root: Option<&Path>) -> Result<(), BackupError> {
    let place = resolved(to)?;
    let data = data.canonicalize().map_err(file_error(data))?;
    if place.starts_with(&data) {
        return Err(BackupError::Misplaced {
            path: to.to_owned(),
            what: format!("in the data folder {}", data.display()),
            wanted: "outside it, best on another disk".to_owned(),
        });
    }
    let Some(root) = root else {
        return Ok(());
    };
    let root = root.canonicalize().map_err(file_error(root))?;
    if place.starts_with(&root) && place != root {
        return Ok(());
    }
    Err(BackupError::Misplaced {
        path: to.to_owned(),
        what: format!("not below the folder for backups {}", root.display()),
        wanted: "below it".to_owned(),
    })
}

impl Running {
    /// Backs up while everything goes on: every record that was acknowledged before is in it. `to` is an absolute path to an
    /// empty or absent folder, below `root` if one is given.
    pub fn backup(&self, to: &Path, root: Option<&Path>) -> Result<Manifest, BackupError> {
        let _alone = self.backing_up.try_lock().ok_or(BackupError::Busy)?;
        let log = self.local_log().ok_or(BackupError::SharedLog)?;
        check_place(to, &self.data, root)?;
        let stores = self.partitions.iter().map(|live| live.read(|p| Arc::clone(&p.rocks)));
        let stores = stores.collect::<Result<Vec<_>, _>>()?;
        make(log, stores, to, &mut |_, _| ())
    }
}

/// Backs up a data folder that nobody serves. `progress` is told bytes hashed, and all there are.
pub fn backup_folder(
    data: &Path,
    to: &Path,
    budget: &Budget,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, BackupError> {
    let log = super::host::open_log(data, crate::log::local::wall_clock())?;
    folder(&data.join("store"))?;
    let stores = (0..log.identity().partition_count)
        .map(|n| Rocks::open(&store_path(data, n), &StoreIdentity::of(&log, n), budget).map(Arc::new))
        .collect::<Result<_, _>>()?;
    make(&log, stores, to, progress)
}

fn make(
    log: &LocalLog,
    stores: Vec<Arc<Rocks>>,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, BackupError> {
    check_empty(to)?;
    let made = copy(log, stores, to).and_then(|()| describe(log, to, progress));
    if made.is_err() {
        // The folder was empty: what is in it is ours, and holds room on the disk.
        for name in ["store", "log"] {
            let _ = std::fs::remove_dir_all(to.join(name));
        }
    }
    made
}

/// The stores, then the log.
fn copy(log: &LocalLog, stores: Vec<Arc<Rocks>>, to: &Path) -> Result<(), BackupError> {
    folder(&to.join("store"))?;
    // Else retention could remove what a store has folded since its copy, and the copy needs again.
    let _kept = log.hold();
    for (number, store) in stores.into_iter().enumerate() {
        store.checkpoint(&store_path(to, number as u32))?;
    }
    Ok(log.checkpoint(&log_path(to))?)
}

/// Reads the copies and writes the manifest.
fn describe(log: &LocalLog, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Manifest, BackupError> {
    let partitions = standings(to)?;
    let mut paths = Vec::new();
    let total = files_below(to, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in &paths {
        let name = path.strip_prefix(to).unwrap_or(path).to_string_lossy();
        files.push(read_through(path, &name, &mut |bytes| progress(bytes, total), |_| {
            Ok(())
        })?);
    }
    let identity = log.identity();
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        store_format: FORMAT_VERSION,
        fold_version: FOLD_VERSION,
        reckon: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: rfc3339(chrono::Utc::now().timestamp_millis()),
        log_id: identity.log_id.clone(),
        clock_source: identity.source.as_str().to_owned(),
        partitions,
        files,
    };
    write_manifest(&manifest, to)?;
    tracing::info!(
        to = %to.display(),
        files = manifest.files.len(),
        bytes = manifest.bytes(),
        "backup complete"
    );
    Ok(manifest)
}

/// Reads back from the copies where they stand; nothing is written there.
fn standings(backup: &Path) -> Result<Vec<PartitionStanding>, BackupError> {
    let scratch = Scratch::at(backup.join("reading"))?;
    let log = LocalLog::open_beside(&log_path(backup), &scratch.0.join("log"))?;
    let budget = Budget::new(8 << 20, 8 << 20);
    let mut standings = Vec::new();
    for number in 0..log.identity().partition_count {
        let identity = StoreIdentity::of(&log, number);
        let store = store_path(backup, number);
        let store = Rocks::open_beside(&store, &identity, &budget, &scratch.0.join(number.to_string()))?;
        let state = match store.get(&meta(Meta::State))? {
            Some(row) => Some(state::read(&row).map_err(|d| store.damaged(d))?),
            None => None,
        };
        standings.push(PartitionStanding {
            partition: number,
            next_offset: state.as_ref().map_or(0, |s| s.position.next_offset),
            step: state.as_ref().map_or(0, |s| s.position.step),
            clock: state.as_ref().and_then(|s| s.clock.now).map(rfc3339),
            digest: state.map(|s| format!("{:032x}", s.digest)),
            log_start: log.start(number)?,
            log_end: log.end(number)?,
        });
    }
    Ok(standings)
}

/// Every file below a folder, and their bytes; folders are put on the disk on the way.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) -> Result<u64, BackupError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(file_error(folder))? {
        let path = entry.map_err(file_error(folder))?.path();
        let what = std::fs::metadata(&path).map_err(file_error(&path))?;
        if what.is_dir() {
            bytes += files_below(&path, found)?;
        } else {
            bytes += what.len();
            found.push(path);
        }
    }
    sync_folder(folder)?;
    Ok(bytes)
}

/// Reads a file once: its size and hash, while `take` is given its bytes.
pub(super) fn read_through(
    path: &Path,
    name: &str,
    progress: &mut dyn FnMut(u64),
    mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<FileEntry, BackupError> {
    let mut file = File::open(path).map_err(file_error(path))?;
    let (mut hash, mut bytes) = (Xxh3::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk).map_err(file_error(path))?;
        let Some(read) = chunk.get(..count).filter(|c| !c.is_empty()) else {
            break;
        };
        hash.update(read);
        take(read)?;
        bytes += count as u64;
        progress(count as u64);
    }
    Ok(FileEntry {
        path: name.to_owned(),
        bytes,
        xxh3: format!("{:032x}", hash.digest128()),
    })
}

/// Puts a folder's entries on the disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(file_error(path))
}

/// Whole or not at all: a backup that has it is complete.
fn write_manifest(manifest: &Manifest, to: &Path) -> Result<(), BackupError> {
    let (path, part) = (to.join(MANIFEST), to.join("manifest.json.part"));
    let text = serde_json::to_vec_pretty(manifest).map_err(|cause| BackupError::Manifest {
        path: path.clone(),
        cause: cause.to_string(),
    })?;
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&part, &path)
    };
    write().map_err(file_error(&path))?;
    sync_folder(to)
}
