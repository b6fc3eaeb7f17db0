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
    assert_eq!(
        (&usage["rows"][0]["unpriced"], &usage["currency"]),
        (&"10".into(), &"EUR".into())
    );
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

#[test]
fn control_that_can_never_be_right_is_refused_and_not_appended() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 2);
    let control = |id: &str, body: Value| {
        let mut control = json!({"id": id});
        control
            .as_object_mut()
            .expect("an object")
            .extend(body.as_object().expect("a body").clone());
        json!({"control": control})
    };
    let profile = |zone: &str, currency: &str| json!({"account_profile": {"account_id": "acme", "time_zone": zone, "currency": currency}});
    let correction = json!({"correction": {"account_id": "acme", "call_id": "c", "bill": false, "reason": "x"}});
    let answer = post(
        &served,
        &[
            json!({"tick": "2026-09-01T00:00:00Z"}),
            control("h", json!({"hold_close": {"period": "2026-13"}})),
            control("z", profile("Europe/Berln", "EUR")),
            control("m", profile("Europe/Berlin", "dollars")),
            control(
                "d",
                json!({"policy": {"rollup_dimensions": {"names": ["a", "b", "c", "d", "e"]}}}),
            ),
            control("k", json!({"operator_keys": {"remove": ["ops"]}})),
            // Whether it is right hangs on what else is in the log.
            control("w", correction),
            control("g", json!({"hold_close": {"period": "2026-12"}})),
        ],
    );
    let body = answer.json();
    let results = body["results"].as_array().expect("results");
    let reasons: Vec<_> = results.iter().map(|r| r["reason"].as_str().unwrap_or("")).collect();
    assert_eq!(
        reasons,
        [
            "",
            "bad_control",
            "bad_control",
            "bad_control",
            "too_large",
            "bad_control",
            "",
            ""
        ],
        "{body}"
    );
    assert_eq!(results[7]["control_version"], "1", "the refused ones have used up none");
    let at = results[6]["partition"].as_u64().expect("a partition");
    let offset = results[6]["offset"].as_str().expect("an offset");
    let read = served.get(&format!("/v1/accounts/acme/usage?at_least={at}:{offset}"));
    assert_eq!(read.status, 404, "{}", read.text);
    let first = served
        .get(&format!("/v1/outputs/rejects?partition={at}&wait_ms=10000"))
        .json();
    assert_eq!(first["outputs"].as_array().map(Vec::len), Some(1), "{first}");
    // The place of another partition's record says nothing of the account.
    let read = served
        .get(&format!("/v1/accounts/acme/usage?at_least={}:0", 1 - at))
        .json();
    assert_eq!(
        (&read["code"], &read["field"]),
        (&"bad_parameter".into(), &"at_least".into()),
        "{read}"
    );
}

#[test]
fn a_hold_of_a_month_that_has_closed_holds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 1);
    let hold = |id: &str| json!({"control": {"id": id, "hold_close": {"period": "2026-09"}}});
    let held = |offset: &Value| {
        let offset = offset.as_str().expect("an offset").to_owned();
        let read = served.get(&format!("/v1/accounts/acme/usage?period=2026-09&at_least=0:{offset}"));
        assert_eq!(read.status, 200, "{}", read.text);
        let month = served.get("/v1/periods/2026-09").json();
        (month["complete"] == true, month["held_for_everyone"] == true)
    };
    let answer = post(
        &served,
        &[
            json!({"tick": "2026-09-01T00:00:00Z"}),
            ended("acme", "c", "2026-09-01T00:00:00Z"),
            hold("before"),
        ],
    );
    assert_eq!(held(&answer.json()["results"][2]["places"][0]["offset"]), (false, true));
    let release = json!({"control": {"id": "release", "release_close": {"period": "2026-09"}}});
    let answer = post(
        &served,
        &[release, json!({"tick": "2026-10-05T00:00:00Z"}), hold("after")],
    );
    assert_eq!(held(&answer.json()["results"][2]["places"][0]["offset"]), (true, false));
}
