//! A producer that the brokers don't go on with: another takes its place.

use reckon::log::NewRecord;
use reckon::machine::clock::Source;
use reckon::wire::record::Kind;

use crate::broker::Broker;
use crate::refused::cut;
use crate::topics::Topics;

#[test]
fn a_producer_that_has_failed_for_good_is_replaced() {
    let broker = Broker::start(1, &[]);
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let gateway = topics.gateway();
    let append = |text: &str| {
        let record = NewRecord::new(Kind::Event, text.as_bytes().to_vec());
        gateway.append(&[(0, &record)]).map(|receipts| receipts[0].offset)
    };
    for text in ["first", "second", "third"] {
        append(text).expect("appended");
    }
    // The broker loses what it has acknowledged, and with it the producer's last sequence.
    broker.kill(1);
    cut(&broker, &topics.settings.events(), 0, 1);
    broker.start_all();
    let refused = append("fourth").expect_err("a sequence that doesn't follow");
    println!("{refused}");
    let offset = append("fifth").expect("by another producer");
    assert!(append("sixth").expect("and on") > offset);
}
