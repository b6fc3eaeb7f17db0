//! A gateway's credentials, with which anything can be written into the input: nothing but events comes of it.

use std::time::Duration;

use prost::Message;
use reckon::log::NewRecord;
use reckon::machine::clock::Source;
use reckon::wire::check::timestamp;
use reckon::wire::key_pair::KeyPair;
use reckon::wire::pb::{self, control::Body as ControlBody};
use reckon::wire::record::{Forwarded, Kind};
use reckon::wire::signature::Signer;

use crate::broker;
use crate::fleet::{Fleet, ready};
use crate::outputs::agree;
use crate::shelf::{OWED, SharedLog, Shelf};
use crate::topics::{Topics, living_in};

/// What whoever holds a gateway's credentials would like.
const WISHES: [&str; 7] = [
    "10 13:00:00 card from=2026-09-01T00:00:00Z price=m-large/output_tokens/:0/1000000",
    "10 13:00:00 policy bill_unproven=false close_grace=1h",
    "10 13:00:00 profile zone=Asia/Tokyo currency=EUR",
    "10 13:00:00 correct waive reason=wished",
    "10 13:00:00 hold 2026-09",
    "10 13:00:00 hold 2026-09 account=acme",
    "10 13:00:00 profile account=gone zone=Asia/Tokyo currency=EUR",
];

/// A control record by which a key becomes an operator's.
fn own_key(signer: &Signer, version: u64) -> Vec<u8> {
    pb::Control {
        id: "own-key".to_owned(),
        control_version: version,
        issued_at: Some(timestamp(1_789_000_000_000)),
        actor: "kim@ops".to_owned(),
        body: Some(ControlBody::OperatorKeys(pb::OperatorKeys {
            add: vec![signer.operator_key()],
            ..pb::OperatorKeys::default()
        })),
    }
    .encode_to_vec()
}

/// The same record, with every signature that one without the operator's key comes by.
fn forgeries(topics: &Topics, other: &Topics, bytes: &[u8]) -> Vec<NewRecord> {
    let with = |signature: Option<String>| NewRecord {
        signature,
        ..NewRecord::new(Kind::Control, bytes.to_vec())
    };
    let pair = || KeyPair::from_secret(&[9; 32]);
    let own = topics.signer.key_id();
    // A good signature of another value.
    let mut altered = pb::Control::decode(bytes).expect("a control record");
    altered.id.push('x');
    vec![
        with(None),
        with(Some("not a signature".to_owned())),
        with(Some(Signer::new(own, pair()).sign(&topics.log_id, bytes))),
        with(Some(Signer::new("another", pair()).sign(&topics.log_id, bytes))),
        with(Some(topics.signer.sign(&topics.log_id, &altered.encode_to_vec()))),
        // Good in another log, of the same operator and of another.
        with(Some(topics.signer.sign(&other.log_id, bytes))),
        with(Some(other.signer.sign(&other.log_id, bytes))),
    ]
}

#[test]
fn a_gateways_credentials_change_no_price_no_profile_and_no_close() {
    let bootstrap = broker::shared().bootstrap();
    let topics = Topics::create(&bootstrap, 2, Source::Ticks, 1);
    let other = Topics::create(&bootstrap, 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("one");
    ready(&served, Duration::from_secs(60));
    let log = SharedLog::new(&topics, &served);
    let mut shelf = Shelf::new(&log, 0);
    shelf.holds(OWED);

    let mut wishes: Vec<Vec<u8>> = Vec::new();
    for wish in WISHES {
        wishes.extend(shelf.records(wish).expect("records").into_iter().map(|r| r.bytes));
    }
    assert_eq!(wishes.len(), WISHES.len());
    wishes.push(own_key(&Signer::new("another", KeyPair::from_secret(&[9; 32])), 2));
    let mut forged = Vec::new();
    for bytes in &wishes {
        for record in forgeries(&topics, &other, bytes) {
            forged.push(shelf.gateway(&record).expect("appended"));
        }
    }
    // A tick that closes the month, unsigned and signed for another log.
    let mut tick = shelf.records("2026-10-20T00:00:00Z tick").expect("records").remove(0);
    tick.signature = None;
    forged.push(shelf.gateway(&tick).expect("appended"));
    tick.signature = Some(topics.signer.sign(&other.log_id, &tick.bytes));
    forged.push(shelf.gateway(&tick).expect("appended"));
    for offset in &forged {
        assert_eq!(
            shelf.reason(*offset).as_deref(),
            Ok("not_authorised"),
            "offset {offset}"
        );
    }
    println!("{} forgeries", forged.len());
    shelf.holds("=> no statement 2026-09\n=> success completed billed product=m-large output_tokens=1000000");

    // What the operator said once is not said again by repeating it.
    let said =
        shelf.records("20 12:00:00 hold 2026-09 account=acme id=h1\n20 12:00:01 correct waive reason=outage id=w1");
    let said = said.expect("records");
    for record in &said {
        let offset = shelf.gateway(record).expect("appended");
        assert_eq!(shelf.reason(offset).as_deref(), Ok(""));
    }
    shelf.holds("=> failed operator_waived unbilled output_tokens=1000000 product=m-large");
    // A version that nobody has used up is the next one.
    shelf.holds(
        "21 12:00:00 release 2026-09 account=acme id=r1
         21 12:00:01 correct bill reason=no_outage id=b1
         => success operator_billed billed output_tokens=1000000 product=m-large
         21 12:00:02 policy call_deadline=10m id=p1
         => accepted",
    );
    for record in &said {
        let offset = shelf.gateway(record).expect("appended");
        assert_eq!(shelf.reason(offset).as_deref(), Ok(""), "ignored");
    }
    shelf.holds(
        "=> success operator_billed billed output_tokens=1000000 product=m-large
         2026-10-20T00:00:00Z tick
         => statement 2026-09 total=15.00 lines=1",
    );

    // One that says it was forwarded, where its account doesn't live.
    let event = pb::CallEvent {
        account_id: living_in("eve", 1, 2),
        call_id: "c".to_owned(),
        ..pb::CallEvent::default()
    };
    let misplaced = NewRecord {
        forwarded: Some(Forwarded {
            partition: 0,
            offset: 1,
            append_ms: 0,
        }),
        ..NewRecord::new(Kind::Event, event.encode_to_vec())
    };
    let offset = shelf.gateway(&misplaced).expect("appended");
    assert_eq!(shelf.reason(offset).as_deref(), Ok("wrong_partition"));
    agree(&topics);
}
