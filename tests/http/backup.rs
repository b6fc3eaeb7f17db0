//! Backup of a running service and what comes back from it.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::served::{Served, reckon};
use crate::traffic::{Address, Client, Ledger, Sums, number, post, post_again};

/// Runs a command that must fail; what it says.
fn refused(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "reckon {args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Says at its end, however that comes, that posting is over.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (data, backup, restored) = (at("data"), at("backup"), at("restored"));
    reckon(&["init", "--data", text(&data), "--partitions", "2"]);
    let served = Served::start(&data, &["--set", "telemetry.log_filter=warn"]);
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let (address, ledger, stop) = (Address::default(), Ledger::default(), AtomicBool::new(false));
    address.set(&served.base);
    let (before, batches) = std::thread::scope(|scope| {
        let (now, address, ledger, stop) = (&now, &address, &ledger, &stop);
        // Whatever fails in here: nobody goes on posting.
        let _stopping = Stopping(stop);
        let posting: Vec<_> = (0..2)
            .map(|n| scope.spawn(move || post(&mut Client::new(n, now), address, ledger, 40, stop)))
            .collect();
        while ledger.events() < 2_000 {
            std::thread::yield_now();
        }
        // The stores' copies are as of the last commit: each partition has had one since.
        let commits = || {
            let text = served.get("/metrics").text;
            let count = text
                .lines()
                .find_map(|l| l.strip_prefix("reckon_commit_seconds_count "));
            count.map_or(0, |c| c.parse().expect("a count"))
        };
        let wanted = commits() + 6;
        while commits() < wanted {
            std::thread::yield_now();
        }
        let before = ledger.acknowledged();
        let made = served.post(
            "/v1/backups",
            "application/json",
            json!({"to": text(&backup)}).to_string(),
        );
        assert_eq!(made.status, 201, "{}", made.text);
        // Nothing was flushed yet, and stores have no write-ahead log: the copy has what lay in memory.
        let folded = made.json()["partitions"]
            .as_array()
            .expect("partitions")
            .iter()
            .map(|p| number(&p["next_offset"]))
            .sum::<u64>();
        assert!(folded > 1_000, "{}", made.text);
        let (there, relative) = (json!({"to": text(&backup)}), json!({"to": "backup"}));
        let again = served.post("/v1/backups", "application/json", there.to_string());
        assert_eq!(
            (again.status, &again.json()["code"]),
            (409, &"conflict".into()),
            "{}",
            again.text
        );
        let nowhere = served.post("/v1/backups", "application/json", relative.to_string());
        assert_eq!((nowhere.status, &nowhere.json()["field"]), (400, &"to".into()));
        let inside = json!({"to": text(&data.join("store/backup"))});
        let inside = served.post("/v1/backups", "application/json", inside.to_string());
        assert_eq!(inside.status, 400, "{}", inside.text);
        // The command asks the same.
        let said = reckon(&["backup", text(&at("second")), "--url", &served.base]);
        assert!(said.contains("complete at"), "{said}");
        let locked = refused(&["backup", text(&at("third")), "--data", text(&data)]);
        assert!(locked.contains("--url"), "{locked}");
        stop.store(true, Ordering::Relaxed);
        let batches: Vec<u64> = posting.into_iter().map(|thread| thread.join().expect("sent")).collect();
        (before, batches)
    });
    assert!(served.stop().success());
    let answer = reckon(&[
        "--json",
        "restore",
        text(&backup),
        "--data",
        text(&restored),
        "--verify",
    ]);
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let replayed: Value =
        serde_json::from_str(&reckon(&["--json", "replay", "--data", text(&restored)])).expect("JSON");
    for (partition, digest) in answer["partitions"].as_array().expect("partitions").iter().zip(0..) {
        assert_eq!(
            partition["digest"], replayed["digests"][digest],
            "that of an undisturbed fold"
        );
    }
    let served = Served::start(&restored, &[]);
    let usage = |account: &str| {
        let path = format!("/v1/accounts/{account}/usage?period={}", &now[..7]);
        Sums::of_usage(&served.get(&path).json())
    };
    for (account, sums) in before {
        let found = usage(&account);
        let (_, most) = ledger.bounds(&account, u64::MAX);
        assert!(
            found.covers(sums) && most.covers(found),
            "{account}: {found:?} of {sums:?}"
        );
    }
    // Everything once more, as producers do after a restore: what is missing comes in, the rest changes nothing.
    address.set(&served.base);
    for (n, batches) in (0..).zip(batches) {
        post_again(&mut Client::new(n, &now), &address, 40, batches);
    }
    for (account, sums) in ledger.acknowledged() {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while usage(&account) != sums {
            assert!(
                std::time::Instant::now() < deadline,
                "{account}: {:?}, not {sums:?}",
                usage(&account)
            );
        }
    }
    assert!(served.stop().success());
}

/// A small history, and a backup of it.
fn backed_up(folder: &Path) -> (String, String) {
    let file = folder.join("history.ndjson");
    let event = json!({"event": {"account_id": "acme", "call_id": "c-1", "phase": "ended",
        "occurred_at": "2026-09-01T10:00:00Z", "end": {"cause": "completed"}}});
    std::fs::write(&file, format!("{}\n{event}\n", json!({"tick": "2026-09-01T00:00:00Z"}))).expect("written");
    let (data, backup) = (folder.join("data"), folder.join("backup"));
    reckon(&["import", "events", text(&file), "--data", text(&data), "--close"]);
    let said = reckon(&["backup", text(&backup), "--data", text(&data)]);
    assert!(said.contains("complete at"), "{said}");
    (text(&data).to_owned(), text(&backup).to_owned())
}

