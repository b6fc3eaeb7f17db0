//! Live totals: whoever watches sees what a read says, at a bearable pace, and nothing goes astray over cuts.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::served::{Served, reckon};

/// A served log whose clock is the wall's.
fn serving(folder: &std::path::Path) -> Served {
    let data = folder.join("data");
    reckon(&["init", "--data", data.to_str().expect("a path"), "--partitions", "2"]);
    Served::start(&data, &[])
}

/// Calls that end now, numbered from `from`; returns the last one's place.
fn post_calls(served: &Served, account: &str, from: u32, count: u32) -> String {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let events: Vec<Value> = (from..from + count)
        .map(|n| {
            json!({"account_id": account, "call_id": format!("c-{n}"), "phase": "ended", "occurred_at": now,
                "product": "m-large", "end": {"cause": "completed", "progress": "complete", "client_status": 200},
                "usage": [{"meter": "output_tokens", "value": "10", "provenance": "upstream_measured"}]})
        })
        .collect();
    let answer = served.post("/v1/events", "application/json", Value::from(events).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    let last = body["results"]
        .as_array()
        .and_then(|r| r.last())
        .cloned()
        .expect("results");
    format!("{}:{}", last["partition"], last["offset"].as_str().expect("an offset"))
}

/// A message: id, totals, and when it came.
struct Message {
    id: String,
    body: Value,
    at: Instant,
}

/// One client of a stream.
struct Watching {
    lines: std::io::Lines<BufReader<ureq::BodyReader<'static>>>,
}

impl Watching {
    fn open(served: &Served, path: &str, seen: Option<&str>) -> Self {
        let mut request = Served::agent().get(format!("{}{path}", served.base));
        if let Some(seen) = seen {
            request = request.header("last-event-id", seen);
        }
        let response = request.call().expect("an answer");
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
        };
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(
            (header("cache-control"), header("x-accel-buffering")),
            ("no-store", "no")
        );
        assert_eq!(header("content-encoding"), "");
        Self {
            lines: BufReader::new(response.into_body().into_reader()).lines(),
        }
    }

    fn line(&mut self) -> Option<String> {
        self.lines.next().and_then(Result::ok)
    }

    /// The next message; `None`: the stream has ended.
    fn next(&mut self) -> Option<Message> {
        let (mut id, mut data) = (String::new(), String::new());
        loop {
            let line = self.line()?;
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            } else if let Some(text) = line.strip_prefix("data: ") {
                data.push_str(text);
            } else if line.is_empty() && !data.is_empty() {
                let body = serde_json::from_str(&data).expect("JSON");
                return Some(Message {
                    id,
                    body,
                    at: Instant::now(),
                });
            }
        }
    }

    /// The first message with so many tokens.
    fn until(&mut self, tokens: u32) -> Message {
        loop {
            let message = self.next().expect("a message");
            if quantity(&message.body) >= tokens {
                return message;
            }
        }
    }
}

fn quantity(body: &Value) -> u32 {
    let rows = body["rows"].as_array().expect("rows");
    let tokens = rows.iter().find(|r| r["meter"] == "output_tokens");
    tokens.map_or(0, |r| {
        r["quantity"].as_str().and_then(|q| q.parse().ok()).expect("a number")
    })
}

const STREAM: &str = "/v1/accounts/acme/usage/stream";

#[test]
fn messages_carry_what_a_read_says_and_come_at_a_bearable_pace() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path());
    let place = post_calls(&served, "acme", 0, 1);
    served.get(&format!("/v1/accounts/acme/usage?at_least={place}"));
    let mut watching = Watching::open(&served, STREAM, None);
    let first = watching.next().expect("the first one comes by itself");
    assert_eq!(quantity(&first.body), 10);
    assert_eq!(first.body["calls"][0]["reason"], "completed");
    let mut last = (first, 1);
    std::thread::scope(|scope| {
        let served = &served;
        let posting = scope.spawn(move || {
            for n in 1..=60 {
                post_calls(served, "acme", n, 1);
            }
        });
        while quantity(&last.0.body) < 610 {
            let next = watching.next().expect("a message");
            // Sent 250 ms apart; the way here may take from it a little.
            let apart = next.at.duration_since(last.0.at);
            assert!(apart >= Duration::from_millis(150), "{apart:?}");
            assert!(quantity(&next.body) >= quantity(&last.0.body), "totals never fall");
            last = (next, last.1 + 1);
        }
        posting.join().expect("posted");
    });
    assert!(last.1 < 60, "not a message for each event");
    let mut read = served.get("/v1/accounts/acme/usage").json();
    let mut told = last.0.body;
    for body in [&mut read, &mut told] {
        body["as_of"] = Value::Null;
    }
    assert_eq!(told, read, "the message is the read");
}

