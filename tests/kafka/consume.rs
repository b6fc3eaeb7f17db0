//! What consumers of the outputs are promised: every statement once, a month that can be proved complete, rejects that say
//! what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reckon::machine::output::{Tail, Topic};
use reckon::wire::pb;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker;

const PREFIX: &str = "consume";
const PARTITIONS: u32 = 4;
const ACCOUNTS: usize = 50;
/// How long what is put out may take to be there.
const PATIENCE: Duration = Duration::from_secs(180);

/// A log of two closed months with everything put out, shared by the tests, which only read it.
struct History {
    folder: TempDir,
    bootstrap: String,
    /// Partition and offset of the poison records, by what is wrong.
    poison: BTreeMap<&'static str, (u32, i64)>,
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("reckon runs")
}

fn good(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "reckon {args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

/// A serving process; killed when it is let go.
struct Serving(Child);

impl Serving {
    fn start(data: &Path, bootstrap: &str, prefix: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_reckon"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(["--kafka", bootstrap, "--topic-prefix", prefix])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("reckon serve starts");
        let printed = BufReader::new(child.stdout.take().expect("its output")).lines();
        std::thread::spawn(move || printed.for_each(drop));
        Self(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn account(n: usize) -> String {
    format!("account-{n:02}")
}

/// Two months of 50 accounts, and one call that comes after its month is closed.
fn history() -> String {
    let mut text = String::new();
    let mut line = |value: Value| writeln!(text, "{value}").expect("a line");
    let ended = |n: usize, call: &str, at: &str, cause: &str, tokens: u64| {
        json!({"event": {"account_id": account(n), "call_id": call, "phase": "ended", "occurred_at": at, "product": "m-large",
            "end": {"cause": cause, "progress": "complete"},
            "usage": [{"meter": "output_tokens", "value": tokens.to_string(), "provenance": "upstream_measured"}]}})
    };
    line(json!({"tick": "2026-09-01T00:00:00Z"}));
    line(
        json!({"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z", "prices": [
        {"product": "m-large", "meter": "output_tokens", "currency": "USD", "amount": "15", "per": "1000000"},
        {"product": "m-large", "meter": "output_tokens", "currency": "EUR", "amount": "13", "per": "1000000"}]}}}),
    );
    for n in 0..ACCOUNTS {
        let profile = if n % 5 == 0 {
            json!({"account_id": account(n), "time_zone": "Europe/Berlin", "currency": "EUR"})
        } else {
            json!({"account_id": account(n), "time_zone": "UTC", "currency": "USD"})
        };
        line(json!({"control": {"id": format!("profile-{n}"), "account_profile": profile}}));
    }
    line(json!({"tick": "2026-09-10T00:00:00Z"}));
    for n in 0..ACCOUNTS {
        line(ended(n, "a", "2026-09-09T12:00:00Z", "completed", 1_000_000 + n as u64));
        line(ended(n, "b", "2026-09-09T13:00:00Z", "upstream_broken", 77));
    }
    line(json!({"tick": "2026-10-03T10:20:00Z"}));
    line(ended(7, "late", "2026-09-20T12:00:00Z", "completed", 500_000));
    line(json!({"tick": "2026-10-03T11:00:00Z"}));
    for n in 0..ACCOUNTS {
        line(ended(n, "c", "2026-10-02T12:00:00Z", "completed", 2_000_000 + n as u64));
    }
    line(json!({"tick": "2026-11-03T12:00:00Z"}));
    for n in 0..ACCOUNTS {
        line(ended(n, "last", "2026-11-03T11:00:00Z", "completed", 1));
    }
    text
}

/// Sends a record as whoever may write the topic could.
fn poison(bootstrap: &str, partition: u32, kind: Option<&str>, bytes: &[u8]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .expect("a producer");
    let topic = format!("{PREFIX}.events");
    let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&topic).partition(partition as i32).payload(bytes);
    if let Some(kind) = kind {
        record = record.headers(OwnedHeaders::new().insert(Header {
            key: "reckon-record",
            value: Some(kind),
        }));
    }
    producer.send(record).map_err(|(cause, _)| cause).expect("sent");
    producer.flush(Duration::from_secs(20)).expect("written");
}

impl History {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<History> = OnceLock::new();
        SHARED.get_or_init(Self::make)
    }

    fn make() -> Self {
        let bootstrap = broker::shared().bootstrap();
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
        let (key, file) = (path("operator"), path("history.ndjson"));
        let place = ["--kafka", bootstrap.as_str(), "--topic-prefix", PREFIX];
        good(&["keygen", "--out", &key]);
        let partitions = PARTITIONS.to_string();
        let create = [
            "topics",
            "create",
            "--key",
            &key,
            "--clock",
            "ticks",
            "--replication",
            "1",
        ];
        good(&[&create[..], &["--partitions", &partitions], &place].concat());
        std::fs::write(&file, history()).expect("a file");
        good(&[&["control", "publish", &file, "--key", &key][..], &place].concat());
        let home = reckon::model::placement::partition_of(&account(3), PARTITIONS);
        let missing = json!({"account_id": account(3), "phase": "ended", "occurred_at": "2026-11-03T10:00:00Z",
            "end": {"cause": "completed"}});
        let control = json!({"id": "forged", "correction": {"account_id": account(3), "call_id": "a", "bill": false,
            "reason": "mine"}, "issued_at": "2026-11-03T11:00:00Z"});
        poison(&bootstrap, home, None, b"\xff\x00garbage\x07");
        poison(&bootstrap, home, None, missing.to_string().as_bytes());
        poison(&bootstrap, home, Some("control"), control.to_string().as_bytes());
        let mut made = Self {
            folder,
            bootstrap,
            poison: BTreeMap::new(),
        };
        let serving = Serving::start(&made.path("data"), &made.bootstrap, PREFIX);
        let until = Instant::now() + PATIENCE;
        loop {
            let proof = made.run(&["consume", "statements", "--complete", "2026-10"]);
            let rejects: Value = serde_json::from_str(&made.good(&["--json", "rejects", "list"])).expect("JSON");
            if proof.status.success() && rejects["rejects"].as_array().is_some_and(|r| r.len() == 3) {
                for reject in rejects["rejects"].as_array().expect("rows") {
                    let name = ["undecodable", "missing_field", "not_authorised"]
                        .into_iter()
                        .find(|n| *n == reject["reason"])
                        .expect("a known reason");
                    let offset = reject["offset"].as_i64().expect("an offset");
                    made.poison.insert(name, (home, offset));
                    assert_eq!(reject["partition"], home);
                }
                break;
            }
            let said = String::from_utf8_lossy(&proof.stdout).into_owned();
            assert!(Instant::now() < until, "not all is out: {said} {rejects}");
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(serving);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--kafka", &self.bootstrap, "--topic-prefix", PREFIX]].concat()
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&self.args(args))
    }

    fn good(&self, args: &[&str]) -> String {
        good(&self.args(args))
    }

    fn consumed(&self) -> Vec<Value> {
        rows(&self.good(&["consume", "statements"]))
    }
}

