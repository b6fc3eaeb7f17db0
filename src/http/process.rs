//! The process as the system sees it. Where there is no `/proc`, nothing is said.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, gauge};

/// Ticks a second in `/proc/self/stat`: 100 on every Linux, whatever its kernel's own (`man 5 proc`, `USER_HZ`).
const TICKS_PER_S: u64 = 100;

/// When the process was started, in milliseconds since 1970, as far as it knows.
static STARTED_MS: OnceLock<i64> = OnceLock::new();

/// Notes that the process has started.
pub fn started() {
    STARTED_MS.get_or_init(|| chrono::Utc::now().timestamp_millis());
}

/// What the system says of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    resident_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    threads: Option<u64>,
    cpu_ticks: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

/// The first number of the line that begins with `name`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Time that this thread has had on a processor.
pub fn thread_cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

impl Process {
    /// This one as it is now.
    pub fn now() -> Self {
        Self::of("self")
    }

    /// Another one, by its number.
    pub fn of(pid: impl std::fmt::Display) -> Self {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (status, stat, limits) = (file("status"), file("stat"), file("limits"));
        Self {
            resident_bytes: number_after(&status, "VmRSS:").map(|kib| kib * 1024),
            peak_bytes: number_after(&status, "VmHWM:").map(|kib| kib * 1024),
            threads: number_after(&status, "Threads:"),
            cpu_ticks: cpu_ticks(&stat),
            // The one that lists them is among them.
            open_fds: std::fs::read_dir(format!("/proc/{pid}/fd"))
                .ok()
                .map(|fds| fds.count().saturating_sub(1) as u64),
            max_fds: number_after(&limits, "Max open files"),
        }
    }

    /// Bytes of memory that it holds; 0 where the system doesn't say, here as below.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.unwrap_or_default()
    }

    /// The most that it has held.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.unwrap_or_default()
    }

    /// Time that it has had on processors, ended threads included.
    pub fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ticks.unwrap_or_default() * 1_000 / TICKS_PER_S)
    }

    /// Puts it into the metrics.
    pub fn export(self) {
        let put = |name: &'static str, value: Option<u64>| {
            if let Some(value) = value {
                gauge!(name).set(value as f64);
            }
        };
        put("process_resident_memory_bytes", self.resident_bytes);
        put("process_threads", self.threads);
        put("process_open_fds", self.open_fds);
        put("process_max_fds", self.max_fds);
        if let Some(ticks) = self.cpu_ticks {
            counter!("process_cpu_seconds_total").absolute(ticks / TICKS_PER_S);
        }
        if let Some(started_ms) = STARTED_MS.get() {
            gauge!("process_start_time_seconds").set(*started_ms as f64 / 1_000.0);
        }
    }
}

/// User and system time, fields 14 and 15; the name before them may hold anything but ends at the last parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    Some(user + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194304 900 0 0 0 250 50 0 0 20 0 9 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn this_process_is_seen() {
        let process = Process::now();
        assert!(
            process.resident_bytes > Some(1 << 20) && process.open_fds > Some(0),
            "{process:?}"
        );
    }
}
