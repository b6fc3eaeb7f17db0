//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

#![allow(clippy::panic, reason = "how a test fails, also in what tests share")]

mod answers;
mod authorisation;
mod back_pressure;
mod backup;
mod contract;
mod disk_full;
mod event_schema;
mod imports;
mod ingest;
mod inside;
mod kills;
mod nasty;
mod operations;
mod outputs;
mod page;
mod post;
mod readme;
mod reads;
mod records;
mod refusals;
#[path = "../fold/scenario/mod.rs"]
mod scenario;
mod scenarios;
mod served;
mod soak;
mod statements;
mod stream;
mod traffic;
mod watchers;
