//! Two instances on one broker: either answers any read, names the owner, and says so where it can't.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use reckon::config::operator_key::OperatorKeyFile;
use reckon::log::Log;
use reckon::log::kafka::{KafkaLog, KafkaSettings};
use reckon::wire::check::timestamp;
use reckon::wire::key_pair::KeyPair;
use reckon::wire::pb::{self, control::Body};
use reckon::wire::signature::Signer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::served::{Answer, Served, reckon};

const ACCOUNTS: usize = 24;
const PARTITIONS: u32 = 6;

/// The broker gives a silent instance's partitions to others after it.
const SESSION: Duration = Duration::from_secs(6);

/// Longer than anything takes here, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);

static LOGS: AtomicU32 = AtomicU32::new(0);

/// Topics of its own, and two instances that share them.
struct Two {
    folder: TempDir,
    kafka: String,
    prefix: String,
    more: Vec<String>,
    a: Served,
    b: Served,
}

/// Topics that nobody serves yet.
fn topics() -> (TempDir, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let kafka = crate::broker::shared().bootstrap();
    let prefix = format!("reads-{}-{}", std::process::id(), LOGS.fetch_add(1, Ordering::Relaxed));
    let key = folder.path().join("operator");
    let key = key.to_str().expect("a path");
    reckon(&["keygen", "--out", key]);
    let partitions = PARTITIONS.to_string();
    let create = [
        "topics",
        "create",
        "--kafka",
        &kafka,
        "--topic-prefix",
        &prefix,
        "--key",
        key,
    ];
    reckon(&[&create[..], &["--partitions", &partitions, "--replication", "1"]].concat());
    (folder, kafka, prefix)
}

