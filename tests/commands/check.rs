//! `reckon check`: what it says is what an import comes to, and it finds what is wrong and nothing else.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{event, file_of, good, history, reckon, same_as_golden};

const AT: &str = "2026-09-10T12:00:00Z";

const DONE: &str = r#","end":{"cause":"completed"},"usage":[{"meter":"output_tokens","value":"5"}]"#;

fn checked(lines: &[&str]) -> (i32, Vec<Value>) {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).collect();
    let ran = reckon(&["check", &file_of(folder.path(), &lines), "--json"]);
    (ran.code, ran.rows())
}

fn findings(rows: &[Value]) -> Vec<(String, String)> {
    let found = rows.iter().filter(|r| r["finding"].is_string());
    found
        .map(|r| {
            let text = |name: &str| r[name].as_str().unwrap_or_default().to_owned();
            (text("finding"), text("field"))
        })
        .collect()
}

#[test]
fn a_history_is_checked_as_in_the_golden_files() {
    let ran = reckon(&["check", &history(), "--json"]);
    assert_eq!(ran.code, 1);
    same_as_golden("check.ndjson", &ran.out);
    let ran = reckon(&["check", &history()]);
    assert_eq!(ran.code, 1);
    same_as_golden("check.txt", &ran.out);
    assert_eq!(reckon(&["check", "/nowhere"]).code, 1);
    assert_eq!(reckon(&["check"]).code, 2);
}

