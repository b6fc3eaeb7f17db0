//! The billing page in a real browser: on a phone and on a desk, live, without errors.

mod browser;
#[allow(dead_code, reason = "the tests of the service use more of it")]
#[path = "../http/served.rs"]
mod served;

use std::path::Path;

use browser::Browser;
use serde_json::json;
use served::{Served, reckon};

/// Pictures go here; `docs/` has two of them.
const PICTURES: &str = env!("CARGO_TARGET_TMPDIR");

fn post_call(served: &Served, call: &str, cause: &str) {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let event = json!({"account_id": "acme", "call_id": call, "phase": "ended", "occurred_at": now, "product": "m-large",
        "end": {"cause": cause, "progress": "complete"},
        "usage": [{"meter": "output_tokens", "value": "1234", "provenance": "upstream_measured"}]});
    let answer = served.post("/v1/events", "application/json", event.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text);
    let result = &answer.json()["results"][0];
    let place = format!(
        "{}:{}",
        result["partition"],
        result["offset"].as_str().expect("an offset")
    );
    served.get(&format!("/v1/accounts/acme/usage?at_least={place}"));
}

fn demo(folder: &Path) -> Served {
    let data = folder.join("demo");
    reckon(&["demo", "--data", data.to_str().expect("a path")]);
    Served::start(&data, &[])
}

fn fits(browser: &Browser, what: &str) {
    // On a phone the window grows with what doesn't fit; the client width doesn't.
    let widths = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]");
    assert!(
        widths[0].as_u64() <= widths[1].as_u64(),
        "{what} scrolls sideways: {widths}"
    );
}

#[test]
fn every_page_fits_phone_and_desk_in_light_and_dark() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = demo(folder.path());
    let browser = Browser::start();
    let page = format!("{}/accounts/acme", served.base);
    for (width, dark, name) in [
        (1280, false, "billing-page"),
        (360, false, "billing-page-phone"),
        (1280, true, "billing-page-dark"),
        (360, true, "billing-page-phone-dark"),
    ] {
        browser.screen(width, dark);
        browser.go(&page);
        browser.until("document.getElementById('state').dataset.state === 'live'");
        fits(&browser, name);
        let lines = if width < 600 { 1_400 } else { 2_000 };
        browser.picture(&Path::new(PICTURES).join(format!("{name}.png")), lines);
        browser.go(&format!("{page}?period=nonsense"));
        fits(&browser, "a refusal");
        // A status of 400 is an error to the console.
        browser.console();
        browser.go(&page);
        browser.run("document.querySelector('.switch a').click()");
        browser.until("location.search !== '' && document.readyState === 'complete'");
        fits(&browser, "a closed month");
        assert_eq!(browser.console(), [""; 0]);
    }
}

#[test]
fn names_and_numbers_of_any_length_fit_a_phone() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let served = Served::start(&data, &[]);
    let (long, now) = ("w".repeat(128), chrono::Utc::now().to_rfc3339());
    let event = json!({"account_id": long, "call_id": long, "phase": "ended", "occurred_at": now, "product": long,
        "end": {"cause": "completed", "progress": "complete", "error_type": long},
        "usage": [{"meter": format!("x.{}", "m".repeat(100)), "value": "9007199254740993", "provenance": "upstream_measured"}]});
    let answer = served.post("/v1/events", "application/json", event.to_string());
    let result = &answer.json()["results"][0];
    let place = format!(
        "{}:{}",
        result["partition"],
        result["offset"].as_str().expect("an offset")
    );
    served.get(&format!("/v1/accounts/{long}/usage?at_least={place}"));
    let browser = Browser::start();
    browser.screen(360, false);
    for page in [
        format!("/accounts/{long}"),
        format!("/accounts/{long}/calls/{long}"),
        format!("/accounts/acme/{long}"),
    ] {
        browser.go(&format!("{}{page}", served.base));
        fits(&browser, &page);
    }
}

#[test]
fn the_page_follows_what_is_counted_without_being_loaded_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let mut served = Served::start(&data, &[]);
    post_call(&served, "c-1", "completed");
    let browser = Browser::start();
    browser.screen(1280, false);
    browser.go(&format!("{}/accounts/acme", served.base));
    browser.until("document.getElementById('state').dataset.state === 'live'");
    assert_eq!(
        browser.run("return document.getElementById('charged').textContent"),
        "1"
    );
    browser.run("window.loadedOnce = true; document.querySelector('.days').open = true");
    let top = "return document.querySelector('.columns').getBoundingClientRect().top";
    let before = browser.run(top);
    post_call(&served, "c-2", "completed");
    post_call(&served, "c-3", "upstream_error");
    browser.until("document.getElementById('charged').textContent === '2'");
    browser.until("document.getElementById('uncharged').textContent === '1'");
    browser.until("document.querySelector('[data-reason=upstream_error]') !== null");
    assert_eq!(
        browser.run("return window.loadedOnce === true"),
        true,
        "not loaded again"
    );
    assert_eq!(
        browser.run("return document.querySelector('.days').open"),
        true,
        "what was opened stays open"
    );
    assert_eq!(browser.run(top), before, "nothing has jumped");

    browser.run("document.getElementById('id').value = ' c-3 '; document.querySelector('.lookup button').click()");
    browser.until("document.getElementById('verdict') !== null");
    assert_eq!(
        browser.run("return document.getElementById('verdict').textContent"),
        "Not charged"
    );
    assert_eq!(browser.console(), [""; 0]);

    browser.go(&format!("{}/accounts/acme", served.base));
    browser.until("document.getElementById('state').dataset.state === 'live'");
    served.kill();
    browser.until("document.getElementById('state').dataset.state === 'lost'");
    assert_eq!(
        browser.run("return document.getElementById('charged').textContent"),
        "2",
        "the last totals stay"
    );
}
