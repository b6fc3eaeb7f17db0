//! The service's state: what every handler is given.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gate::{Gate, IngestLimits};
use super::gatekeeper::Gatekeeper;
use super::health::Readiness;
use super::hop;
use super::peers::Peers;
use super::problem::{Code, Problem};
use super::records::Sequencer;
use super::sources::Sources;
use super::watchers::Watchers;
use crate::partition::live::{Live, ReadError, Standing};
use crate::partition::running::Running;

/// How long a read with `at_least` waits for the fold.
pub const AT_LEAST_WAIT: Duration = Duration::from_secs(1);

/// What every handler is given.
pub struct Service {
    /// Log and partitions.
    pub running: Arc<Running>,
    /// Who may do what.
    pub gatekeeper: Gatekeeper,
    /// Backups are written below it; `None`: into any empty folder outside the data.
    pub backup_root: Option<PathBuf>,
    /// Who watches live totals.
    pub watchers: Watchers,
    /// The other instances, if the log is shared.
    pub peers: Option<Peers>,
    /// Back-pressure on what comes in.
    pub gate: Arc<Gate>,
    /// How each producer fares.
    pub sources: Sources,
    /// Appends records for everyone, one request after the other.
    pub sequencer: Sequencer,
    /// Ends streams and long polls when the service shuts down.
    pub closing: CancellationToken,
    /// When it calls itself ready.
    pub readiness: Readiness,
    leaving: AtomicBool,
}

impl Service {
    /// A service over running partitions.
    pub fn new(running: Arc<Running>, gatekeeper: Gatekeeper) -> Self {
        Self {
            watchers: Watchers::new(&running),
            gate: Arc::new(Gate::new(IngestLimits::default(), &running.data)),
            sources: Sources::default(),
            sequencer: Sequencer::new(&running),
            peers: running.sharing.as_ref().map(|sharing| Peers::new(&sharing.log)),
            running,
            gatekeeper,
            backup_root: None,
            closing: CancellationToken::new(),
            readiness: Readiness::default(),
            leaving: AtomicBool::new(false),
        }
    }

    /// From now on `/readyz` says that no traffic is welcome. What comes is served until [`Self::closing`].
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether it is about to end.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || self.closing.is_cancelled()
    }

    /// With other limits on what comes in.
    #[must_use]
    pub fn with_ingest_limits(mut self, limits: IngestLimits) -> Self {
        self.gate = Arc::new(Gate::new(limits, &self.running.data));
        self
    }

    /// The partition that an account lives in, once it has folded what the request asks for.
    pub async fn partition_of(&self, account: &str, at_least: Option<AtLeast>) -> Result<Arc<Live>, Problem> {
        let live = Arc::clone(self.running.partition_of(account));
        let count = self.running.log.identity().partition_count;
        if let Some(at_least) = at_least.filter(|a| a.partition >= count) {
            let detail = format!(
                "there is no partition {}; there are {count}, from 0",
                at_least.partition
            );
            return Err(Problem::parameter("at_least", detail));
        }
        if let Some(at_least) = at_least {
            if at_least.partition != live.number {
                // It says nothing of this account: whoever gives it would believe that its own write is seen.
                let detail = format!(
                    "account {account:?} lives in partition {}: give the place of one of its own events, not of partition {}",
                    live.number, at_least.partition
                );
                return Err(Problem::parameter("at_least", detail));
            }
            wait_for(&live, at_least).await?;
        }
        Ok(live)
    }

    /// Whether there is room for more events; of a shared log only partitions that are served here count. Beside the tasks that
    /// serve sockets where the log has to be asked.
    pub fn check_gate(&self) -> Result<(), Problem> {
        let Some(sharing) = &self.running.sharing else {
            return self
                .gate
                .check(&self.running.partitions, |live| Ok(Some(live.lag_records()?)));
        };
        // By ends that are known: a handler asks the cluster nothing.
        self.gate
            .check(&self.running.partitions, |live| Ok(sharing.lag_records(live)))
    }

    /// Refuses while this instance may have lost its partitions.
    pub fn check_held_up(&self) -> Result<(), Problem> {
        match &self.running.sharing {
            Some(sharing) if sharing.is_stale() => Err(hop::held_up()),
            _ => Ok(()),
        }
    }

    /// The partition of that number.
    pub fn partition(&self, number: u32) -> Result<&Arc<Live>, Problem> {
        self.running.partitions.get(number as usize).ok_or_else(|| {
            let count = self.running.log.identity().partition_count;
            Problem::new(
                Code::OutputUnknown,
                format!("there is no partition {number}; there are {count}, from 0"),
            )
        })
    }
}

/// Runs a read, which may wait for the disk, beside the tasks that serve sockets.
pub async fn read<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Problem> {
    blocking(work).await?.map_err(Problem::from)
}

/// Runs what may wait, beside the tasks that serve sockets. It goes on when nobody waits for it any more.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::new(Code::Internal, "the work for this request has panicked"))
}

/// A place in the log that an answer must include: one's own write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtLeast {
    /// Which partition.
    pub partition: u32,
    /// This record and all before it.
    pub offset: u64,
}

impl std::str::FromStr for AtLeast {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let parsed = || {
            let (partition, offset) = text.split_once(':')?;
            Some(Self {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        parsed()
            .ok_or_else(|| Problem::parameter("at_least", format!("{text:?} is not PARTITION:OFFSET, such as 2:1041")))
    }
}

/// Waits until the partition has folded the record, a second at most.
pub async fn wait_for(live: &Live, at_least: AtLeast) -> Result<(), Problem> {
    let mut standing = live.watch();
    let folded = standing.wait_for(|s: &Standing| s.next_offset > at_least.offset);
    match tokio::time::timeout(AT_LEAST_WAIT, folded).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => {
            let next = live.standing().next_offset;
            Err(Problem::new(
                Code::Behind,
                format!(
                    "partition {} is folded up to offset {}, not yet to {}",
                    at_least.partition,
                    next.saturating_sub(1),
                    at_least.offset
                ),
            ))
        }
    }
}
