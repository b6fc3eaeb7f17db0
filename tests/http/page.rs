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
            "1 Sep: 1,851.85 USD, 1 calls",
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
