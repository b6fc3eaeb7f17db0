//! What a process has used so far: processor time in all and by its threads' names, and memory.

use std::collections::BTreeMap;

/// Processor time of a tick of `/proc/PID/stat`: 100 a second on every Linux that counts.
const TICK_US: u64 = 10_000;

/// Processor time of this process in µs, ended threads included.
pub(super) fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th field after it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<u64>().ok()).sum::<u64>() * TICK_US
}

/// Processor time of the living threads in µs, by kind.
pub(super) fn cpu_us_by_thread() -> BTreeMap<String, u64> {
    let mut by_kind = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let nanos = read("schedstat")
            .split(' ')
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0);
        let is_main = entry.file_name().to_string_lossy() == std::process::id().to_string();
        let kind = if is_main {
            "main".to_owned()
        } else {
            kind(read("comm").trim())
        };
        *by_kind.entry(kind).or_insert(0) += nanos / 1_000;
    }
    by_kind
}

/// Threads that do the same have one kind: their names without what tells them apart.
fn kind(name: &str) -> String {
    let starts = ["rdk:broker", "rdk:main", "fold-", "rocksdb:"];
    match starts.iter().find(|start| name.starts_with(**start)) {
        Some(start) => start.trim_end_matches(['-', ':']).to_owned(),
        None => name.to_owned(),
    }
}

/// The most memory that this process has had, in bytes.
pub(super) fn memory_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