/// By partition and sequence.
fn by_place(rows: &[Value]) -> BTreeMap<(u64, u64), Value> {
    let place = |row: &Value| {
        (
            row["partition"].as_u64().expect("a partition"),
            row["sequence"].as_u64().expect("a sequence"),
        )
    };
    rows.iter().map(|row| (place(row), row.clone())).collect()
}

/// What there is of a kind, by its text, so that order doesn't matter.
fn of_kind(rows: &[Value], kind: &str) -> Vec<String> {
    let mut found: Vec<String> = rows.iter().filter_map(|r| r.get(kind)).map(Value::to_string).collect();
    found.sort();
    found
}

#[test]
fn what_is_consumed_is_what_is_exported_and_what_an_embedded_log_gives() {
    let history = History::shared();
    let consumed = history.consumed();
    let statements = of_kind(&consumed, "period_closed");
    assert_eq!(statements.len(), 2 * ACCOUNTS);
    assert_eq!(of_kind(&consumed, "adjustment_noticed").len(), 1);
    // August, too: the clock began before its control record was due.
    assert_eq!(of_kind(&consumed, "period_control").len(), 3 * PARTITIONS as usize);
    for (what, kind) in [
        ("statements", "period_closed"),
        ("adjustments", "adjustment_noticed"),
        ("control", "period_control"),
    ] {
        let mut exported: Vec<String> = rows(&history.good(&["export", what]))
            .iter()
            .map(Value::to_string)
            .collect();
        exported.sort();
        assert_eq!(exported, of_kind(&consumed, kind), "{what}");
    }
    let calls = rows(&history.good(&["export", "calls"]));
    // Those of the last second of the log's clock are put out with the next call.
    assert_eq!(calls.len(), 3 * ACCOUNTS + 1);

    // The same history folded without Kafka: the same rows under the same sequences.
    let data = history.path("embedded");
    let (data, file) = (data.to_str().unwrap(), history.path("history.ndjson"));
    let partitions = PARTITIONS.to_string();
    good(&["init", "--data", data, "--partitions", &partitions, "--clock", "ticks"]);
    good(&["import", "events", file.to_str().unwrap(), "--data", data]);
    let embedded = rows(&good(&["consume", "statements", "--data", data]));
    assert_eq!(by_place(&embedded), by_place(&consumed));
    good(&["consume", "statements", "--data", data, "--complete", "2026-09"]);
    let settled: BTreeSet<String> = calls.iter().map(Value::to_string).collect();
    let embedded: BTreeSet<String> = rows(&good(&["export", "calls", "--data", data]))
        .iter()
        .filter(|call| call["call"] != "last")
        .map(Value::to_string)
        .collect();
    assert_eq!(settled, embedded);
}

