//! Looks at a partition that readers wait for while the fold is at work: the fold does them between two groups of records.
//!
//! So no reader is parked on the fold's lock, and the fold doesn't stop for one: it is on a processor already, and has the
//! partition at hand. Whoever lets the lock go looks whether errands came meanwhile; so none is left behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use parking_lot::Mutex;

use super::worker::Partition;

/// One look; `None`: the partition isn't served.
type Errand = Box<dyn FnOnce(Option<&Partition>) + Send>;

/// Looks that wait.
#[derive(Default)]
pub(super) struct Errands {
    waiting: Mutex<Vec<Errand>>,
    any: AtomicBool,
}

impl Errands {
    /// Leaves one.
    pub(super) fn leave(&self, errand: Errand) {
        let mut waiting = self.waiting.lock();
        waiting.push(errand);
        self.any.store(true, Ordering::SeqCst);
        drop(waiting);
        // Before the lock is tried: either it is found free, or who holds it finds the errand after letting it go.
        fence(Ordering::SeqCst);
    }

    /// Whether there are some, as far as is seen here.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether there are some now that the lock is let go.
    pub(super) fn any_after_letting_go(&self) -> bool {
        fence(Ordering::SeqCst);
        self.any.load(Ordering::SeqCst)
    }

    /// Does those that are there.
    pub(super) fn run(&self, partition: Option<&Partition>) {
        let errands = {
            let mut waiting = self.waiting.lock();
            self.any.store(false, Ordering::SeqCst);
            std::mem::take(&mut *waiting)
        };
        for errand in errands {
            // A reader's fault is not the fold's. Nothing is changed by a look, so nothing is left half changed.
            if catch_unwind(AssertUnwindSafe(|| errand(partition))).is_err() {
                tracing::error!("a read has panicked");
            }
        }
    }
}
