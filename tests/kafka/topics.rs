//! A log of a test's own on a broker: its topics, its operator, and what is written to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prost::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reckon::auditor::{Auditor, ClockSource, Entry, Findings};
use reckon::cli::audit::word;
use reckon::config::operator_key::OperatorKeyFile;
use reckon::log::kafka::publish::{ControlWriter, Publisher};
use reckon::log::kafka::{KafkaLog, KafkaSettings};
use reckon::log::placement::partition_of;
use reckon::log::{Batch, Log, NewRecord, Place, fingerprint};
use reckon::machine::authority::Authority;
use reckon::machine::clock::Source;
use reckon::machine::fold::{Advance, Machine, Record};
use reckon::machine::output::Output;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::record::{self, Kind};
use reckon::wire::signature::Signer;
use tempfile::TempDir;

use crate::served::reckon;

/// A log on a broker.
pub struct Topics {
    pub settings: KafkaSettings,
    pub signer: Signer,
    pub log_id: String,
    pub partitions: u32,
    folder: TempDir,
}

/// What one partition of the input says.
pub struct Folded {
    pub machine: Machine,
    pub outputs: Vec<Output>,
    pub findings: Findings,
    /// Fingerprints of all records by their offsets.
    pub records: BTreeMap<u64, u64>,
}

impl Topics {
    /// Makes topics and genesis as an operator does.
    pub fn create(bootstrap: &str, partitions: u32, source: Source, replication: u32) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("t{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("operator");
        let key_text = key.to_str().expect("a path");
        reckon(&["keygen", "--out", key_text]);
        let (partitions_text, replication) = (partitions.to_string(), replication.to_string());
        let made = reckon(&[
            "--json",
            "topics",
            "create",
            "--kafka",
            bootstrap,
            "--topic-prefix",
            &prefix,
            "--key",
            key_text,
            "--partitions",
            &partitions_text,
            "--replication",
            &replication,
            "--clock",
            source.as_str(),
        ]);
        let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
        Self {
            settings: KafkaSettings {
                bootstrap: bootstrap.to_owned(),
                prefix,
                ..KafkaSettings::default()
            },
            signer: OperatorKeyFile::new(key).load().expect("the key"),
            log_id: made["log_id"].as_str().expect("an id").to_owned(),
            partitions,
            folder,
        }
    }

    /// The operator's private key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("operator")
    }

    /// The arguments by which `reckon serve` finds it.
    pub fn arguments(&self) -> Vec<String> {
        [
            "--kafka",
            &self.settings.bootstrap,
            "--topic-prefix",
            &self.settings.prefix,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Whoever writes control records and ticks.
    pub fn operator(&self) -> ControlWriter {
        ControlWriter::take_over(&self.settings).expect("the operator's producer")
    }

    /// Whoever writes events.
    pub fn gateway(&self) -> Publisher {
        Publisher::new(&self.settings).expect("a producer")
    }

    /// A record of the operator's, signed.
    pub fn signed(&self, kind: Kind, bytes: Vec<u8>) -> NewRecord {
        NewRecord {
            signature: Some(self.signer.sign(&self.log_id, &bytes)),
            ..NewRecord::new(kind, bytes)
        }
    }

    /// A tick for every partition.
    pub fn tick(&self, at: i64) -> (Place, NewRecord) {
        let tick = pb::Tick {
            at: Some(timestamp(at)),
        };
        (Place::All, self.signed(Kind::Tick, tick.encode_to_vec()))
    }

    /// A control record, in its place.
    pub fn control(&self, control: &pb::Control, issued_ms: i64) -> (Place, NewRecord) {
        let mut control = control.clone();
        control.issued_at.get_or_insert(timestamp(issued_ms));
        let place = reckon::log::appender::place_of_control(&control, self.partitions);
        (place, self.signed(Kind::Control, control.encode_to_vec()))
    }

    /// Folds and audits every partition as the log stands now, in this process and in memory.
    pub fn fold(&self) -> Vec<Folded> {
        let log = KafkaLog::open(&self.settings).expect("the log");
        let folded = (0..self.partitions).map(|p| self.fold_one(&log, p)).collect();
        log.leave();
        folded
    }

    fn fold_one(&self, log: &KafkaLog, partition: u32) -> Folded {
        let mut batch = Batch::default();
        log.poll(partition, 0, usize::MAX, &mut batch).expect("records");
        let genesis = batch.get(0).expect("a genesis");
        let keys = pb::Genesis::decode(genesis.bytes).expect("a genesis").keys;
        let source = log.identity().source;
        let mut machine = Machine::new(partition, self.partitions, source, genesis.append_ms);
        machine.authority = Authority::of_genesis(&pb::Genesis::decode(genesis.bytes).expect("a genesis"));
        machine.outputs.calls_on = true;
        let mut auditor = Auditor::new(
            match source {
                Source::Append => ClockSource::Append,
                Source::Ticks => ClockSource::Ticks,
            },
            genesis.append_ms,
        );
        auditor.placed(partition, self.partitions);
        auditor.signed(&self.log_id, &keys);
        let mut scratch = Vec::new();
        for polled in batch.iter().skip(1) {
            let record = Record {
                offset: polled.offset,
                append_ms: polled.append_ms,
                bytes: polled.bytes,
                headers: polled.headers,
                input: record::decode(polled.kind, polled.bytes, &mut scratch),
            };
            while machine.advance(&record) != Advance::Done {}
            while machine.settle_down() != Advance::Done {}
            auditor.take(&Entry {
                offset: polled.offset,
                append_ms: polled.append_ms,
                word: word(polled.kind, polled.bytes),
                bytes: polled.bytes,
                signature: polled.headers.signature,
                forwarded: polled.headers.forwarded.map(|first| first.append_ms),
            });
        }
        let (outputs, _) = machine.outputs.take();
        Folded {
            records: batch.iter().map(|r| (r.offset, fingerprint(r.bytes))).collect(),
            machine,
            outputs,
            findings: auditor.findings(),
        }
    }

    /// A plain consumer, for looking at topics as anybody does.
    pub fn consumer(&self, isolation: &str) -> BaseConsumer {
        rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &self.settings.bootstrap)
            .set("group.id", "looking")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .set("auto.offset.reset", "earliest")
            // The end of a partition is told by a fetch that brings nothing.
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer")
    }

    /// The offset after the last record of an input partition.
    pub fn end(&self, partition: u32) -> u64 {
        let events = self.settings.events();
        let ends = self
            .consumer("read_committed")
            .fetch_watermarks(&events, partition as i32, Duration::from_secs(20))
            .expect("its end");
        ends.1 as u64
    }
}

/// An account's name that lives in a partition.
pub fn living_in(account: &str, partition: u32, count: u32) -> String {
    // Without a name it is nobody's, and rejected where it is found.
    if account.is_empty() {
        return String::new();
    }
    (0..u32::MAX)
        .map(|n| {
            let tail = format!("~{n}");
            // What is too long stays so, and what is just not too long.
            let kept = account.len().min(account.len().max(100) - tail.len());
            format!("{}{tail}", &account[..kept])
        })
        .find(|name| partition_of(name, count) == partition)
        .expect("there is one")
}
