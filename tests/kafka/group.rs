//! The group's offset of a partition: it says which forwards are known to be durable, and never goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use reckon::log::kafka::KafkaLog;
use reckon::log::kafka::group::Ownership;
use reckon::log::{Log, LogError};
use reckon::machine::clock::Source;

use crate::broker::shared;
use crate::fleet::eventually;
use crate::topics::Topics;

struct Owning;

impl Ownership for Owning {
    fn assigned(&self, _: &[u32]) {}
    fn revoked(&self, _: &[u32]) {}
    fn expelled(&self, cause: LogError) {
        panic!("{cause}");
    }
}

#[test]
fn asking_the_group_who_owns_a_partition_takes_nothing_back() {
    let topics = Topics::create(&shared().bootstrap(), 1, Source::Ticks, 1);
    let log = Arc::new(KafkaLog::open(&topics.settings).expect("the log"));
    log.join(Arc::new(Owning)).expect("joined");
    let wait = Duration::from_secs(60);
    eventually("the partition is ours", wait, || {
        log.member().is_some_and(|member| member.owns(0)).then_some(())
    });
    let looking: BaseConsumer = topics.settings.reader().create().expect("a consumer");
    let events = topics.settings.events();
    let committed = || {
        let mut list = TopicPartitionList::new();
        list.add_partition(&events, 0);
        let found = looking.committed_offsets(list, wait).expect("an answer");
        match found.find_partition(&events, 0).map(|e| e.offset()) {
            Some(Offset::Offset(offset)) => offset as u64,
            other => panic!("{other:?}"),
        }
    };
    // Whoever was held up asks again and again, beside the fold.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !over.load(Ordering::Acquire) {
                assert!(log.confirms_all());
                asked += 1;
            }
            asked
        });
        for below in 1..=300 {
            log.acknowledge(0, below).expect("acknowledged");
            let found = committed();
            if found != below {
                over.store(true, Ordering::Release);
            }
            assert_eq!(found, below);
        }
        over.store(true, Ordering::Release);
        assert!(asking.join().expect("asked") > 10);
    });
    log.leave();
}
