//! `POST /v1/events`: every form there and back, good beside bad, and every way to be a bad client.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use prost::Message;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use serde_json::{Value, json};

use reckon::http::caller::{Caller, Scope};
use reckon::http::framing::Form;
use reckon::http::gate::IngestLimits;
use reckon::http::intake::{Intake, Results};

use crate::inside::Inside;
use crate::served::{Answer, Served, reckon};

const NDJSON: &str = "application/x-ndjson";

/// A log whose clock is the wall's: events occur now.
fn served(folder: &tempfile::TempDir) -> Served {
    let data = folder.path().join("data");
    let text = data.to_str().expect("a path");
    reckon(&["init", "--data", text, "--partitions", "4"]);
    Served::start(&data, &[])
}

pub fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// A completed call with so many output tokens.
pub fn event(account: &str, call: &str, tokens: u64) -> Value {
    let at = chrono::DateTime::from_timestamp_millis(now())
        .expect("a time")
        .to_rfc3339();
    json!({"account_id": account, "call_id": call, "phase": "ended", "occurred_at": at, "product": "m",
        "source": "/gw/1", "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": tokens}]})
}

/// So many calls, `c0` and on, of one token each, one a line.
pub fn lines(account: &str, count: usize) -> String {
    let lines: Vec<String> = (0..count)
        .map(|n| event(account, &format!("c{n}"), 1).to_string())
        .collect();
    lines.join("\n") + "\n"
}

fn message(account: &str, call: &str, tokens: i64) -> pb::CallEvent {
    pb::CallEvent {
        account_id: account.to_owned(),
        call_id: call.to_owned(),
        phase: 5,
        occurred_at: Some(timestamp(now())),
        product: "m".to_owned(),
        end: Some(pb::Termination {
            cause: 1,
            ..pb::Termination::default()
        }),
        usage: vec![pb::Quantity {
            meter: "output_tokens".to_owned(),
            value: tokens,
            ..pb::Quantity::default()
        }],
        ..pb::CallEvent::default()
    }
}

/// Output tokens of an account, once it has folded the last of the results.
fn tokens(served: &Served, account: &str, answer: &Answer) -> String {
    let answer = answer.json();
    let last = answer["results"].as_array().expect("results").iter().rev();
    let last = last
        .clone()
        .find(|r| r["offset"].is_string())
        .expect("one was appended");
    let at_least = format!("{}:{}", last["partition"], last["offset"].as_str().expect("an offset"));
    let usage = served.get(&format!("/v1/accounts/{account}/usage?at_least={at_least}"));
    assert_eq!(usage.status, 200, "{}", usage.text);
    let rows = usage.json();
    let rows = rows["rows"].as_array().expect("rows");
    let row = rows.iter().find(|r| r["meter"] == "output_tokens").expect("tokens");
    row["quantity"].as_str().expect("a quantity").to_owned()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("gzip")
        .arg("-1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut input = child.stdin.take().expect("its input");
    let body = body.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&body));
    let mut packed = Vec::new();
    child
        .stdout
        .take()
        .expect("its output")
        .read_to_end(&mut packed)
        .expect("read");
    writer.join().expect("joined").expect("written");
    assert!(child.wait().expect("it ends").success());
    packed
}

