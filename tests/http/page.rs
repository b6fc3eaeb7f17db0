//! The billing page as the server makes it: whole without a script, the same numbers as the API, nothing of a customer's runs.

use crate::served::{Answer, Served, reckon};

const HISTORY: &str = r#"{"tick": "2026-09-01T00:00:00Z"}
{"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z", "prices": [{"meter": "output_tokens", "currency": "USD", "amount": "15", "per": 1000000}]}}}
{"event": {"account_id": "acme", "call_id": "c-1", "phase": "ended", "occurred_at": "2026-09-01T10:00:01.250Z", "product": "m-large", "end": {"cause": "completed", "progress": "complete", "client_status": 200}, "usage": [{"meter": "output_tokens", "value": "123456789", "provenance": "upstream_measured"}]}}
{"event": {"account_id": "acme", "call_id": "c-2", "phase": "ended", "occurred_at": "2026-09-02T10:00:01Z", "product": "m-large", "end": {"cause": "upstream_error", "upstream_status": 500}, "usage": [{"meter": "output_tokens", "value": "77", "provenance": "upstream_measured"}]}}
{"event": {"account_id": "<script>alert(1)</script>", "call_id": "<img src=x onerror=alert(2)>", "phase": "ended", "occurred_at": "2026-09-02T10:00:01Z", "product": "\"><b onmouseover='alert(3)'>&amp;", "service": "</td><i>", "end": {"cause": "upstream_error", "upstream_status": 500, "error_type": "<u>"}}}
{"tick": "2026-09-03T12:00:00Z"}
"#;

fn serving(folder: &std::path::Path, close: bool) -> Served {
    let file = folder.join("history.ndjson");
    std::fs::write(&file, HISTORY).expect("written");
    let data = folder.join("data");
    let mut args = vec![
        "import",
        "events",
        file.to_str().expect("a path"),
        "--data",
        data.to_str().expect("a path"),
    ];
    args.extend(close.then_some("--close"));
    reckon(&args);
    Served::start(&data, &[])
}

fn assert_page(answer: &Answer, status: u16) {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (status, "text/html; charset=utf-8")
    );
    let policy = answer.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self'"),
        "{policy}"
    );
    assert_eq!(
        (answer.header("cache-control"), answer.header("x-content-type-options")),
        ("no-store", "nosniff")
    );
    for own in ["style=\"", "<style", "onclick", "http://", "https://", "{{", "{%"] {
        assert!(!answer.text.contains(own), "{own} in the page");
    }
}

fn has(answer: &Answer, texts: &[&str]) {
    for text in texts {
        assert!(answer.text.contains(text), "no {text} in {}", answer.text);
    }
}