#[test]
fn usage_is_not_on_kafka() {
    let history = History::shared();
    for what in ["usage", "outcomes"] {
        let output = history.run(&["export", what]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("GET /v1/accounts/"));
    }
}

/// Kills the consumer as soon as `seen` says so; returns whether it came to its end by itself.
fn kill_when(command: &mut Command, mut seen: impl FnMut() -> bool) -> bool {
    let mut child = command.stderr(Stdio::null()).spawn().expect("it starts");
    loop {
        if let Some(status) = child.try_wait().expect("its state") {
            assert!(status.success());
            return true;
        }
        if seen() {
            child.kill().expect("killed");
            child.wait().expect("gone");
            return false;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A topic of statements as Reckon would put them out, many more than a test could have it decide.
struct ManyStatements {
    producer: BaseProducer,
    topic: String,
    tails: Vec<Tail>,
    /// What is put out, but for its sequence.
    body: pb::statement_record::Body,
}

impl ManyStatements {
    const PREFIX: &str = "kills";

    fn make(folder: &Path, prefix: &str, body: pb::statement_record::Body) -> Self {
        let (bootstrap, key) = (broker::shared().bootstrap(), folder.join("operator-of-many"));
        let key = key.to_str().expect("a path");
        good(&["keygen", "--out", key]);
        let count = PARTITIONS.to_string();
        let create = [
            "topics",
            "create",
            "--key",
            key,
            "--clock",
            "ticks",
            "--replication",
            "1",
        ];
        let place = ["--kafka", &bootstrap, "--topic-prefix", prefix, "--partitions", &count];
        good(&[&create[..], &place].concat());
        Self {
            producer: ClientConfig::new()
                .set("bootstrap.servers", &bootstrap)
                .set("enable.idempotence", "true")
                .create()
                .expect("a producer"),
            topic: format!("{prefix}.statements"),
            tails: vec![Tail::default(); PARTITIONS as usize],
            body,
        }
    }

    /// Decides the next one, and writes it unless it is to be missing.
    fn put(&mut self, partition: u32, is_written: bool) {
        let tail = &mut self.tails[partition as usize];
        let mut record = pb::StatementRecord {
            body: Some(self.body.clone()),
            sequence: 0,
        };
        *tail = tail.next(Topic::Statements, &record.encode_to_vec());
        record.sequence = tail.sequence;
        if is_written {
            self.write(partition, &record);
        }
    }

    fn write(&self, partition: u32, record: &pb::StatementRecord) {
        let tail = self.tails[partition as usize];
        let (sequence, chain) = (tail.sequence.to_string(), format!("{:032x}", tail.chain));
        let headers = [("reckon-sequence", &sequence), ("reckon-chain", &chain)]
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        let bytes = record.encode_to_vec();
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&self.topic)
            .partition(partition as i32)
            .payload(bytes.as_slice())
            .headers(headers);
        self.producer.send(record).map_err(|(cause, _)| cause).expect("sent");
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(30)).expect("written");
    }
}

#[test]
fn a_consumer_that_is_killed_has_every_row_once() {
    const EACH: u64 = 4_000;
    let folder = tempfile::tempdir().expect("a folder");
    let notice = pb::AdjustmentNoticed {
        id: "notice".to_owned(),
        calls: vec!["c".repeat(100)],
        ..pb::AdjustmentNoticed::default()
    };
    let notice = pb::statement_record::Body::AdjustmentNoticed(notice);
    let mut many = ManyStatements::make(folder.path(), ManyStatements::PREFIX, notice);
    for _ in 0..EACH {
        (0..PARTITIONS).for_each(|partition| many.put(partition, true));
    }
    many.flush();
    let (out, cursor) = (folder.path().join("out"), folder.path().join("cursor"));
    let bootstrap = broker::shared().bootstrap();
    let args = [
        "consume",
        "statements",
        "--kafka",
        &bootstrap,
        "--topic-prefix",
        ManyStatements::PREFIX,
    ];
    let keep = ["--out", out.to_str().unwrap(), "--cursor", cursor.to_str().unwrap()];
    let args = [&args[..], &keep].concat();
    let consumer = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reckon"));
        command.args(&args);
        command
    };
    let len = || std::fs::metadata(&out).map_or(0, |m| m.len());
    let saved = || {
        let cursor: Value = serde_json::from_slice(&std::fs::read(&cursor).unwrap_or_default()).unwrap_or_default();
        cursor["out_bytes"].as_u64().unwrap_or(0)
    };
    let (mut kills, mut cut) = (0, 0);
    for attempt in 0..60u64 {
        let (began, before) = (Instant::now(), saved());
        let ended = match attempt % 3 {
            // Rows are there that the cursor doesn't say yet.
            0 => kill_when(&mut consumer(), || len() > saved()),
            1 => kill_when(&mut consumer(), || saved() > before),
            _ => kill_when(&mut consumer(), || began.elapsed() > Duration::from_millis(attempt * 5)),
        };
        if ended {
            break;
        }
        kills += 1;
        cut += u32::from(len() > saved());
    }
    println!("killed {kills} times, {cut} times with rows that the cursor didn't say");
    good(&args);
    let text = std::fs::read_to_string(&out).unwrap();
    let all: Vec<(u64, u64)> = rows(&text)
        .iter()
        .map(|row| (row["partition"].as_u64().unwrap(), row["sequence"].as_u64().unwrap()))
        .collect();
    for partition in 0..u64::from(PARTITIONS) {
        let sequences = all.iter().filter(|at| at.0 == partition).map(|at| at.1);
        assert!(
            sequences.eq(1..=EACH),
            "partition {partition}: every row once, in order"
        );
    }
    assert_eq!(all.len() as u64, EACH * u64::from(PARTITIONS));
    assert!(kills >= 5 && cut >= 2, "{kills} kills, {cut} with rows to be cut off");
    // Nothing more to come: nothing is added.
    good(&args);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text);

    // One that is missing: what follows it isn't taken.
    many.put(1, false);
    many.put(1, true);
    many.put(2, true);
    many.flush();
    let refused = run(&args);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("partition 1: sequence 4002 comes where 4001 is next: one is missing"),
        "{said}"
    );
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(rows(&text).iter().all(|row| row["sequence"] != 4002));
}

