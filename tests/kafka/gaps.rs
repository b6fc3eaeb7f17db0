//! What a partition holds besides records, or where one was: transactions' markers, what was taken back, tombstones, nothing.

use std::time::Duration;

use prost::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reckon::log::NewRecord;
use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::wire::pb;
use reckon::wire::record::Kind;

use crate::broker;
use crate::fleet::{Fleet, ready};
use crate::outputs::agree;
use crate::shelf::{OWED, SharedLog, Shelf};
use crate::topics::Topics;

/// A producer of transactions, of a gateway's.
fn transactions(topics: &Topics, id: &str) -> BaseProducer {
    let producer: BaseProducer = topics.settings.transactional(id).create().expect("a producer");
    producer.init_transactions(Duration::from_secs(30)).expect("taken over");
    producer
}

fn send(producer: &BaseProducer, topics: &Topics, partition: u32, bytes: Option<&[u8]>) {
    let topic = topics.settings.events();
    let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&topic).partition(partition as i32).key("acme");
    if let Some(bytes) = bytes {
        record = record.payload(bytes);
    }
    producer.send(record).map_err(|(cause, _)| cause).expect("room");
}

#[test]
fn what_else_a_partition_holds_is_passed_over() {
    let wait = Duration::from_secs(30);
    let topics = Topics::create(&broker::shared().bootstrap(), 3, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("one");
    ready(&served, Duration::from_secs(60));
    let log = SharedLog::new(&topics, &served);
    let mut shelf = Shelf::new(&log, 0);
    shelf.holds(OWED);
    let (first, second) = (transactions(&topics, "gateway-1"), transactions(&topics, "gateway-2"));
    let mut tombstones = 0;
    for n in 0..20 {
        let event = |shelf: &mut Shelf<'_>, call: &str| {
            let line = format!("10 13:00:00 ended completed product=m-large output_tokens=1000 call={call}-{n}");
            shelf.records(&line).expect("records").remove(0).bytes
        };
        let (aborted, committed, plain) = (
            event(&mut shelf, "aborted"),
            event(&mut shelf, "committed"),
            event(&mut shelf, "plain"),
        );
        // All at once: what is taken back lies between what counts.
        first.begin_transaction().expect("begun");
        send(&first, &topics, 0, Some(&aborted));
        first.flush(wait).expect("written");
        second.begin_transaction().expect("begun");
        send(&second, &topics, 0, Some(&committed));
        second.flush(wait).expect("written");
        shelf.gateway(&NewRecord::new(Kind::Event, plain)).expect("appended");
        second.commit_transaction(wait).expect("committed");
        first.abort_transaction(wait).expect("aborted");
        if n % 5 == 0 {
            second.begin_transaction().expect("begun");
            send(&second, &topics, 0, None);
            second.commit_transaction(wait).expect("committed");
            tombstones += 1;
        }
    }
    // The last record is one whose offset is known.
    shelf.holds(
        "10 14:00:00 tick
         => unknown call=aborted-0
         => unknown call=aborted-19
         => success completed billed product=m-large output_tokens=1000 call=committed-0
         => success completed billed product=m-large output_tokens=1000 call=plain-19
         => usage 2026-09 success output_tokens=1040000 requests=41",
    );
    // Nothing was ever in one of the partitions but ticks.
    let mut empty = Shelf::new(&log, 2);
    empty.holds("10 14:00:00 tick\n2026-10-20T00:00:01Z tick\n=> control 2026-09 accounts=0");
    shelf.holds("2026-10-20T00:00:01Z tick\n=> statement 2026-09 total=15.60 lines=1\n=> control 2026-09 accounts=1");
    let rejects = crate::outputs::read(&topics, Topic::Rejects, "read_committed");
    let reasons: Vec<String> = rejects[&0]
        .iter()
        .map(|seen| pb::Rejected::decode(seen.body.as_slice()).expect("a reject").reason)
        .filter(|reason| reason != "bad_version")
        .collect();
    assert_eq!(reasons, vec!["missing_field"; tombstones]);
    agree(&topics);
}
