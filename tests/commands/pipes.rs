//! Whoever reads a command's output may have had enough: `reckon config | head -1`.

use std::process::Command;

use crate::{folded, good, history, reckon};

/// Exit code and standard error of a command whose output nobody reads.
fn unread(args: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .stdout(writer)
        .output()
        .expect("reckon runs");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn commands_end_well_where_nobody_reads() {
    let keys = tempfile::tempdir().expect("a folder");
    let keys = keys.path().to_str().expect("a path");
    good(&["token", "key", "new", "--data", keys, "--key-id", "k1"]);
    let rejected = &good(&["rejects", "list", "--data", folded(), "--json"]).rows()[0]["rejects"][0];
    let place = format!("{}:{}", rejected["partition"], rejected["offset"]);
    let of_folded = |args: &[&'static str]| [args, &["--data", folded()]].concat();
    let commands = [
        vec!["config"],
        vec!["check", Box::leak(history().into_boxed_str())],
        of_folded(&["inspect"]),
        of_folded(&["explain", "acme", "c1"]),
        of_folded(&["rejects", "list"]),
        of_folded(&["export", "calls"]),
        of_folded(&["replay"]),
        of_folded(&["consume", "statements"]),
        vec!["rejects", "show", &place, "--data", folded()],
        vec!["token", "key", "list", "--data", keys],
        vec!["topics", "acls"],
    ];
    for args in &commands {
        for form in [&[][..], &["--json"]] {
            let args = [args, form].concat();
            assert!(!reckon(&args).out.is_empty(), "{args:?} has nothing to say");
            let (code, said) = unread(&args);
            assert_eq!(code, Some(0), "{args:?}: {said}");
            assert!(
                !said.contains("panicked") && !said.contains("error"),
                "{args:?}: {said}"
            );
        }
    }
}

#[test]
fn work_is_done_where_nobody_reads_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("a path");
    let import = ["import", "events", &history(), "--data", data, "--close"];
    assert_eq!(unread(&import).0, Some(0));
    let closed = folder.path().join("closed");
    let closed = closed.to_str().expect("a path");
    good(&["import", "events", &history(), "--data", closed, "--close"]);
    let statements = |data: &str| good(&["export", "statements", "--data", data]).out;
    assert!(!statements(data).is_empty());
    assert_eq!(statements(data), statements(closed));
}
