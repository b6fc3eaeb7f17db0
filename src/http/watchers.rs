//! Live totals for whoever watches: computed once for an account and form, however many watch it, and only when they changed.
//!
//! One task runs while anybody watches. It wakes when a partition's standing has changed, a round each [`Pace::every`] at most:
//! of all watched accounts it takes those that have changed, some dozens under one lock, and sums, prices and writes them after
//! it. What a round costs, in processor time and in messages, sets the pause after it: so watching never takes more than a
//! fixed share of a core from the fold, and with very many watched accounts the totals come less often instead.
//!
//! Who comes new doesn't wait for a round: the first totals are computed at once, beside it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::future::select_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::process::thread_cpu_time;
use super::{page, stream};
use crate::partition::account::UsageQuery;
use crate::partition::live::{Live, ReadError, Standing};
use crate::partition::running::Running;
use crate::partition::taken::{Asked, Taken};
use crate::partition::watch::{self as marks, Mark};
use crate::store::rows::Rows;

/// From the beginning of a round to the next one's at least.
pub const ROUND_EVERY: Duration = Duration::from_millis(250);

/// Accounts that are compared under one lock, which keeps the fold out for some tens of microseconds.
const MARKS_AT_A_TIME: usize = 512;

/// What it costs the service to send one message, about.
const SENDING: Duration = Duration::from_micros(15);

/// How often rounds come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From the beginning of one to the next one's at least.
    pub every: Duration,
    /// The pause after a round is at least so many times what the round has cost.
    pub rest: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: ROUND_EVERY,
            rest: 40,
        }
    }
}

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
    asked: Asked,
}

impl Watched {
    fn new(account: &str, form: Form) -> Self {
        Self {
            account: account.to_owned(),
            asked: match &form {
                Form::Usage(query) => Asked::Usage(query.clone()),
                Form::Page => Asked::Statement(None),
            },
            form,
        }
    }

    fn totals(&self, live: &Live, taken: &Taken, rows: &mut Rows<'_>) -> Result<Option<Totals>, ReadError> {
        match &self.form {
            Form::Usage(query) => stream::totals(live, taken, rows, query),
            Form::Page => page::live::totals(live, taken, rows),
        }
    }
}

/// The latest totals, and the mark that they were computed after.
struct Entry {
    totals: watch::Sender<Option<Arc<Totals>>>,
    mark: Option<Mark>,
    /// Totals with this record are waited for, also if it changes nothing.
    wanted: Option<u64>,
}

impl Entry {
    /// Whether totals that stand there are news to somebody, though nothing has changed.
    fn is_waited_for(&self, next_offset: u64) -> bool {
        self.wanted.is_some_and(|wanted| next_offset > wanted)
    }
}

/// Those watched in one partition.
type Entries = HashMap<Arc<Watched>, Entry>;

#[derive(Default)]
struct State {
    /// By partition.
    watched: Vec<Entries>,
    /// Who has come and has no totals yet, with the partition's place.
    newcomers: Vec<(usize, Arc<Watched>)>,
    /// Whether the task of rounds runs, and the one for newcomers.
    running: bool,
    greeting: bool,
}

struct Hub {
    partitions: Vec<Arc<Live>>,
    pace: Pace,
    state: Mutex<State>,
    /// Somebody watches what nobody has watched, or nobody watches any more.
    told: Notify,
}

impl Hub {
    /// Computes what has changed in some partitions since the last round; says what that has cost.
    fn round(&self, partitions: &[usize]) -> Duration {
        let began = (Instant::now(), thread_cpu_time());
        let mut messages = 0;
        for &at in partitions {
            let next_offset = self.partitions[at].standing().next_offset;
            let watched: Vec<(Arc<Watched>, Option<Mark>)> = {
                let state = self.state.lock();
                let mark = |entry: &Entry| entry.mark.clone().filter(|_| !entry.is_waited_for(next_offset));
                state.watched[at]
                    .iter()
                    .map(|(of, entry)| (Arc::clone(of), mark(entry)))
                    .collect()
            };
            messages += self.renew(at, &watched);
        }
        let on_cpu = thread_cpu_time()
            .zip(began.1)
            .map(|(now, then)| now.saturating_sub(then));
        on_cpu.unwrap_or_else(|| began.0.elapsed()) + SENDING * messages
    }

