//! Statements in both of their forms: CSV says what JSON says, line by line. And one of many pages.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::answers::text;
use crate::served::{Served, reckon};

/// September in USD is closed and owes more since; October is in JPY, with a line that no number can express.
const HISTORY: &str = r#"{"tick": "2026-09-01T00:00:00Z"}
{"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z", "prices": [{"meter": "output_tokens", "currency": "USD", "amount": "15", "per": 1000000}, {"meter": "output_tokens", "currency": "JPY", "amount": "2000", "per": 1000000}, {"meter": "x.huge", "currency": "JPY", "amount": "7922816251426433759354395033", "per": 1}]}}}
{"tick": "2026-09-10T12:00:00Z"}
{"event": {"account_id": "acme", "call_id": "c-1", "phase": "ended", "occurred_at": "2026-09-10T12:00:00Z", "product": "m", "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": "1000000"}]}}
{"tick": "2026-09-15T12:00:00Z"}
{"control": {"id": "profile", "account_profile": {"account_id": "acme", "time_zone": "UTC", "currency": "JPY"}}}
{"tick": "2026-10-03T10:20:00Z"}
{"event": {"account_id": "acme", "call_id": "c-2", "phase": "ended", "occurred_at": "2026-09-20T12:00:00Z", "product": "m", "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": "200000"}]}}
{"event": {"account_id": "acme", "call_id": "c-3", "phase": "ended", "occurred_at": "2026-10-03T10:00:00Z", "product": "m", "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": "500000"}, {"meter": "x.huge", "value": "100"}]}}
{"tick": "2026-10-03T11:00:00Z"}
"#;

fn serve(folder: &Path) -> Served {
    let file = folder.join("history.ndjson");
    std::fs::write(&file, HISTORY).expect("written");
    let data = folder.join("data");
    let data_text = data.to_str().expect("a path");
    reckon(&["import", "events", file.to_str().expect("a path"), "--data", data_text]);
    Served::start(&data, &[])
}

/// Lines of CSV by the names of their columns.
fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = csv.lines().map(|line| line.split(',').map(str::to_owned));
    let heads: Vec<String> = lines.next().expect("heads").collect();
    lines.map(|line| heads.iter().cloned().zip(line).collect()).collect()
}

/// That each of the lines is in CSV with its own currency, and nothing else is; what is owed, if it was asked for.
fn compare(body: &Value, csv: &str, owed: bool) {
    let closed = body["closed"]["lines"].as_array().into_iter().flatten();
    let draft = body["draft"]["lines"].as_array().into_iter().flatten();
    let state = text(body, "state");
    let lines = closed.chain(draft).map(|line| (state, line));
    let owed = body["owed"].as_array().into_iter().flatten().filter(|_| owed);
    let owed = owed.map(|line| ("owed", line));
    let expected: Vec<_> = lines.chain(owed).collect();
    let found = rows(csv);
    assert_eq!(found.len(), expected.len(), "{csv}");
    for (row, (state, line)) in found.iter().zip(expected) {
        for name in [
            "product",
            "meter",
            "unit_price",
            "quantity",
            "amount",
            "original_period",
        ] {
            assert_eq!(row[name], text(line, name), "{name} of {line}");
        }
        let own = line["currency"].as_str().unwrap_or(text(body, "currency"));
        assert_eq!(
            (row["currency"].as_str(), row["state"].as_str()),
            (own, state),
            "{line}"
        );
        assert_eq!(row["amount"].is_empty(), !row["error"].is_empty(), "{row:?}");
    }
}

