//! Tables of scenarios: how they are read, what they are checked against.

pub mod expect;
pub mod parse;