#[test]
fn a_month_is_proved_complete_or_what_is_missing_is_named() {
    let history = History::shared();
    for period in ["2026-09", "2026-10"] {
        let report: Value =
            serde_json::from_str(&history.good(&["--json", "consume", "statements", "--complete", period])).unwrap();
        assert_eq!(report["complete"], true);
        assert_eq!(report["partition_count"], PARTITIONS);
        let parts = report["partitions"].as_array().unwrap();
        let statements: u64 = parts.iter().map(|p| p["statements"].as_u64().unwrap()).sum();
        assert_eq!(statements, ACCOUNTS as u64);
    }
    let early = history.run(&["consume", "statements", "--complete", "2026-11"]);
    assert_eq!(early.status.code(), Some(1));

    // A row is lost from what the consumer keeps, and the cursor says nothing of it.
    let (out, cursor) = (history.path("lost.ndjson"), history.path("lost.cursor"));
    let keep = ["--out", out.to_str().unwrap(), "--cursor", cursor.to_str().unwrap()];
    let consume = [&["consume", "statements"][..], &keep].concat();
    history.good(&consume);
    let text = std::fs::read_to_string(&out).unwrap();
    let lost = rows(&text)
        .into_iter()
        .find(|row| row["period_closed"]["period"] == "2026-09" && row["sequence"].as_u64() > Some(2))
        .expect("a statement");
    let without: String = text
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).unwrap() != lost)
        .fold(String::new(), |all, line| all + line + "\n");
    std::fs::write(&out, &without).unwrap();
    let refused = history.run(&consume);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("rows are lost"),
        "a file that got shorter"
    );
    let mut doctored: Value = serde_json::from_slice(&std::fs::read(&cursor).unwrap()).unwrap();
    doctored["out_bytes"] = without.len().into();
    std::fs::write(&cursor, doctored.to_string()).unwrap();
    let proof = history.run(&[&["--json"][..], &consume, &["--complete", "2026-09"]].concat());
    assert_eq!(proof.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&proof.stdout).unwrap();
    let missing = report["missing"].as_array().unwrap();
    assert!(missing.iter().all(|m| m["partition"] == lost["partition"]), "{report}");
    let whats: BTreeSet<&str> = missing.iter().filter_map(|m| m["what"].as_str()).collect();
    assert_eq!(
        whats,
        BTreeSet::from(["sequences", "statements", "outcomes", "quantities", "amounts"])
    );
    let sequences = missing.iter().find(|m| m["what"] == "sequences").unwrap();
    assert!(
        sequences["detail"]
            .as_str()
            .unwrap()
            .ends_with(&format!(": {}", lost["sequence"]))
    );
    history.good(&[&consume[..], &["--complete", "2026-10"]].concat());

    // A cursor that skips one: the next one is refused.
    let skips = history.path("skips.cursor");
    history.good(&["consume", "statements", "--cursor", skips.to_str().unwrap()]);
    let mut cursor: Value = serde_json::from_slice(&std::fs::read(&skips).unwrap()).unwrap();
    cursor["partitions"]["0"] = json!({"next_offset": 0, "sequence": 3, "chain": "00"});
    std::fs::write(&skips, cursor.to_string()).unwrap();
    let refused = history.run(&["consume", "statements", "--cursor", skips.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sequence 1 comes again after 3"));
}

/// The example in Python, as it is told to be run.
fn example(bootstrap: &str, lines: &Path, cursor: &Path, prefix: &str) -> Command {
    let python =
        PathBuf::from(std::env::var("HOME").expect("a home")).join(".cache/reckon-tools/consumer-venv/bin/python");
    assert!(python.exists(), "{}: run scripts/setup --for-tests", python.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/consumer.py");
    let text = std::fs::read_to_string(&script).expect("the script");
    assert!(text.lines().count() < 60, "it is a page");
    let mut command = Command::new(&python);
    command.arg(&script).arg(bootstrap).args([lines, cursor]);
    command.args(["--once", "--topic", &format!("{prefix}.statements")]);
    command
}

#[test]
fn the_example_in_python_gives_the_same_lines() {
    let history = History::shared();
    let (file, cursor) = (history.path("python.ndjson"), history.path("python.cursor"));
    let run = || {
        let mut command = example(&history.bootstrap, &file, &cursor, PREFIX);
        let output = command.output().expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(&file).expect("its lines")
    };
    let mut wanted = BTreeMap::new();
    for row in history.consumed() {
        let closed = &row["period_closed"];
        for (n, line) in closed["lines"].as_array().into_iter().flatten().enumerate() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let of = |name: &str| text(&line[name]);
            let currency = if of("currency").is_empty() {
                text(&closed["currency"])
            } else {
                of("currency")
            };
            let id = format!("{}-{n}", row["id"].as_str().unwrap());
            let line = json!({"id": id, "account": closed["account"], "period": closed["period"], "product": of("product"),
                "meter": of("meter"), "quantity": of("quantity"), "amount": of("amount"), "currency": currency,
                "error": of("error"), "original_period": of("original_period")});
            wanted.insert(id, line);
        }
    }
    let text = run();
    let lines = rows(&text);
    assert_eq!(lines.len(), wanted.len());
    let found: BTreeMap<String, Value> = lines
        .into_iter()
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line))
        .collect();
    assert_eq!(found, wanted);
    assert!(found.values().any(|line| line["original_period"] == "2026-09"));
    assert_eq!(run(), text, "its cursor is at the end");
}