#[test]
fn the_running_month_is_shown_with_the_numbers_of_the_api() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path(), false);
    let page = served.get("/accounts/acme");
    assert_page(&page, 200);
    let draft = served.get("/v1/accounts/acme/statements/2026-09").json()["draft"].clone();
    assert_eq!(
        (&draft["total"], &draft["amount"]),
        (&"1851.85".into(), &"1851.851835".into())
    );
    has(
        &page,
        &[
            "<h1>September 2026</h1>",
            "Charges so far",
            r#"title="1851.851835 USD""#,
            r#"id="total" value="1851.851835 USD">1,851.85<"#,
            "123,456,789",
            "15.00 per million",
            "Output tokens",
            "3 Sep 2026, 12:00:00",
            // Not charged, and why.
            r#"id="uncharged">1<"#,
            "Service error",
            "The service answered with an error.",
            r#"data-reason="upstream_error""#,
            "<span class=\"n\">77</span> output tokens",
            // Requests have no price.
            "Some usage has no price yet.",
            "m-large, requests",
            "1 Sep: 1,851.85 USD, 1 call<",
            "3 Sep: 0.00 USD, 0 calls<",
            r#"<script src="/assets/"#,
            r#"data-stream="/accounts/acme/live""#,
        ],
    );
    assert_eq!(page.text.matches(r#"<g class="day"#).count(), 30, "a bar for each day");
    assert_eq!(page.text.matches("class=\"day today\"").count(), 1);
    // Without a script there is the table.
    has(&page, &["Every day as a table", r#"<th scope="row">2 Sep</th>"#]);
}

#[test]
fn a_closed_month_shows_its_statement() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path(), true);
    let page = served.get("/accounts/acme?period=2026-09");
    assert_page(&page, 200);
    let csv = "/v1/accounts/acme/statements/2026-09?format=csv";
    has(
        &page,
        &[
            "Statement total",
            ">1,851.85<",
            "The statement is closed",
            "Closed",
            &csv.replace('&', "&amp;"),
        ],
    );
    assert!(!page.text.contains("<script"), "what is closed doesn't change");
    assert!(
        served
            .get(csv)
            .text
            .contains("acme,2026-09,closed,m-large,output_tokens")
    );
    // The month that the clock is in is there, though nothing has happened in it.
    let now = served.get("/accounts/acme");
    assert_page(&now, 200);
    has(
        &now,
        &[
            "October 2026",
            "No charges yet.",
            "No calls yet.",
            r#"href="?period=2026-09" rel="prev""#,
        ],
    );
}

#[test]
fn a_call_is_told_in_plain_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path(), false);
    // What a paste brings along is cut off.
    let looked_up = served.get("/accounts/acme/calls?id=%20c-1%20");
    assert_eq!(
        (looked_up.status, looked_up.header("location")),
        (303, "/accounts/acme/calls/c-1")
    );
    let charged = served.get(looked_up.header("location"));
    assert_page(&charged, 200);
    has(
        &charged,
        &[
            r#"id="verdict">Charged<"#,
            "<b>Completed.</b> The answer was delivered in full.",
            "123,456,789",
            "measured by the service",
            "1 Sep 2026, 10:00:01.250",
            "<b>Gateway</b> saw the call end: completed",
            "status 200 to the client",
            "10 of 19: completed",
        ],
    );
    let failed = served.get("/accounts/acme/calls/c-2");
    assert_page(&failed, 200);
    has(
        &failed,
        &[
            "Not charged",
            "The service answered with an error.",
            "Used, and not charged",
            ">77<",
        ],
    );
}

#[test]
fn whatever_names_say_is_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path(), false);
    let account = "/accounts/%3Cscript%3Ealert%281%29%3C%2Fscript%3E";
    let page = served.get(account);
    let call = served.get(&format!("{account}/calls/%3Cimg%20src%3Dx%20onerror%3Dalert%282%29%3E"));
    let unknown = served.get(&format!("{account}/calls/%3Cb%3E"));
    for (answer, status) in [(&page, 200), (&call, 200), (&unknown, 404)] {
        assert_page(answer, status);
        for live in ["<script>", "<img", "<b onmouse", "</td><i>", "<u>"] {
            assert!(!answer.text.contains(live), "{live} in {}", answer.text);
        }
    }
    has(&call, &["&#60;img src=x onerror=alert(2)&#62;", "error &#60;u&#62;"]);
    has(
        &page,
        &["data-stream=\"/accounts/%3Cscript%3Ealert%281%29%3C%2Fscript%3E/live\""],
    );
}

#[test]
fn what_isnt_there_is_said_to_a_person() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path(), false);
    for (path, words) in [
        ("/accounts/nobody", "Nothing here yet"),
        ("/accounts/acme/calls/c-9", "No such call"),
        ("/accounts/acme?period=2020-01", "Nothing in this month"),
    ] {
        let answer = served.get(path);
        assert_page(&answer, 404);
        has(&answer, &[words]);
    }
    let wrong = served.get("/accounts/acme?period=soon");
    assert_page(&wrong, 400);
    assert_eq!(served.get("/accounts/nobody/live").status, 404);
}

#[test]
fn style_and_script_are_kept_for_good_under_their_content() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path(), false);
    let page = served.get("/accounts/acme");
    let addresses: Vec<&str> = page.text.split('"').filter(|t| t.starts_with("/assets/")).collect();
    assert_eq!(addresses.len(), 3, "style, script and icon: {addresses:?}");
    for address in addresses {
        let asset = served.get(address);
        assert_eq!(asset.status, 200);
        assert!(asset.header("cache-control").contains("immutable"));
    }
    assert_eq!(served.get("/assets/0123456789abcdef/page.css").status, 404);
}

