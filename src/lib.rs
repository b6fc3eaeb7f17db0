//! Reckon.
pub mod auditor;
#[cfg(feature = "store")]
pub mod cli;
#[cfg(feature = "store")]
pub mod log;
pub mod machine;
pub mod model;
#[cfg(feature = "store")]
pub mod partition;
#[cfg(feature = "store")]
pub mod store;
pub mod wire;
pub mod workload;
