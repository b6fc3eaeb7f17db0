//! Reckon on a real Apache Kafka, which the tests start themselves: real processes, killed for real.

// Unlike in the crate, a test says what it expects by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

mod acls;
mod broker;
mod chaos;
#[path = "../fold/comparing.rs"]
mod comparing;
mod consume;
mod control;
mod credentials;
mod feed;
mod fetching;
mod fleet;
mod gaps;
mod group;
mod outputs;
mod placement;
mod publisher;
mod reads;
mod refused;
#[path = "../fold/scenario/mod.rs"]
mod scenario;
mod scenarios;
#[path = "../http/served.rs"]
#[allow(dead_code, reason = "shared with the tests of the service")]
mod served;
mod shelf;
mod silence;
mod topics;
mod zombies;