#[test]
fn what_does_not_hold_is_refused_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, backup) = backed_up(folder.path());
    let target = folder.path().join("restored");
    let restore = |backup: &str| refused(&["restore", backup, "--data", text(&target)]);
    let said = refused(&["backup", &backup, "--data", &data]);
    assert!(said.contains("is not empty"), "{said}");
    let said = refused(&["restore", &backup, "--data", &data]);
    assert!(said.contains("is not empty"), "{said}");
    // A byte of a table, of the log and of a store.
    let files = |name: &str| {
        let files = std::fs::read_dir(Path::new(&backup).join(name)).expect("files");
        let mut files: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
        files.sort();
        files
            .into_iter()
            .find(|f| f.extension().is_some_and(|e| e == "sst"))
            .expect("a table")
    };
    for file in [files("log"), files("store/0")] {
        let whole = std::fs::read(&file).expect("read");
        // Another file: the tables are links to those of the data folder.
        let damage = |bytes: &[u8]| {
            std::fs::remove_file(&file).expect("removed");
            std::fs::write(&file, bytes).expect("written");
        };
        let mut bad = whole.clone();
        bad[whole.len() / 2] ^= 1;
        damage(&bad);
        let said = restore(&backup);
        assert!(
            said.contains("is damaged") && said.contains("hash") && said.contains(text(&file)),
            "{said}"
        );
        damage(&whole[1..]);
        let said = restore(&backup);
        assert!(said.contains("is damaged") && said.contains("bytes"), "{said}");
        std::fs::remove_file(&file).expect("removed");
        let said = restore(&backup);
        assert!(said.contains("the backup hasn't"), "{said}");
        std::fs::write(&file, &whole).expect("whole again");
        assert!(
            !target.join("log").exists() && !target.join("restoring").exists(),
            "nothing was restored"
        );
    }
    // A manifest that says something else than the stores, one of another version, and none.
    let manifest = Path::new(&backup).join("manifest.json");
    let whole = std::fs::read_to_string(&manifest).expect("read");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&whole).expect("JSON");
        change(&mut value);
        std::fs::write(&manifest, value.to_string()).expect("written");
        restore(&backup)
    };
    let said = with(&|m| m["partitions"][0]["digest"] = json!("00000000000000000000000000000001"));
    assert!(said.contains("its manifest says"), "{said}");
    let said = with(&|m| m["fold_version"] = json!(99));
    assert!(said.contains("fold version 99"), "{said}");
    let said = with(&|m| m["files"][0]["path"] = json!("../manifest.json"));
    assert!(said.contains("outside the backup"), "{said}");
    std::fs::write(&manifest, "{").expect("written");
    assert!(restore(&backup).contains("can't be read"));
    std::fs::remove_file(&manifest).expect("removed");
    let said = restore(&backup);
    assert!(said.contains("cut off"), "{said}");
    std::fs::write(&manifest, &whole).expect("whole again");
    let said = reckon(&["restore", &backup, "--data", text(&target), "--verify"]);
    assert!(said.contains("folded again from nothing"), "{said}");
}

#[test]
fn a_root_for_backups_is_held_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, root) = (folder.path().join("data"), folder.path().join("backups"));
    std::fs::create_dir(&root).expect("a folder");
    std::os::unix::fs::symlink(folder.path(), root.join("out")).expect("a link");
    reckon(&["init", "--data", text(&data), "--partitions", "1"]);
    let served = Served::start(&data, &["--set", &format!("backup.root={}", text(&root))]);
    let backup = |to: &str| served.post("/v1/backups", "application/json", json!({"to": to}).to_string());
    for bad in ["elsewhere", "backups/../elsewhere", "backups/out/elsewhere", "backups"] {
        let answer = backup(&format!("{}/{bad}", text(folder.path())));
        assert_eq!(
            (answer.status, &answer.json()["field"]),
            (400, &"to".into()),
            "{bad}: {}",
            answer.text
        );
    }
    let answer = backup(text(&root.join("monday/first")));
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert!(root.join("monday/first/manifest.json").exists());
    assert!(served.stop().success());
}

#[test]
fn a_place_where_no_folder_can_be_made_is_the_askers_to_mend() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("file"));
    reckon(&["init", "--data", text(&data)]);
    std::fs::write(&file, "").expect("written");
    let served = Served::start(&data, &[]);
    // A file, below a file, where nothing can be made whoever asks, a name that none can have.
    let (below, long) = (file.join("backup"), folder.path().join("b".repeat(300)));
    for to in [file.as_path(), &below, Path::new("/proc/reckon/backup"), &long] {
        let answer = served.post("/v1/backups", "application/json", json!({"to": text(to)}).to_string());
        let problem = answer.json();
        assert_eq!(
            (answer.status, &problem["code"], &problem["field"]),
            (400, &"bad_body".into(), &"to".into()),
            "{to:?}: {problem}"
        );
        assert!(
            problem["cure"].as_str().is_some_and(|cure| cure.contains("folder")),
            "{problem}"
        );
    }
    assert!(served.stop().success());
}
