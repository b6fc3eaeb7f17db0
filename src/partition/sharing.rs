//! Partitions of a Kafka log, shared with other instances: a thread for each that the group gives, ended when it takes it.
//!
//! ```text
//! assigned ─▶ take over (fence, barrier, tails) ─▶ open the store, compare ─▶ fetch from its position ─▶ serve and fold
//! revoked  ─▶ fold and emit no more; only then the group is told ─▶ close the store
//! ```
//!
//! What interrupts a partition (a fenced or timed-out transaction, brokers that are away) makes it be taken over anew. What
//! can't be right (another record, an output that differs, history lost) halts it: it is served no more, says why, and is looked
//! at again now and then, for a leader may just have been stale. The other partitions go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::PartitionError;
use super::live::{Live, Stop};
use super::running::{Opening, TICK_EVERY};
use crate::log::appender::tick;
use crate::log::kafka::KafkaLog;
use crate::log::kafka::group::{Member, Ownership};
use crate::log::{Log, LogError, NewRecord, Place};
use crate::machine::clock::Source;
use crate::model::Ms;
use crate::wire::record::Kind;

/// How long the group's taking of a partition waits for its fold to end. It is safe not to wait: its outputs are fenced.
const REVOKE_WAIT: Duration = Duration::from_secs(5);

/// How long a partition waits before it is taken over again, at first and at most.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a halted partition waits before it is looked at again.
const HALTED_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked whether the last stable offset moves.
const ENDS_EVERY: Duration = Duration::from_secs(2);

/// How often it is looked whether this process was held up.
const BEAT_EVERY: Duration = Duration::from_millis(100);

/// One partition that is ours, or was.
struct Owned {
    stop: Stop,
    /// Set once nothing more is folded or emitted.
    quiet: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

/// What the last stable offset of a partition has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StableEnd {
    /// Offset after the last record, committed or not.
    pub high: u64,
    /// Offset after the last record that may be read.
    pub stable: u64,
    /// How long it hasn't moved though there are records above it, in milliseconds.
    pub still_ms: u64,
}

/// Whether this process was held up (stopped, starved, swapped out) for so long that the group may have given its partitions to
/// others, and it hasn't heard of that yet. Then it is in doubt until the group has confirmed each of them.
struct Pulse {
    began: Instant,
    /// Milliseconds from `began` to the last beat.
    beat_ms: AtomicU64,
    in_doubt: AtomicBool,
    /// Silence after which the group may have acted: the last heartbeat may be a quarter of the session old when it begins.
    silence: Duration,
}

impl Pulse {
    fn new(session: Duration) -> Self {
        Self {
            began: Instant::now(),
            beat_ms: AtomicU64::new(0),
            in_doubt: AtomicBool::new(false),
            silence: session / 2,
        }
    }

    fn was_held_up(&self) -> bool {
        let silent = (self.began.elapsed().as_millis() as u64).saturating_sub(self.beat_ms.load(Ordering::Acquire));
        u128::from(silent) > self.silence.as_millis()
    }

    fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire) || self.was_held_up()
    }

    /// Doubt comes before the beat that would hide the silence, and goes once the group has spoken.
    fn beat(&self, confirmed: impl FnOnce() -> bool) {
        if self.was_held_up() {
            tracing::warn!(
                "this process was held up: it answers no reads before the group has confirmed its partitions"
            );
            self.in_doubt.store(true, Ordering::Release);
        }
        if self.in_doubt.load(Ordering::Acquire) && confirmed() {
            self.in_doubt.store(false, Ordering::Release);
        }
        self.beat_ms
            .store(self.began.elapsed().as_millis() as u64, Ordering::Release);
    }
}

/// What the ticker is told.
enum Told {
    /// A partition was taken over.
    Taken,
    /// It's over.
    End,
}

/// All that this instance owns.
pub struct Sharing {
    /// The log.
    pub log: Arc<KafkaLog>,
    work: Arc<Work>,
    pulse: Arc<Pulse>,
    watchers: Mutex<Vec<(Stop, JoinHandle<()>)>>,
    ticker: Mutex<Option<(Sender<Told>, JoinHandle<()>)>>,
}

/// What the threads share.
struct Work {
    log: Arc<KafkaLog>,
    opening: Opening,
    partitions: Vec<Arc<Live>>,
    owned: Mutex<BTreeMap<u32, Owned>>,
    halted: Mutex<BTreeMap<u32, String>>,
    stable: Mutex<BTreeMap<u32, StableEnd>>,
    skews_ms: Mutex<BTreeMap<u32, Ms>>,
    /// Wakes the ticker: a partition was taken over.
    taken: Sender<Told>,
    /// Why this process can't go on with any partition.
    failed: watch::Sender<Option<String>>,
}

