//! Refused before memory or disk run out; taken again after.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use reckon::http::gate::IngestLimits;
use serde_json::Value;

use crate::ingest::{event, lines};
use crate::inside::Inside;
use crate::served::{Served, reckon};

fn post(base: &str, body: &str) -> (u16, String, Value) {
    let request = Served::agent()
        .post(format!("{base}/v1/events"))
        .header("content-type", "application/x-ndjson");
    let mut response = request.send(body).expect("an answer");
    let after = response
        .headers()
        .get("retry-after")
        .map(|v| v.to_str().expect("text").to_owned());
    let text = response.body_mut().read_to_string().expect("a body");
    (
        response.status().as_u16(),
        after.unwrap_or_default(),
        serde_json::from_str(&text).expect("JSON"),
    )
}

/// A client that sends half of a large body and then waits.
fn half_sent(base: &str) -> TcpStream {
    let mut socket = TcpStream::connect(base.strip_prefix("http://").expect("an address")).expect("connected");
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 200000";
    write!(socket, "{head}\r\n\r\n{}", " ".repeat(150_000)).expect("written");
    socket
}

fn finish(mut socket: TcpStream) {
    let event = event("slow", "c", 1).to_string();
    write!(socket, "{event}{}", " ".repeat(50_000 - event.len())).expect("written");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("read");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

fn inside(folder: &tempfile::TempDir, limits: IngestLimits) -> Inside {
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    Inside::start(&data, limits)
}

#[test]
fn bytes_in_flight_are_bounded_and_a_client_that_comes_again_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = IngestLimits {
        in_flight_bytes: 200_000,
        ..IngestLimits::default()
    };
    let inside = inside(&folder, limits);
    let slow = half_sent(&inside.base);
    while inside.service().gate.in_flight_bytes() < 150_000 {
        std::thread::yield_now();
    }
    let lines = lines("acme", 500);
    assert!(lines.len() > 60_000);
    let (status, after, problem) = post(&inside.base, &lines);
    assert_eq!(
        (status, after.as_str(), &problem["code"]),
        (429, "1", &"too_busy".into())
    );
    // `reckon post` waits and comes again.
    let file = folder.path().join("events.ndjson");
    std::fs::write(&file, &lines).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["post", file.to_str().expect("a path"), "--to", &inside.base, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("reckon post starts");
    let mut told = String::new();
    BufReader::new(child.stderr.take().expect("its errors"))
        .read_line(&mut told)
        .expect("a line");
    assert!(told.contains("too_busy"), "{told}");
    finish(slow);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&summary["accepted"], &summary["refused"]), (&500.into(), &0.into()));
    assert_eq!(inside.service().gate.in_flight_bytes(), 0);
    let sources = inside.service().sources.snapshot();
    // Lines that came before a request was refused are in the log too, and came again.
    let (_, health) = sources.iter().find(|(name, _)| name == "/gw/1").expect("the producer");
    assert!(health.events >= 501, "{health:?}");
    assert_eq!(
        (health.ends, health.ends_without_usage, health.refused),
        (health.events, 0, 0)
    );
}

#[test]
fn a_full_disk_and_a_fold_that_lags_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = IngestLimits {
        free_disk_bytes: u64::MAX,
        ..IngestLimits::default()
    };
    let inside = inside(&folder, limits);
    let (status, after, problem) = post(&inside.base, &event("acme", "c", 1).to_string());
    assert_eq!(
        (status, after.as_str(), &problem["code"]),
        (429, "10", &"disk_low".into())
    );
}