#[test]
fn what_is_well_has_no_findings() {
    let (code, rows) = checked(&[
        &event("acme", "a", "started", AT, r#","kind":"stream""#),
        // Measured by the upstream at the end of a long stream.
        &event(
            "acme",
            "a",
            "usage_reported",
            "2026-09-10T12:10:00Z",
            r#","observer":"upstream","usage":[{"meter":"output_tokens","value":"5"}]"#,
        ),
        &event(
            "acme",
            "a",
            "ended",
            "2026-09-10T12:10:01Z",
            r#","end":{"cause":"completed"}"#,
        ),
    ]);
    assert_eq!(findings(&rows), [], "{rows:?}");
    assert_eq!((code, rows.len()), (0, 1));
}

#[test]
fn a_task_that_nobody_ended_is_found() {
    let (code, rows) = checked(&[&event("acme", "t", "started", AT, r#","kind":"async_task""#)]);
    assert_eq!(rows[0]["row"], 19);
    assert_eq!(findings(&rows), [("missing end".to_owned(), "phase".to_owned())]);
    assert_eq!(code, 1);
}

#[test]
fn an_unreadable_control_record_has_its_field() {
    let (_, rows) = checked(&[
        &event("acme", "a", "ended", AT, DONE),
        r#"{"control":{"id":"p","policy":{"grace":5}}}"#,
        r#"{"tick":"soon"}"#,
    ]);
    let found = findings(&rows);
    assert!(
        found.contains(&("unreadable".to_owned(), "policy.grace".to_owned())),
        "{found:?}"
    );
    assert!(
        found.contains(&("unreadable".to_owned(), "tick".to_owned())),
        "{found:?}"
    );
}

/// The verdicts of an import of the same file.
fn imported(file: &str) -> Vec<(String, String)> {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().to_str().expect("a path");
    good(&["import", "events", file, "--data", data, "--partitions", "1", "--close"]);
    verdicts(&good(&["export", "calls", "--data", data]).rows())
}

fn verdicts(rows: &[Value]) -> Vec<(String, String)> {
    let text = |row: &Value, name: &str| row[name].as_str().expect("text").to_owned();
    let calls = rows.iter().filter(|r| r["outcome"].is_string());
    let mut all: Vec<_> = calls.map(|r| (text(r, "call"), text(r, "reason"))).collect();
    all.sort();
    all
}

#[test]
fn a_check_says_what_an_import_comes_to() {
    let gone = r#","end":{"cause":"client_gone","progress":"forwarded"}"#;
    let policy =
        |id: &str, more: &str| format!(r#"{{"control":{{"id":"{id}"{more},"policy":{{"bill_unproven":true}}}}}}"#);
    for lines in [
        // A rejected record for everyone takes no version from the next, nor does one that is repeated.
        vec![
            r#"{"control":{"id":"r","rate_card":{"effective_from":"2026-01-01T00:00:00Z","prices":[{"currency":"USD","amount":"-1"}]}}}"#.to_owned(),
            policy("p", ""),
            event("acme", "a", "ended", AT, gone),
        ],
        vec![policy("p", ""), policy("p", ""), policy("q", ""), event("acme", "a", "ended", AT, gone)],
        vec![policy("p", r#","control_version":"18446744073709551615""#), policy("q", ""), event("acme", "a", "ended", AT, gone)],
        // A tick that is none doesn't count as one.
        vec![r#"{"tick":"soon"}"#.to_owned(), event("acme", "a", "ended", AT, gone)],
        // One wild event doesn't carry the clock off.
        vec![
            event("acme", "a", "ended", AT, DONE),
            event("acme", "wild", "ended", "2099-01-01T00:00:00Z", DONE),
            event("acme", "b", "ended", AT, DONE),
            event("acme", "c", "ended", "2026-09-10T12:00:01Z", DONE),
        ],
        // Nor does one that would be rejected anyway.
        vec![
            event("acme", "a", "ended", AT, DONE),
            event("acme", "wild", "ened", "2026-10-12T00:00:00Z", DONE),
            event("acme", "b", "ended", "2026-09-05T12:00:01Z", DONE),
        ],
        // But time does go on.
        vec![
            event("acme", "a", "ended", AT, DONE),
            event("acme", "b", "ended", "2026-12-10T12:00:00Z", DONE),
            event("acme", "c", "ended", "2026-12-10T12:00:01Z", DONE),
        ],
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
        let file = file_of(folder.path(), &bytes);
        let checked = verdicts(&reckon(&["check", &file, "--json"]).rows());
        assert_eq!(checked, imported(&file), "{lines:?}");
        let calls: Vec<&str> = checked.iter().map(|(call, _)| call.as_str()).collect();
        let wanted: Vec<&str> = if lines.len() < 3 || calls.len() == 1 {
            vec!["a"]
        } else if lines[1].contains("ened") {
            vec!["a", "b"]
        } else {
            vec!["a", "b", "c"]
        };
        assert_eq!(calls, wanted, "{lines:?}");
        if lines.iter().any(|l| l.contains("bill_unproven")) {
            assert_eq!(checked[0].1, "gone_unproven");
        }
    }
}

#[test]
fn a_policy_after_a_rejected_record_holds() {
    let gone = r#","end":{"cause":"client_gone","progress":"forwarded"}"#;
    let (_, rows) = checked(&[
        &event("acme", "before", "ended", AT, gone),
        r#"{"control":{"id":"r","rate_card":{"effective_from":"2026-01-01T00:00:00Z","prices":[{"currency":"USD","amount":"-1"}]}}}"#,
        r#"{"control":{"id":"p","policy":{"bill_unproven":true}}}"#,
        &event("acme", "after", "ended", AT, gone),
    ]);
    let outcome = |call: &str| rows.iter().find(|r| r["call"] == call).expect("a call")["outcome"].clone();
    assert_eq!(
        (outcome("before"), outcome("after")),
        ("failed".into(), "disconnected".into())
    );
}

#[test]
fn a_leap_is_told_with_line_and_cure() {
    let (code, rows) = checked(&[
        &event("acme", "a", "ended", AT, DONE),
        &event("acme", "wild", "ended", "2099-01-01T00:00:00Z", DONE),
        &event("acme", "b", "ended", AT, DONE),
    ]);
    let leap = rows.iter().find(|r| r["finding"] == "leap").expect("a finding");
    assert_eq!(
        (code, &leap["line"], &leap["field"]),
        (1, &2.into(), &"occurred_at".into())
    );
    let rejected = rows.iter().find(|r| r["finding"] == "rejected").expect("a finding");
    assert!(
        rejected["detail"].as_str().expect("text").starts_with("ahead"),
        "{rejected}"
    );
}

#[test]
fn what_comes_through_a_pipe_is_checked_too() {
    let line = event("acme", "a", "ended", AT, DONE);
    let mut child = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["check", "/dev/stdin", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("reckon runs");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(line.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("ends");
    let row: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &row["reason"]), (Some(0), &"completed".into()));
}

/// The event of a line of log records, as a gateway sends it.
fn bare(record: &str) -> String {
    record[r#"{"event":"#.len()..record.len() - 1].to_owned()
}

#[test]
fn bare_events_are_checked_as_records_are() {
    let records = [
        event("acme", "a", "started", AT, r#","kind":"stream""#),
        event(
            "acme",
            "a",
            "ended",
            "2026-09-10T12:00:01Z",
            r#","end":{"cause":"complete"}"#,
        ),
        event("acme", "b", "ended", "2026-09-10T12:00:02Z", DONE),
        event(
            "acme",
            "c",
            "ended",
            "2026-09-10T12:00:03Z",
            &format!(r#"{DONE},"modell":"x""#),
        ),
    ];
    let lines: Vec<&str> = records.iter().map(String::as_str).collect();
    let events: Vec<String> = records.iter().map(|r| bare(r)).collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let wanted = checked(&lines);
    assert!(verdicts(&wanted.1).len() >= 2, "{wanted:?}");
    assert_eq!(checked(&events), wanted);
    // Blank lines, and what can't be read before the first event, don't hide what the file is.
    let (_, rows) = checked(&["", "garbage", events[2]]);
    assert_eq!(verdicts(&rows), [("b".to_owned(), "completed".to_owned())]);
}

#[test]
fn a_line_among_bare_events_that_is_none_is_told_as_one() {
    let good_one = bare(&event("acme", "a", "ended", AT, DONE));
    let (code, rows) = checked(&[&good_one, "[]", "hello"]);
    let unreadable: Vec<_> = rows.iter().filter(|r| r["finding"] == "unreadable").collect();
    assert_eq!((code, unreadable.len()), (1, 2), "{rows:?}");
    for row in unreadable {
        let detail = row["detail"].as_str().expect("text");
        assert!(
            detail.starts_with("not an event") && !detail.contains("tick"),
            "{detail}"
        );
    }
}