/// Follows what the group gives and takes.
struct Following(Arc<Work>);

impl Ownership for Following {
    fn assigned(&self, partitions: &[u32]) {
        let count = self.0.partitions.len() as u32;
        for &number in partitions {
            if number >= count {
                let settings = self.0.log.settings();
                self.0.end(&LogError::PartitionCount {
                    topic: settings.events(),
                    partition: 0,
                    found: number + 1,
                    wanted: count,
                });
                return;
            }
            let before = self.0.owned.lock().remove(&number);
            match own(&self.0, number, before) {
                Ok(owned) => {
                    self.0.owned.lock().insert(number, owned);
                }
                Err(cause) => tracing::error!(partition = number, %cause, "no thread for a partition"),
            }
        }
    }

    fn revoked(&self, partitions: &[u32]) {
        let owned = self.0.owned.lock();
        let leaving = partitions.iter().filter_map(|p| owned.get(p));
        let quiet: Vec<_> = leaving
            .map(|owned| {
                owned.stop.set();
                Arc::clone(&owned.quiet)
            })
            .collect();
        drop(owned);
        let until = Instant::now() + REVOKE_WAIT;
        for one in quiet {
            let left = until.saturating_duration_since(Instant::now());
            let (mutex, changed) = &*one;
            changed.wait_while_for(&mut mutex.lock(), |quiet| !*quiet, left);
        }
    }

    fn expelled(&self, cause: LogError) {
        self.0.end(&cause);
    }
}

/// Starts a partition's thread; the one it had before closes its store first.
fn own(work: &Arc<Work>, number: u32, before: Option<Owned>) -> std::io::Result<Owned> {
    let stop = Stop::default();
    let quiet = Arc::new((Mutex::new(false), Condvar::new()));
    let (work, told_stop, told_quiet) = (Arc::clone(work), stop.clone(), Arc::clone(&quiet));
    let thread = std::thread::Builder::new().name(format!("fold-{number}")).spawn(move || {
        if let Some(before) = before
            && before.thread.join().is_err()
        {
            tracing::error!(partition = number, "a partition's thread has panicked");
        }
        work.follow(number, &told_stop);
        work.log.let_go(number);
        *told_quiet.0.lock() = true;
        told_quiet.1.notify_all();
        work.halted.lock().remove(&number);
        if let Some(partition) = work.partitions[number as usize].take()
            && let Err(cause) = partition.close()
        {
            tracing::debug!(partition = number, %cause, "not everything could be put on disk; it is folded again next time");
        }
    })?;
    Ok(Owned { stop, quiet, thread })
}

impl Work {
    /// Emits and answers nothing more; the process ends.
    fn end(&self, cause: &LogError) {
        tracing::error!(%cause, "this instance can't go on");
        self.owned.lock().values().for_each(|owned| owned.stop.set());
        self.failed.send_replace(Some(cause.to_string()));
    }

