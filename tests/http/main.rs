//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

#![allow(clippy::panic, reason = "how a test fails, also in what tests share")]

mod backup;
mod disk_full;
mod ingest;
mod kills;
mod nasty;
mod operations;
mod reads;
mod served;
mod soak;
mod traffic;
