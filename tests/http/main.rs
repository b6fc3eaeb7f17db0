//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod authorisation;
mod backup;
mod contract;
mod disk_full;
mod ingest;
mod kills;
mod nasty;
mod operations;
mod reads;
mod served;
mod soak;
mod traffic;