    /// Takes a partition over, serves and folds it, and begins anew after whatever ends that, until told to stop.
    fn follow(&self, number: u32, stop: &Stop) {
        let live = &self.partitions[number as usize];
        let mut wait = RETRY_WAIT.0;
        while !stop.is_set() {
            let began = Instant::now();
            let Err(cause) = self.serve(live, stop) else { return };
            drop(live.take());
            self.log.let_go(number);
            if stop.is_set() {
                return;
            }
            let interrupted = cause.is_interruption() || cause.is_disk_full() || cause.is_still_held();
            if interrupted || matches!(cause, PartitionError::Log(LogError::NotOwned { .. })) {
                // Whoever held out for long begins with short waits again.
                wait = if began.elapsed() > HALTED_WAIT {
                    RETRY_WAIT.0
                } else {
                    wait
                };
                tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "the partition is taken over anew");
                stop.wait(wait);
                wait = (wait * 2).min(RETRY_WAIT.1);
            } else {
                tracing::error!(partition = number, %cause, "the partition is halted; the others go on");
                self.halted.lock().insert(number, cause.to_string());
                stop.wait(HALTED_WAIT);
            }
        }
    }

    fn serve(&self, live: &Live, stop: &Stop) -> Result<(), PartitionError> {
        let number = live.number;
        let began = Instant::now();
        self.log.take_over(number)?;
        let partition = self.opening.open(number)?;
        let next_offset = partition.machine.position.next_offset;
        self.log.follow(number, next_offset)?;
        live.serve(partition)?;
        self.halted.lock().remove(&number);
        // Nobody may be listening any more at the end.
        let _ = self.taken.send(Told::Taken);
        tracing::info!(
            partition = number,
            next_offset,
            took_ms = began.elapsed().as_millis() as u64,
            "taken over"
        );
        let mut wait = RETRY_WAIT.0;
        loop {
            // What waits from before goes first: nothing may come that would make it go.
            match live.commit().and_then(|()| live.fold(stop)) {
                Err(cause) if cause.is_interruption() => {
                    tracing::warn!(partition = number, %cause, "interrupted");
                }
                result => return result,
            }
            // The store is as it should be: what isn't known is what was delivered.
            loop {
                if stop.is_set() {
                    return Ok(());
                }
                match self.log.take_over(number) {
                    Ok(()) => break,
                    Err(cause) if cause.is_interruption() => {
                        tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "not taken over yet");
                        stop.wait(wait);
                        wait = (wait * 2).min(RETRY_WAIT.1);
                    }
                    Err(cause) => return Err(cause.into()),
                }
            }
            wait = RETRY_WAIT.0;
            live.taken_over()?;
            self.log.follow(number, live.standing().next_offset)?;
        }
    }

    /// Appends a tick to every partition that is ours and served; how far the broker's time is from ours is measured.
    fn tick(&self) {
        let now: Ms = chrono::Utc::now().timestamp_millis();
        let served = self.partitions.iter().filter(|l| l.is_served());
        // All at once: a broker that is away keeps no other partition's tick back.
        let ticks = served.map(|live| (Place::One(live.number), NewRecord::new(Kind::Tick, tick(now))));
        match self.log.append_placed(ticks.collect()) {
            Ok(receipts) => {
                let mut skews_ms = self.skews_ms.lock();
                skews_ms.extend(receipts.iter().map(|r| (r.partition, r.append_ms - now)));
            }
            Err(cause) => {
                tracing::error!(%cause, "not every tick could be appended; the next ones are tried in a minute");
            }
        }
    }

    /// Looks where partitions end, committed or not.
    fn look_at_ends(&self, moved: &mut BTreeMap<u32, (u64, Instant)>) {
        let is_served = |number: u32| self.partitions[number as usize].is_served();
        moved.retain(|number, _| is_served(*number));
        self.stable.lock().retain(|number, _| is_served(*number));
        for live in self.partitions.iter().filter(|l| l.is_served()) {
            let Ok((high, stable)) = self.log.high_and_stable(live.number) else {
                continue;
            };
            let (last, since) = moved.entry(live.number).or_insert((stable, Instant::now()));
            if *last != stable || stable >= high {
                (*last, *since) = (stable, Instant::now());
            }
            let end = StableEnd {
                high,
                stable,
                still_ms: since.elapsed().as_millis() as u64,
            };
            self.stable.lock().insert(live.number, end);
        }
    }
}

impl Sharing {
    /// Joins the group; partitions come as it gives them.
    pub(super) fn start(
        log: Arc<KafkaLog>,
        opening: Opening,
        partitions: Vec<Arc<Live>>,
        failed: watch::Sender<Option<String>>,
    ) -> Result<Arc<Self>, PartitionError> {
        let (taken, told) = channel();
        let work = Arc::new(Work {
            log: Arc::clone(&log),
            opening,
            partitions,
            owned: Mutex::new(BTreeMap::new()),
            halted: Mutex::new(BTreeMap::new()),
            stable: Mutex::new(BTreeMap::new()),
            skews_ms: Mutex::new(BTreeMap::new()),
            taken: taken.clone(),
            failed,
        });
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let failed = |cause| PartitionError::Folder {
            path: work.opening.data.clone(),
            cause,
        };
        let ticker = if log.identity().source == Source::Append {
            let ticking = Arc::clone(&work);
            let spawned = thread("ticks").spawn(move || append_ticks(&ticking, &told));
            Some((taken, spawned.map_err(failed)?))
        } else {
            None
        };
        let (stop, watching) = (Stop::default(), Arc::clone(&work));
        let told = stop.clone();
        let watcher = thread("ends")
            .spawn(move || {
                let mut moved = BTreeMap::new();
                while !told.wait(ENDS_EVERY) {
                    watching.look_at_ends(&mut moved);
                    if let Err(cause @ LogError::OtherPlace { .. }) = watching.log.check_place() {
                        watching.end(&cause);
                    }
                }
            })
            .map_err(failed)?;
        let pulse = Arc::new(Pulse::new(log.settings().session_timeout));
        let (beat_stop, beating, asking) = (Stop::default(), Arc::clone(&pulse), Arc::clone(&log));
        let told = beat_stop.clone();
        let beats = thread("pulse")
            .spawn(move || {
                while !told.wait(BEAT_EVERY) {
                    beating.beat(|| asking.confirms_all());
                }
            })
            .map_err(failed)?;
        log.join(Arc::new(Following(Arc::clone(&work))))?;
        Ok(Arc::new(Self {
            log,
            work,
            pulse,
            watchers: Mutex::new(vec![(stop, watcher), (beat_stop, beats)]),
            ticker: Mutex::new(ticker),
        }))
    }