fn within(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Two {
    fn start() -> Self {
        let (folder, kafka, prefix) = topics();
        Self::over(folder, kafka, prefix, &[])
    }

    fn over(folder: TempDir, kafka: String, prefix: String, more: &[String]) -> Self {
        let start = |name: &str| instance(&folder, &kafka, &prefix, name, more);
        let (a, b) = (start("a"), start("b"));
        let two = Self {
            more: more.to_vec(),
            folder,
            kafka,
            prefix,
            a,
            b,
        };
        within("both are ready and each owns something", || {
            [&two.a, &two.b].iter().all(|served| {
                let ready = served.get("/readyz");
                ready.status == 200 && ready.json()["partitions"].as_array().is_some_and(|p| p.len() == 3)
            })
        });
        two
    }

    /// A call of each account, posted to the first.
    fn post_calls(&self, call: &str) {
        let now = reckon::model::period::rfc3339(now_ms());
        let lines: Vec<String> = (0..ACCOUNTS)
            .map(|n| {
                json!({"account_id": format!("acct-{n}"), "call_id": call, "phase": "ended", "occurred_at": now, "source": "gw",
                    "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 10 + n}]})
                .to_string()
            })
            .collect();
        let posted = self.a.post("/v1/events", "application/x-ndjson", lines.join("\n"));
        assert_eq!(posted.status, 200, "{}", posted.text);
        assert_eq!(posted.json()["accepted"], ACCOUNTS);
    }

    /// Waits until both show so many calls of every account.
    fn wait_for_calls(&self, calls: u64) {
        for served in [&self.a, &self.b] {
            within("all accounts are folded", || {
                (0..ACCOUNTS).all(|n| calls_of(served, n) == Some(calls))
            });
        }
    }

    /// An account whose partition that instance owns.
    fn account_of(&self, owner: &Served) -> usize {
        let owned = |n: &usize| {
            self.a
                .get(&format!("/v1/accounts/acct-{n}/usage"))
                .header("reckon-owner")
                == owner.base
        };
        (0..ACCOUNTS).find(owned).expect("it owns an account")
    }
}

/// Calls that are in an account's usage, by what it counts; `None`: no answer yet.
fn calls_of(served: &Served, account: usize) -> Option<u64> {
    let answer = served.get(&format!("/v1/accounts/acct-{account}/usage"));
    assert_refused_or(&answer, &[200, 404]);
    (answer.status == 200).then(|| tokens(&answer) / (10 + account as u64))
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_millis()).expect("before the year 300000000")
}

fn instance(folder: &TempDir, kafka: &str, prefix: &str, name: &str, more: &[String]) -> Served {
    let data: PathBuf = folder.path().join(name);
    let session = format!("kafka.session_timeout_ms={}", SESSION.as_millis());
    let mut args = vec![
        "--kafka",
        kafka,
        "--topic-prefix",
        prefix,
        "--instance",
        name,
        "--set",
        &session,
    ];
    args.extend(more.iter().map(String::as_str));
    Served::start(&data, &args)
}

/// The `output_tokens` of a usage answer.
fn tokens(answer: &Answer) -> u64 {
    let rows = answer.json()["rows"].as_array().cloned().unwrap_or_default();
    let of = rows.iter().filter(|row| row["meter"] == "output_tokens");
    of.map(|row| {
        row["quantity"]
            .as_str()
            .expect("a quantity")
            .parse::<u64>()
            .expect("a number")
    })
    .sum()
}

/// Whatever isn't an answer is a refusal that says when to come again.
fn assert_refused_or(answer: &Answer, good: &[u16]) {
    if good.contains(&answer.status) {
        return;
    }
    assert_eq!(answer.status, 503, "{}", answer.text);
    let again: u32 = answer.header("retry-after").parse().expect("Retry-After");
    assert!((1..=2).contains(&again));
    let code = answer.json()["code"].clone();
    let codes = ["not_served", "owner_silent", "held_up", "log_unavailable"];
    assert!(codes.iter().any(|known| code == *known), "{code}");
}

/// Without what differs from one moment to the next.
fn timeless(answer: &Answer) -> Value {
    let mut body = answer.json();
    if let Some(body) = body.as_object_mut() {
        body.remove("as_of");
        body.remove("due");
        for partition in body
            .get_mut("partitions")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            partition["as_of"]["offset"] = Value::Null;
            partition["as_of"]["clock"] = Value::Null;
        }
    }
    body
}

#[test]
fn either_instance_answers_any_read_and_names_the_owner() {
    let two = Two::start();
    two.post_calls("c-1");
    two.wait_for_calls(1);
    let mut owners = BTreeSet::new();
    for n in 0..ACCOUNTS {
        let of = format!("/v1/accounts/acct-{n}");
        for path in [
            format!("{of}/usage"),
            format!("{of}/usage?window=day&group_by=meter"),
            format!("{of}/calls/c-1"),
            format!("{of}/calls/none"),
            format!("{of}/statements"),
            format!("{of}/usage?period=nonsense"),
        ] {
            let (a, b) = (two.a.get(&path), two.b.get(&path));
            assert_eq!((a.status, timeless(&a)), (b.status, timeless(&b)), "{path}");
            let owner = a.header("reckon-owner");
            assert_eq!(owner, b.header("reckon-owner"), "{path}");
            assert!([&two.a.base, &two.b.base].iter().any(|base| *base == owner), "{owner}");
            assert_eq!(a.header("content-type"), b.header("content-type"));
            owners.insert(owner.to_owned());
        }
        for path in [
            format!("/accounts/acct-{n}"),
            format!("/accounts/acct-{n}/calls/c-1"),
            format!("{of}/usage?format=csv"),
        ] {
            let (a, b) = (two.a.get(&path), two.b.get(&path));
            assert_eq!(
                (a.status, a.header("content-type")),
                (200, b.header("content-type")),
                "{path}"
            );
            assert_eq!((b.status, a.text.len()), (200, b.text.len()), "{path}");
            assert_eq!(a.header("reckon-owner"), b.header("reckon-owner"), "{path}");
        }
    }
    assert_eq!(owners.len(), 2, "each owns some");

    // One's own write is seen through either.
    let own = two.account_of(&two.b);
    let posted = two.a.post(
        "/v1/events",
        "application/json",
        json!({"account_id": format!("acct-{own}"), "call_id": "c-2", "phase": "ended", "source": "gw",
            "occurred_at": reckon::model::period::rfc3339(now_ms()), "end": {"cause": "completed"}})
        .to_string(),
    );
    let place = &posted.json()["results"][0];
    let at_least = format!(
        "{}:{}",
        place["partition"],
        place["offset"].as_str().expect("an offset")
    );
    for served in [&two.a, &two.b] {
        let seen = served.get(&format!("/v1/accounts/acct-{own}/calls/c-2?at_least={at_least}"));
        assert_eq!(seen.status, 200, "{}", seen.text);
    }

    // Passed on once, never twice.
    let path = format!("/v1/accounts/acct-{own}/usage");
    let header = [("reckon-proxied-by", "http://127.0.0.1:1")];
    assert_eq!(two.b.get_with(&path, &header).status, 200);
    let refused = two.a.get_with(&path, &header);
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (503, Some("not_served"))
    );
    assert_eq!(refused.header("retry-after"), "1");
    let page = two.a.get_with(&format!("/accounts/acct-{own}"), &header);
    assert_eq!(
        (page.status, page.header("content-type")),
        (503, "text/html; charset=utf-8")
    );

    // A stream comes through, with its messages as they are made.
    let stream = Served::agent()
        .get(format!("{}/v1/accounts/acct-{own}/usage/stream", two.a.base))
        .call();
    let stream = stream.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["reckon-owner"], two.b.base.as_str());
    let mut lines = BufReader::new(stream.into_body().into_reader())
        .lines()
        .map_while(Result::ok);
    let mut message = || loop {
        let line = lines.next().expect("a line");
        if let Some(data) = line.strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).expect("JSON");
        }
    };
    let before = message();
    two.post_calls("c-3");
    assert_ne!(message()["rows"], before["rows"]);

    a_month_is_added_up(&two);
    outputs_are_read_anywhere(&two);
    metrics_are_of_owned_partitions(&two);
}

