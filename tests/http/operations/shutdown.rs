//! The end: by a signal, in order, in time, with nothing acknowledged lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::ingest::event;
use crate::reads::history;
use crate::served::{Served, reckon};

const NDJSON: &str = "application/x-ndjson";

/// Longest that an end may take.
const END_MAX: Duration = Duration::from_secs(10);

fn served(data: &Path, more: &[&str]) -> Served {
    let text = data.to_str().expect("a path");
    reckon(&["init", "--data", text, "--partitions", "2"]);
    Served::start(data, more)
}

/// A request whose body never comes to its end. The head and a first piece have arrived when it returns.
fn hang(served: &Served) -> TcpStream {
    let address = served.base.strip_prefix("http://").expect("an address");
    let mut socket = TcpStream::connect(address).expect("connected");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: {NDJSON}\r\ncontent-length: 1000\r\n\
         expect: 100-continue\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("written");
    // It is asked for when the handler reads it.
    let mut answer = [0; 25];
    socket.read_exact(&mut answer).expect("100 Continue");
    assert!(answer.starts_with(b"HTTP/1.1 100"), "{answer:?}");
    socket.write_all(b"{\"account_id\":").expect("written");
    socket
}

/// Asks until the answer has the status.
fn until(served: &Served, path: &str, status: u16) -> crate::served::Answer {
    let began = Instant::now();
    loop {
        let answer = served.get(path);
        if answer.status == status {
            return answer;
        }
        assert!(began.elapsed() < END_MAX, "{path}: {} {}", answer.status, answer.text);
    }
}

/// Asks until no record waits to be folded.
fn until_folded(served: &Served) {
    let began = Instant::now();
    loop {
        let ready = served.get("/readyz").json();
        let mut partitions = ready["partitions"].as_array().expect("partitions").iter();
        if partitions.all(|p| p["lag_records"] == "0") {
            return;
        }
        assert!(began.elapsed() < END_MAX, "{ready}");
    }
}

/// Posts calls of an account one after the other until the service goes away. How many were acknowledged, how many sent.
fn post_until_the_end(base: &str, account: &str, acknowledged: &AtomicU64) -> (u64, u64) {
    let agent = Served::agent();
    let (mut durable, mut sent) = (0, 0);
    loop {
        let batch: String = (0..20)
            .map(|n| format!("{}\n", event(account, &format!("c-{}", sent + n), 3)))
            .collect();
        sent += 20;
        let answer = agent
            .post(format!("{base}/v1/events"))
            .header("content-type", NDJSON)
            .send(batch);
        match answer {
            Ok(answer) if answer.status() == 200 => {
                durable += 20;
                acknowledged.fetch_add(20, Ordering::Relaxed);
            }
            // Turned away because it ends, or gone.
            Ok(answer) if answer.status() == 503 => return (durable, sent),
            Ok(answer) => panic!("{}", answer.status()),
            Err(_) => return (durable, sent),
        }
    }
}

#[test]
fn under_load_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut durable_before = 0;
    for (round, signal) in ["TERM", "INT"].into_iter().enumerate() {
        let served = if round == 0 {
            served(&data, &[])
        } else {
            Served::start(&data, &[])
        };
        let (base, acknowledged) = (served.base.clone(), AtomicU64::new(0));
        let accounts: Vec<String> = (0..3).map(|n| format!("acct-{round}-{n}")).collect();
        let (results, took) = std::thread::scope(|scope| {
            let posters: Vec<_> = accounts
                .iter()
                .map(|account| scope.spawn(|| post_until_the_end(&base, account, &acknowledged)))
                .collect();
            let reader = scope.spawn(|| {
                let agent = Served::agent();
                let usage = format!("{base}/v1/accounts/{}/usage", accounts[0]);
                let mut answers = 0;
                while let Ok(answer) = agent.get(&usage).call() {
                    assert!(
                        [200, 404, 503].contains(&answer.status().as_u16()),
                        "{}",
                        answer.status()
                    );
                    answers += 1;
                }
                answers
            });
            // A consumer that waits for outputs that don't come.
            let waiting = scope.spawn(|| {
                let waits = format!("{base}/v1/outputs/alerts?partition=0&after=0&wait_ms=30000");
                Served::agent().get(waits).call().map(|answer| answer.status().as_u16())
            });
            while acknowledged.load(Ordering::Relaxed) < 400 {
                std::thread::yield_now();
            }
            served.signal(signal);
            let told = Instant::now();
            let status = served.wait();
            let took = told.elapsed();
            assert_eq!(status.code(), Some(0), "{status}");
            let results: Vec<_> = posters.into_iter().map(|p| p.join().expect("a poster")).collect();
            assert!(reader.join().expect("the reader") > 0);
            assert!(waiting.join().is_ok());
            (results, took)
        });
        assert!(took < END_MAX, "it took {took:?}");
        let again = Served::start(&data, &[]);
        until_folded(&again);
        for (account, (durable, sent)) in accounts.iter().zip(&results) {
            let sum = |usage: &serde_json::Value| -> u64 {
                let rows = usage["rows"].as_array().expect("rows");
                let tokens = rows.iter().filter(|r| r["meter"] == "output_tokens");
                tokens
                    .map(|r| {
                        r["quantity"]
                            .as_str()
                            .expect("a number")
                            .parse::<u64>()
                            .expect("a number")
                    })
                    .sum()
            };
            let calls = sum(&again.get(&format!("/v1/accounts/{account}/usage")).json()) / 3;
            assert!(
                calls >= *durable && calls <= *sent,
                "{account}: {durable} <= {calls} <= {sent}"
            );
            durable_before += durable;
        }
        assert!(again.stop().success());
    }
    assert!(durable_before >= 800);
}