#[test]
fn csv_says_what_json_says_in_two_currencies() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(folder.path());
    let read = |month: &str, owed: bool| {
        let path = format!("/v1/accounts/acme/statements/{month}");
        let more = if owed { "&owed=true" } else { "" };
        let csv = served.get(&format!("{path}?format=csv{more}")).text;
        let json = served.get(&path).json();
        compare(&json, &csv, owed);
        (json, rows(&csv))
    };
    let both = |month: &str| read(month, false);
    let of = |rows: &[BTreeMap<String, String>], name: &str| -> Vec<String> {
        rows.iter().map(|row| row[name].clone()).collect()
    };

    let (json, csv) = both("2026-09");
    assert_eq!(json["owed"].as_array().map(Vec::len), Some(1), "{json}");
    // What is owed comes again on October's: the amounts add up to what is stated.
    assert_eq!(of(&csv, "state"), ["closed"]);
    assert_eq!(of(&csv, "amount"), [text(&json["closed"], "total")]);
    let (_, csv) = read("2026-09", true);
    assert_eq!(of(&csv, "state"), ["closed", "owed"]);
    assert_eq!(of(&csv, "currency"), ["USD", "USD"]);
    assert_eq!(of(&csv, "amount"), ["15", "3"]);

    let (json, csv) = both("2026-10");
    assert_eq!((text(&json, "currency"), text(&json, "state")), ("JPY", "open"));
    assert_eq!(of(&csv, "currency"), ["JPY", "JPY", "USD"], "{csv:?}");
    assert_eq!(of(&csv, "amount"), ["1000", "", "3"], "{csv:?}");
    assert!(json["draft"]["total"].is_null(), "one line can't be expressed: {json}");

    let ticked = served.post(
        "/v1/records",
        "application/x-ndjson",
        "{\"tick\": \"2026-11-04T12:00:00Z\"}",
    );
    let offset = text(&ticked.json()["results"][0]["places"][0], "offset").to_owned();
    assert_eq!(
        served
            .get(&format!("/v1/accounts/acme/statements?at_least=0:{offset}"))
            .status,
        200
    );
    let (json, csv) = both("2026-10");
    assert_eq!(text(&json, "state"), "closed");
    assert_eq!(of(&csv, "currency"), ["JPY", "JPY", "USD"], "{csv:?}");
    assert!(csv[1]["error"].starts_with("overflow"), "{csv:?}");
    assert!(served.stop().success());
}

#[test]
fn each_form_has_a_tag_of_its_own_and_caches_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(folder.path());
    let get = |headers: &[(&str, &str)]| served.get_with("/v1/accounts/acme/statements/2026-09", headers);
    let (csv, json) = (("accept", "text/csv"), ("accept", "application/json, text/csv;q=0"));
    let (as_csv, as_json) = (get(&[csv]), get(&[json]));
    assert!(as_csv.header("content-type").starts_with("text/csv"));
    assert!(as_json.header("content-type").starts_with("application/json"));
    let (of_csv, of_json) = (as_csv.header("etag"), as_json.header("etag"));
    assert!(!of_csv.is_empty() && of_csv != of_json, "{of_csv} {of_json}");
    for (form, tag, status) in [
        (csv, of_csv, 304),
        (json, of_json, 304),
        (csv, of_json, 200),
        (json, of_csv, 200),
        // Weakly compared, in a list, or whatever there is.
        (json, of_json.trim_start_matches("W/"), 304),
        (json, &format!("\"x\", {of_json}"), 304),
        (json, "*", 304),
        (json, "\"x\"", 200),
    ] {
        let answer = get(&[form, ("if-none-match", tag)]);
        assert_eq!(answer.status, status, "{form:?} {tag}");
        assert_eq!(answer.header("vary"), "accept");
    }
    let owed = "/v1/accounts/acme/statements/2026-09?owed=true";
    let with_owed = served.get_with(owed, &[csv, ("if-none-match", of_csv)]);
    assert_eq!(with_owed.status, 200, "it has other rows");
    assert_ne!(with_owed.header("etag"), of_csv);
    assert!(served.stop().success());
}

/// September of a gateway that gives every call a product of its own, not closed yet.
fn many_products(products: usize) -> String {
    let price = |meter: &str| json!({"meter": meter, "currency": "USD", "amount": "0.01", "per": 1});
    let mut text = String::new();
    let mut line = |value: Value| writeln!(text, "{value}").expect("a line");
    line(json!({"tick": "2026-09-01T00:00:00Z"}));
    line(
        json!({"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z",
        "prices": [price("output_tokens"), price("requests")]}}}),
    );
    line(json!({"tick": "2026-09-10T12:00:00Z"}));
    for n in 0..products {
        let product = format!("{n:05}-{}", "p".repeat(110));
        line(
            json!({"event": {"account_id": "acme", "call_id": format!("c-{n}"), "phase": "ended", "product": product,
            "occurred_at": "2026-09-10T12:00:00Z", "end": {"cause": "completed"},
            "usage": [{"meter": "output_tokens", "value": "2"}]}}),
        );
    }
    text
}

