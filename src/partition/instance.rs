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

#[cfg(test)]
mod tests {
    use super::*;

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
