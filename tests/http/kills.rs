//! A real `reckon serve` is killed with SIGKILL at random moments while clients send, read, follow and poll. No acknowledged
//! event is lost or counted twice, no total goes back, outputs have no gap and never change.
//!
//! `RECKON_KILLS=300 cargo test --release --test http kills` kills more often.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reckon::log::appender::Appender;
use reckon::log::local::wall_clock;
use reckon::model::period::parse_rfc3339;
use reckon::partition::host::open_log;
use reckon::workload::seed::Seed;
use serde_json::Value;

use crate::served::{Served, reckon};
use crate::traffic::{ACCOUNTS, Address, Client, Ledger, Sums, agent, number, post};

const PARTITIONS: u64 = 2;

/// Flushes and commits often, so that kills meet them.
const SETTINGS: [&str; 8] = [
    "--set",
    "fold.flush_ms=1000",
    "--set",
    "fold.flush_bytes=1048576",
    "--set",
    "fold.commit_ms=20",
    "--set",
    "telemetry.log_filter=warn",
];

/// What all threads share.
#[derive(Default)]
struct Scene {
    address: Address,
    ledger: Ledger,
    month: String,
    posted: AtomicBool,
    over: AtomicBool,
    reads: AtomicU64,
    messages: AtomicU64,
    outputs: AtomicU64,
}

/// What one reader has seen of one account.
#[derive(Default)]
struct Seen {
    at: Option<(u64, u64)>,
    sums: Sums,
}

/// What was read of a topic of one partition.
struct Outputs {
    topic: &'static str,
    partition: u64,
    known: BTreeMap<u64, String>,
}

impl Outputs {
    fn new(topic: &'static str, partition: u64) -> Self {
        Self {
            topic,
            partition,
            known: BTreeMap::new(),
        }
    }

    fn end(&self) -> u64 {
        self.known.last_key_value().map_or(0, |(sequence, _)| *sequence)
    }

    /// Reads on, now and then from an earlier place: gapless, and what was read once reads the same ever after. What is new;
    /// `None`: the service doesn't answer.
    fn poll(&mut self, agent: &ureq::Agent, base: &str, seed: &mut Seed) -> Option<Vec<Value>> {
        let end = self.end();
        let after = if seed.below(4) == 0 { seed.below(end + 1) } else { end };
        let (topic, partition) = (self.topic, self.partition);
        let url = format!("{base}/v1/outputs/{topic}?partition={partition}&after={after}&wait_ms=100&limit=1000");
        let answer = agent.get(&url).call().and_then(|mut response| {
            let status = response.status().as_u16();
            Ok((
                status,
                response.body_mut().with_config().limit(1 << 28).read_to_string()?,
            ))
        });
        let text = match answer {
            Ok((200, text)) => text,
            Ok((503, _)) | Err(_) => return None,
            Ok((status, text)) => panic!("{url}: {status} {text}"),
        };
        let body: Value = serde_json::from_str(&text).expect("JSON");
        let mut new = Vec::new();
        for (output, expected) in body["outputs"].as_array().expect("outputs").iter().zip(after + 1..) {
            assert_eq!(number(&output["sequence"]), expected, "gapless");
            assert_eq!(output["id"], format!("{topic}/{partition}/{expected}"));
            let content = output.to_string();
            match self.known.get(&expected) {
                Some(before) => assert_eq!(*before, content, "the same ever after"),
                None => {
                    self.known.insert(expected, content);
                    new.push(output.clone());
                }
            }
        }
        Some(new)
    }
}

/// Months of a history, the last one open.
const MONTHS: u32 = 7;
/// Its accounts, each with a call a month.
const PAYING: u32 = 1_500;

/// Appends a history whose months close, and folds none of it.
fn append_history(data: &Path) {
    let data_text = data.to_str().expect("a path");
    reckon(&[
        "init",
        "--data",
        data_text,
        "--partitions",
        &PARTITIONS.to_string(),
        "--clock",
        "ticks",
    ]);
    let log = open_log(data, wall_clock()).expect("the log");
    let mut appender = Appender::new(&log, 0);
    for month in 1..=MONTHS {
        let at = format!("2026-{month:02}-20T00:00:00Z");
        // Twenty days after a month's end it is closed.
        appender.tick(parse_rfc3339(&at).expect("a time")).expect("appended");
        for account in 0..PAYING {
            let account = format!("account-{account}");
            let event = serde_json::json!({"account_id": account, "call_id": format!("{account}-{month}"), "phase": "ended",
                "occurred_at": at, "end": {"cause": "completed"}});
            appender
                .event(Some(&account), event.to_string().into_bytes())
                .expect("appended");
        }
    }
    appender.flush().expect("appended");
}

