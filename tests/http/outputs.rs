//! `GET /v1/outputs/{topic}`: what it says of itself, which cursors it takes, and in which form numbers are.

use serde_json::Value;

use crate::answers::text;
use crate::ingest::event;
use crate::reads::history;
use crate::served::{Served, reckon};

#[test]
fn as_of_says_up_to_where_outputs_are_delivered() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path"), "--partitions", "1"]);
    // Whatever is folded isn't committed before the end: so its outputs aren't delivered.
    let rare = [
        "--set",
        "fold.commit_ms=3600000",
        "--set",
        "fold.commit_events=1000000000",
    ];
    let served = Served::start(&data, &rare);
    // Far ahead of the log's clock: rejected by the fold.
    let mut ahead = event("acme", "ahead", 7);
    ahead["occurred_at"] = "2099-01-01T00:00:00Z".into();
    let batch = [ahead, event("acme", "c", 7)].map(|event| event.to_string());
    let posted = served.post("/v1/events", "application/x-ndjson", batch.join("\n"));
    let offset = text(&posted.json()["results"][1], "offset").to_owned();
    let read = format!("/v1/accounts/acme/usage?at_least=0:{offset}");
    let folded = served.get(&read);
    assert_eq!(folded.status, 200, "{}", folded.text);
    let said = |rejects: &Value| rejects["as_of"]["offset"].as_str().and_then(|o| o.parse::<u64>().ok());
    let rejects = served.get("/v1/outputs/rejects").json();
    assert_eq!(rejects["outputs"].as_array().map(Vec::len), Some(0), "{rejects}");
    assert!(said(&rejects) < offset.parse().ok(), "{rejects}");
    assert!(served.stop().success());

    let served = Served::start(&data, &[]);
    assert_eq!(served.get(&read).status, 200);
    let begun = std::time::Instant::now();
    loop {
        let rejects = served.get("/v1/outputs/rejects").json();
        assert_eq!(rejects["outputs"].as_array().map(Vec::len), Some(1), "{rejects}");
        if said(&rejects) >= offset.parse().ok() {
            break;
        }
        // Known with the first commit.
        assert!(begun.elapsed().as_secs() < 20, "{rejects}");
    }
    assert!(served.stop().success());
}

#[test]
fn a_cursor_beyond_the_end_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    let served = Served::start(data.as_ref(), &[]);
    let all = served.get("/v1/outputs/statements").json();
    let tail = text(&all, "next_after").to_owned();
    assert!(tail.parse::<u64>().expect("a number") >= 2, "{all}");
    let at = |topic: &str, after: &str, wait: &str| served.get(&format!("/v1/outputs/{topic}?after={after}{wait}"));
    let end = at("statements", &tail, "");
    assert_eq!((end.status, text(&end.json(), "next_after")), (200, tail.as_str()));
    for wait in ["", "&wait_ms=20000"] {
        let beyond = at("statements", "1000000", wait);
        assert_eq!((beyond.status, text(&beyond.json(), "code")), (409, "beyond_end"));
        assert_eq!(beyond.json()["field"], "after");
        assert!(
            text(&beyond.json(), "detail").contains(&format!("sequence {tail}")),
            "{}",
            beyond.text
        );
    }
    assert_eq!(at("alerts", "0", "").status, 200);
    assert_eq!(at("alerts", "1", "").status, 409, "nothing is there");
    assert_eq!(at("statements", &u64::MAX.to_string(), "").status, 409);
    assert!(served.stop().success());
}

/// Names of members whose values are numbers, wherever they are.
fn numbers(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if value.is_number() {
                    found.push(name.clone());
                }
                numbers(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| numbers(value, found)),
        _ => {}
    }
}

#[test]
fn counts_are_texts_over_http_and_numbers_in_exports() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    let export = |what: &str| -> Value {
        let lines = reckon(&["export", what, "--data", &data]);
        let rows = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut of_month = rows.filter(|row| row["period"] == "2026-09");
        of_month.next().expect("a row")
    };
    let exported = export("control");
    assert_eq!((&exported["accounts"], &exported["sequence"]), (&1.into(), &3.into()));
    assert_eq!(export("statements")["outcomes"]["success"], 1);

    let served = Served::start(data.as_ref(), &[]);
    let bad = r#"{"event": {"account_id": "acme", "call_id": "old", "phase": "ended", "occurred_at": "2020-09-01T00:00:00Z", "end": {"cause": "completed"}}}"#;
    assert_eq!(served.post("/v1/records", "application/x-ndjson", bad).status, 200);
    let rejects = served.get("/v1/outputs/rejects?wait_ms=10000").json();
    assert!(rejects["outputs"][0]["rejected"]["offset"].is_string(), "{rejects}");
    let statements = served.get("/v1/outputs/statements").json();
    let rows = statements["outputs"].as_array().expect("outputs");
    let control = rows
        .iter()
        .filter_map(|row| row.get("period_control"))
        .find(|control| control["period"] == "2026-09")
        .expect("a control record");
    assert_eq!((text(control, "accounts"), text(control, "sequence")), ("1", "3"));
    assert_eq!(text(&control["outcomes"], "success"), "1");
    let statement = served.get("/v1/accounts/acme/statements/2026-09").json();
    assert_eq!(text(&statement["closed"]["reasons"], "upstream_error"), "1");
    let calls = served.get("/v1/outputs/calls").json();
    // Small numbers that nobody adds up: which partition, which revision, the units of a price.
    let allowed = ["partition", "partition_count", "revision", "per"];
    for body in [rejects, statements, statement, calls] {
        let mut found = Vec::new();
        numbers(&body, &mut found);
        found.retain(|name| !allowed.contains(&name.as_str()));
        assert_eq!(found, Vec::<String>::new(), "{body}");
    }
    assert!(served.stop().success());
}

#[test]
fn a_partition_that_is_not_there_cannot_be_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    let served = Served::start(data.as_ref(), &[]);
    for path in [
        "/v1/accounts/acme/usage",
        "/v1/accounts/acme/statements",
        "/v1/accounts/acme/statements/2026-09",
        "/v1/accounts/acme/calls/c-1",
    ] {
        let answer = served.get(&format!("{path}?at_least=999:7"));
        assert_eq!(
            (answer.status, text(&answer.json(), "field")),
            (400, "at_least"),
            "{path}"
        );
    }
    assert!(served.stop().success());
}
