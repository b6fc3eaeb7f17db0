//! Partitions that are assigned again and again while records come: none is skipped.

use std::time::Duration;

use reckon::log::kafka::KafkaLog;
use reckon::log::{Batch, Log, NewRecord};
use reckon::machine::clock::Source;
use reckon::wire::record::Kind;

use crate::broker::shared;
use crate::topics::Topics;

const PARTITIONS: u32 = 4;

/// Records of each partition: their offsets have no gap, for no transaction writes among them.
const RECORDS: usize = 20_000;

#[test]
fn whoever_is_assigned_anew_is_given_the_very_next_record() {
    let topics = Topics::create(&shared().bootstrap(), PARTITIONS, Source::Ticks, 1);
    let gateway = topics.gateway();
    let record = NewRecord::new(Kind::Event, vec![7; 100]);
    let mut first = [u64::MAX; PARTITIONS as usize];
    for _ in 0..RECORDS / 1_000 {
        let records = (0..1_000).flat_map(|_| (0..PARTITIONS).map(|p| (p, &record)));
        let receipts = gateway.append(&records.collect::<Vec<_>>()).expect("acknowledged");
        for receipt in receipts {
            let first = &mut first[receipt.partition as usize];
            *first = (*first).min(receipt.offset);
        }
    }
    let log = KafkaLog::open(&topics.settings).expect("the log");
    // Two are fetched all the time, so that the client is never idle; two are assigned anew.
    let mut batch = Batch::default();
    for round in 0..100u64 {
        for partition in [0, 1] {
            if round % 20 == 0 {
                log.follow(partition, first[partition as usize]).expect("assigned");
            }
            log.poll(partition, 0, 0, &mut batch).expect("polled");
        }
        for partition in [2, 3] {
            // Forth and back: what an assignment left in the client's queue is far from what the next one wants.
            let from = first[partition as usize] + (round * 7_919) % (RECORDS as u64 - 2_000);
            log.follow(partition, from).expect("assigned");
            let mut next = from;
            while next < from + 1_000 {
                let there = log.wait(partition, next, Duration::from_secs(20)).expect("waited");
                assert!(there, "partition {partition} gives nothing from {next} on");
                log.poll(partition, next, 0, &mut batch).expect("polled");
                for polled in batch.iter() {
                    assert_eq!(polled.offset, next, "round {round}, partition {partition}, from {from}");
                    next += 1;
                }
                if round % 3 == 0 {
                    break;
                }
            }
        }
    }
    log.leave();
}
