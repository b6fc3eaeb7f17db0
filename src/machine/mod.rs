//! The fold: records in, changes out. Synchronous and total.
//!
//! There is no clock, randomness, I/O, float, hash-order iteration or panic here: the same records in the same order give
//! the same rows, digest and outputs, whatever the batching, restarts or machine.

pub mod accounts;
pub mod adjust;
pub mod authority;
pub mod calls;
pub mod clock;
pub mod close;
mod content;
pub mod control;
pub mod digest;
pub mod evidence;
pub mod fold;
pub mod forward;
pub mod names;
pub mod numbers;
pub mod output;
pub mod paging;
pub mod periods;
pub mod prefetch;
pub mod rating;
pub mod settle;
pub mod usage;
pub mod verdict;
