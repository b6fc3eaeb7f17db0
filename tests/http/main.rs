//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod ingest;
mod page;
mod reads;
mod served;
mod stream;
mod watchers;
