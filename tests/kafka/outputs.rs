//! Output topics as consumers see them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use reckon::machine::output::{Output, Topic};

use crate::comparing::compare;
use crate::fleet::eventually;
use crate::topics::{Folded, Topics};

/// One record of an output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: i64,
    pub sequence: u64,
    pub chain: u128,
    pub id: String,
    pub body: Vec<u8>,
}

impl Seen {
    /// Whether it is that output: same chain, same body but for the sequence at its end.
    pub fn is(&self, output: &Output) -> bool {
        self.sequence == output.sequence && self.chain == output.chain && self.body.starts_with(&output.body)
    }
}

/// Every record of an output topic, by partition, in the order of offsets; barriers left aside.
pub fn read(topics: &Topics, topic: Topic, isolation: &str) -> BTreeMap<u32, Vec<Seen>> {
    let name = topics.settings.output(topic);
    let consumer = topics.consumer(isolation);
    let mut list = TopicPartitionList::new();
    for partition in 0..topics.partitions {
        list.add_partition_offset(&name, partition as i32, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    let mut seen: BTreeMap<u32, Vec<Seen>> = (0..topics.partitions).map(|p| (p, Vec::new())).collect();
    let mut open = topics.partitions;
    let until = Instant::now() + Duration::from_secs(120);
    while open > 0 {
        assert!(Instant::now() < until, "{name} has no end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(_)) | None => {}
            Some(Ok(message)) => {
                let mut headers = BTreeMap::new();
                if let Some(all) = message.headers() {
                    for header in all.iter() {
                        let value = header.value.unwrap_or_default();
                        headers.insert(header.key.to_owned(), String::from_utf8_lossy(value).into_owned());
                    }
                }
                if headers.contains_key("reckon-barrier") {
                    continue;
                }
                let header = |name: &str| headers.get(name).cloned().expect("a header");
                seen.entry(message.partition() as u32).or_default().push(Seen {
                    offset: message.offset(),
                    sequence: header("reckon-sequence").parse().expect("a number"),
                    chain: u128::from_str_radix(&header("reckon-chain"), 16).expect("hex"),
                    id: header("reckon-id"),
                    body: message.payload().unwrap_or_default().to_vec(),
                });
            }
        }
    }
    seen
}

/// What a consumer keeps that can't use `read_committed`: one integer a partition, and takes exactly the next sequence.
pub fn next_only(seen: &[Seen]) -> Vec<Seen> {
    let mut taken: Vec<Seen> = Vec::new();
    for one in seen {
        if one.sequence == taken.len() as u64 + 1 {
            taken.push(one.clone());
        }
    }
    taken
}

/// What a read-committed reader of a topic sees, beside what the log leads to.
pub fn same(topic: Topic, seen: &BTreeMap<u32, Vec<Seen>>, folded: &[Folded]) -> Result<(), String> {
    for (partition, folded) in folded.iter().enumerate() {
        let expected: Vec<&Output> = folded.outputs.iter().filter(|o| o.topic == topic).collect();
        let found = &seen[&(partition as u32)];
        let place = format!("{} of partition {partition}", topic.as_str());
        for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
            if !found.is(expected) {
                return Err(format!(
                    "{place}: the {}th is {} (sequence {}), expected sequence {}",
                    n + 1,
                    found.id,
                    found.sequence,
                    expected.sequence
                ));
            }
        }
        if found.len() != expected.len() {
            return Err(format!("{place}: {} of {} are delivered", found.len(), expected.len()));
        }
    }
    Ok(())
}

/// Waits until a topic has exactly what the log leads to, and returns what a `read_committed` reader sees.
pub fn delivered(topics: &Topics, topic: Topic, folded: &[Folded], within: Duration) -> BTreeMap<u32, Vec<Seen>> {
    let began = Instant::now();
    let mut last = String::new();
    eventually(&format!("{} all delivered", topic.as_str()), within, || {
        let seen = read(topics, topic, "read_committed");
        match same(topic, &seen, folded) {
            Ok(()) => Some(seen),
            Err(what) => {
                if what != last {
                    eprintln!("after {:?}: {what}", began.elapsed());
                    last = what;
                }
                None
            }
        }
    })
}

/// Waits until every output that the log leads to is delivered: once for a `read_committed` reader, and in order for one that
/// takes exactly the next sequence.
pub fn all_delivered(topics: &Topics, folded: &[Folded], within: Duration) {
    for topic in Topic::ALL {
        let seen = delivered(topics, topic, folded, within);
        // Who can't use read_committed takes exactly the next sequence.
        let all = read(topics, topic, "read_uncommitted");
        for (partition, seen) in seen {
            let taken = next_only(&all[&partition]);
            assert_eq!(taken.len(), seen.len(), "{} of partition {partition}", topic.as_str());
            for (taken, seen) in taken.iter().zip(&seen) {
                assert_eq!((taken.sequence, &taken.body), (seen.sequence, &seen.body));
            }
        }
    }
}

/// What is delivered is what the log leads to, and what the auditor makes of it.
pub fn agree(topics: &Topics) {
    let folded = topics.fold();
    all_delivered(topics, &folded, Duration::from_secs(60));
    for one in &folded {
        assert_eq!(compare(&one.machine, &one.outputs, &one.findings), None);
    }
}