#[test]
fn every_form_comes_back_in_a_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder);
    let one = served.post("/v1/events", "application/json", event("json", "c", 1).to_string());
    assert_eq!((one.status, tokens(&served, "json", &one)), (200, "1".to_owned()));
    let array = json!([event("array", "c1", 1), event("array", "c2", 2)]).to_string();
    let array = served.post("/v1/events", "application/json; charset=utf-8", array);
    assert_eq!(array.json()["accepted"], 2);
    assert_eq!(tokens(&served, "array", &array), "3");
    let lines = format!("{}\n\r\n{}", event("lines", "c1", 3), event("lines", "c2", 4));
    let answer = served.post("/v1/events", NDJSON, &lines);
    assert_eq!(tokens(&served, "lines", &answer), "7");
    let zipped = gzip(lines.replace("\"lines\"", "\"zipped\"").as_bytes());
    let answer = served.post_with(
        "/v1/events",
        &[("content-type", NDJSON), ("content-encoding", "gzip")],
        zipped,
    );
    assert_eq!(tokens(&served, "zipped", &answer), "7");
    let answer = served.post(
        "/v1/events",
        "application/x-protobuf",
        message("proto", "c", 9).encode_to_vec(),
    );
    assert_eq!(tokens(&served, "proto", &answer), "9");
    let many: Vec<u8> = (0..3)
        .flat_map(|n| message("many", &format!("c{n}"), 5).encode_length_delimited_to_vec())
        .collect();
    let answer = served.post("/v1/events", "application/x-protobuf; framing=delimited", many);
    assert_eq!(tokens(&served, "many", &answer), "15");
    // Whole messages before a torn one count.
    let mut torn = message("torn", "c", 3).encode_length_delimited_to_vec();
    torn.extend_from_slice(&[200, 1, 7]);
    let answer = served.post("/v1/events", "application/x-protobuf; framing=delimited", torn);
    assert_eq!((answer.status, &answer.json()["code"]), (400, &"bad_body".into()));
    assert_eq!(tokens(&served, "torn", &answer), "3");
    let envelope = |data: Value| json!({"specversion": "1.0", "id": "e-1", "source": "/gw/2", "type": "reckon.call_event.v1", "data": data});
    let answer = served.post(
        "/v1/events",
        "application/cloudevents+json",
        envelope(event("ce", "c", 6)).to_string(),
    );
    assert_eq!(tokens(&served, "ce", &answer), "6");
    use base64::Engine;
    let data = base64::engine::general_purpose::STANDARD.encode(message("batch", "c2", 2).encode_to_vec());
    let binary = json!({"specversion": "1.0", "id": "e-2", "source": "/gw/2", "type": "reckon.call_event.v1", "data_base64": data});
    let batch = json!([envelope(event("batch", "c1", 6)), binary, {"id": "e-3"}]).to_string();
    let answer = served.post("/v1/events", "application/cloudevents-batch+json", batch);
    assert_eq!(tokens(&served, "batch", &answer), "8");
    assert_eq!(answer.json()["results"][2]["field"], "specversion");
    assert!(served.stop().success());
}

#[test]
fn good_events_count_though_others_are_bad() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder);
    let mut nameless = event("acme", "c", 1);
    nameless["call_id"] = "".into();
    let mut odd = event("acme", "c", 1);
    odd["usage"][0]["value"] = 1.5.into();
    let mut large = event("acme", "c", 1);
    large["native"] = json!({"raw": "x".repeat(70_000)});
    let mut wordy = event("acme", "c", 1);
    wordy["product"] = "p".repeat(129).into();
    let deep = format!("{{\"account_id\":{}7{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let bad = [
        nameless.to_string(),
        odd.to_string(),
        large.to_string(),
        wordy.to_string(),
        deep.clone(),
        "7".to_owned(),
        "{\"account_id\"".to_owned(),
    ];
    let body = format!(
        "{}\n{}\n{}",
        event("acme", "c1", 1),
        bad.join("\n"),
        event("acme", "c2", 2)
    );
    let answer = served.post("/v1/events", NDJSON, body);
    assert_eq!(answer.status, 200);
    let results = answer.json();
    assert_eq!((&results["accepted"], &results["refused"]), (&2.into(), &7.into()));
    let reasons: Vec<_> = (1..=7)
        .map(|n| {
            (
                results["results"][n]["reason"].as_str(),
                results["results"][n]["field"].as_str(),
            )
        })
        .collect();
    let expected = [
        ("missing_field", "call_id"),
        ("bad_quantity", "usage[0].value"),
        ("too_large", "record"),
        ("too_large", "product"),
        ("undecodable", ""),
        ("undecodable", ""),
        ("undecodable", ""),
    ];
    assert_eq!(reasons, expected.map(|(reason, field)| (Some(reason), Some(field))));
    assert!(results["results"][1]["cure"].as_str().is_some_and(|c| !c.is_empty()));
    assert_eq!(tokens(&served, "acme", &answer), "3");
    // What was refused isn't in the log: nothing was rejected by the fold.
    for partition in 0..4 {
        let rejects = served.get(&format!("/v1/outputs/rejects?partition={partition}")).json();
        assert_eq!(rejects["outputs"], json!([]));
    }
    // One alone is refused with 400, which is a problem and has the results too.
    let alone = served.post("/v1/events", "application/json", deep);
    assert_eq!(
        (alone.status, alone.header("content-type")),
        (400, "application/problem+json")
    );
    let alone = alone.json();
    assert_eq!(
        (&alone["code"], &alone["refused"], &alone["accepted"]),
        (&"none_accepted".into(), &1.into(), &0.into())
    );
    assert_eq!(alone["results"][0]["reason"], "undecodable");
    assert_eq!(served.post("/v1/events", "application/json", "[]").status, 200);
    for (content_type, body, code) in [
        ("application/json", "", "bad_body"),
        ("application/json", "[{},", "bad_body"),
        ("application/cloudevents-batch+json", "{}", "bad_body"),
        ("application/x-protobuf; framing=delimited", "\u{5}abc", "bad_body"),
        ("application/x-protobuf; framing=other", "", "unsupported_type"),
        ("text/plain", "{}", "unsupported_type"),
    ] {
        let answer = served.post("/v1/events", content_type, body).json();
        assert_eq!(answer["code"], code, "{content_type} {body}: {answer}");
    }
    let answer = served.post_with(
        "/v1/events",
        &[("content-type", NDJSON), ("content-encoding", "br")],
        "{}",
    );
    assert_eq!(answer.json()["code"], "unsupported_type");
}

