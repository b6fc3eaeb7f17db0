//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod authorisation;
mod contract;
mod ingest;
mod operations;
mod reads;
mod served;
