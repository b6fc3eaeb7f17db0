//! Reads over a history that was folded before: they say what `reckon export` says.

use serde_json::Value;

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

#[test]
fn hours_are_told_until_their_month_closes() {
    let folder = tempfile::tempdir().expect("a folder");
    let hours = "/v1/accounts/acme/usage?period=2026-09&window=hour";
    let data = history(folder.path(), false);
    let served = Served::start(data.as_ref(), &[]);
    assert_eq!(
        served.get(hours).json()["rows"][0]["window"],
        "2026-09-01T10:00:00.000Z"
    );
    assert!(served.stop().success());
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    let served = Served::start(data.as_ref(), &[]);
    let gone = served.get(hours);
    assert_eq!((gone.status, &gone.json()["code"]), (410, &"hours_gone".into()));
    let days = served.get("/v1/accounts/acme/usage?period=2026-09&window=day").json();
    assert_eq!(days["rows"][0]["window"], "2026-09-01");
}

#[test]
fn usage_comes_in_pages_and_a_month_sums_the_days_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), false);
    let served = Served::start(data.as_ref(), &[]);
    let path = "/v1/accounts/acme/usage?period=2026-09&window=day";
    let whole = served.get(path).json();
    let mut rows = Vec::new();
    let mut next = String::new();
    loop {
        let page = served.get(&format!("{path}&limit=1{next}")).json();
        rows.extend(page["rows"].as_array().expect("rows").clone());
        let Some(cursor) = page["next"].as_str() else { break };
        let csv = served.get(&format!("{path}&limit=1&format=csv{next}"));
        assert_eq!(csv.header("reckon-next"), cursor);
        next = format!("&after={cursor}");
    }
    assert_eq!((rows.len(), &Value::from(rows)), (3, &whole["rows"]));
    assert!(whole["next"].is_null());
    for (bad, field) in [("limit=0", "limit"), ("limit=10001", "limit"), ("after=x", "after")] {
        let refused = served.get(&format!("{path}&{bad}"));
        assert_eq!((refused.status, &refused.json()["field"]), (400, &field.into()));
    }
    let month = |more: &str| {
        served
            .get(&format!("/v1/accounts/acme/usage?period=2026-09{more}"))
            .json()
    };
    let calls = |body: &Value| body["calls"].as_array().map_or(0, Vec::len);
    assert_eq!(calls(&month("")), 2);
    let later = month("&from=2026-09-02T00:00:00Z");
    assert_eq!(
        (calls(&later), &later["calls"][0]["reason"]),
        (1, &"upstream_error".into())
    );
    let earlier = month("&until=2026-09-02T00:00:00Z");
    assert_eq!((calls(&earlier), &earlier["rows"][0]["window"]), (1, &"2026-09".into()));
}

#[test]
fn a_question_that_has_no_one_meaning_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), false);
    let served = Served::start(data.as_ref(), &[]);
    let path = "/v1/accounts/acme/usage";
    let next = served.get(&format!("{path}?period=2026-09&window=day&limit=1")).json();
    let next = next["next"].as_str().expect("there is more").to_owned();
    let elsewhere = format!("from_period=2026-07&until_period=2026-08&window=day&after={next}");
    for (query, field) in [
        ("from_period=2026-09", "from_period"),
        ("until_period=2026-09", "until_period"),
        ("from_period=2026-09&until_period=2026-08", "until_period"),
        ("from=2026-09-02T00:00:00Z&until=2026-09-02T00:00:00Z", "until"),
        ("from=2026-09-03T00:00:00Z&until=2026-09-02T00:00:00Z", "until"),
        (elsewhere.as_str(), "after"),
    ] {
        let refused = served.get(&format!("{path}?{query}"));
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (400, &field.into()),
            "{query}: {}",
            refused.text
        );
    }
    for query in [
        "from_period=2026-09&until_period=2026-09".to_owned(),
        "from=2026-09-01T00:00:00Z&until=2026-09-02T00:00:00Z".to_owned(),
        format!("window=day&after={next}"),
        format!("from_period=2026-08&until_period=2026-09&window=day&after={next}"),
    ] {
        let answer = served.get(&format!("{path}?{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
    }
    assert!(served.stop().success());
}

#[test]
fn only_a_month_to_come_isnt_there_yet() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), false);
    let served = Served::start(data.as_ref(), &[]);
    for (month, end) in [
        ("2020-01", "has no period 2020-01"),
        ("2027-01", "has no period 2027-01 yet"),
    ] {
        let answer = served.get(&format!("/v1/accounts/acme/statements/{month}"));
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (404, &"period_unknown".into()));
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.ends_with(end), "{detail}");
    }
    assert!(served.stop().success());
}
