//! A consumer's cursor: how far it has come in each partition, and how long its output file was then.
//!
//! The file of rows is on disk before the cursor is, and is cut to the cursor's length at the start: so a row is there once,
//! whenever the process was killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use fs4::FileExt;
use serde::{Deserialize, Serialize};

use super::ConsumeError;
use crate::log::continuity::Continuity;
use crate::machine::output::Tail;

/// Form of the file.
const FORMAT: u32 = 1;

/// One partition's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Next offset to read; 0 on an embedded log, where the sequence is enough.
    pub next_offset: u64,
    /// Last sequence taken; 0 = none.
    pub sequence: u64,
    /// Its chained hash, 32 hex digits.
    pub chain: String,
}

impl Position {
    /// As outputs are held to it.
    pub fn continuity(&self) -> Option<Continuity> {
        if self.sequence == 0 {
            return Some(Continuity::default());
        }
        let chain = u128::from_str_radix(&self.chain, 16).ok()?;
        Some(Continuity::after(Tail {
            sequence: self.sequence,
            chain,
        }))
    }

    /// What was taken up to here.
    pub fn at(next_offset: u64, tail: Tail) -> Self {
        Self {
            next_offset,
            sequence: tail.sequence,
            chain: format!("{:032x}", tail.chain),
        }
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    format: u32,
    /// Which topic of which cluster, or which log: by its id.
    pub place: String,
    /// Length of the output file; absent if rows went to standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_bytes: Option<u64>,
    /// By partition.
    pub partitions: BTreeMap<u32, Position>,
}

impl Cursor {
    /// At the beginning.
    pub fn new(place: &str, out_bytes: Option<u64>) -> Self {
        Self {
            format: FORMAT,
            place: place.to_owned(),
            out_bytes,
            partitions: BTreeMap::new(),
        }
    }
}

/// The file, which one process at a time has.
#[derive(Debug)]
pub struct CursorFile {
    path: PathBuf,
    // Locked as long as it is open. Not the cursor itself, which is replaced.
    _lock: File,
}

impl CursorFile {
    /// Takes the file for this process.
    pub fn take(path: &Path) -> Result<Self, ConsumeError> {
        let beside = with_suffix(path, ".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&beside)
            .map_err(|cause| ConsumeError::File {
                path: beside.clone(),
                cause,
            })?;
        match FileExt::try_lock(&lock) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(fs4::TryLockError::WouldBlock) => Err(ConsumeError::Taken { path: path.to_owned() }),
            Err(fs4::TryLockError::Error(cause)) => Err(ConsumeError::File { path: beside, cause }),
        }
    }

    /// What it says, if it is there.
    pub fn load(&self) -> Result<Option<Cursor>, ConsumeError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(self.failed(cause)),
        };
        let unreadable = |what: String| ConsumeError::Unreadable {
            path: self.path.clone(),
            what,
        };
        let cursor: Cursor = serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        if cursor.format != FORMAT {
            return Err(unreadable(format!("format {}, known is {FORMAT}", cursor.format)));
        }
        if let Some(bad) = cursor.partitions.iter().find(|(_, p)| p.continuity().is_none()) {
            return Err(unreadable(format!("the chain of partition {} isn't one", bad.0)));
        }
        Ok(Some(cursor))
    }

    /// Puts another one in its place, on disk: after a crash there is this one or the one before.
    pub fn save(&self, cursor: &Cursor) -> Result<(), ConsumeError> {
        let new = with_suffix(&self.path, ".new");
        let failed = |cause| self.failed(cause);
        let mut text = serde_json::to_vec_pretty(cursor).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&new, &self.path).map_err(failed)?;
        sync_folder(&self.path).map_err(failed)
    }

    fn failed(&self, cause: std::io::Error) -> ConsumeError {
        ConsumeError::File {
            path: self.path.clone(),
            cause,
        }
    }
}

/// Puts on disk that a file is where it is.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_saved_loaded_and_one_process_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let file = CursorFile::take(&path).unwrap();
        assert_eq!(file.load().unwrap(), None);
        let mut cursor = Cursor::new("here", Some(7));
        let tail = Tail { sequence: 3, chain: 5 };
        cursor.partitions.insert(1, Position::at(9, tail));
        file.save(&cursor).unwrap();
        assert_eq!(file.load().unwrap(), Some(cursor));
        assert!(matches!(CursorFile::take(&path), Err(ConsumeError::Taken { .. })));
        drop(file);
        std::fs::write(&path, "{").unwrap();
        let file = CursorFile::take(&path).unwrap();
        assert!(matches!(file.load(), Err(ConsumeError::Unreadable { .. })));
    }
}
