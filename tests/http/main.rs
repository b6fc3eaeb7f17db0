//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod backup;
mod disk_full;
mod kills;
mod nasty;
mod operations;
mod ingest;
mod reads;
mod served;
mod soak;
mod traffic;