/// August is already closed when its two calls come, September has usage without a price by two services, and a reviewed call.
const LATE: &str = r#"{"tick": "2026-09-10T12:00:00Z"}
{"control": {"id": "card", "rate_card": {"effective_from": "2026-08-01T00:00:00Z", "prices": [{"meter": "output_tokens", "currency": "JPY", "amount": "10"}]}}}
{"control": {"id": "profile", "account_profile": {"account_id": "acme", "time_zone": "UTC", "currency": "JPY"}}}
{"event": {"account_id": "acme", "call_id": "a-1", "phase": "ended", "occurred_at": "2026-08-20T10:00:00Z", "product": "m", "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 1}]}}
{"event": {"account_id": "acme", "call_id": "a-2", "phase": "ended", "occurred_at": "2026-08-21T10:00:00Z", "product": "m", "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 2}]}}
{"event": {"account_id": "acme", "call_id": "s-1", "phase": "ended", "occurred_at": "2026-09-10T11:00:00Z", "product": "m", "service": "api", "end": {"cause": "completed"}, "usage": [{"meter": "x.acme.pages", "value": 40}]}}
{"event": {"account_id": "acme", "call_id": "s-2", "phase": "ended", "occurred_at": "2026-09-10T11:00:00Z", "product": "m", "service": "console", "end": {"cause": "completed"}, "usage": [{"meter": "x.acme.pages", "value": 2}]}}
{"tick": "2026-09-10T14:00:00Z"}
{"control": {"id": "waived", "correction": {"account_id": "acme", "call_id": "s-2", "bill": false, "reason": "agreed"}}}
{"control": {"id": "billed", "correction": {"account_id": "acme", "call_id": "s-2", "bill": true, "reason": "agreed again"}}}
{"tick": "2026-09-10T14:01:00Z"}
"#;

#[test]
fn a_month_that_closed_before_its_usage_came_says_where_its_charges_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, data) = (folder.path().join("history.ndjson"), folder.path().join("data"));
    std::fs::write(&file, LATE).expect("written");
    let (file, data_text) = (file.to_str().expect("a path"), data.to_str().expect("a path"));
    reckon(&["import", "events", file, "--data", data_text]);
    let served = Served::start(&data, &[]);
    let august = served.get("/accounts/acme?period=2026-08");
    assert_page(&august, 200);
    has(
        &august,
        &[
            "No charges on this statement; 30 JPY will be on the statement of September 2026.",
            "20 Aug: 10 JPY, 1 call<",
            "To come",
        ],
    );
    assert!(!august.text.contains("No charges yet"));

    let september = served.get("/accounts/acme?period=2026-09");
    has(&september, &["<span class=\"n\">42</span> m, x.acme.pages</li>"]);
    assert_eq!(september.text.matches("m, x.acme.pages").count(), 1, "of both services");
    // Of a closed month another number of the same is told, under its name.
    assert_eq!(september.text.matches(" m, requests").count(), 1, "of both services");
    let call = served.get("/accounts/acme/calls/s-2");
    has(
        &call,
        &[
            "quantities changed 2 times as later reports or reviews came.",
            "agreed again",
        ],
    );

    let tick = "{\"tick\": \"2026-10-03T12:00:00Z\"}";
    let ticked = served.post("/v1/records", "application/x-ndjson", tick).json();
    let offset = ticked["results"][0]["places"][0]["offset"].as_str().expect("an offset");
    let statement = format!("/v1/accounts/acme/statements/2026-09?at_least=0:{offset}");
    assert_eq!(served.get(&statement).json()["state"], "closed");
    let august = served.get("/accounts/acme?period=2026-08");
    has(
        &august,
        &["No charges on this statement; 30 JPY are on the statement of September 2026."],
    );
    assert!(served.stop().success());
}
