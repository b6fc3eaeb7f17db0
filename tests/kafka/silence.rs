//! Brokers that don't answer: whoever reads is told that nothing is known, and never that there is nothing.

use std::time::Duration;

use reckon::log::kafka::KafkaLog;
use reckon::log::{Batch, Log, LogError, NewRecord, fingerprint};
use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::wire::record::Kind;

use crate::broker::Broker;
use crate::fleet::{Fleet, eventually};
use crate::topics::Topics;

const WAIT: Duration = Duration::from_secs(60);

fn assert_interrupted<T: std::fmt::Debug>(result: Result<T, LogError>) {
    match result {
        Err(cause) if cause.is_interruption() => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn silence_is_no_answer() {
    let broker = Broker::start(1, &[]);
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let garbage = NewRecord::new(Kind::Event, vec![0xff; 12]);
    let receipts = topics.gateway().append(&[(0, &garbage)]).expect("appended");
    let offset = receipts[0].offset;
    let served = fleet.start("a");
    let log = KafkaLog::open(&topics.settings).expect("the log");
    let page = |after| log.read_outputs(0, Topic::Rejects, after, 10);
    let delivered = eventually("its reject", WAIT, || {
        Some(page(0).expect("a page")).filter(|page| page.len() == 1)
    });
    assert!(served.stop().success());
    let record = || log.record_at(0, offset);
    assert_eq!(record().expect("an answer"), Some(fingerprint(&garbage.bytes)));
    // The marker behind the genesis is no record, and behind the end there is none.
    assert_eq!(log.record_at(0, 1).expect("an answer"), None);
    let end = log.end(0).expect("its end");
    assert_eq!(log.record_at(0, end).expect("an answer"), None);
    // Further on than there are outputs: none, from where the last page ended and from nothing.
    for after in [1, 2, 100, 1_000_000] {
        assert_eq!(page(after).expect("a page"), [], "after {after}");
    }
    assert_eq!(page(0).expect("a page"), delivered);

    broker.stop_process(1);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_interrupted(record()));
        scope.spawn(|| assert_interrupted(page(1)));
        scope.spawn(|| {
            let mut batch = Batch::default();
            assert_interrupted(log.poll(0, 0, 1, &mut batch));
        });
    });
    broker.cont(1);
    assert_eq!(record().expect("an answer"), Some(fingerprint(&garbage.bytes)));
    assert_eq!(page(1).expect("a page"), []);
    log.leave();
}
