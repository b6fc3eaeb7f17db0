//! Reads over a history that was folded before: they say what `reckon export` says.

use crate::served::{Served, reckon};

const HISTORY: &str = r#"{"tick": "2026-09-01T00:00:00Z"}
{"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z", "prices": [{"meter": "output_tokens", "currency": "USD", "amount": "15", "per": 1000000}]}}}
{"event": {"account_id": "acme", "call_id": "c-1", "phase": "ended", "occurred_at": "2026-09-01T10:00:01.250Z", "product": "m-large", "end": {"cause": "completed", "progress": "complete", "client_status": 200}, "usage": [{"meter": "output_tokens", "value": "412", "provenance": "upstream_measured"}]}}
{"event": {"account_id": "acme", "call_id": "c-2", "phase": "ended", "occurred_at": "2026-09-02T10:00:01Z", "product": "m-large", "end": {"cause": "upstream_error", "upstream_status": 500}}}
"#;

pub fn history(folder: &std::path::Path, close: bool) -> String {
    let file = folder.join("history.ndjson");
    std::fs::write(&file, HISTORY).expect("written");
    let data = folder.join("data");
    let (file, data) = (file.to_str().expect("a path"), data.to_str().expect("a path"));
    let mut args = vec!["import", "events", file, "--data", data];
    args.extend(close.then_some("--close"));
    reckon(&args);
    data.to_owned()
}

#[test]
fn usage_calls_and_drafts_of_an_open_month() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), false);
    let served = Served::start(data.as_ref(), &[]);
    let usage = served
        .get("/v1/accounts/acme/usage?window=day&group_by=product,class")
        .json();
    let rows = usage["rows"].as_array().expect("rows");
    let tokens = rows.iter().find(|r| r["meter"] == "output_tokens").expect("tokens");
    assert_eq!(
        (&tokens["window"], &tokens["quantity"], &tokens["amount"]),
        (&"2026-09-01".into(), &"412".into(), &"0.00618".into())
    );
    assert_eq!(usage["amount"], "0.00618");
    assert_eq!(usage["calls"][1]["reason"], "upstream_error");
    let call = served.get("/v1/accounts/acme/calls/c-2").json();
    assert_eq!((&call["row"], &call["billed"]), (&5.into(), &false.into()));
    let draft = served.get("/v1/accounts/acme/statements/2026-09").json();
    assert_eq!(draft["draft"]["lines"][0]["amount"], "0.00618");
    assert_eq!(draft["draft"]["total"], "0.01");
    assert_eq!(
        served.get("/v1/accounts/nobody/usage").json()["code"],
        "account_unknown"
    );
    assert!(served.stop().success());
}

#[test]
fn a_closed_month_has_an_etag_and_its_sums() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    let served = Served::start(data.as_ref(), &[]);
    let closed = served.get("/v1/accounts/acme/statements/2026-09");
    assert_eq!(closed.json()["closed"]["total"], "0.01");
    let etag = closed.header("etag").to_owned();
    let again = served.get_with("/v1/accounts/acme/statements/2026-09", &[("if-none-match", &etag)]);
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    let month = served.get("/v1/periods/2026-09").json();
    assert_eq!((&month["closed"], &month["complete"]), (&"1".into(), &true.into()));
    assert_eq!(month["amounts"]["USD"], "0.01");
}