#[test]
fn it_says_that_it_is_not_ready_before_it_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder.path().join("data"), &["--set", "listen.unready_ms=2000"]);
    assert_eq!(served.get("/readyz").status, 200);
    served.signal("TERM");
    let unready = until(&served, "/readyz", 503).json();
    assert_eq!(
        (&unready["ready"], &unready["reasons"][0]),
        (&false.into(), &"shutting_down".into())
    );
    // Meanwhile it lives, and takes what still comes.
    assert_eq!(served.get("/healthz").status, 200);
    let posted = served.post("/v1/events", NDJSON, event("late", "c-1", 1).to_string());
    assert_eq!(posted.json()["accepted"], 1, "{}", posted.text);
    assert!(served.wait().success());
}

#[test]
fn requests_that_hang_do_not_keep_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = served(&folder.path().join("data"), &["--set", "listen.drain_timeout_ms=1500"]);
    let _hanging = hang(&served);
    served.signal("TERM");
    let told = Instant::now();
    assert_eq!(served.wait().code(), Some(0));
    let took = told.elapsed();
    assert!(took >= Duration::from_millis(1_500) && took < END_MAX, "{took:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let served = served(&data, &["--set", "listen.drain_timeout_ms=7000"]);
    let posted = served.post("/v1/events", NDJSON, event("acme", "c-1", 7).to_string());
    assert_eq!(posted.json()["accepted"], 1);
    let _hanging = hang(&served);
    served.signal("TERM");
    until(&served, "/readyz", 503);
    served.signal("TERM");
    let told = Instant::now();
    assert_eq!(served.wait().code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    // What wasn't on disk is folded again.
    let again = Served::start(&data, &[]);
    let offset = posted.json()["results"][0]["offset"]
        .as_str()
        .expect("an offset")
        .to_owned();
    let partition = posted.json()["results"][0]["partition"].to_string();
    let usage = again.get(&format!("/v1/accounts/acme/usage?at_least={partition}:{offset}"));
    assert!(usage.text.contains(r#""quantity":"7""#), "{}", usage.text);
    assert!(again.stop().success());
}

#[test]
fn a_partition_that_has_failed_ends_it_with_the_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    // Folded anew without the calls output, the log leads to fewer outputs than were delivered: it must not go on.
    std::fs::remove_dir_all(Path::new(&data).join("store")).expect("removed");
    let args = ["--set", "fold.calls_output=false", "--set", "listen.unready_ms=2500"];
    let served = Served::start(data.as_ref(), &args);
    let health = until(&served, "/healthz", 503).json();
    assert_eq!(health["status"], "failed");
    let cause = health["cause"].as_str().expect("a cause");
    assert!(cause.contains("calls") && cause.contains("delivered"), "{cause}");
    let ready = served.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(
        ready.text.contains("partition_failed") && ready.text.contains("not_served"),
        "{}",
        ready.text
    );
    let metrics = served.get("/metrics").text;
    assert!(metrics.contains("\nreckon_partition_failed 1\n"), "{metrics}");
    let (ended, told) = channel();
    std::thread::spawn(move || ended.send(served.wait()));
    let status = told.recv_timeout(END_MAX).expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
}
