//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod back_pressure;
mod ingest;
mod inside;
mod post;
mod reads;
mod records;
#[path = "../fold/scenario/mod.rs"]
mod scenario;
mod scenarios;
mod served;
