//! Reckon.
pub mod machine;
pub mod model;
#[cfg(feature = "store")]
pub mod store;
pub mod wire;
