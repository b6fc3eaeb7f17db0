//! A data folder: the embedded log and a store a partition, folded by a thread each.
//!
//! ```text
//! DIR/log         the embedded log
//! DIR/store/0..n  a partition's store
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::worker::Partition;
use super::{PartitionError, Settings};
use crate::log::local::{LocalLog, WallClock};
use crate::log::{Identity, Log, LogError};
use crate::store::rocks::{Budget, Rocks, StoreIdentity};

/// All partitions of a data folder.
pub struct Host {
    /// The log.
    pub log: Arc<dyn Log>,
    /// By number.
    pub partitions: Vec<Partition>,
    // Scratch folders of readers, removed with the host.
    _scratch: Option<Scratch>,
}

/// A folder of its own, removed when it is let go.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Below the system's temporary folder.
    fn new() -> Result<Self, PartitionError> {
        let stamp = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
        Self::at(std::env::temp_dir().join(format!("reckon-reader-{}-{stamp}", std::process::id())))
    }

    pub(super) fn at(path: PathBuf) -> Result<Self, PartitionError> {
        folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of worth is in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn folder(path: &Path) -> Result<(), PartitionError> {
    std::fs::create_dir_all(path).map_err(|cause| PartitionError::Folder {
        path: path.to_owned(),
        cause,
    })
}

/// Where the log of a data folder is.
pub fn log_path(data: &Path) -> PathBuf {
    data.join("log")
}

/// Where a partition's store of a data folder is.
pub fn store_path(data: &Path, partition: u32) -> PathBuf {
    data.join("store").join(partition.to_string())
}

/// Makes the log of a data folder.
pub fn create_log(data: &Path, identity: &Identity, clock: WallClock) -> Result<LocalLog, PartitionError> {
    folder(data)?;
    Ok(LocalLog::create(&log_path(data), identity, clock)?)
}

/// Opens the log of a data folder to append to it.
pub fn open_log(data: &Path, clock: WallClock) -> Result<LocalLog, LogError> {
    LocalLog::open(&log_path(data), clock)
}

/// What the log of a data folder is, read beside a process that may be appending to it.
pub fn identity_beside(data: &Path) -> Result<Identity, PartitionError> {
    let scratch = Scratch::new()?;
    let log = LocalLog::open_beside(&log_path(data), &scratch.0.join("identity"))?;
    Ok(log.identity().clone())
}

impl Host {
    /// Opens every partition to fold it.
    pub fn open(log: Arc<dyn Log>, data: &Path, budget: &Budget, settings: &Settings) -> Result<Self, PartitionError> {
        folder(&data.join("store"))?;
        let partitions = (0..log.identity().partition_count)
            .map(|n| Partition::open(Arc::clone(&log), n, &store_path(data, n), budget, settings.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            log,
            partitions,
            _scratch: None,
        })
    }

    /// Opens log and stores beside a process that may be folding them, and folds in memory what that one hasn't put on disk.
    pub fn open_beside(data: &Path, budget: &Budget, settings: &Settings) -> Result<Self, PartitionError> {
        let scratch = Scratch::new()?;
        let own = |name: String| scratch.0.join(name);
        let log = LocalLog::open_beside(&log_path(data), &own("identity".to_owned()))?;
        let mut stores = Vec::new();
        for n in 0..log.identity().partition_count {
            let identity = StoreIdentity::of(&log, n);
            stores.push(Rocks::open_beside(
                &store_path(data, n),
                &identity,
                budget,
                &own(n.to_string()),
            )?);
        }
        // Opened after the stores: so it has every record that they have folded.
        let log: Arc<dyn Log> = Arc::new(LocalLog::open_beside(&log_path(data), &own("log".to_owned()))?);
        let mut partitions = Vec::new();
        for (n, rocks) in stores.into_iter().enumerate() {
            let mut partition = Partition::start(Arc::clone(&log), n as u32, rocks, settings.clone())?;
            partition.catch_up(|_| ())?;
            partitions.push(partition);
        }
        Ok(Self {
            log,
            partitions,
            _scratch: Some(scratch),
        })
    }

    /// Folds every partition to the end of its log, a thread each, and once more what was forwarded meanwhile. `progress` is
    /// told how many records were folded.
    pub fn catch_up(&mut self, progress: &(dyn Fn(u64) + Sync)) -> Result<(), PartitionError> {
        let forwarded = |host: &Self| host.partitions.iter().map(|p| p.work.forwarded).sum::<u64>();
        loop {
            let before = forwarded(self);
            self.fold_all(progress)?;
            if forwarded(self) == before {
                return Ok(());
            }
        }
    }

    fn fold_all(&mut self, progress: &(dyn Fn(u64) + Sync)) -> Result<(), PartitionError> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .partitions
                .iter_mut()
                .map(|partition| scope.spawn(move || partition.catch_up(progress)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Commits, delivers and puts everything on disk.
    pub fn finish(&mut self) -> Result<(), PartitionError> {
        self.partitions.iter_mut().try_for_each(Partition::finish)
    }
}