fn a_month_is_added_up(two: &Two) {
    let month = reckon::model::period::rfc3339(now_ms())[..7].to_owned();
    let path = format!("/v1/periods/{month}");
    let (a, b) = (two.a.get(&path), two.b.get(&path));
    assert_eq!((a.status, timeless(&a)), (b.status, timeless(&b)));
    // What instances put on their questions changes nobody's answer.
    let marked = two.a.get_with(&path, &[("reckon-proxied-by", "http://127.0.0.1:1")]);
    assert_eq!(timeless(&marked), timeless(&a));
    let body = a.json();
    assert_eq!(body["accounts"], ACCOUNTS.to_string());
    assert_eq!((&body["missing"], &body["complete"]), (&json!([]), &json!(false)));
    let owners: BTreeSet<&str> = body["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .filter_map(|p| p["owner"].as_str())
        .collect();
    assert_eq!(owners, BTreeSet::from([two.a.base.as_str(), two.b.base.as_str()]));
}

fn outputs_are_read_anywhere(two: &Two) {
    // Far ahead of the log's clock: rejected by the fold.
    let ahead = json!({"account_id": "acct-0", "call_id": "c-x", "phase": "ended", "source": "gw",
        "occurred_at": "2099-01-01T00:00:00Z", "end": {"cause": "completed"}})
    .to_string();
    let partition = two.a.get("/v1/accounts/acct-0/usage").json()["as_of"]["partition"].clone();
    let path = format!("/v1/outputs/rejects?partition={partition}&wait_ms=20000");
    let (a, b) = std::thread::scope(|scope| {
        let readers = [&two.a, &two.b].map(|served| scope.spawn(|| (Instant::now(), served.get(&path)).1));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(two.b.post("/v1/events", "application/json", &ahead).status, 200);
        let [a, b] = readers.map(|reader| reader.join().expect("an answer"));
        (a, b)
    });
    assert_eq!(a.json()["outputs"], b.json()["outputs"]);
    assert_eq!(a.json()["outputs"][0]["rejected"]["reason"], "ahead", "{}", a.text);
    // A cursor may stand at the end, and not beyond; whoever owns the partition.
    for served in [&two.a, &two.b] {
        let at = |after: u64| served.get(&format!("/v1/outputs/rejects?partition={partition}&after={after}"));
        assert_eq!(at(1).status, 200);
        for after in [2, 1_000_000] {
            let beyond = at(after);
            let code = beyond.json()["code"].as_str().unwrap_or_default().to_owned();
            assert_eq!((beyond.status, code.as_str()), (409, "beyond_end"), "{}", beyond.text);
        }
    }
    let with_standing = [&a, &b]
        .iter()
        .filter(|answer| answer.json()["as_of"].is_object())
        .count();
    assert_eq!(with_standing, 1, "only the owner says where the partition stands");
}

fn metrics_are_of_owned_partitions(two: &Two) {
    let mut served = 0;
    for instance in [&two.a, &two.b] {
        let text = instance.get("/metrics").text;
        assert!(text.contains("reckon_partitions_owned 3\n"), "{text}");
        assert!(
            text.contains("reckon_group_joined 1\n") && text.contains("reckon_held_up 0\n"),
            "{text}"
        );
        served += text
            .lines()
            .filter(|l| l.starts_with("reckon_partition_served{"))
            .count();
        let halted = text.lines().filter(|l| l.starts_with("reckon_partition_halted{"));
        assert_eq!(halted.filter(|l| l.ends_with(" 0")).count(), 3);
        assert_eq!(
            text.lines()
                .filter(|l| l.starts_with("reckon_unstable_records{"))
                .count(),
            3
        );
    }
    assert_eq!(served, PARTITIONS as usize);
}

#[test]
fn a_killed_owner_is_missed_until_its_partitions_have_moved() {
    let mut two = Two::start();
    two.post_calls("c-1");
    two.wait_for_calls(1);
    let account = two.account_of(&two.a);
    two.a.kill();
    let path = format!("/v1/accounts/acct-{account}/usage");
    let refused = two.b.get(&path);
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_refused_or(&refused, &[]);
    within("its partitions have moved", || {
        (0..ACCOUNTS).all(|n| {
            let calls = calls_of(&two.b, n);
            // Never less than what was shown before.
            assert!(matches!(calls, None | Some(1)), "acct-{n}: {calls:?}");
            calls == Some(1)
        })
    });
    let answer = two.b.get(&path);
    assert_eq!(answer.header("reckon-owner"), two.b.base);
    // Back again, under another address.
    two.a = instance(&two.folder, &two.kafka, &two.prefix, "a", &two.more);
    within("it owns some again", || {
        two.a.get("/readyz").json()["partitions"]
            .as_array()
            .is_some_and(|p| !p.is_empty())
    });
    two.wait_for_calls(1);
}

#[test]
fn a_frozen_owner_is_named_as_missing_and_wakes_without_a_wrong_word() {
    let two = Two::start();
    two.post_calls("c-1");
    two.wait_for_calls(1);
    let account = two.account_of(&two.b);
    let path = format!("/v1/accounts/acct-{account}/usage");
    two.b.signal("STOP");
    let began = Instant::now();
    let refused = two.a.get(&path);
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (503, Some("owner_silent")),
        "{}",
        refused.text
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(refused.header("reckon-owner"), two.b.base);
    let month = reckon::model::period::rfc3339(now_ms())[..7].to_owned();
    let body = two.a.get(&format!("/v1/periods/{month}")).json();
    // It may have moved already, on a slow machine.
    if let Some(missing) = body["missing"].as_array().filter(|m| !m.is_empty()) {
        assert_eq!(body["complete"], false);
        assert_eq!(missing.len(), 3, "{body}");
        assert!(
            missing.iter().all(|m| m["owner"] == two.b.base || m["owner"].is_null()),
            "{body}"
        );
        assert_eq!(body["partitions"].as_array().map(Vec::len), Some(3));
    }
    within("all has moved to the other", || {
        (0..ACCOUNTS).all(|n| calls_of(&two.a, n) == Some(1))
    });
    two.post_calls("c-2");
    within("more is folded", || {
        (0..ACCOUNTS).all(|n| calls_of(&two.a, n) == Some(2))
    });
    // It believes itself the owner for a moment, and must not say what was right before.
    two.b.signal("CONT");
    let (mut answered, until) = (0, Instant::now() + Duration::from_secs(8));
    while Instant::now() < until || answered == 0 {
        let calls = calls_of(&two.b, account);
        assert!(matches!(calls, None | Some(2)), "a wrong number: {calls:?}");
        answered += usize::from(calls.is_some());
        assert!(Instant::now() < until + PATIENCE);
    }
    two.wait_for_calls(2);
}

#[test]
fn a_token_is_worth_the_same_through_either() {
    let (folder, kafka, prefix) = topics();
    let keys = folder.path().join("tokens");
    let (keys, data) = (keys.to_str().expect("a path"), folder.path().join("none"));
    reckon(&[
        "token",
        "key",
        "new",
        "--data",
        data.to_str().expect("a path"),
        "--keys",
        keys,
    ]);
    let issue = |scope: &[&str]| {
        let of = [
            "--kafka",
            &kafka,
            "--topic-prefix",
            &prefix,
            "--keys",
            keys,
            "--name",
            "test",
        ];
        reckon(&[&["token", "issue"], scope, &of[..]].concat())
            .trim()
            .to_owned()
    };
    let (operator, own, ingest) = (
        issue(&["operator"]),
        issue(&["account", "--account", "acct-1"]),
        issue(&["ingest"]),
    );
    let more = ["--set".to_owned(), format!("tokens.keys_path={keys}")];
    let two = Two::over(folder, kafka, prefix, &more);
    let bearer = |token: &str| format!("Bearer {token}");
    let now = reckon::model::period::rfc3339(now_ms());
    let events: Vec<String> = (0..ACCOUNTS)
        .map(|n| {
            json!({"account_id": format!("acct-{n}"), "call_id": "c", "phase": "ended", "occurred_at": now, "source": "gw",
            "end": {"cause": "completed"}})
            .to_string()
        })
        .collect();
    let headers = [
        ("authorization", bearer(&ingest)),
        ("content-type", "application/x-ndjson".to_owned()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(two.b.post_with("/v1/events", &headers, events.join("\n")).status, 200);
    for served in [&two.a, &two.b] {
        for n in 0..ACCOUNTS {
            let path = format!("/v1/accounts/acct-{n}/usage");
            let with = |token: &str| served.get_with(&path, &[("authorization", &bearer(token))]);
            within("it is folded", || with(&operator).status == 200);
            assert_eq!(with(&own).status, if n == 1 { 200 } else { 403 }, "{path}");
            assert_eq!(with(&ingest).status, 403);
            let stranger = served.get(&path);
            assert_eq!((stranger.status, stranger.header("reckon-owner")), (401, ""));
            assert_eq!(with("nonsense").status, 401);
        }
        // A browser's cookie, on this machine in the clear.
        let cookie = format!("reckon={own}");
        assert_eq!(served.get_with("/accounts/acct-1", &[("cookie", &cookie)]).status, 200);
        assert_eq!(
            served
                .get_with("/v1/accounts/acct-2/usage", &[("cookie", &cookie)])
                .status,
            403
        );
        let month = format!("/v1/periods/{}", &now[..7]);
        let period = served.get_with(&month, &[("authorization", &bearer(&operator))]);
        assert_eq!(period.json()["missing"], json!([]), "{}", period.text);
        assert_eq!(served.get_with(&month, &[("authorization", &bearer(&own))]).status, 403);
    }
}

#[test]
fn control_is_taken_in_signed_envelopes_alone() {
    let two = Two::start();
    two.post_calls("c-1");
    two.wait_for_calls(1);
    let settings = KafkaSettings {
        bootstrap: two.kafka.clone(),
        prefix: two.prefix.clone(),
        ..KafkaSettings::default()
    };
    let log = KafkaLog::open(&settings).expect("the log");
    let log_id = log.identity().log_id.clone();
    log.leave();
    let operator = OperatorKeyFile::new(two.folder.path().join("operator"))
        .load()
        .expect("the key");
    let envelope = |signer: &Signer, control: &pb::Control| {
        let value = control.encode_to_vec();
        json!({"signed": {"kind": "control", "value": STANDARD.encode(&value), "signature": signer.sign(&log_id, &value)}}).to_string()
    };
    let post = |served: &Served, line: &str| served.post("/v1/records", "application/x-ndjson", line);
    let control = |id: &str, version: u64, body: Body| pb::Control {
        id: id.to_owned(),
        control_version: version,
        issued_at: Some(timestamp(now_ms())),
        body: Some(body),
        ..pb::Control::default()
    };
    let zone = |account: &str| {
        Body::AccountProfile(pb::AccountProfile {
            account_id: account.to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            ..pb::AccountProfile::default()
        })
    };
    let month = reckon::model::period::rfc3339(now_ms())[..7].to_owned();
    let hold = Body::HoldClose(pb::HoldClose {
        period: month.clone(),
        account_id: String::new(),
    });

    let unsigned =
        json!({"control": {"id": "u", "account_profile": {"account_id": "acct-0", "time_zone": "Europe/Berlin"}}});
    let refused = post(&two.a, &unsigned.to_string());
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (400, Some("none_accepted")),
        "{}",
        refused.text
    );
    let result = &refused.json()["results"][0];
    assert_eq!(result["reason"], "not_authorised");
    assert!(
        result["detail"]
            .as_str()
            .expect("a detail")
            .contains("reckon control publish"),
        "{result}"
    );
    // What can be said without the keys is said at once.
    for (bad, field) in [
        (control("h0", 0, hold.clone()), "control.control_version"),
        (
            pb::Control {
                issued_at: None,
                ..control("h0", 1, hold.clone())
            },
            "control.issued_at",
        ),
        (control("", 1, hold.clone()), "control.id"),
    ] {
        let refused = post(&two.a, &envelope(&operator, &bad));
        assert_eq!(
            (refused.status, refused.json()["results"][0]["field"].as_str()),
            (400, Some(field)),
            "{}",
            refused.text
        );
    }

    let lines = [
        envelope(&operator, &control("z", 0, zone("berlin"))),
        envelope(&operator, &control("h", 1, hold)),
    ]
    .join("\n");
    let taken = post(&two.b, &lines);
    assert_eq!(
        (taken.status, taken.json()["accepted"].as_u64()),
        (200, Some(2)),
        "{}",
        taken.text
    );
    let everywhere = &taken.json()["results"][1];
    assert_eq!(
        (
            everywhere["places"].as_array().map(Vec::len),
            &everywhere["control_version"]
        ),
        (Some(6), &json!("1"))
    );
    for served in [&two.a, &two.b] {
        within("the records are folded", || {
            let period = served.get(&format!("/v1/periods/{month}")).json();
            let usage = served.get("/v1/accounts/berlin/usage").json();
            period["held_for_everyone"] == true && usage["time_zone"] == "Europe/Berlin"
        });
    }
    // By a key that isn't the operator's: taken, and rejected by the fold, which knows the keys.
    let other = Signer::new(operator.key_id(), KeyPair::from_secret(&[7; 32]));
    let taken = post(&two.a, &envelope(&other, &control("w", 0, zone("paris"))));
    assert_eq!(taken.status, 200, "{}", taken.text);
    let partition = taken.json()["results"][0]["partition"].clone();
    let rejects = two
        .a
        .get(&format!("/v1/outputs/rejects?partition={partition}&wait_ms=30000"))
        .json();
    assert_eq!(
        rejects["outputs"][0]["rejected"]["reason"], "not_authorised",
        "{rejects}"
    );
    assert_eq!(two.a.get("/v1/accounts/paris/usage").status, 404);
}

#[test]
fn whoever_owns_nothing_is_ready_and_answers() {
    let (folder, kafka, prefix) = topics();
    let names: Vec<String> = (0..=PARTITIONS).map(|n| format!("i{n}")).collect();
    let all: Vec<Served> = names
        .iter()
        .map(|name| instance(&folder, &kafka, &prefix, name, &[]))
        .collect();
    within("all are ready", || {
        all.iter().all(|served| served.get("/readyz").status == 200)
    });
    let event = json!({"account_id": "acct-0", "call_id": "c", "phase": "ended", "source": "gw",
        "occurred_at": reckon::model::period::rfc3339(now_ms()), "end": {"cause": "completed"}})
    .to_string();
    let mut idle = 0;
    for served in &all {
        assert_eq!(served.post("/v1/events", "application/json", &event).status, 200);
        within("it answers", || served.get("/v1/accounts/acct-0/usage").status == 200);
        idle += usize::from(served.get("/readyz").json()["partitions"] == json!([]));
    }
    assert!(idle >= 1, "seven instances, six partitions");
}
