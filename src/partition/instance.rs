//! An instance's data folder on a Kafka log: whose it is, and that one process at a time has it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};
use thiserror::Error;

use super::PartitionError;
use super::host::folder;

/// Why a data folder can't be an instance's.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// Another process has it.
    #[error("the data folder {path} is another process's; stop that one, or give this one another --data")]
    Taken {
        /// Which.
        path: PathBuf,
    },
    /// It can't be read or written.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The folder can't be made.
    #[error(transparent)]
    Folder(#[from] PartitionError),
}

/// A data folder that is this process's until it is let go.
#[derive(Debug)]
pub struct Instance {
    /// Its name in the group: the same after a restart.
    pub name: String,
    // Locked.
    _file: File,
}

impl Instance {
    /// Takes a data folder, made if need be. Without a name given it has one of its own.
    pub fn take(data: &Path, given: Option<&str>) -> Result<Self, InstanceError> {
        folder(data)?;
        let path = data.join("instance");
        let failed = |cause| InstanceError::File {
            path: path.clone(),
            cause,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(InstanceError::Taken { path: data.to_owned() }),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        let mut name = String::new();
        file.read_to_string(&mut name).map_err(failed)?;
        if name.is_empty() {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|e| failed(std::io::Error::other(e)))?;
            name = format!("reckon-{:016x}", u64::from_le_bytes(random));
            file.write_all(name.as_bytes()).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        Ok(Self {
            name: given.map_or(name, str::to_owned),
            _file: file,
        })
    }
}

fn owned_path(data: &Path) -> PathBuf {
    data.join("owned")
}

/// The partitions that this instance owned last, as far as is known: a hint at what the group will give again.
pub(super) fn last_owned(data: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(owned_path(data)).unwrap_or_default();
    let mut numbers: Vec<u32> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Notes them. What is lost or torn by a crash costs time, nothing else.
pub(super) fn remember_owned(data: &Path, partitions: &[u32]) -> std::io::Result<()> {
    let numbers: Vec<String> = partitions.iter().map(u32::to_string).collect();
    std::fs::write(owned_path(data), numbers.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_owned_last_is_a_hint() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        assert!(last_owned(folder.path()).is_empty());
        remember_owned(folder.path(), &[11, 3])?;
        assert_eq!(last_owned(folder.path()), [3, 11]);
        std::fs::write(owned_path(folder.path()), "3 x 3 -1 7")?;
        assert_eq!(last_owned(folder.path()), [3, 7]);
        Ok(())
    }

    #[test]
    fn a_folder_is_one_processs_and_keeps_its_name() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let first = Instance::take(folder.path(), None)?;
        assert!(matches!(
            Instance::take(folder.path(), None),
            Err(InstanceError::Taken { .. })
        ));
        let name = first.name.clone();
        drop(first);
        assert_eq!(Instance::take(folder.path(), None)?.name, name);
        assert_eq!(Instance::take(folder.path(), Some("mine"))?.name, "mine");
        Ok(())
    }
}