    /// Computes the totals of those that don't have their marks any more; says how many messages are to be sent.
    fn renew(&self, at: usize, watched: &[(Arc<Watched>, Option<Mark>)]) -> u32 {
        let live = &self.partitions[at];
        // Not served right now: the standing changes when it is again.
        let Ok(rocks) = live.store() else { return 0 };
        let (mut rest, mut messages) = (watched, 0);
        while !rest.is_empty() {
            let some: Vec<marks::Watched<'_>> = rest
                .iter()
                .take(MARKS_AT_A_TIME)
                .map(|(of, before)| marks::Watched {
                    id: &of.account,
                    asked: &of.asked,
                    before: before.as_ref(),
                })
                .collect();
            let Ok(mut changes) = live.changes(&rocks, &some) else {
                return messages;
            };
            for (place, mark, taken) in changes.changed {
                let of = &rest[place].0;
                match of.totals(live, &taken, &mut changes.rows) {
                    Ok(Some(totals)) => messages += self.tell(at, of, mark, totals),
                    // An account doesn't go away; the mark of a failed read stays as it was, so it is tried again.
                    Ok(None) => {}
                    Err(cause) => tracing::warn!(account = of.account, %cause, "no totals for those who watch"),
                }
            }
            rest = rest.get(changes.looked_at.max(1)..).unwrap_or_default();
        }
        messages
    }

    /// Gives totals to all who watch them; says to how many.
    fn tell(&self, at: usize, of: &Arc<Watched>, mark: Mark, totals: Totals) -> u32 {
        let mut state = self.state.lock();
        let Some(entry) = state.watched[at].get_mut(of) else {
            return 0;
        };
        // A newcomer's totals and a round's are computed side by side: the newer ones hold.
        let is_older = |had: &Mark| {
            let standing = entry.totals.borrow().as_ref().map(|t| t.standing.next_offset);
            had.is_of_the_same_opening(&mark) && standing.is_some_and(|s| s > totals.standing.next_offset)
        };
        let is_waited_for = entry.is_waited_for(totals.standing.next_offset);
        let is_known = entry.mark.as_ref() == Some(&mark) && !is_waited_for;
        if is_known || entry.mark.as_ref().is_some_and(is_older) {
            return 0;
        }
        if is_waited_for {
            entry.wanted = None;
        }
        entry.mark = Some(mark);
        entry.totals.send_replace(Some(Arc::new(totals)));
        metrics::counter!("reckon_stream_messages_computed_total").increment(1);
        entry.totals.receiver_count() as u32
    }

    /// Gives newcomers their first totals, until there are none; says whether there were some.
    fn greet(&self) -> bool {
        let newcomers = {
            let mut state = self.state.lock();
            state.greeting = !state.newcomers.is_empty();
            std::mem::take(&mut state.newcomers)
        };
        let mut by_partition: HashMap<usize, Vec<(Arc<Watched>, Option<Mark>)>> = HashMap::new();
        for (at, of) in newcomers {
            by_partition.entry(at).or_default().push((of, None));
        }
        for (at, some) in &by_partition {
            self.renew(*at, some);
        }
        !by_partition.is_empty()
    }

    /// The partitions in which anybody watches; if none, the task is over.
    fn watched_partitions(&self) -> Vec<usize> {
        let mut state = self.state.lock();
        let watched = state
            .watched
            .iter()
            .enumerate()
            .filter(|(_, entries)| !entries.is_empty());
        let watched: Vec<usize> = watched.map(|(at, _)| at).collect();
        state.running = !watched.is_empty();
        watched
    }

