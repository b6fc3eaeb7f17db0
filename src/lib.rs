//! Reckon.
pub mod machine;
pub mod model;
pub mod wire;
