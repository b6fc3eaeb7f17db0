//! Back-pressure: events are refused before memory or disk run out, and the client is told when to come again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Code, Problem};
use crate::partition::live::Live;

/// Disk space is asked for at most so often.
const DISK_EVERY: Duration = Duration::from_secs(1);

/// Limits of what comes in.
#[derive(Clone, Debug)]
pub struct IngestLimits {
    /// Bytes of a request's body, decompressed.
    pub request_bytes: usize,
    /// Events or records of a request.
    pub request_events: usize,
    /// Body bytes of all requests that aren't durable yet. Memory in use is about four times as much: body, records, the
    /// batch that is written and RocksDB's copy of it.
    pub in_flight_bytes: usize,
    /// Requests whose events are decoded and appended at a time; more wait.
    pub writers: usize,
    /// Records in one partition's log that aren't folded yet.
    pub lag_records: u64,
    /// Bytes that must stay free on the disk of the log.
    pub free_disk_bytes: u64,
    /// Between two pieces of a body.
    pub idle_timeout: Duration,
    /// For a whole body.
    pub body_timeout: Duration,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            request_bytes: 10 << 20,
            request_events: 10_000,
            in_flight_bytes: 64 << 20,
            writers: 16,
            lag_records: 2_000_000,
            free_disk_bytes: 512 << 20,
            idle_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(120),
        }
    }
}

/// What every request with events has to pass.
pub struct Gate {
    /// Its limits.
    pub limits: IngestLimits,
    data: PathBuf,
    in_flight: AtomicUsize,
    writers: Arc<Semaphore>,
    disk: Mutex<Option<(Instant, u64)>>,
}

impl Gate {
    /// A gate before the data folder.
    pub fn new(limits: IngestLimits, data: &Path) -> Self {
        Self {
            writers: Arc::new(Semaphore::new(limits.writers.max(1))),
            limits,
            data: data.to_owned(),
            in_flight: AtomicUsize::new(0),
            disk: Mutex::new(None),
        }
    }

    /// Whether there is room for more events at all. A partition without a lag is another instance's.
    pub fn check(
        &self,
        partitions: &[Arc<Live>],
        lag_of: impl Fn(&Live) -> Result<Option<u64>, Problem>,
    ) -> Result<(), Problem> {
        let free = self.free_disk_bytes();
        if free < self.limits.free_disk_bytes {
            let detail = format!(
                "{free} bytes are free on the disk of {}, {} have to stay free",
                self.data.display(),
                self.limits.free_disk_bytes
            );
            return Err(Problem::new(Code::DiskLow, detail).retry_after(10));
        }
        for live in partitions {
            let lag = lag_of(live)?.unwrap_or(0);
            if lag > self.limits.lag_records {
                let detail = format!(
                    "partition {} has {lag} records that aren't folded yet; the limit is {}",
                    live.number, self.limits.lag_records
                );
                return Err(Problem::new(Code::TooBusy, detail).retry_after(2));
            }
        }
        Ok(())
    }

    /// Free bytes on the data folder's disk; as good as endless where the system doesn't tell: then the log's own refusal
    /// is the last line.
    fn free_disk_bytes(&self) -> u64 {
        let mut asked = self.disk.lock();
        match *asked {
            Some((at, free)) if at.elapsed() < DISK_EVERY => free,
            _ => {
                let free = fs4::available_space(&self.data).unwrap_or(u64::MAX);
                *asked = Some((Instant::now(), free));
                free
            }
        }
    }

    /// Bytes of bodies that aren't durable yet.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A place among those that append.
    pub async fn writer(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.writers).acquire_owned().await;
        permit.map_err(|_| Problem::new(Code::ShuttingDown, "no more events are taken"))
    }
}

/// Bytes in flight that one request holds; given back when it is let go.
pub struct Held {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Held {
    /// None yet.
    pub fn none(gate: &Arc<Gate>) -> Self {
        Self {
            gate: Arc::clone(gate),
            bytes: 0,
        }
    }

    /// Takes more, if they fit.
    pub fn grow(&mut self, more: usize) -> Result<(), Problem> {
        let limit = self.gate.limits.in_flight_bytes;
        let fits = |now: usize| now.checked_add(more).filter(|sum| *sum <= limit);
        let taken = self
            .gate
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        match taken {
            Ok(_) => {
                self.bytes += more;
                Ok(())
            }
            Err(now) => Err(Problem::new(
                Code::TooBusy,
                format!("{now} bytes of requests are on their way to the disk; the limit is {limit}"),
            )),
        }
    }

    /// Parts with so much of what is held, for work that may outlive the request.
    #[must_use]
    pub fn hand_over(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            gate: Arc::clone(&self.gate),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Identity;
    use crate::log::memory::MemoryLog;
    use crate::machine::clock::Source;

    #[test]
    fn a_partition_that_lags_closes_the_gate() {
        let identity = Identity {
            log_id: "l".to_owned(),
            partition_count: 1,
            source: Source::Ticks,
        };
        // Its genesis is there and nobody folds it.
        let partitions = [Arc::new(Live::new(0, Arc::new(MemoryLog::new(identity, 0))))];
        let gate = |lag_records| {
            let limits = IngestLimits {
                lag_records,
                ..IngestLimits::default()
            };
            Gate::new(limits, &std::env::temp_dir()).check(&partitions, |live| Ok(Some(live.lag_records()?)))
        };
        assert!(gate(1).is_ok());
        assert_eq!(
            gate(0).err().map(|p| (p.code, p.retry_after_s)),
            Some((Code::TooBusy, Some(2)))
        );
    }
}
