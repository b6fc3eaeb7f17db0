//! Histories by the command line: what a file comes to hangs on the file alone.

use std::path::Path;

use serde_json::Value;

use crate::served::reckon;

fn import(folder: &Path, partitions: &str, lines: &[&str]) -> String {
    let (file, data) = (folder.join("history.ndjson"), folder.join(partitions));
    std::fs::write(&file, lines.join("\n")).expect("written");
    let (file, data) = (file.to_str().expect("a path"), data.to_str().expect("a path"));
    reckon(&[
        "import",
        "events",
        file,
        "--data",
        data,
        "--partitions",
        partitions,
        "--close",
    ]);
    data.to_owned()
}

fn export(what: &str, data: &str) -> Vec<Value> {
    let rows = reckon(&["export", what, "--data", data]);
    rows.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn totals(data: &str) -> Vec<String> {
    let rows = export("statements", data);
    let mut totals: Vec<String> = rows
        .iter()
        .map(|r| format!("{} {} {}", r["account"], r["period"], r["total"]))
        .collect();
    totals.sort();
    totals
}

#[test]
fn a_rejected_record_for_everyone_takes_no_version_from_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = import(
        folder.path(),
        "1",
        &[
            r#"{"tick":"2026-09-15T00:00:00Z"}"#,
            r#"{"control":{"id":"r1","rate_card":{"effective_from":"2026-01-01T00:00:00Z","prices":[{"currency":"USD","amount":"1"}]}}}"#,
            r#"{"control":{"id":"r2","rate_card":{"effective_from":"2026-08-01T00:00:00Z","prices":[{"currency":"USD","amount":"2"}]}}}"#,
            r#"{"control":{"id":"p","policy":{"bill_unproven":true}}}"#,
            r#"{"event":{"account_id":"a","call_id":"c","phase":"ended","occurred_at":"2026-09-15T00:00:00Z","end":{"cause":"client_gone","progress":"forwarded"}}}"#,
            r#"{"control":{"id":"q","policy":{"grace":1}}}"#,
            r#"{"tick":"soon"}"#,
        ],
    );
    let reasons: Vec<Value> = export("rejects", &data)
        .into_iter()
        .map(|r| r["reason"].clone())
        .collect();
    assert_eq!(reasons, ["not_effective", "undecodable", "bad_tick"]);
    assert_eq!(export("calls", &data)[0]["billed"], true);
    assert_eq!(totals(&data), [r#""a" "2026-09" "1""#]);
}

#[test]
fn a_file_without_ticks_comes_to_the_same_however_many_partitions_there_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = [
        r#"{"control":{"id":"r1","rate_card":{"effective_from":"2026-01-01T00:00:00Z","prices":[{"currency":"USD","amount":"1"}]}}}"#,
        r#"{"event":{"account_id":"a","call_id":"c1","phase":"ended","occurred_at":"2026-08-30T00:00:00Z","product":"m","end":{"cause":"completed"}}}"#,
        r#"{"event":{"account_id":"b","call_id":"c1","phase":"ended","occurred_at":"2026-09-05T00:00:00Z","product":"m","end":{"cause":"completed"}}}"#,
        r#"{"control":{"id":"r2","rate_card":{"effective_from":"2026-08-20T00:00:00Z","prices":[{"currency":"USD","amount":"7"}]}}}"#,
        r#"{"control":{"id":"p2","policy":{"bill_unproven":true}}}"#,
        r#"{"event":{"account_id":"a","call_id":"c3","phase":"ended","occurred_at":"2026-09-06T00:00:00Z","product":"m","end":{"cause":"client_gone","progress":"forwarded"}}}"#,
    ];
    for partitions in ["1", "2", "3", "8"] {
        let data = import(folder.path(), partitions, &lines);
        assert_eq!(
            totals(&data),
            [r#""a" "2026-08" "1""#, r#""a" "2026-09" "1""#, r#""b" "2026-09" "1""#],
            "{partitions} partitions"
        );
    }
}

#[test]
fn the_month_before_the_logs_first_has_its_control_record_if_its_time_is_still_to_come() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = import(
        folder.path(),
        "1",
        &[
            r#"{"tick":"2026-09-01T13:00:00Z"}"#,
            r#"{"event":{"account_id":"a","call_id":"c","phase":"ended","occurred_at":"2026-08-31T23:00:00Z","end":{"cause":"completed"}}}"#,
        ],
    );
    let first = &export("control", &data)[0];
    assert_eq!((&first["period"], &first["accounts"]), (&"2026-08".into(), &1.into()));
}
