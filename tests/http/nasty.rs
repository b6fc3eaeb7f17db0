//! Clients that mean ill, or are broken: each is refused or cut off, and the fold goes on for everyone else.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::served::Served;
use crate::traffic::{Address, Client, Sums, agent, send};

/// Within it every nasty client is answered or cut off.
const PATIENCE: Duration = Duration::from_secs(25);

/// Within it a good client's batch is acknowledged, and read.
const GOOD_MAX: Duration = Duration::from_secs(3);

const IDLE: usize = 1_000;

/// Who reads nothing of its answer is cut off after it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}

/// What the service says until it closes; it must close.
fn rest(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(cause) if matches!(cause.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
        Err(cause) => panic!("neither answered nor cut off: {cause}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of the first answer; 0: cut off without one.
fn status(answer: &str) -> u16 {
    let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Sends all, as far as the service takes it, and hears what it says.
fn say(to: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = connect(to);
    // An answer may come, and the end, before all is sent.
    let _ = socket.write_all(bytes);
    rest(socket)
}

fn head(more: &str) -> String {
    format!("POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n{more}\r\n")
}

fn slow_head(to: SocketAddr) {
    let mut socket = connect(to);
    let began = Instant::now();
    for byte in "GET /healthz HTTP/1.1\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".bytes() {
        if socket.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let answer = rest(socket);
    assert!(matches!(status(&answer), 0 | 408), "{answer}");
    assert!(began.elapsed() < PATIENCE);
}

fn slow_body(to: SocketAddr) {
    let answer = say(to, (head("content-length: 1000\r\n") + "{\"account").as_bytes());
    assert_eq!(status(&answer), 408, "{answer}");
    assert!(answer.contains("timed_out"), "{answer}");
}

/// Where a body is small it has to come soon, and nobody's is waited for who may not send it.
fn slow_form(to: SocketAddr) {
    for path in ["/session", "/v1/backups"] {
        let (form, json) = ("application/x-www-form-urlencoded", "application/json");
        let kind = if path == "/session" { form } else { json };
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 90\r\n\r\n");
        let mut socket = connect(to);
        socket.write_all(head.as_bytes()).expect("sent");
        // A byte now and then doesn't help.
        let began = Instant::now();
        while socket.write_all(b"t").is_ok() && began.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(250));
        }
        let answer = rest(socket);
        assert!(matches!(status(&answer), 0 | 408), "{path}: {answer}");
        assert!(began.elapsed() < PATIENCE, "{path}");
    }
}

/// Asks for more than any buffer between holds, and reads nothing until long after it should have been cut off.
fn reads_nothing(to: SocketAddr) {
    const ASKED: usize = 60;
    let mut socket = connect(to);
    let request = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request.repeat(ASKED).as_bytes()).expect("sent");
    std::thread::sleep(6 * WRITE_TIMEOUT);
    let mut answer = Vec::new();
    // Cut off: an end, or a reset.
    let ended = socket.read_to_end(&mut answer);
    assert!(
        ended
            .as_ref()
            .err()
            .is_none_or(|cause| cause.kind() == ErrorKind::ConnectionReset),
        "still waiting: {ended:?}"
    );
    let heads = answer.windows(15).filter(|w| *w == b"HTTP/1.1 200 OK").count();
    assert!(
        (1..ASKED / 2).contains(&heads),
        "{heads} answers were kept for a client that read nothing"
    );
}

fn oversize_head(to: SocketAddr) {
    let answer = say(to, head(&format!("x-long: {}\r\n", "a".repeat(2 << 20))).as_bytes());
    assert!(matches!(status(&answer), 0 | 400 | 431), "{answer}");
}

fn oversize_body(to: SocketAddr) {
    let answer = say(to, head("content-length: 99999999\r\n").as_bytes());
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.contains("too_large"), "{answer}");
}

fn endless_body(to: SocketAddr) {
    let mut socket = connect(to);
    socket
        .write_all(head("transfer-encoding: chunked\r\n").as_bytes())
        .expect("sent");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let began = Instant::now();
    // Ends when the service no longer listens.
    while socket.write_all(chunk.as_bytes()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "taken for ever");
    }
    let answer = rest(socket);
    assert!(matches!(status(&answer), 0 | 413), "{answer}");
}

fn bomb(to: SocketAddr) {
    let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
    let megabyte = vec![b' '; 1 << 20];
    for _ in 0..256 {
        zip.write_all(&megabyte).expect("zipped");
    }
    let bytes = zip.finish().expect("zipped");
    let mut request = head(&format!(
        "content-encoding: gzip\r\ncontent-length: {}\r\n",
        bytes.len()
    ))
    .into_bytes();
    request.extend(bytes);
    let answer = say(to, &request);
    assert_eq!(status(&answer), 413, "{answer}");
}

fn half_closed(to: SocketAddr) {
    let mut socket = connect(to);
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("sent");
    socket.shutdown(Shutdown::Write).expect("closed by half");
    let answer = rest(socket);
    assert_eq!(status(&answer), 200, "{answer}");
    // In the middle of a body nothing more can come.
    let mut socket = connect(to);
    socket
        .write_all((head("content-length: 1000\r\n") + "{").as_bytes())
        .expect("sent");
    socket.shutdown(Shutdown::Write).expect("closed by half");
    let answer = rest(socket);
    assert!(matches!(status(&answer), 0 | 400), "{answer}");
}

