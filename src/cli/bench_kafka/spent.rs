//! What this process's threads have used so far, by their names.

use std::collections::BTreeMap;

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
    let starts = ["rdk:broker", "rdk:main", "fold-", "out-", "rocksdb:"];
    match starts.iter().find(|start| name.starts_with(**start)) {
        Some(start) => start.trim_end_matches(['-', ':']).to_owned(),
        None => name.to_owned(),
    }
}
