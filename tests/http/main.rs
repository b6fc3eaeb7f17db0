//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod operations;
mod authorisation;
mod contract;
mod ingest;
mod reads;
mod served;