fn garbage(to: SocketAddr) {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS here\r\n\r\n"[..],
        &vec![0xff; 70_000],
        b"\r\n\r\n\r\n\r\nGET",
    ] {
        let answer = say(to, bytes);
        assert!(matches!(status(&answer), 0 | 400 | 431), "{answer}");
    }
}

fn pipelined(to: SocketAddr) {
    let mut socket = connect(to);
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let last = "GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all((request.repeat(20) + last).as_bytes()).expect("sent");
    let answer = rest(socket);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 20, "{answer}");
    assert!(answer.contains("HTTP/1.1 404"), "in their order: {answer}");
}

#[test]
fn nasty_clients_are_cut_off_while_the_fold_goes_on() {
    // Their sockets are ours too.
    let files = rlimit::increase_nofile_limit(16_384).expect("a limit");
    assert!(
        files > 2 * IDLE as u64,
        "{files} open files aren't enough for this test"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    crate::served::reckon(&["init", "--data", data.to_str().expect("a path"), "--partitions", "2"]);
    let served = Served::start(
        &data,
        &[
            "--set",
            "listen.head_timeout_ms=1500",
            "--set",
            "listen.write_timeout_ms=1000",
            "--set",
            "ingest.idle_timeout_ms=4000",
            "--set",
            "telemetry.log_filter=warn",
        ],
    );
    let to: SocketAddr = served.base.trim_start_matches("http://").parse().expect("an address");
    let address = Address::default();
    address.set(&served.base);
    let over = AtomicBool::new(false);
    let clients: [fn(SocketAddr); 11] = [
        slow_head,
        slow_body,
        slow_form,
        reads_nothing,
        oversize_head,
        oversize_body,
        endless_body,
        bomb,
        half_closed,
        garbage,
        pipelined,
    ];
    std::thread::scope(|scope| {
        let idle = scope.spawn(|| {
            // Each in an idle state of its own; the service ends them by itself.
            let sockets: Vec<_> = (0..IDLE).map(|_| connect(to)).collect();
            for socket in sockets {
                let answer = rest(socket);
                assert!(matches!(status(&answer), 0 | 408), "{answer}");
            }
        });
        let mut nasty: Vec<_> = clients.iter().map(|client| scope.spawn(move || client(to))).collect();
        nasty.push(idle);
        let (over, address, served) = (&over, &address, &served);
        let good = scope.spawn(move || {
            let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            let (agent, mut client, mut slowest, mut rounds) = (agent(), Client::new(0, &now), Duration::ZERO, 0);
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let batch = client.some(50);
                let places = send(&agent, address, &batch.body);
                let (account, sums) = batch.first();
                let (partition, offset) = places[0];
                let path = format!(
                    "/v1/accounts/{account}/usage?period={}&at_least={partition}:{offset}",
                    &now[..7]
                );
                let answer = served.get(&path);
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert!(Sums::of_usage(&answer.json()).covers(sums));
                slowest = slowest.max(began.elapsed());
                rounds += 1;
            }
            (slowest, rounds)
        });
        let ended: Vec<_> = nasty.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        let (slowest, rounds) = good.join().expect("the good client is served");
        println!("{rounds} batches of a good client meanwhile, the slowest took {slowest:?}");
        assert!(slowest < GOOD_MAX, "{slowest:?}");
        for end in ended {
            if let Err(cause) = end {
                std::panic::resume_unwind(cause);
            }
        }
    });
    assert!(served.stop().success());
}

/// The value of a metric without labels.
fn metric(served: &Served, name: &str) -> u64 {
    let text = served.get("/metrics").text;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect(name).parse().expect("a number")
}

#[test]
fn a_follower_that_reads_nothing_is_let_go() {
    const PRODUCTS: usize = 1_000;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    crate::served::reckon(&["init", "--data", data.to_str().expect("a path"), "--partitions", "1"]);
    let served = Served::start(&data, &["--set", "listen.write_timeout_ms=1000"]);
    let to: SocketAddr = served.base.trim_start_matches("http://").parse().expect("an address");
    let now = chrono::Utc::now().to_rfc3339();
    let send = |round: usize, products: usize| {
        let one = |product: usize| {
            serde_json::json!({"account_id": "acme", "call_id": format!("c-{round}-{product}"), "phase": "ended",
                "occurred_at": now, "product": format!("product-{product}-{}", "x".repeat(100)),
                "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 1}]})
        };
        let lines: Vec<String> = (0..products).map(|product| one(product).to_string()).collect();
        let posted = served.post("/v1/events", "application/x-ndjson", lines.join("\n"));
        assert_eq!(posted.status, 200, "{}", posted.text);
        let results = posted.json()["results"].clone();
        results[products - 1]["offset"].as_str().expect("an offset").to_owned()
    };
    // Messages are large, so that what lies between is soon full.
    let offset = send(0, PRODUCTS);
    let read = served.get(&format!("/v1/accounts/acme/usage?at_least=0:{offset}"));
    assert_eq!(read.status, 200, "{}", read.text);
    let mut socket = connect(to);
    let request = "GET /v1/accounts/acme/usage/stream?window=day HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).expect("sent");
    let mut head = [0; 12];
    socket.read_exact(&mut head).expect("a head");
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(metric(&served, "reckon_streams_open"), 1);
    let began = Instant::now();
    for round in 1.. {
        send(round, 1);
        if metric(&served, "reckon_streams_open") == 0 {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "it is kept though it reads nothing"
        );
    }
    drop(socket);
    assert!(served.stop().success());
}
