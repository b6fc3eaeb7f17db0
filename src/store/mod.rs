//! One partition's state in RocksDB: every key and value, one `WriteBatch` a commit, loading, packed calls.
//!
//! The log is the write-ahead log: RocksDB's own is off, and a crash loses only what a replay from the last flush restores.

pub mod bytes;
pub mod commit;
pub mod index;
pub mod keys;
pub mod load;
pub mod packed;
pub mod rocks;
pub mod rows;
pub mod shelf;
pub mod state;
pub mod values;