    /// Partitions that are halted, and why.
    pub fn halted(&self) -> BTreeMap<u32, String> {
        self.work.halted.lock().clone()
    }

    /// How the last stable offsets stand.
    pub fn stable_ends(&self) -> BTreeMap<u32, StableEnd> {
        self.work.stable.lock().clone()
    }

    /// How far the brokers' time was ahead of this machine's at the last tick of each partition, in milliseconds.
    pub fn tick_skews_ms(&self) -> BTreeMap<u32, Ms> {
        self.work.skews_ms.lock().clone()
    }

    /// Whether partitions may have gone to another while this process was held up: then it answers no reads.
    pub fn is_stale(&self) -> bool {
        self.pulse.is_in_doubt() || self.log.member().is_some_and(Member::is_stale)
    }

    /// The partitions that the group has given to this instance, served yet or not.
    pub fn owned(&self) -> Vec<u32> {
        self.log.member().map(Member::owned).unwrap_or_default()
    }

    /// Whether the partition is this instance's as far as can be known. It is asked before an answer and after it.
    pub fn may_answer(&self, partition: u32) -> bool {
        !self.is_stale() && self.log.member().is_some_and(|member| member.owns(partition))
    }

    /// Whether the group has taken this instance in. Owning nothing is one way of being in it.
    pub fn has_joined(&self) -> bool {
        self.log.member().is_some_and(Member::has_joined)
    }

    /// Records of a partition that is served here and aren't folded, by the end of the log as it was seen last: no question to
    /// the cluster, so the answer is at hand also when the cluster isn't. `None` before the end was seen.
    pub fn lag_records(&self, live: &Live) -> Option<u64> {
        let end = self.work.stable.lock().get(&live.number)?.stable;
        let folded = self.log.read_up_to(live.number, live.standing().next_offset);
        Some(end.saturating_sub(folded))
    }

    /// Ends every fold, puts everything on disk, and is silent to the group.
    pub(super) fn stop(&self) {
        let owned = std::mem::take(&mut *self.work.owned.lock());
        owned.values().for_each(|one| one.stop.set());
        for one in owned.into_values() {
            if one.thread.join().is_err() {
                tracing::error!("a partition's thread has panicked");
            }
        }
        let watchers = std::mem::take(&mut *self.watchers.lock());
        watchers.iter().for_each(|(stop, _)| stop.set());
        for (_, thread) in watchers {
            let _ = thread.join();
        }
        if let Some((sender, thread)) = self.ticker.lock().take() {
            let _ = sender.send(Told::End);
            let _ = thread.join();
        }
        self.log.leave();
    }
}

/// Appends ticks each minute, and when a partition was taken over, until told to end.
fn append_ticks(work: &Work, told: &Receiver<Told>) {
    loop {
        match told.recv_timeout(TICK_EVERY) {
            Ok(Told::Taken) | Err(RecvTimeoutError::Timeout) => {
                // Several were taken over at once: one round for all.
                loop {
                    match told.try_recv() {
                        Ok(Told::Taken) => {}
                        Ok(Told::End) => return,
                        Err(_) => break,
                    }
                }
                work.tick();
            }
            Ok(Told::End) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_held_up_is_in_doubt_until_the_group_has_spoken() {
        let pulse = Pulse::new(Duration::from_millis(100));
        pulse.beat(|| false);
        assert!(!pulse.is_in_doubt());
        std::thread::sleep(Duration::from_millis(80));
        // Before the first beat after it, and after it.
        assert!(pulse.is_in_doubt());
        pulse.beat(|| false);
        assert!(pulse.is_in_doubt());
        pulse.beat(|| true);
        assert!(!pulse.is_in_doubt());
    }
}