#[test]
fn the_example_in_python_has_every_line_once_however_often_it_is_killed() {
    const EACH: u64 = 3_000;
    const NAME: &str = "kills-python";
    let folder = tempfile::tempdir().expect("a folder");
    let line = |meter: &str| pb::StatementLine {
        product: "m-large".to_owned(),
        meter: meter.to_owned(),
        quantity: "412".to_owned(),
        amount: "0.01".to_owned(),
        ..pb::StatementLine::default()
    };
    let closed = pb::PeriodClosed {
        account_id: "acme".to_owned(),
        period: "2026-09".to_owned(),
        currency: "USD".to_owned(),
        lines: vec![line("input_tokens_uncached"), line("output_tokens")],
        ..pb::PeriodClosed::default()
    };
    let closed = pb::statement_record::Body::PeriodClosed(closed);
    let mut many = ManyStatements::make(folder.path(), NAME, closed);
    for _ in 0..EACH {
        (0..PARTITIONS).for_each(|partition| many.put(partition, true));
    }
    // A record that comes again, as after a mirror's restart: its sequence is known.
    let again = pb::StatementRecord {
        body: Some(many.body.clone()),
        sequence: 7,
    };
    many.write(2, &again);
    many.flush();
    let (file, cursor) = (folder.path().join("lines"), folder.path().join("cursor"));
    let bootstrap = broker::shared().bootstrap();
    let consumer = || example(&bootstrap, &file, &cursor, NAME);
    let len = || std::fs::metadata(&file).map_or(0, |m| m.len());
    let saved = || {
        let cursor: Value = serde_json::from_slice(&std::fs::read(&cursor).unwrap_or_default()).unwrap_or_default();
        cursor["bytes"].as_u64().unwrap_or(0)
    };
    let (mut kills, mut cut) = (0, 0);
    for attempt in 0..24u32 {
        let before = saved();
        let ended = match attempt % 2 {
            // Lines are there that the cursor doesn't say yet.
            0 => kill_when(&mut consumer(), || len() > saved()),
            _ => kill_when(&mut consumer(), || saved() > before),
        };
        if ended {
            break;
        }
        kills += 1;
        cut += u32::from(len() > saved());
    }
    println!("killed {kills} times, {cut} times with lines that the cursor didn't say");
    let output = consumer().output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&file).unwrap();
    let mut found = BTreeMap::<String, u32>::new();
    for line in rows(&text) {
        *found.entry(line["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let wanted: BTreeMap<String, u32> = (0..PARTITIONS)
        .flat_map(|p| (1..=EACH).flat_map(move |s| (0..2).map(move |n| (format!("statements/{p}/{s}-{n}"), 1))))
        .collect();
    assert!(found == wanted, "{} of {} lines", found.len(), wanted.len());
    assert!(kills >= 5 && cut >= 2, "{kills} kills, {cut} with lines to be cut off");
    // One that is missing: what follows it isn't taken.
    many.put(1, false);
    many.put(1, true);
    many.flush();
    let refused = consumer().output().expect("Python runs");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("sequence 3002 after 3000"), "{said}");
    // A file that isn't the cursor's is left as it is.
    std::fs::write(&file, "mine\n").unwrap();
    assert_eq!(consumer().output().expect("Python runs").status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine\n");
}

/// September of a gateway that gives every call a product of its own, closed.
fn many_products(products: usize) -> String {
    let mut text = String::new();
    let mut line = |value: Value| writeln!(text, "{value}").expect("a line");
    line(json!({"tick": "2026-09-01T00:00:00Z"}));
    line(
        json!({"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z", "prices": [
        {"meter": "output_tokens", "currency": "USD", "amount": "0.01", "per": "1"}]}}}),
    );
    line(json!({"tick": "2026-09-10T00:00:00Z"}));
    for n in 0..products {
        let product = format!("{n:05}-{}", "p".repeat(110));
        line(
            json!({"event": {"account_id": "acme", "call_id": format!("c-{n}"), "phase": "ended", "product": product,
            "occurred_at": "2026-09-09T12:00:00Z", "end": {"cause": "completed"},
            "usage": [{"meter": "output_tokens", "value": "2"}]}}),
        );
    }
    line(json!({"tick": "2026-10-03T12:00:00Z"}));
    text
}

