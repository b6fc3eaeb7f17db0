//! Live totals for whoever watches: computed once for an account and form, however many watch it, and only when they changed.
//!
//! Each partition has a hub, which runs while anybody watches. It wakes when the partition's standing has changed, a round
//! each [`ROUND_EVERY`] at most, compares the marks of all watched accounts under one lock, and computes what has changed,
//! one after another, off the lock. A round that takes long is followed by a longer pause: so watching never takes more than
//! a fixed share of a core from the fold, and with very many watched accounts the totals come less often instead.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{page, stream};
use crate::partition::account::UsageQuery;
use crate::partition::live::{Live, ReadError, Standing};
use crate::partition::running::Running;
use crate::partition::watch::Mark;

/// From the beginning of a round to the next one's at least.
pub const ROUND_EVERY: Duration = Duration::from_millis(250);

/// A pause is at least so many times as long as the round before it.
const PAUSE_FACTOR: u32 = 60;

/// Accounts that are compared under one lock, which keeps the fold out for some tens of microseconds.
const MARKS_AT_A_TIME: usize = 512;

/// In what form totals are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The body of a usage read, for programs.
    Usage(UsageQuery),
    /// The live part of the billing page.
    Page,
}

/// One message of a stream, and where its totals stand.
#[derive(Debug)]
pub struct Totals {
    /// Where they stand.
    pub standing: Standing,
    /// The message as it goes over the wire.
    pub message: Bytes,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Watched {
    account: String,
    form: Form,
}

impl Watched {
    fn totals(&self, live: &Live) -> Result<Option<Totals>, ReadError> {
        match &self.form {
            Form::Usage(query) => stream::totals(live, &self.account, query),
            Form::Page => page::live::totals(live, &self.account),
        }
    }
}

/// The latest totals, and the mark that they were computed after.
struct Entry {
    totals: watch::Sender<Option<Arc<Totals>>>,
    mark: Option<Mark>,
}

#[derive(Default)]
struct Entries {
    watched: HashMap<Arc<Watched>, Entry>,
    /// Whether the hub's task runs.
    running: bool,
}

struct Hub {
    live: Arc<Live>,
    entries: Mutex<Entries>,
    /// Somebody watches what nobody has watched, or nobody watches any more.
    told: Notify,
}

impl Hub {
    /// Computes what has changed since the last round.
    fn round(&self) {
        let watched: Vec<(Arc<Watched>, Option<Mark>)> = {
            let entries = self.entries.lock();
            let all = entries.watched.iter();
            all.map(|(of, entry)| (Arc::clone(of), entry.mark.clone())).collect()
        };
        for some in watched.chunks(MARKS_AT_A_TIME) {
            // Not served right now: the standing changes when it is again.
            let Ok((_, marks)) = self.live.marks(some.iter().map(|(of, _)| of.account.as_str())) else {
                return;
            };
            for ((of, before), now) in some.iter().zip(marks) {
                if before.as_ref() != Some(&now) && now.is_known() {
                    self.renew(of, now);
                }
            }
        }
    }

    fn renew(&self, of: &Arc<Watched>, mark: Mark) {
        match of.totals(&self.live) {
            Ok(Some(totals)) => {
                if let Some(entry) = self.entries.lock().watched.get_mut(of) {
                    entry.mark = Some(mark);
                    entry.totals.send_replace(Some(Arc::new(totals)));
                }
            }
            // An account doesn't go away; the mark of a failed read stays as it was, so it is tried again.
            Ok(None) => {}
            Err(cause) => tracing::warn!(account = of.account, %cause, "no totals for those who watch"),
        }
    }

    /// Whether anybody watches; if not, the task is over.
    fn goes_on(&self) -> bool {
        let mut entries = self.entries.lock();
        entries.running = !entries.watched.is_empty();
        entries.running
    }

    async fn run(self: Arc<Self>) {
        let mut standing = self.live.watch();
        while self.goes_on() {
            standing.borrow_and_update();
            let (hub, began) = (Arc::clone(&self), Instant::now());
            if tokio::task::spawn_blocking(move || hub.round()).await.is_err() {
                tracing::error!(partition = self.live.number, "a round for those who watch has panicked");
            }
            let took = began.elapsed();
            let pause = ROUND_EVERY.saturating_sub(took).max(took * PAUSE_FACTOR);
            tokio::time::sleep(pause).await;
            tokio::select! {
                _ = standing.changed() => {}
                () = self.told.notified() => {}
            }
        }
    }
}

/// Everybody who watches.
pub struct Watchers {
    hubs: Vec<Arc<Hub>>,
}

impl Watchers {
    /// Nobody yet.
    pub fn new(running: &Running) -> Self {
        let hub = |live: &Arc<Live>| {
            Arc::new(Hub {
                live: Arc::clone(live),
                entries: Mutex::default(),
                told: Notify::new(),
            })
        };
        Self {
            hubs: running.partitions.iter().map(hub).collect(),
        }
    }

    /// Accounts and forms that are watched by anybody.
    pub fn watched(&self) -> usize {
        self.hubs.iter().map(|hub| hub.entries.lock().watched.len()).sum()
    }

    /// Watches an account. `None`: there is no such partition.
    pub fn watch(&self, live: &Live, account: &str, form: Form) -> Option<Watch> {
        let hub = Arc::clone(self.hubs.get(live.number as usize)?);
        let watched = Arc::new(Watched {
            account: account.to_owned(),
            form,
        });
        let mut entries = hub.entries.lock();
        let (of, mut totals) = match entries.watched.entry(watched) {
            Place::Occupied(held) => (Arc::clone(held.key()), held.get().totals.subscribe()),
            Place::Vacant(free) => {
                let of = Arc::clone(free.key());
                let totals = watch::Sender::new(None);
                let receiver = totals.subscribe();
                free.insert(Entry { totals, mark: None });
                hub.told.notify_one();
                (of, receiver)
            }
        };
        // What is there already is news to the newcomer.
        totals.mark_changed();
        if !std::mem::replace(&mut entries.running, true) {
            tokio::spawn(Arc::clone(&hub).run());
        }
        drop(entries);
        Some(Watch { hub, of, totals })
    }
}

/// One who watches; leaving frees what nobody else watches.
pub struct Watch {
    hub: Arc<Hub>,
    of: Arc<Watched>,
    totals: watch::Receiver<Option<Arc<Totals>>>,
}

impl Watch {
    /// The latest totals, once they are others than those seen before. A slow watcher misses those in between.
    pub async fn next(&mut self) -> Option<Arc<Totals>> {
        loop {
            self.totals.changed().await.ok()?;
            if let Some(totals) = self.totals.borrow_and_update().clone() {
                return Some(totals);
            }
        }
    }

    /// The partition watched.
    pub fn live(&self) -> &Live {
        &self.hub.live
    }

    /// In what form.
    pub fn form(&self) -> &Form {
        &self.of.form
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut entries = self.hub.entries.lock();
        // Newcomers come under the same lock, so one receiver is this one.
        let is_last = |entry: &Entry| entry.totals.receiver_count() <= 1;
        if entries.watched.get(&self.of).is_some_and(is_last) {
            entries.watched.remove(&self.of);
            self.hub.told.notify_one();
        }
    }
}
