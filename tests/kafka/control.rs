//! `reckon control publish` while nobody folds: what counts in the log is what an operator has signed.

use std::time::Duration;

use prost::Message;
use rdkafka::Offset;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reckon::log::{NewRecord, Place};
use reckon::machine::clock::Source;
use reckon::wire::check::timestamp;
use reckon::wire::key_pair::KeyPair;
use reckon::wire::pb::{self, control::Body};
use reckon::wire::record::Kind;
use reckon::wire::signature::Signer;
use serde_json::{Value, json};

use crate::broker::shared;
use crate::fleet::{Fleet, eventually, ready};
use crate::refused::Admin;
use crate::served::reckon;
use crate::topics::Topics;

const PARTITIONS: u32 = 3;

fn month() -> String {
    chrono::Utc::now().format("%Y-%m").to_string()
}

/// Publishes records; what it said of them: written, skipped, version.
fn publish(topics: &Topics, records: &[Value]) -> (u64, u64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("records.ndjson");
    let lines: Vec<String> = records.iter().map(|r| json!({"control": r}).to_string()).collect();
    std::fs::write(&file, lines.join("\n")).expect("written");
    let key = topics.key();
    let paths = [&file, &key].map(|path| path.to_str().expect("a path"));
    let mut args = vec!["--json", "control", "publish", paths[0], "--key", paths[1]];
    let place = topics.arguments();
    args.extend(place.iter().map(String::as_str));
    let said: Value = serde_json::from_str(&reckon(&args)).expect("JSON");
    let of = |name: &str| said[name].as_u64().expect("a number");
    (of("written"), of("skipped"), of("control_version"))
}

fn hold(id: &str) -> Value {
    json!({"id": id, "hold_close": {"period": month()}})
}

fn release(id: &str) -> Value {
    json!({"id": id, "release_close": {"period": month()}})
}

#[test]
fn a_transaction_that_fails_keeps_nobody_back() {
    let topics = Topics::create(&shared().bootstrap(), 1, Source::Ticks, 1);
    let operator = topics.operator();
    // More than a producer takes, behind one that it does.
    let records = [
        topics.tick(1_790_000_000_000),
        (Place::One(0), NewRecord::new(Kind::Control, vec![0; 64 << 20])),
    ];
    operator.append(&records, 1).expect_err("it is too large");
    let event = NewRecord::new(Kind::Event, b"no event".to_vec());
    let receipts = topics.gateway().append(&[(0, &event)]).expect("appended");
    // The brokers would end it by themselves in half a minute.
    eventually("it can be read", Duration::from_secs(10), || {
        (topics.end(0) > receipts[0].offset).then_some(())
    });
    drop(operator);
}

#[test]
fn what_stands_behind_an_open_transaction_is_in_the_log_too() {
    let topics = Topics::create(&shared().bootstrap(), 1, Source::Append, 1);
    let rival: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &topics.settings.bootstrap)
        .set("transactional.id", format!("{}-rival", topics.settings.prefix))
        .create()
        .expect("a producer");
    let wait = Duration::from_secs(30);
    rival.init_transactions(wait).expect("initialised");
    rival.begin_transaction().expect("begun");
    let events = topics.settings.events();
    let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&events).partition(0).payload(&b"open"[..]);
    rival.send(record).map_err(|(e, _)| e).expect("sent");
    rival.flush(wait).expect("written");
    let control = pb::Control {
        id: "held".to_owned(),
        control_version: 1,
        body: Some(Body::HoldClose(pb::HoldClose {
            period: month(),
            account_id: String::new(),
        })),
        ..pb::Control::default()
    };
    let record = topics.control(&control, chrono::Utc::now().timestamp_millis());
    topics.operator().append(&[record], 1).expect("appended");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // For so long nobody may read what the operator has written.
            std::thread::sleep(Duration::from_secs(5));
            rival.commit_transaction(wait).expect("committed");
        });
        assert_eq!(publish(&topics, &[hold("held"), hold("next")]), (1, 1, 2));
    });
}

#[test]
fn what_a_gateway_writes_stands_in_no_operators_way() {
    let topics = Topics::create(&shared().bootstrap(), PARTITIONS, Source::Append, 1);
    // Nobody serves: so nothing of this is among the rejects.
    let wish = pb::Control {
        id: "prices-2026-10".to_owned(),
        control_version: 1_000_000_000_000,
        issued_at: Some(timestamp(chrono::Utc::now().timestamp_millis())),
        body: Some(Body::HoldClose(pb::HoldClose {
            period: "2026-10".to_owned(),
            account_id: String::new(),
        })),
        ..pb::Control::default()
    }
    .encode_to_vec();
    let other = Signer::new(topics.signer.key_id(), KeyPair::from_secret(&[9; 32]));
    for signature in [None, Some(other.sign(&topics.log_id, &wish))] {
        let record = NewRecord {
            signature,
            ..NewRecord::new(Kind::Control, wish.clone())
        };
        let everywhere: Vec<(u32, &NewRecord)> = (0..PARTITIONS).map(|p| (p, &record)).collect();
        topics.gateway().append(&everywhere).expect("appended");
    }
    assert_eq!(publish(&topics, &[hold("prices-2026-10")]), (1, 0, 1));
    // Again, and with one that stands twice in the file.
    let (first, second) = (hold("prices-2026-10"), release("second"));
    assert_eq!(
        publish(&topics, &[first, second.clone(), second, hold("third")]),
        (2, 2, 3)
    );
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("a");
    ready(&served, Duration::from_secs(60));
    let held = || {
        let period = served.get(&format!("/v1/periods/{}", month())).json();
        (period["held_for_everyone"] == true).then_some(())
    };
    eventually("the operator's last word holds", Duration::from_secs(30), held);
    // All three count, so the fourth is the next one for the fold too.
    assert_eq!(publish(&topics, &[release("fourth")]), (1, 0, 4));
    eventually("and the next one", Duration::from_secs(30), || {
        let period = served.get(&format!("/v1/periods/{}", month())).json();
        (period["held_for_everyone"] == false).then_some(())
    });
    // Retention has taken a partition's beginning.
    let admin = Admin::of(&topics.settings.bootstrap);
    admin.remove(&topics.settings.events(), 1, Offset::Offset(topics.end(1) as i64));
    assert_eq!(publish(&topics, &[release("fourth"), hold("fifth")]), (1, 1, 5));
    eventually("and one more", Duration::from_secs(30), held);
    assert!(served.stop().success());
}
