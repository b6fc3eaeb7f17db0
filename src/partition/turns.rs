//! As many folds at work at a time as there are cores.
//!
//! More of them would only take the cores from each other in the midst of a batch, each time with another partition's state in
//! the caches: that costs a seventh of the fold's time with twelve partitions on two cores (`reckon bench kafka`). A partition
//! that waits for its turn holds nothing, so it is read meanwhile.

use std::sync::LazyLock;

use parking_lot::{Condvar, Mutex};

static CORES: LazyLock<Turns> =
    LazyLock::new(|| Turns::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)));

/// Turns that are handed out.
struct Turns {
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Turns {
    const fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            given_back: Condvar::new(),
        }
    }

    fn take(&self) -> Turn<'_> {
        let mut free = self.free.lock();
        self.given_back.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Turn(self)
    }
}

/// One core's worth of folding, given back when it is let go of. Not to be held over a commit or a question to the log; a block of
/// packed calls that isn't in the cache may be read meanwhile.
pub(super) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.given_back.notify_one();
    }
}

/// Waits for a turn.
pub(super) fn take() -> Turn<'static> {
    CORES.take()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn never_more_at_work_than_there_are_turns() {
        let turns = Turns::new(2);
        let (at_work, most, all) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let turn = turns.take();
                        let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        all.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        at_work.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert_eq!(all.into_inner(), 4_000);
        assert!(most.into_inner() <= 2);
    }
}
