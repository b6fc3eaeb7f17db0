//! A Kafka log shared with other instances: what the group gives and takes, the ticks of what is ours, and whether it still is.
//!
//! The partitions' threads are in `owned.rs`. The threads here never wait for a partition's lock: one that is held up
//! keeps no other's tick back, nor the look at its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::PartitionError;
use super::ends::Ends;
pub use super::ends::StableEnd;
use super::live::{Live, Stop};
use super::owned::Folds;
use super::pulse::{BEAT_EVERY, Pulse};
use super::running::{Opening, TICK_EVERY};
use crate::log::appender::tick;
use crate::log::kafka::KafkaLog;
use crate::log::kafka::group::{Member, Ownership};
use crate::log::{Log, LogError, NewRecord, Place};
use crate::machine::clock::Source;
use crate::model::Ms;
use crate::wire::record::Kind;

/// How often it is looked whether the last stable offset moves.
const ENDS_EVERY: Duration = Duration::from_secs(2);

/// What the ticker is told.
pub(super) enum Told {
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
    folds: Arc<Folds>,
    ends: Ends,
    skews_ms: Mutex<BTreeMap<u32, Ms>>,
    /// Why this process can't go on with any partition.
    failed: watch::Sender<Option<String>>,
}

/// Follows what the group gives and takes.
struct Following(Arc<Work>);

impl Ownership for Following {
    fn assigned(&self, partitions: &[u32]) {
        let count = self.0.folds.partitions.len() as u32;
        for &number in partitions {
            if number >= count {
                let settings = self.0.log.settings();
                let cause = LogError::PartitionCount {
                    topic: settings.events(),
                    partition: 0,
                    found: number + 1,
                    wanted: count,
                };
                self.0.end(&cause.into());
                return;
            }
            // A partition that is ours and has no thread would be folded by nobody.
            if let Err(cause) = self.0.folds.begin(number) {
                self.0.end(&PartitionError::Thread { cause });
                return;
            }
        }
    }

    fn revoked(&self, partitions: &[u32]) {
        self.0.folds.give_up(partitions);
    }

    fn expelled(&self, cause: LogError) {
        self.0.end(&cause.into());
    }
}

impl Work {
    /// Emits and answers nothing more; the process ends.
    fn end(&self, cause: &PartitionError) {
        tracing::error!(%cause, "this instance can't go on");
        self.folds.stop_all();
        self.failed.send_replace(Some(cause.to_string()));
    }

    fn served(&self) -> impl Iterator<Item = &Arc<Live>> {
        self.folds.partitions.iter().filter(|live| live.is_served())
    }

    /// Appends a tick to every partition that is ours and served; how far the broker's time is from ours is measured.
    fn tick(&self) {
        let now: Ms = chrono::Utc::now().timestamp_millis();
        // All at once: a broker that is away keeps no other partition's tick back.
        let ticks = self
            .served()
            .map(|live| (Place::One(live.number), NewRecord::new(Kind::Tick, tick(now))));
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
    fn look_at_ends(&self) {
        self.ends
            .retain(|number| self.folds.partitions[number as usize].is_served());
        for live in self.served() {
            let ends = self.log.high_and_stable(live.number);
            if let Err(cause) = &ends {
                tracing::debug!(partition = live.number, %cause, "nobody tells where the partition ends");
            }
            self.ends.told(live.number, ends.ok(), Instant::now());
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
            folds: Arc::new(Folds::new(opening, partitions, taken.clone())),
            ends: Ends::default(),
            skews_ms: Mutex::new(BTreeMap::new()),
            failed,
        });
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let failed = |cause| PartitionError::Thread { cause };
        work.folds.open_early();
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
                while !told.wait(ENDS_EVERY) {
                    watching.look_at_ends();
                    watching.folds.early.close_old();
                    if let Err(cause @ LogError::OtherPlace { .. }) = watching.log.check_place() {
                        watching.end(&cause.into());
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
        self.work.folds.halted()
    }

    /// How the last stable offsets stand.
    pub fn stable_ends(&self) -> BTreeMap<u32, StableEnd> {
        self.work.ends.all()
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
        let end = self.work.ends.stable(live.number)?;
        let folded = self.log.read_up_to(live.number, live.standing().next_offset);
        Some(end.saturating_sub(folded))
    }

    /// Ends every fold, puts everything on disk, and is silent to the group.
    pub(super) fn stop(&self) {
        self.work.folds.end_all();
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