#[test]
fn limits_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder);
    let line = format!("{}\n", event("acme", "c", 1));
    // Ten thousand are taken, one more isn't; what was streamed before it counts.
    assert_eq!(
        served.post("/v1/events", NDJSON, line.repeat(10_000)).json()["accepted"],
        10_000
    );
    let over = served.post("/v1/events", NDJSON, line.repeat(10_001));
    assert_eq!(
        (over.status, &over.json()["code"], &over.json()["accepted"]),
        (413, &"too_large".into(), &10_000.into())
    );
    let array = format!("[{}]", vec!["{}"; 10_001].join(","));
    let array = served.post("/v1/events", "application/json", array);
    assert_eq!((array.status, array.json()["results"].is_null()), (413, true));
    // Over 10 MiB, announced or not, packed or not.
    let blank = vec![b'\n'; (10 << 20) + 1];
    assert_eq!(served.post("/v1/events", NDJSON, &blank).status, 413);
    let bomb = gzip(&vec![b' '; 512 << 20]);
    let began = Instant::now();
    let answer = served.post_with(
        "/v1/events",
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
        bomb,
    );
    assert_eq!(answer.json()["code"], "too_large");
    assert!(began.elapsed() < Duration::from_secs(20));
    let resident = std::fs::read_to_string(format!("/proc/{}/status", served.pid())).expect("its status");
    let peak: u64 = resident
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .expect("its peak");
    assert!(peak < 600 << 10, "{peak} kB at the peak");
    let torn = &gzip(line.as_bytes())[..40];
    let answer = served.post_with(
        "/v1/events",
        &[("content-type", NDJSON), ("content-encoding", "gzip")],
        torn,
    );
    assert_eq!(answer.json()["code"], "bad_body");
}

/// A request's head, for clients that don't behave.
fn head(served: &Served, content_type: &str, more: &str) -> (TcpStream, String) {
    let address = served.base.strip_prefix("http://").expect("an address").to_owned();
    let socket = TcpStream::connect(&address).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let head = format!("POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: {content_type}\r\n{more}\r\n\r\n");
    (socket, head)
}

fn read_all(mut socket: TcpStream) -> String {
    let mut text = String::new();
    let _ = socket.read_to_string(&mut text);
    text
}

#[test]
fn a_stalling_body_is_given_up_and_what_had_come_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder);
    let (mut socket, head) = head(&served, NDJSON, "transfer-encoding: chunked");
    let lines = format!("{}\n{}\n{{\"acc", event("acme", "c1", 1), event("acme", "c2", 2));
    write!(socket, "{head}{:x}\r\n{lines}\r\n", lines.len()).expect("written");
    let began = Instant::now();
    let text = read_all(socket);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(25));
    let problem: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    assert_eq!(
        (&problem["code"], &problem["accepted"]),
        (&"timed_out".into(), &2.into())
    );
    assert_eq!(problem["results"].as_array().map(Vec::len), Some(2));
    let usage = served.get("/v1/accounts/acme/usage").json();
    assert_eq!(usage["rows"][0]["quantity"], "3");
}

