//! Pieces of the fold: `cargo bench --profile release`. The whole of it: `reckon bench fold`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use reckon::machine::clock::Source;
use reckon::machine::fold::{Advance, Machine, Record};
use reckon::wire::pb;
use reckon::wire::protobuf;
use reckon::wire::record::{Kind, decode};
use reckon::workload::dense::{Dense, START_MS};

const CALLS: u64 = 10_000;

fn records() -> Vec<(Vec<u8>, i64)> {
    let mut records = Vec::new();
    let dense = Dense {
        accounts: 1_000,
        ..Dense::default()
    };
    dense.write(0, CALLS, |bytes, at| records.push((bytes.to_vec(), at)));
    records
}

fn decoding(c: &mut Criterion) {
    let records = records();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("borrowing scan", |b| {
        b.iter(|| records.iter().filter(|r| protobuf::decode(&r.0).is_ok()).count());
    });
    group.bench_function("prost", |b| {
        b.iter(|| {
            records
                .iter()
                .filter(|r| pb::CallEvent::decode(r.0.as_slice()).is_ok())
                .count()
        });
    });
    group.finish();
}

fn machine(c: &mut Criterion) {
    let records = records();
    let mut group = c.benchmark_group("machine");
    group.sample_size(10);
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("decode and apply, nothing stored", |b| {
        b.iter(|| {
            let mut machine = Machine::new(0, 1, Source::Append, START_MS);
            let mut scratch = Vec::new();
            for (n, (bytes, at)) in records.iter().enumerate() {
                let record = Record {
                    offset: n as u64 + 1,
                    append_ms: *at,
                    bytes,
                    input: decode(Kind::Event, bytes, &mut scratch),
                    headers: reckon::wire::record::Headers::default(),
                };
                while machine.advance(&record) != Advance::Done {}
            }
            machine.counters.settled
        });
    });
    group.finish();
}

criterion_group!(benches, decoding, machine);
criterion_main!(benches);
