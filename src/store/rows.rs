//! Rows of a store as they were at one moment, whatever is written after.

use rocksdb::{DBRawIterator, ErrorKind, ReadOptions};
use thiserror::Error;

use super::rocks::{Rocks, StoreError};

/// Why rows can't be read.
#[derive(Debug, Error)]
pub enum RowsError {
    /// They aren't in memory, and nothing else was to be asked.
    #[error("the rows aren't in memory")]
    NotInMemory,
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Rows of the default column family, as they were when this was made.
pub struct Rows<'r> {
    /// Their store.
    pub rocks: &'r Rocks,
    rows: DBRawIterator<'r>,
}

impl Rocks {
    /// The rows as they are now. With `memory_only` none is waited for: what isn't in memory is an error.
    pub fn rows(&self, memory_only: bool) -> Rows<'_> {
        let mut options = ReadOptions::default();
        if memory_only {
            options.set_read_tier(rocksdb::ReadTier::BlockCache);
        }
        Rows {
            rocks: self,
            rows: self.db.raw_iterator_opt(options),
        }
    }
}

impl Rows<'_> {
    /// A row.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, RowsError> {
        self.rows.seek(key);
        self.check()?;
        Ok(self.rows.item().filter(|row| row.0 == key).map(|row| row.1))
    }

    /// Rows from one key to another, both included, until `take` wants no more.
    pub fn scan<E: From<RowsError>>(
        &mut self,
        first: &[u8],
        last: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.rows.seek(first);
        while let Some((key, value)) = self.rows.item().filter(|(key, _)| *key <= last) {
            if !take(key, value)? {
                return Ok(());
            }
            self.rows.next();
        }
        Ok(self.check()?)
    }

    fn check(&self) -> Result<(), RowsError> {
        self.rows.status().map_err(|cause| match cause.kind() {
            ErrorKind::Incomplete => RowsError::NotInMemory,
            _ => self.rocks.explain(cause).into(),
        })
    }
}
