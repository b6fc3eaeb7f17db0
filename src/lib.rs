//! Reckon.
pub mod auditor;
pub mod log;
pub mod machine;
pub mod model;
#[cfg(feature = "store")]
pub mod partition;
#[cfg(feature = "store")]
pub mod store;
pub mod wire;
