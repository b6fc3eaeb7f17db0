//! Stores that are opened before the group has said whose their partitions are.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::PartitionError;
use super::open::Stored;

/// How long they are kept for the group to give their partitions.
const KEPT: Duration = Duration::from_secs(60);

/// One that is being opened, or is open.
struct Opened {
    since: Instant,
    thread: JoinHandle<Result<Stored, PartitionError>>,
}

/// All of them, by partition.
#[derive(Default)]
pub(super) struct Early(Mutex<BTreeMap<u32, Opened>>);

impl Early {
    /// Opens one on a thread of its own. What can't be opened early is opened late, and says then what is wrong.
    pub(super) fn open(&self, number: u32, load: impl FnOnce() -> Result<Stored, PartitionError> + Send + 'static) {
        let thread = std::thread::Builder::new().name(format!("load-{number}"));
        if let Ok(thread) = thread.spawn(load) {
            let since = Instant::now();
            self.0.lock().insert(number, Opened { since, thread });
        }
    }

    /// Takes one, once it is open; `None`: it has to be opened.
    pub(super) fn take(&self, number: u32) -> Option<Stored> {
        let opened = self.0.lock().remove(&number)?;
        opened.thread.join().ok()?.ok()
    }

    /// Those that wait to be taken.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.0.lock().keys().copied().collect()
    }

    /// Closes those that the group doesn't seem to give.
    pub(super) fn close_old(&self) {
        self.0.lock().retain(|_, opened| opened.since.elapsed() <= KEPT);
    }

    /// Closes all.
    pub(super) fn close_all(&self) {
        self.0.lock().clear();
    }
}