#[test]
fn reconnecting_never_shows_less_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = serving(folder.path());
    let mut seen: Option<String> = None;
    let mut tokens = 0;
    for round in 0..6 {
        post_calls(&served, "acme", round * 20, 20);
        let before = tokens;
        tokens = (round + 1) * 200;
        if round == 0 {
            let place = post_calls(&served, "acme", 0, 1);
            served.get(&format!("/v1/accounts/acme/usage?at_least={place}"));
        }
        let mut watching = Watching::open(&served, STREAM, seen.as_deref());
        let first = watching.next().expect("a message");
        assert!(quantity(&first.body) >= before, "nothing older than what was seen");
        seen = Some(
            if quantity(&first.body) < tokens {
                watching.until(tokens)
            } else {
                first
            }
            .id,
        );
        drop(watching);
        if round == 3 {
            // What was folded since the last commit is folded again; the client waits for what it has seen.
            served.kill();
            served = Served::start(&folder.path().join("data"), &[]);
        }
    }
}

#[test]
fn silence_is_filled_and_the_end_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path());
    let place = post_calls(&served, "acme", 0, 1);
    served.get(&format!("/v1/accounts/acme/usage?at_least={place}"));
    let mut watching = Watching::open(&served, STREAM, None);
    let first = watching.next().expect("a message");
    let beat = watching.line().expect("a heartbeat");
    assert!(
        beat.starts_with(": "),
        "nothing changed, so nothing but a comment comes: {beat}"
    );
    let silent = first.at.elapsed();
    assert!(
        silent > Duration::from_secs(10) && silent < Duration::from_secs(25),
        "{silent:?}"
    );
    let began = Instant::now();
    assert!(served.stop().success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "a watcher doesn't keep the service from ending"
    );
    assert!(watching.next().is_none());
}

#[test]
fn many_watchers_share_one_computation_and_all_get_the_last_totals() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path());
    let place = post_calls(&served, "acme", 0, 1);
    served.get(&format!("/v1/accounts/acme/usage?at_least={place}"));
    let mut many: Vec<Watching> = (0..200).map(|_| Watching::open(&served, STREAM, None)).collect();
    let ids: std::collections::BTreeSet<String> = many.iter_mut().map(|w| w.next().expect("a message").id).collect();
    assert_eq!(ids.len(), 1, "all share one computation");
    // Half of them leave; the others go on.
    many.truncate(100);
    post_calls(&served, "acme", 1, 50);
    for watching in &mut many {
        assert_eq!(quantity(&watching.until(510).body), 510);
    }
}

#[test]
fn what_cant_be_streamed_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serving(folder.path());
    post_calls(&served, "acme", 0, 1);
    let code = |path: &str| served.get(path).json()["code"].clone();
    assert_eq!(code("/v1/accounts/nobody/usage/stream"), "account_unknown");
    assert_eq!(code("/v1/accounts/acme/usage/stream?window=hour"), "bad_parameter");
    assert_eq!(code("/v1/accounts/acme/usage/stream?period=2026-09"), "bad_parameter");
    assert_eq!(code("/v1/accounts/acme/usage/stream?group_by=colour"), "bad_parameter");
    let api = served.get("/openapi.json").json();
    let answers = &api["paths"]["/v1/accounts/{account}/usage/stream"]["get"]["responses"];
    assert!(answers["200"]["content"]["text/event-stream"].is_object());
    assert!(
        api["paths"]
            .as_object()
            .expect("paths")
            .keys()
            .all(|p| p.starts_with("/v1") || !p.starts_with("/accounts")),
        "pages are no part of the contract"
    );
}