#[test]
fn statements_have_no_gap_and_never_change_whenever_the_fold_is_killed() {
    let kills = std::env::var("RECKON_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    append_history(&data);
    let (agent, mut seed) = (agent(), Seed::new(std::process::id().into()));
    let mut outputs: Vec<Outputs> = (0..PARTITIONS).map(|p| Outputs::new("statements", p)).collect();
    for kill in 0..kills {
        if kill % 2 == 0 {
            kill_while_starting(&data, seed.below(300));
            continue;
        }
        let mut served = Served::start(&data, &SETTINGS);
        for known in &mut outputs {
            known.poll(&agent, &served.base, &mut seed);
        }
        served.kill();
    }
    let served = Served::start(&data, &SETTINGS);
    let deadline = Instant::now() + Duration::from_secs(30);
    let expected = u64::from(PAYING * (MONTHS - 1));
    let closed = |outputs: &[Outputs]| {
        let all = outputs.iter().flat_map(|o| o.known.values());
        all.filter(|content| content.contains("\"period_closed\"")).count() as u64
    };
    while closed(&outputs) < expected {
        assert!(
            Instant::now() < deadline,
            "{} statements of {expected}",
            closed(&outputs)
        );
        for known in &mut outputs {
            known.poll(&agent, &served.base, &mut seed);
        }
    }
    assert!(served.stop().success());
    // Outputs are compared there too, with those of a fold that nothing disturbed.
    let replayed = reckon(&["replay", "--data", data.to_str().expect("a path")]);
    assert!(replayed.contains("are identical"), "{replayed}");
    assert_eq!(closed(&outputs), expected, "one statement an account and month");
}

/// Kills a service so many milliseconds after its start, whatever it does then.
fn kill_while_starting(data: &Path, after_ms: u64) {
    let mut starting = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .args(SETTINGS)
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_millis(after_ms));
    starting.kill().expect("killed");
    starting.wait().expect("gone");
}

impl Scene {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// An answer is neither behind what it says it stands at, nor behind the one before, nor ahead of what was sent.
    fn check(&self, account: &str, body: &Value, seen: &mut Seen) {
        let (partition, offset) = (body["as_of"]["partition"].as_u64(), number(&body["as_of"]["offset"]));
        let sums = Sums::of_usage(body);
        let (least, most) = self.ledger.bounds(account, offset);
        assert!(
            sums.covers(least),
            "{account} at {offset}: {sums:?} lacks some of {least:?}"
        );
        assert!(most.covers(sums), "{account} at {offset}: {sums:?} of {most:?} sent");
        assert!(
            sums.covers(seen.sums),
            "{account} at {offset}: {sums:?} after {:?}",
            seen.sums
        );
        *seen = Seen {
            at: partition.map(|p| (p, offset)),
            sums,
        };
    }

    /// Reads usage with `at_least`: what was seen once is never unseen.
    fn read(&self, number: u64) {
        let (agent, mut seed) = (agent(), Seed::of(number, 5));
        let mut seen: HashMap<String, Seen> = HashMap::new();
        while !self.is_over() {
            let account = format!("account-{}", seed.below(ACCOUNTS));
            let known = seen.entry(account.clone()).or_default();
            let (up, base) = self.address.get();
            let mut url = format!("{base}/v1/accounts/{account}/usage?period={}", self.month);
            if let Some((partition, offset)) = known.at {
                url.push_str(&format!("&at_least={partition}:{offset}"));
            }
            let answer = agent.get(&url).call().and_then(|mut response| {
                let status = response.status().as_u16();
                Ok((status, response.body_mut().read_to_string()?))
            });
            match answer {
                Ok((200, text)) => {
                    self.check(&account, &serde_json::from_str(&text).expect("JSON"), known);
                    self.reads.fetch_add(1, Ordering::Relaxed);
                }
                Ok((404, text)) => assert!(known.at.is_none(), "{account} was known: {text}"),
                Ok((503, _)) | Err(_) => self.address.wait(up),
                Ok((status, text)) => panic!("{url}: {status} {text}"),
            }
        }
    }

