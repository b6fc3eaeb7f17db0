//! The fold, proved: by tables, against the auditor, however it is cut off, and pinned.

mod auditor;
mod authority;
mod comparing;
#[cfg(feature = "store")]
mod crash;
#[cfg(feature = "store")]
mod embedded_log;
mod folding;
#[cfg(feature = "store")]
mod forwarding;
mod golden;
mod in_memory;
mod merging;
mod paging;
#[cfg(feature = "store")]
mod partition;
mod reading;
mod scenario;
mod scenarios;
