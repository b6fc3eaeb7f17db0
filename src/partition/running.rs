//! A data folder while it is served: every partition folded by a thread of its own, ticks appended, reads answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::live::{Live, Stop};
use super::open::Stored;
use super::sharing::Sharing;
use super::worker::Partition;
use super::{PartitionError, Settings, host};
use crate::log::appender::tick;
use crate::log::kafka::KafkaLog;
use crate::log::local::{LocalLog, WallClock, wall_clock};
use crate::log::placement::partition_of;
use crate::log::{Log, LogError, NewRecord};
use crate::machine::clock::Source;
use crate::store::rocks::{Budget, StoreError};
use crate::wire::record::Kind;

/// How often the owner of a partition appends a tick with its wall time, idle or not (RULES §2).
pub const TICK_EVERY: Duration = Duration::from_secs(60);

/// How often a partition that has no room on its disk is tried again: no event tells of room.
const ROOM_EVERY: Duration = Duration::from_secs(2);

impl PartitionError {
    /// Whether a read or a backup still holds the store that was let go.
    pub(super) const fn is_still_held(&self) -> bool {
        matches!(self, Self::Store(StoreError::Locked { .. }))
    }

    /// Whether it goes on once there is room on the disk.
    pub const fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Log(LogError::DiskFull { .. }) | Self::Store(StoreError::DiskFull { .. })
        )
    }
}

/// All partitions of a data folder, folding.
pub struct Running {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The same, if it is the embedded one.
    pub(super) local: Option<Arc<LocalLog>>,
    /// How its partitions are shared with other instances, if they are.
    pub sharing: Option<Arc<Sharing>>,
    /// By number; of those that are another instance's nothing can be read here.
    pub partitions: Vec<Arc<Live>>,
    /// Where it all is.
    pub data: PathBuf,
    stop: Stop,
    ticker: Mutex<Option<Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    failed: watch::Sender<Option<String>>,
    /// One backup at a time.
    pub(super) backing_up: Mutex<()>,
}

/// What a partition's thread needs to open it anew.
pub(super) struct Opening {
    pub(super) log: Arc<dyn Log>,
    pub(super) data: PathBuf,
    pub(super) budget: Budget,
    pub(super) settings: Settings,
}

impl Opening {
    /// Opens and loads a partition's store; the log isn't asked.
    pub(super) fn load(&self, number: u32) -> Result<Stored, PartitionError> {
        let path = host::store_path(&self.data, number);
        Stored::open(self.log.as_ref(), number, &path, &self.budget)
    }

    pub(super) fn open(&self, number: u32) -> Result<Partition, PartitionError> {
        let path = host::store_path(&self.data, number);
        Partition::open(
            Arc::clone(&self.log),
            number,
            &path,
            &self.budget,
            self.settings.clone(),
        )
    }
}

impl Running {
    /// Opens log and stores, and begins to fold. Returns when every partition is open; they may still be catching up.
    pub fn start(data: &Path, budget: &Budget, settings: &Settings) -> Result<Arc<Self>, PartitionError> {
        Self::start_with_clock(data, budget, settings, wall_clock())
    }

