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
    let served = Served::start(&data, &["--set", "fold.flush_ms=1000", "--set", "fold.commit_ms=20"]);
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
            let answer = served.post("/v1/events", "application/x-ndjson", Client::new(9, &now).batch(1).body);
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
        stop.store(true, Ordering::Relaxed);
    });
    assert!(refused.load(Ordering::Relaxed) > 0);
    let agent = agent();
    for (account, mut sums) in ledger.acknowledged() {
        let path = format!("{}/v1/accounts/{account}/usage?period={}", served.base, &now[..7]);
        let usage = || {
            let mut answer = agent.get(&path).call().expect("an answer");
            let text = answer.body_mut().read_to_string().expect("a body");
            (answer.status() == 200).then(|| Sums::of_usage(&serde_json::from_str(&text).expect("JSON")))
        };
        // The probe's call, if it was taken, is its own account's.
        let (probed, probe) = Client::new(9, &now).batch(1).first();
        if probed == account {
            sums += probe;
        }
        wait_until(
            &format!("{account} comes to {sums:?}, not {:?}", usage()),
            Duration::from_secs(30),
            || usage() == Some(sums),
        );
    }
    assert!(served.stop().success());
    let replayed = reckon(&["replay", "--data", data_text]);
    assert!(replayed.contains("are identical"), "{replayed}");
}