/// All records of the statements output about the month, as they are put out.
fn pages(served: &Served) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let answer = served.get(&format!("/v1/outputs/statements?after={after}")).json();
        let outputs = answer["outputs"].as_array().expect("outputs");
        if outputs.is_empty() {
            return found;
        }
        found.extend(outputs.iter().filter_map(|o| o.get("period_closed")).cloned());
        after = text(&answer, "next_after").to_owned();
    }
}

#[test]
fn a_statement_of_many_pages_is_read_whole() {
    const PRODUCTS: usize = 4_000;
    let folder = tempfile::tempdir().expect("a folder");
    let (file, data) = (folder.path().join("history.ndjson"), folder.path().join("data"));
    std::fs::write(&file, many_products(PRODUCTS)).expect("written");
    let data_text = data.to_str().expect("a path");
    reckon(&["import", "events", file.to_str().expect("a path"), "--data", data_text]);
    let path = "/v1/accounts/acme/statements/2026-09";
    // Closed, but not committed: its pages are in memory.
    let rare = [
        "--set",
        "fold.commit_ms=3600000",
        "--set",
        "fold.commit_events=1000000000",
    ];
    let served = Served::start(&data, &rare);
    let tick = "{\"tick\": \"2026-10-03T12:00:00Z\"}";
    let ticked = served.post("/v1/records", "application/x-ndjson", tick);
    let offset = text(&ticked.json()["results"][0]["places"][0], "offset").to_owned();
    let held = served.get(&format!("{path}?at_least=0:{offset}")).json();
    assert_eq!(pages(&served), Vec::<Value>::new(), "nothing is out");
    let closed = &held["closed"];
    let len = |value: &Value| value.as_array().map_or(0, Vec::len);
    assert_eq!(
        (len(&closed["usage"]), len(&closed["lines"])),
        (2 * PRODUCTS, 2 * PRODUCTS)
    );
    assert_eq!((text(closed, "total"), closed.get("page")), ("120", None));
    assert!(served.stop().success());

    // Out: read from the log.
    let served = Served::start(&data, &[]);
    let again = served.get(path).json();
    assert!(again["closed"] == *closed, "it is the same one");
    let pages = pages(&served);
    assert!(pages.len() > 3, "{} pages", pages.len());
    for (page, number) in pages.iter().zip(1u64..) {
        assert_eq!(
            (page["page"].as_u64(), page["pages"].as_u64()),
            (Some(number), Some(pages.len() as u64))
        );
        assert_eq!(text(page, "total"), if number == 1 { "120" } else { "" });
    }
    let of = |name: &str| -> Vec<Value> {
        let rows = pages.iter().flat_map(|page| page[name].as_array().expect("rows"));
        rows.cloned().collect()
    };
    assert!(closed["lines"] == Value::from(of("lines")));
    assert!(closed["usage"] == Value::from(of("usage")));
    assert!(served.stop().success());

    let exported = reckon(&["export", "statements", "--data", data_text]);
    let exported: Value = serde_json::from_str(&exported).expect("one row");
    assert!(exported["lines"] == closed["lines"] && exported["usage"] == closed["usage"]);
    assert_eq!(exported["sequence"].to_string(), text(closed, "sequence"));
    assert_eq!(exported.get("pages"), None);
    let consumed = reckon(&["consume", "statements", "--data", data_text]);
    let of_statement = consumed.lines().filter(|row| row.contains("period_closed"));
    assert_eq!(of_statement.count(), pages.len());
    reckon(&["consume", "statements", "--data", data_text, "--complete", "2026-09"]);
    assert!(reckon(&["replay", "--data", data_text]).contains("identical"));
}
