//! From a backup to a data folder: every file compared with its hash, every store with the manifest, then folded to the log's end.

use std::fs::File;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::Settings;
use super::backup::{
    BackupError, MANIFEST, MANIFEST_FORMAT, Manifest, PartitionStanding, check_empty, file_error, read_through,
    sync_folder,
};
use super::host::{Host, folder, log_path, open_log};
use crate::log::Log;
use crate::log::local::wall_clock;
use crate::store::rocks::{Budget, FOLD_VERSION, FORMAT_VERSION};

/// Where files lie until everything has proved good.
const STAGING: &str = "restoring";

/// Reads a backup's manifest; refuses one that this binary can't restore.
pub fn read_manifest(backup: &Path) -> Result<Manifest, BackupError> {
    let path = backup.join(MANIFEST);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(BackupError::Incomplete {
                path: backup.to_owned(),
            });
        }
        Err(cause) => return Err(file_error(&path)(cause)),
    };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|cause| BackupError::Manifest {
        path,
        cause: cause.to_string(),
    })?;
    for (what, found, wanted) in [
        ("manifest", manifest.format, MANIFEST_FORMAT),
        ("store", manifest.store_format, FORMAT_VERSION),
        ("fold", manifest.fold_version, FOLD_VERSION),
    ] {
        if found != wanted {
            return Err(BackupError::Version {
                path: backup.to_owned(),
                what,
                found,
                wanted,
                reckon: manifest.reckon,
            });
        }
    }
    Ok(manifest)
}

/// Copies beside the data folder that they are to become: nothing is served from there before [`Restored::install`].
struct Staging {
    data: PathBuf,
    path: PathBuf,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Copies only; the backup is untouched. After an installation nothing is there.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A backup, copied, compared and folded to the end of its log.
pub struct Restored {
    /// At the end of the log.
    pub host: Host,
    staging: Staging,
}

impl Restored {
    /// Copies and compares a backup's files, opens the stores, compares them with the manifest, and folds to the log's end.
    /// `copied` is told bytes, `folded` records.
    pub fn new(
        backup: &Path,
        manifest: &Manifest,
        data: &Path,
        budget: &Budget,
        copied: &mut dyn FnMut(u64),
        folded: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, BackupError> {
        check_empty(data)?;
        let staging = Staging {
            data: data.to_owned(),
            path: data.join(STAGING),
        };
        copy_all(backup, manifest, &staging.path, copied)?;
        let host = open(manifest, &staging.path, budget, folded)?;
        Ok(Self { host, staging })
    }

    /// A folder for what is needed until it is installed, removed then.
    pub fn scratch(&self) -> PathBuf {
        self.staging.path.join("scratch")
    }

    /// Closes everything and puts it in its place.
    pub fn install(self) -> Result<(), BackupError> {
        let Self { mut host, staging } = self;
        host.finish()?;
        // Nothing may hold the files any more.
        drop(host);
        // The log last: a folder without one is refused, one without stores folds them anew.
        for name in ["store", "log"] {
            let place = staging.data.join(name);
            std::fs::rename(staging.path.join(name), &place).map_err(file_error(&place))?;
        }
        sync_folder(&staging.data)
    }
}

fn copy_all(backup: &Path, manifest: &Manifest, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), BackupError> {
    let mut folders = std::collections::BTreeSet::new();
    for entry in &manifest.files {
        let (from, place) = (backup.join(&entry.path), to.join(&entry.path));
        let damaged = |what: String| BackupError::Damaged {
            path: from.clone(),
            what,
        };
        let name = Path::new(&entry.path);
        if !name.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(damaged("the manifest has it outside the backup".to_owned()));
        }
        if !from.exists() {
            return Err(damaged("the manifest has it, the backup hasn't".to_owned()));
        }
        let parent = place.parent().unwrap_or(to);
        folder(parent)?;
        folders.insert(parent.to_owned());
        let mut copy = File::create(&place).map_err(file_error(&place))?;
        let found = read_through(&from, &entry.path, progress, |bytes| {
            copy.write_all(bytes).map_err(file_error(&place))
        })?;
        if found.bytes != entry.bytes {
            return Err(damaged(format!("it has {} bytes, it had {}", found.bytes, entry.bytes)));
        }
        if found.xxh3 != entry.xxh3 {
            return Err(damaged("its hash is not that of the manifest".to_owned()));
        }
        copy.sync_all().map_err(file_error(&place))?;
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

fn open(
    manifest: &Manifest,
    staging: &Path,
    budget: &Budget,
    folded: &(dyn Fn(u64) + Sync),
) -> Result<Host, BackupError> {
    let log: Arc<dyn Log> = Arc::new(open_log(staging, wall_clock())?);
    if log.identity().log_id != manifest.log_id {
        return Err(BackupError::Damaged {
            path: log_path(staging),
            what: format!("it is log {:?}, not {:?}", log.identity().log_id, manifest.log_id),
        });
    }
    let mut host = Host::open(log, staging, budget, &Settings::default())?;
    for partition in &host.partitions {
        let (machine, number) = (&partition.machine, partition.number);
        let standing = manifest.partitions.iter().find(|s| s.partition == number);
        let digest = format!("{:032x}", machine.digest.value());
        let found = PartitionStanding::place(machine.position.next_offset, machine.position.step, Some(&digest));
        let wanted = match standing {
            // A store without a state begins with the log.
            Some(PartitionStanding { digest: None, .. }) => continue,
            Some(s) => PartitionStanding::place(s.next_offset, s.step, s.digest.as_deref()),
            None => "no place at all".to_owned(),
        };
        if found != wanted {
            return Err(BackupError::Differs {
                partition: number,
                found,
                wanted,
            });
        }
    }
    host.catch_up(folded)?;
    Ok(host)
}