#[test]
fn a_statement_of_many_pages_is_whole_to_every_consumer() {
    const NAME: &str = "pages";
    const PRODUCTS: usize = 3_000;
    let bootstrap = broker::shared().bootstrap();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().expect("a path").to_owned();
    let (key, file) = (text("operator"), text("history.ndjson"));
    let place = ["--kafka", bootstrap.as_str(), "--topic-prefix", NAME];
    good(&["keygen", "--out", &key]);
    let create = [
        "topics",
        "create",
        "--key",
        &key,
        "--clock",
        "ticks",
        "--replication",
        "1",
    ];
    good(&[&create[..], &["--partitions", "1"], &place].concat());
    std::fs::write(&file, many_products(PRODUCTS)).expect("a file");
    good(&[&["control", "publish", &file, "--key", &key][..], &place].concat());
    let serving = Serving::start(&path("data"), &bootstrap, NAME);
    let until = Instant::now() + PATIENCE;
    loop {
        let proof = run(&[&["consume", "statements", "--complete", "2026-09"][..], &place].concat());
        if proof.status.success() {
            break;
        }
        assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&proof.stdout));
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(serving);
    let consumed = rows(&good(&[&["consume", "statements"][..], &place].concat()));
    let pages = of_kind(&consumed, "period_closed");
    assert!(pages.len() > 3, "{} pages", pages.len());
    let exported = rows(&good(&[&["export", "statements"][..], &place].concat()));
    assert_eq!(exported.len(), 1);
    assert_eq!(exported[0]["lines"].as_array().map(Vec::len), Some(PRODUCTS));
    assert_eq!(exported[0]["total"], "60");
    let (lines, cursor) = (path("lines"), path("cursor"));
    let output = example(&bootstrap, &lines, &cursor, NAME)
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = rows(&std::fs::read_to_string(&lines).expect("its lines"));
    let of = |name: &str| -> BTreeSet<String> { lines.iter().map(|l| l[name].to_string()).collect() };
    assert_eq!(lines.len(), PRODUCTS);
    assert_eq!((of("id").len(), of("product").len()), (PRODUCTS, PRODUCTS));
    assert_eq!(of("period"), BTreeSet::from(["\"2026-09\"".to_owned()]));
}