    /// Follows an account's stream, and comes back after every cut with the id of the last message.
    fn follow(&self, account: &str) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .build()
            .into();
        let (mut seen, mut last_id) = (Seen::default(), None::<String>);
        while !self.is_over() {
            let (up, base) = self.address.get();
            let mut request = agent.get(format!("{base}/v1/accounts/{account}/usage/stream"));
            if let Some(id) = &last_id {
                request = request.header("last-event-id", id);
            }
            let Ok(response) = request.call() else {
                self.address.wait(up);
                continue;
            };
            match response.status().as_u16() {
                200 => {}
                // The account's first record may not be folded, or not folded again, yet.
                404 | 503 => {
                    self.address.wait(up);
                    continue;
                }
                other => panic!("stream: {other}"),
            }
            let mut id = None;
            for line in BufReader::new(response.into_body().into_reader()).lines() {
                let Ok(line) = line else { break };
                if let Some(text) = line.strip_prefix("id: ") {
                    id = Some(text.to_owned());
                } else if let Some(data) = line.strip_prefix("data: ") {
                    // A line that the kill has cut isn't followed by an empty one; it may not be whole.
                    let Ok(body) = serde_json::from_str::<Value>(data) else {
                        break;
                    };
                    if body["periods"][0]["period"] != self.month.as_str() {
                        continue;
                    }
                    self.check(account, &body, &mut seen);
                    last_id = id.take().or(last_id);
                    self.messages.fetch_add(1, Ordering::Relaxed);
                }
                if self.is_over() {
                    break;
                }
            }
        }
    }

    /// Polls the calls output by cursor: gapless, every verdict once, and what was read once reads the same ever after.
    fn poll(&self) {
        let (agent, mut seed) = (agent(), Seed::new(77));
        let mut outputs: Vec<Outputs> = (0..PARTITIONS).map(|p| Outputs::new("calls", p)).collect();
        let mut verdicts: HashSet<(String, u64)> = HashSet::new();
        while !self.is_over() {
            for known in &mut outputs {
                let (up, base) = self.address.get();
                let Some(new) = known.poll(&agent, &base, &mut seed) else {
                    self.address.wait(up);
                    continue;
                };
                for call in new.iter().flat_map(|o| o["calls"].as_array().expect("calls")) {
                    let (id, revision) = (call["call"].as_str().expect("an id"), call["revision"].as_u64());
                    let new = verdicts.insert((id.to_owned(), revision.expect("a revision")));
                    assert!(new, "verdict {revision:?} of {id} twice");
                }
                self.outputs.fetch_add(new.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Every account comes to exactly what was acknowledged.
    fn settle(&self, served: &Served) {
        for (account, sums) in self.ledger.acknowledged() {
            let (_, attempted) = self.ledger.bounds(&account, u64::MAX);
            assert_eq!(
                sums, attempted,
                "{account}: everything sent was acknowledged at the end"
            );
            let path = format!("/v1/accounts/{account}/usage?period={}", self.month);
            let deadline = Instant::now() + Duration::from_secs(20);
            let found = loop {
                let found = Sums::of_usage(&served.get(&path).json());
                if found == sums || Instant::now() > deadline {
                    break found;
                }
            };
            assert_eq!(found, sums, "{account}");
        }
    }
}

#[test]
fn kills_lose_nothing_and_count_nothing_twice() {
    let kills = std::env::var("RECKON_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data_text = data.to_str().expect("a path");
    reckon(&["init", "--data", data_text, "--partitions", &PARTITIONS.to_string()]);
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let scene = Scene {
        month: now[..7].to_owned(),
        ..Scene::default()
    };
    let mut seed = Seed::new(std::process::id().into());
    let served = std::thread::scope(|scope| {
        let (scene, now) = (&scene, &now);
        let posting: Vec<_> = (0..3)
            .map(|n| {
                scope.spawn(move || {
                    post(
                        &mut Client::new(n, now),
                        &scene.address,
                        &scene.ledger,
                        60,
                        &scene.posted,
                    )
                })
            })
            .collect();
        for n in 0..2 {
            scope.spawn(move || scene.read(n));
        }
        scope.spawn(|| scene.follow("account-1"));
        scope.spawn(|| scene.follow("account-2"));
        scope.spawn(|| scene.poll());
        for kill in 0..kills {
            let mut served = Served::start(&data, &SETTINGS);
            scene.address.set(&served.base);
            std::thread::sleep(Duration::from_millis(20 + seed.below(600)));
            served.kill();
            if kill % 4 == 3 {
                // Also before it listens: while log and stores are opened.
                kill_while_starting(&data, seed.below(150));
            }
        }
        let served = Served::start(&data, &SETTINGS);
        scene.address.set(&served.base);
        scene.posted.store(true, Ordering::Relaxed);
        let failed = posting.into_iter().filter_map(|thread| thread.join().err()).count();
        if failed == 0 {
            scene.settle(&served);
        }
        scene.over.store(true, Ordering::Relaxed);
        // Ends the streams.
        assert!(served.stop().success());
        failed
    });
    assert_eq!(served, 0, "clients that failed");
    let replayed = reckon(&["replay", "--data", data_text]);
    assert!(replayed.contains("are identical"), "{replayed}");
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    println!(
        "{kills} kills: {} events acknowledged, {} reads, {} stream messages, {} outputs",
        scene.ledger.events(),
        count(&scene.reads),
        count(&scene.messages),
        count(&scene.outputs)
    );
    assert!(count(&scene.reads) > 0 && count(&scene.messages) > 0 && count(&scene.outputs) > 0);
}
