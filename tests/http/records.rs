//! `POST /v1/records`: log records in their order, and control versions that are never used twice.

use serde_json::{Value, json};

use crate::served::{Answer, Served, reckon};

const NDJSON: &str = "application/x-ndjson";

fn post(served: &Served, lines: &[Value]) -> Answer {
    let body: Vec<String> = lines.iter().map(Value::to_string).collect();
    served.post("/v1/records", NDJSON, body.join("\n"))
}

fn ended(account: &str, call: &str, at: &str) -> Value {
    json!({"event": {"account_id": account, "call_id": call, "phase": "ended", "occurred_at": at, "product": "m",
        "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 10}]}})
}

fn card(id: &str, amount: &str) -> Value {
    json!({"control": {"id": id, "rate_card": {"effective_from": "2026-09-01T00:00:00Z",
        "prices": [{"meter": "output_tokens", "currency": "USD", "amount": amount, "per": 1000}]}}})
}

/// Rejects of a partition.
fn rejects(served: &Served, partition: u32) -> Value {
    served.get(&format!("/v1/outputs/rejects?partition={partition}")).json()["outputs"].clone()
}

#[test]
fn a_history_is_appended_in_its_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 4);
    let profile = json!({"control": {"id": "p", "account_profile": {"account_id": "acme", "currency": "EUR"}}});
    let answer = post(
        &served,
        &[
            json!({"tick": "2026-09-01T00:00:00Z"}),
            card("card", "1"),
            profile,
            ended("acme", "c", "2026-09-01T00:00:00Z"),
            json!({"tick": "yesterday"}),
            json!({"control": {"id": "x", "policy": {"settle_grace": 1}}}),
            json!({"control": {"id": "y"}}),
            json!({"evnt": {}}),
            json!({"event": {"account_id": "acme"}}),
            json!({"tick": "2026-09-01T00:01:00Z"}),
        ],
    );
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!((&body["accepted"], &body["refused"]), (&5.into(), &5.into()));
    let results = body["results"].as_array().expect("results");
    assert_eq!(results[0]["places"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        (&results[1]["control_version"], &results[1]["places"][3]["offset"]),
        (&"1".into(), &"2".into())
    );
    let own = (&results[2]["partition"], &results[2]["offset"]);
    assert_eq!((own.0, own.1), (&results[3]["partition"], &"3".into()));
    let reasons: Vec<_> = results[4..9]
        .iter()
        .map(|r| (r["reason"].as_str(), r["field"].as_str()))
        .collect();
    let expected = [
        ("bad_tick", "tick"),
        ("undecodable", "policy.settle_grace"),
        ("missing_field", "control.body"),
        ("undecodable", ""),
        ("missing_field", "call_id"),
    ];
    assert_eq!(reasons, expected.map(|(reason, field)| (Some(reason), Some(field))));
    let at_least = format!("{}:5", own.0);
    let call = served
        .get(&format!("/v1/accounts/acme/calls/c?at_least={at_least}"))
        .json();
    assert_eq!((&call["settled"], &call["reason"]), (&true.into(), &"completed".into()));
    let usage = served.get("/v1/accounts/acme/usage?period=2026-09").json();
    assert_eq!((&usage["amount"], &usage["currency"]), (&Value::Null, &"EUR".into()));
    // The forms are those of the file that the import takes: what one does, the other does.
    assert_eq!(
        served.post("/v1/records", "application/json", "{}").json()["code"],
        "unsupported_type"
    );
}

#[test]
fn requests_at_once_get_versions_in_a_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 2);
    assert_eq!(post(&served, &[json!({"tick": "2026-09-01T00:00:00Z"})]).status, 200);
    let versions = |answer: &Answer| -> Vec<u64> {
        let body = answer.json();
        let results = body["results"].as_array().expect("results").clone();
        let versions = results
            .iter()
            .filter_map(|r| r["control_version"].as_str()?.parse().ok());
        versions.collect()
    };
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let one = |n: usize| {
            let served = &served;
            scope.spawn(move || {
                versions(&post(
                    served,
                    &[card(&format!("a{n}"), "1"), card(&format!("b{n}"), "2")],
                ))
            })
        };
        let threads: Vec<_> = (0..6).map(one).collect();
        threads.into_iter().flat_map(|t| t.join().expect("joined")).collect()
    });
    all.sort_unstable();
    assert_eq!(all, (1..=12).collect::<Vec<u64>>());
    // A record that the fold rejects or knows doesn't use its version up, also within one request.
    let late = json!({"control": {"id": "late", "rate_card": {"effective_from": "2020-01-01T00:00:00Z",
        "prices": [{"meter": "output_tokens", "currency": "USD", "amount": "1"}]}}});
    let answer = post(
        &served,
        &[late.clone(), card("a0", "1"), card("next", "3"), card("after", "4")],
    );
    assert_eq!(versions(&answer), [13, 13, 13, 14]);
    // Nor is it forgotten that a process had appended before.
    assert!(served.stop().success());
    let served = Served::start(&folder.path().join("data"), &[]);
    assert_eq!(versions(&post(&served, &[card("last", "5")])), [15]);
    let given = json!({"control": {"id": "given", "control_version": 16, "policy": {"settle_grace_ms": 5}}});
    assert_eq!(versions(&post(&served, &[given, card("end", "6")])), [16, 17]);
    // All were accepted but the one that was meant to be rejected.
    for partition in 0..2 {
        let rejects = rejects(&served, partition);
        let reasons: Vec<_> = rejects
            .as_array()
            .expect("rows")
            .iter()
            .map(|r| &r["rejected"]["reason"])
            .collect();
        assert_eq!(reasons, ["not_effective"]);
    }
}

#[test]
fn ticks_are_for_logs_of_ticks() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let served = Served::start(&data, &[]);
    let answer = post(&served, &[card("c", "1"), json!({"tick": "2026-09-01T00:00:00Z"})]);
    assert_eq!((answer.status, &answer.json()["code"]), (409, &"conflict".into()));
    let hold = json!({"control": {"id": "h", "hold_close": {"period": "2026-09"}}});
    assert_eq!(post(&served, &[hold]).json()["results"][0]["control_version"], "1");
}
