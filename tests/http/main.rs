//! The service as a real process on a real socket: what it answers, what it refuses, what it survives.

mod backup;
mod kills;
mod operations;
mod reads;
mod served;
mod traffic;
