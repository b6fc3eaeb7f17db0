//! `reckon post`: goes on where it stopped, says what was refused, is safe to repeat.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::ingest::{event, lines};
use crate::served::{Served, reckon};

fn run(file: &Path, to: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args([
            "post",
            file.to_str().expect("a path"),
            "--to",
            to,
            "--json",
            "--batch",
            "100",
        ])
        .args(more)
        .output()
        .expect("reckon post runs")
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("a summary")
}

/// A gateway between client and service that lets so many requests through and then answers no more.
fn cut_after(requests: usize, address: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let address = address.to_owned();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        // Whoever comes after is turned away.
        drop(listener);
        let service = TcpStream::connect(address).expect("the service");
        let (mut up, mut down) = (
            client.try_clone().expect("cloned"),
            service.try_clone().expect("cloned"),
        );
        std::thread::spawn(move || std::io::copy(&mut up, &mut down));
        let (mut client, mut service) = (client, service);
        let (mut seen, mut buffer, mut tail) = (0, [0; 4096], Vec::new());
        loop {
            let read = service.read(&mut buffer).unwrap_or(0);
            tail.extend_from_slice(&buffer[..read]);
            // The answers' last words.
            seen += tail.windows(12).filter(|w| *w == b",\"refused\":0").count();
            if seen > requests || read == 0 {
                let _ = client.shutdown(std::net::Shutdown::Both);
                return;
            }
            tail.drain(..tail.len().saturating_sub(11));
            client.write_all(&buffer[..read]).expect("written");
        }
    });
    base
}

#[test]
fn it_goes_on_where_it_was_cut_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let served = Served::start(&data, &[]);
    let file = folder.path().join("events.ndjson");
    let lines = lines("acme", 1_000);
    std::fs::write(&file, &lines).expect("written");
    let state = folder.path().join("state");
    let state_text = state.to_str().expect("a path");
    let cut = cut_after(3, served.base.strip_prefix("http://").expect("an address"));
    let output = run(&file, &cut, &["--patience", "1", "--state", state_text]);
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("goes on here"),
        "{output:?}"
    );
    let place: Value = serde_json::from_slice(&std::fs::read(&state).expect("a state")).expect("JSON");
    assert_eq!(place["accepted"], 300);
    // The fourth batch is in the log, but the client doesn't know; it is sent again and changes nothing.
    let text = std::fs::read_to_string(&state)
        .expect("a state")
        .replace(&cut, &served.base);
    std::fs::write(&state, text).expect("written");
    let output = run(&file, &served.base, &["--state", state_text]);
    assert!(output.status.success(), "{output:?}");
    let done = summary(&output);
    assert_eq!((&done["accepted"], &done["lines"]), (&1_000.into(), &1_000.into()));
    assert_eq!(done["resumed_at"], place["offset"]);
    let last = served
        .post("/v1/events", "application/json", event("acme", "c0", 1).to_string())
        .json();
    let last = &last["results"][0];
    let at_least = format!("{}:{}", last["partition"], last["offset"].as_str().expect("an offset"));
    let usage = served
        .get(&format!("/v1/accounts/acme/usage?at_least={at_least}"))
        .json();
    assert_eq!(usage["rows"][0]["quantity"], "1000");
    // Nothing is left to do; then the file has grown.
    assert!(run(&file, &served.base, &["--state", state_text]).status.success());
    std::fs::write(&file, format!("{lines}{}\n", event("acme", "more", 1))).expect("written");
    assert_eq!(
        summary(&run(&file, &served.base, &["--state", state_text]))["accepted"],
        1_001
    );
    // Another file under the same name is noticed.
    std::fs::write(&file, lines.replace("acme", "emca")).expect("written");
    let output = run(&file, &served.base, &["--state", state_text]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("start over"),
        "{output:?}"
    );
}

#[test]
fn refused_lines_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let served = Served::ticks(&data, 2);
    let file = folder.path().join("history.ndjson");
    let history = "{\"tick\": \"2026-09-01T00:00:00Z\"}\n\n{\"event\": {}}\n{\"control\": {\"id\": \"h\", \"hold_close\": {\"period\": \"2026-09\"}}}\n";
    std::fs::write(&file, history).expect("written");
    let output = run(&file, &served.base, &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let refused: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(
        (&refused["line"], &refused["reason"]),
        (&3.into(), &"missing_field".into())
    );
    assert_eq!(
        (&summary(&output)["accepted"], &summary(&output)["refused"]),
        (&2.into(), &1.into())
    );
    let gone = run(
        &file,
        "http://127.0.0.1:1",
        &["--patience", "0", "--state", "/dev/null"],
    );
    assert!(!gone.status.success());
}

#[test]
fn a_last_line_that_is_being_written_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let served = Served::start(&data, &[]);
    let file = folder.path().join("events.ndjson");
    let last = event("acme", "last", 1).to_string();
    let (begin, end) = last.split_at(last.len() / 2);
    let first = lines("acme", 3);
    std::fs::write(&file, format!("{first}{begin}")).expect("written");
    let output = run(&file, &served.base, &[]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("line 4 isn't whole yet"), "{said}");
    let done = summary(&output);
    assert_eq!((&done["accepted"], &done["bytes"]), (&3.into(), &first.len().into()));
    // Now it is: nothing of it was lost.
    std::fs::write(&file, format!("{first}{begin}{end}")).expect("written");
    let output = run(&file, &served.base, &[]);
    assert_eq!(
        (&summary(&output)["accepted"], &summary(&output)["refused"]),
        (&4.into(), &0.into())
    );
    // A file that ends like that is said to, and refused as it is.
    std::fs::write(&file, format!("{first}{last}\n{begin}")).expect("written");
    assert!(run(&file, &served.base, &[]).status.success());
    let output = run(&file, &served.base, &["--final"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(summary(&output)["refused"], 1, "{output:?}");
}

/// A service that gives these answers, one a request.
fn answering(answers: &'static [(&str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for (head, body) in answers {
            let (mut client, _) = listener.accept().expect("a client");
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            // The body is one line.
            while !request.ends_with(b"}\n") {
                let read = client.read(&mut buffer).expect("read");
                assert!(read > 0, "the client has left");
                request.extend_from_slice(&buffer[..read]);
            }
            let answer = format!(
                "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            client.write_all(answer.as_bytes()).expect("written");
        }
    });
    base
}

#[test]
fn what_is_not_folded_yet_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("records.ndjson");
    std::fs::write(&file, "{\"tick\": \"2026-09-01T00:00:00Z\"}\n").expect("written");
    const ANSWERS: [(&str, &str); 2] = [
        (
            "412 Precondition Failed\r\nretry-after: 0",
            r#"{"title": "What was asked for isn't folded yet", "code": "behind", "detail": "d", "cure": "c"}"#,
        ),
        (
            "200 OK",
            r#"{"results": [{"partition": 0, "offset": "1"}], "accepted": 1, "refused": 0}"#,
        ),
    ];
    let base = answering(&ANSWERS);
    let output = run(&file, &base, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(summary(&output)["accepted"], 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("behind"), "{output:?}");
}