    async fn run(self: Arc<Self>) {
        let mut standings: Vec<_> = self.partitions.iter().map(|live| live.watch()).collect();
        // What was there before anybody watched is looked at once.
        let mut changed = vec![true; standings.len()];
        let mut next_round = tokio::time::Instant::now();
        loop {
            let watched = self.watched_partitions();
            if watched.is_empty() {
                return;
            }
            if tokio::time::Instant::now() < next_round {
                tokio::select! {
                    () = tokio::time::sleep_until(next_round) => {}
                    () = self.told.notified() => {}
                }
                continue;
            }
            let mut due = Vec::new();
            for &at in &watched {
                let news = standings[at].has_changed().unwrap_or(false);
                standings[at].borrow_and_update();
                if std::mem::take(&mut changed[at]) || news {
                    due.push(at);
                }
            }
            if due.is_empty() {
                let waiting = standings.iter_mut().enumerate().filter(|(at, _)| watched.contains(at));
                let waiting = waiting.map(|(at, standing)| {
                    Box::pin(async move {
                        // The sender lives as long as its partition, which is held here.
                        let _ = standing.changed().await;
                        at
                    })
                });
                tokio::select! {
                    (at, ..) = select_all(waiting) => changed[at] = true,
                    () = self.told.notified() => {}
                }
                continue;
            }
            let (hub, began) = (Arc::clone(&self), tokio::time::Instant::now());
            let cost = tokio::task::spawn_blocking(move || hub.round(&due)).await;
            if cost.is_err() {
                tracing::error!("a round for those who watch has panicked");
            }
            let pause = cost.unwrap_or_default() * self.pace.rest;
            next_round = (began + self.pace.every).max(tokio::time::Instant::now() + pause);
        }
    }

    async fn greet_all(self: Arc<Self>) {
        loop {
            let hub = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || hub.greet()).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => tracing::error!("the first totals for somebody who watches have panicked"),
            }
        }
    }
}

/// Everybody who watches.
pub struct Watchers(Arc<Hub>);

impl Watchers {
    /// Nobody yet.
    pub fn new(running: &Running) -> Self {
        Self::paced(running, Pace::default())
    }

    /// The same, with other pauses.
    pub fn paced(running: &Running, pace: Pace) -> Self {
        let partitions = running.partitions.clone();
        let state = State {
            watched: partitions.iter().map(|_| Entries::new()).collect(),
            ..State::default()
        };
        Self(Arc::new(Hub {
            partitions,
            pace,
            state: Mutex::new(state),
            told: Notify::new(),
        }))
    }

    /// Accounts and forms that are watched by anybody.
    pub fn watched(&self) -> usize {
        self.0.state.lock().watched.iter().map(HashMap::len).sum()
    }

    /// Watches an account. With `seen` totals are wanted that have this record, also if it changed nothing. `None`: there is
    /// no such partition.
    pub fn watch(&self, live: &Live, account: &str, form: Form, seen: Option<u64>) -> Option<Watch> {
        let hub = Arc::clone(&self.0);
        let at = live.number as usize;
        let watched = Arc::new(Watched::new(account, form));
        let mut guard = hub.state.lock();
        let state = &mut *guard;
        let place = state.watched.get_mut(at)?.entry(watched);
        let of = Arc::clone(match &place {
            Place::Occupied(held) => held.key(),
            Place::Vacant(free) => free.key(),
        });
        let is_new = matches!(place, Place::Vacant(_));
        let entry = place.or_insert_with(|| Entry {
            totals: watch::Sender::new(None),
            mark: None,
            wanted: None,
        });
        let mut totals = entry.totals.subscribe();
        // What is there already is news to the newcomer.
        totals.mark_changed();
        let stands = entry.totals.borrow().as_ref().map(|t| t.standing.next_offset);
        let lacks = seen.filter(|seen| stands.is_none_or(|stands| stands <= *seen));
        entry.wanted = entry.wanted.max(lacks);
        if is_new || lacks.is_some() {
            state.newcomers.push((at, Arc::clone(&of)));
            hub.told.notify_one();
        }
        if !state.newcomers.is_empty() && !std::mem::replace(&mut state.greeting, true) {
            tokio::spawn(Arc::clone(&hub).greet_all());
        }
        if !std::mem::replace(&mut state.running, true) {
            tokio::spawn(Arc::clone(&hub).run());
        }
        drop(guard);
        Some(Watch { hub, at, of, totals })
    }
}

/// One who watches; leaving frees what nobody else watches.
pub struct Watch {
    hub: Arc<Hub>,
    at: usize,
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
        &self.hub.partitions[self.at]
    }

    /// In what form.
    pub fn form(&self) -> &Form {
        &self.of.form
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        let entries = &mut state.watched[self.at];
        // Newcomers come under the same lock, so one receiver is this one.
        let is_last = |entry: &Entry| entry.totals.receiver_count() <= 1;
        if entries.get(&self.of).is_some_and(is_last) {
            entries.remove(&self.of);
            self.hub.told.notify_one();
        }
    }
}