#[test]
fn rejects_say_what_is_wrong_and_what_to_do() {
    let history = History::shared();
    let list: Value = serde_json::from_str(&history.good(&["--json", "rejects", "list"])).unwrap();
    assert_eq!(
        list["counts"],
        json!({"undecodable": 1, "missing_field": 1, "not_authorised": 1})
    );
    let of_account = history.good(&["--json", "rejects", "list", "--account", &account(3)]);
    let of_account: Value = serde_json::from_str(&of_account).unwrap();
    assert_eq!(of_account["counts"], json!({"missing_field": 1, "not_authorised": 1}));
    let one = history.good(&["--json", "rejects", "list", "--limit", "1"]);
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(
        (one["rejects"].as_array().unwrap().len(), &one["left_out"]),
        (1, &json!(2))
    );
    assert!(
        history
            .good(&["rejects", "list"])
            .contains("sign it with one of the log's operator keys")
    );

    let show = |what: &str, json: bool| {
        let (partition, offset) = history.poison[what];
        let place = format!("{partition}:{offset}");
        let command: &[&str] = if json { &["--json"] } else { &[] };
        history.good(&[command, &["rejects", "show", &place]].concat())
    };
    let shown: Value = serde_json::from_str(&show("not_authorised", true)).unwrap();
    assert_eq!((&shown["kind"], &shown["signature"]), (&json!("control"), &Value::Null));
    assert_eq!(shown["record"]["correction"]["call_id"], "a");
    let shown: Value = serde_json::from_str(&show("missing_field", true)).unwrap();
    assert_eq!((&shown["field"], &shown["kind"]), (&json!("call_id"), &json!("event")));
    let text = show("undecodable", false);
    assert!(text.contains("ff 00 67 61 72") && text.contains("..garbage."), "{text}");
    let none = history.run(&["rejects", "show", "0:999999"]);
    assert_eq!(none.status.code(), Some(1));
}
