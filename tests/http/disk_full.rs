//! The disk runs full under the log and the stores, and has room again. Only where a file system can be mounted (root on
//! Linux, as in CI); elsewhere the test says so.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::served::{Served, reckon};
use crate::traffic::{Address, Client, Ledger, Sums, agent, post};

/// Larger than what the service keeps free before it refuses events.
const SIZE: &str = "size=640m";

/// The client that only looks whether events are taken.
const PROBE: u64 = 9;

const SETTINGS: [&str; 6] = [
    "--set",
    "fold.flush_ms=1000",
    "--set",
    "fold.commit_ms=20",
    "--set",
    "telemetry.log_filter=error",
];

/// A file system in memory; taken down when it is let go.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(path: &'a Path) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "reckon-test"])
            .arg(path)
            .output();
        mount.is_ok_and(|m| m.status.success()).then_some(Self(path))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Fills the disk to the last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    let mut bytes = vec![7u8; 1 << 20];
    while !bytes.is_empty() {
        if file.write_all(&bytes).is_err() {
            bytes.truncate(bytes.len() / 2);
        }
    }
}

fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Every account comes to what was acknowledged.
fn settled(served: &Served, ledger: &Ledger, now: &str) {
    let (agent, (probed, probe)) = (agent(), Client::new(PROBE, now).batch(1).first());
    for (account, mut sums) in ledger.acknowledged() {
        // The probe's call was taken in the end, before there was no room or after.
        if probed == account {
            sums += probe;
        }
        let path = format!("{}/v1/accounts/{account}/usage?period={}", served.base, &now[..7]);
        wait_until(&format!("{account} comes to {sums:?}"), Duration::from_secs(30), || {
            let mut answer = agent.get(&path).call().expect("an answer");
            let text = answer.body_mut().read_to_string().expect("a body");
            answer.status() == 200 && Sums::of_usage(&serde_json::from_str(&text).expect("JSON")) == sums
        });
    }
}

#[test]
fn a_full_disk_stops_nothing_for_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(_mounted) = Mounted::new(folder.path()) else {
        println!("no file system can be mounted here: not tested");
        return;
    };
    let (data, filler) = (folder.path().join("data"), folder.path().join("filler"));
    let data_text = data.to_str().expect("a path");
    reckon(&["init", "--data", data_text, "--partitions", "2"]);
    let mut served = Served::start(&data, &SETTINGS);
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let (address, ledger, stop) = (Address::default(), Ledger::default(), AtomicBool::new(false));
    address.set(&served.base);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for n in 0..2 {
            let (now, address, ledger, stop) = (&now, &address, &ledger, &stop);
            scope.spawn(move || post(&mut Client::new(n, now), address, ledger, 200, stop));
        }
        let probe = || {
            let answer = served.post(
                "/v1/events",
                "application/x-ndjson",
                Client::new(PROBE, &now).batch(1).body,
            );
            if answer.status == 429 {
                assert_eq!(answer.json()["code"], "disk_low", "{}", answer.text);
                assert!(!answer.header("retry-after").is_empty());
                refused.fetch_add(1, Ordering::Relaxed);
            }
            answer.status
        };
        wait_until("events are taken", Duration::from_secs(20), || ledger.events() > 5_000);
        for round in 0..2 {
            fill(&filler);
            wait_until("events are refused", Duration::from_secs(20), || probe() == 429);
            // Long enough that flushes, commits and outputs meet it too.
            std::thread::sleep(Duration::from_secs(3));
            assert_eq!(probe(), 429);
            std::fs::remove_file(&filler).expect("room");
            let before = ledger.events();
            wait_until("events are taken again", Duration::from_secs(30), || {
                ledger.events() > before + 2_000
            });
            println!("round {round}: {} events acknowledged", ledger.events());
        }
        assert_eq!(probe(), 200);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(refused.load(Ordering::Relaxed) > 0);
    settled(&served, &ledger, &now);
    // What was acknowledged while there was no room is there after a crash too.
    served.kill();
    let served = Served::start(&data, &SETTINGS);
    settled(&served, &ledger, &now);
    assert!(served.stop().success());
    let replayed = reckon(&["replay", "--data", data_text]);
    assert!(replayed.contains("are identical"), "{replayed}");
}