#[test]
fn half_closed_and_broken_connections() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder);
    // A client that has said all may close its half and still gets its answer.
    let body = event("half", "c", 1).to_string();
    let (mut socket, text) = head(&served, "application/json", &format!("content-length: {}", body.len()));
    write!(socket, "{text}{body}").expect("written");
    socket.shutdown(Shutdown::Write).expect("half closed");
    assert!(read_all(socket).starts_with("HTTP/1.1 200"));
    // One that breaks off within an event: whole lines count, the torn one doesn't, nothing is half there.
    let lines = lines("torn", 5_000);
    let (mut socket, text) = head(&served, NDJSON, &format!("content-length: {}", lines.len() + 100));
    write!(socket, "{text}{lines}{}", &lines[..60]).expect("written");
    drop(socket);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let usage = served.get("/v1/accounts/torn/usage").json();
        if usage["rows"][0]["quantity"] == "5000" {
            break;
        }
        assert!(Instant::now() < deadline, "{usage}");
        std::thread::yield_now();
    }
    for partition in 0..4 {
        let rejects = served.get(&format!("/v1/outputs/rejects?partition={partition}")).json();
        assert_eq!(rejects["outputs"], json!([]));
    }
}

#[test]
fn acknowledged_events_outlive_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = served(&folder);
    let answer = served.post("/v1/events", "application/json", event("acme", "c", 41).to_string());
    assert_eq!(answer.status, 200);
    served.kill();
    let again = Served::start(&folder.path().join("data"), &[]);
    assert_eq!(tokens(&again, "acme", &answer), "41");
}

#[test]
fn a_token_bound_to_sources_sends_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let inside = Inside::start(&data, IngestLimits::default());
    let intake = Intake {
        service: inside.service().clone(),
        caller: Caller {
            name: "eu".to_owned(),
            scope: Scope::Ingest {
                sources: vec!["/gw/*".to_owned()],
            },
        },
        form: Form::Lines,
    };
    let mut other = event("acme", "c2", 1);
    other["source"] = "/spoofed".into();
    let mut none = event("acme", "c3", 1);
    none["source"] = Value::Null;
    let mut bad = event("acme", "c4", 1);
    bad["phase"] = "ened".into();
    let body = format!("{}\n{other}\n{none}\n{bad}\n", event("acme", "c1", 1));
    let mut results = Results::default();
    intake.take(body.as_bytes(), &mut results).expect("taken");
    let results = results.into_body().expect("results");
    assert_eq!((results.accepted, results.refused), (1, 3));
    let rows: Value = serde_json::from_str(results.results.get()).expect("JSON");
    assert_eq!(
        (&rows[1]["reason"], &rows[1]["field"]),
        (&"source_not_allowed".into(), &"source".into())
    );
    assert_eq!(
        (&rows[2]["reason"], &rows[3]["reason"]),
        (&"source_not_allowed".into(), &"unknown_enum".into())
    );
    // What a producer itself got wrong is under its name; what claims another's isn't.
    let sources = inside.service().sources.snapshot();
    let counts: Vec<_> = sources
        .iter()
        .map(|(name, h)| (name.as_str(), h.events, h.refused))
        .collect();
    assert_eq!(counts, [("/gw/1", 1, 1), ("unnamed", 0, 2)]);
}

#[test]
fn a_packed_body_is_taken_to_its_end_whatever_it_was_put_together_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder);
    let packed = |call: &str| gzip(format!("{}\n", event("acme", call, 5)).as_bytes());
    let post = |coding: &str, body: Vec<u8>| {
        served.post_with(
            "/v1/events",
            &[("content-type", NDJSON), ("content-encoding", coding)],
            body,
        )
    };
    let members = [packed("c1"), packed("c2"), packed("c3")].concat();
    let answer = post("GZIP", members);
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &3.into()));
    assert_eq!(tokens(&served, "acme", &answer), "15");
    // What stands behind the last member is nobody's: what came before it counts.
    let answer = post("gzip", [packed("c4"), b"and more".to_vec()].concat());
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["code"], &body["accepted"]),
        (400, &"bad_body".into(), &1.into()),
        "{body}"
    );
    assert_eq!(post("gzip, gzip", packed("c5")).json()["code"], "unsupported_type");
    let answer = served.post("/v1/events?framing=delimited", "application/x-protobuf", vec![1, 2, 3]);
    let body = answer.json();
    assert_eq!(
        (&body["code"], &body["field"]),
        (&"bad_parameter".into(), &"framing".into()),
        "{body}"
    );
}