    /// The same by another wall clock.
    pub fn start_with_clock(
        data: &Path,
        budget: &Budget,
        settings: &Settings,
        clock: WallClock,
    ) -> Result<Arc<Self>, PartitionError> {
        let log = Arc::new(host::open_log(data, Arc::clone(&clock))?);
        let opening = Arc::new(Opening {
            log: Arc::clone(&log) as Arc<dyn Log>,
            data: data.to_owned(),
            budget: budget.clone(),
            settings: settings.clone(),
        });
        host::folder(&data.join("store"))?;
        let count = log.identity().partition_count;
        let partitions: Vec<Arc<Live>> = (0..count)
            .map(|number| Arc::new(Live::new(number, Arc::clone(&opening.log))))
            .collect();
        std::thread::scope(|scope| {
            let opened: Vec<_> = partitions
                .iter()
                .map(|live| scope.spawn(|| opening.open(live.number).and_then(|p| live.serve(p))))
                .collect();
            opened
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let running = Arc::new(Self {
            log: Arc::clone(&opening.log),
            local: Some(Arc::clone(&log)),
            sharing: None,
            partitions,
            data: data.to_owned(),
            stop: Stop::default(),
            ticker: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
            failed: watch::Sender::new(None),
            backing_up: Mutex::new(()),
        });
        let mut threads = Vec::new();
        for live in &running.partitions {
            let (live, opening, stop) = (Arc::clone(live), Arc::clone(&opening), running.stop.clone());
            let failed = running.failed.clone();
            let thread = std::thread::Builder::new().name(format!("fold-{}", live.number));
            threads.push(spawned(
                thread.spawn(move || fold(&live, &opening, &stop, &failed)),
                data,
            )?);
        }
        if running.log.identity().source == Source::Append {
            let (sender, told) = channel();
            let thread = std::thread::Builder::new().name("ticks".to_owned());
            threads.push(spawned(thread.spawn(move || append_ticks(&log, &clock, &told)), data)?);
            *running.ticker.lock() = Some(sender);
        }
        *running.threads.lock() = threads;
        Ok(running)
    }

    /// Joins the group of a Kafka log, and folds what it gives. Returns once joined; partitions come when the group has
    /// spoken.
    pub fn share(
        log: Arc<KafkaLog>,
        data: &Path,
        budget: &Budget,
        settings: &Settings,
    ) -> Result<Arc<Self>, PartitionError> {
        host::folder(&data.join("store"))?;
        let as_log = Arc::clone(&log) as Arc<dyn Log>;
        let partitions: Vec<Arc<Live>> = (0..log.identity().partition_count)
            .map(|number| Arc::new(Live::new(number, Arc::clone(&as_log))))
            .collect();
        let opening = Opening {
            log: Arc::clone(&as_log),
            data: data.to_owned(),
            budget: budget.clone(),
            settings: settings.clone(),
        };
        let failed = watch::Sender::new(None);
        let sharing = Sharing::start(log, opening, partitions.clone(), failed.clone())?;
        Ok(Arc::new(Self {
            log: as_log,
            local: None,
            sharing: Some(sharing),
            partitions,
            data: data.to_owned(),
            stop: Stop::default(),
            ticker: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
            failed,
            backing_up: Mutex::new(()),
        }))
    }

    /// The embedded log, if it is one.
    pub fn local_log(&self) -> Option<&Arc<LocalLog>> {
        self.local.as_ref()
    }

    /// The partition that an account lives in.
    pub fn partition_of(&self, account: &str) -> &Arc<Live> {
        let number = partition_of(account, self.partitions.len() as u32);
        // Modulo their count.
        &self.partitions[number as usize]
    }

    /// Tells why a partition has stopped for good, once one has.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    /// Commits, delivers, puts everything on disk and closes. What was appended and isn't folded yet is folded next time.
    pub fn stop(&self) {
        if let Some(sharing) = &self.sharing {
            sharing.stop();
        }
        self.stop.set();
        drop(self.ticker.lock().take());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a partition's thread has panicked");
            }
        }
    }
}

fn spawned(thread: std::io::Result<JoinHandle<()>>, data: &Path) -> Result<JoinHandle<()>, PartitionError> {
    thread.map_err(|cause| PartitionError::Folder {
        path: data.to_owned(),
        cause,
    })
}

/// A partition's thread: folds until told to stop, and opens the store anew after its disk was full.
fn fold(live: &Live, opening: &Opening, stop: &Stop, failed: &watch::Sender<Option<String>>) {
    // Reads say it, and /healthz does: a restart is all that helps.
    let give_up = |cause: &PartitionError| {
        tracing::error!(partition = live.number, %cause, "the partition has stopped");
        live.stopped(cause);
        failed.send_replace(Some(cause.to_string()));
    };
    while let Err(cause) = PartitionError::caught(live.number, || live.fold(stop)) {
        drop(live.take());
        if !cause.is_disk_full() {
            give_up(&cause);
            return;
        }
        tracing::error!(partition = live.number, %cause, "no room: the partition waits for some");
        loop {
            std::thread::sleep(ROOM_EVERY);
            if stop.is_set() {
                return;
            }
            let opened = PartitionError::caught(live.number, || opening.open(live.number));
            match opened.and_then(|partition| live.serve(partition)) {
                Ok(()) => break,
                Err(cause) if cause.is_disk_full() || cause.is_still_held() => {}
                Err(cause) => {
                    give_up(&cause);
                    return;
                }
            }
        }
    }
    if let Some(partition) = live.take()
        && let Err(cause) = PartitionError::caught(live.number, || partition.close())
    {
        tracing::error!(partition = live.number, %cause, "not everything could be put on disk; it is folded again next time");
    }
}

/// Appends a tick to every partition each minute, idle or not, until the sender is gone.
fn append_ticks(log: &LocalLog, clock: &WallClock, told: &Receiver<()>) {
    loop {
        let record = NewRecord::new(Kind::Tick, tick(clock()));
        if let Err(cause) = log.broadcast(vec![record]) {
            tracing::error!(%cause, "no tick could be appended; the next one is tried in a minute");
        }
        match told.recv_timeout(TICK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
