//! Workloads folded by the machine alone, and audited beside it.

use prost::Message;
use reckon::auditor::{Auditor, ClockSource, Entry, Findings, Word};
use reckon::log::placement::partition_of;
use reckon::machine::clock::Source;
use reckon::machine::fold::{Advance, Machine, Record};
use reckon::machine::output::Output;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::record::{self, Kind};
use reckon::workload::{Step, What};

/// One record of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Entered {
    pub append_ms: i64,
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

/// A workload's records for one of `count` partitions, in log order.
pub fn entries(steps: &[Step], partition: u32, count: u32) -> Vec<Entered> {
    let mut entries = Vec::new();
    let mut push = |append_ms, kind, bytes| entries.push(Entered { append_ms, kind, bytes });
    for step in steps {
        match &step.what {
            What::Tick => {
                let tick = pb::Tick {
                    at: Some(timestamp(step.at_ms)),
                };
                push(step.at_ms, Kind::Tick, tick.encode_to_vec());
            }
            What::Event(event) => {
                if partition_of(&event.account_id, count) == partition {
                    push(step.at_ms, Kind::Event, event.encode_to_vec());
                }
            }
            What::Control(control) => {
                let own = reckon::machine::control::account_of(control).map(|a| partition_of(a, count));
                if own.is_none_or(|p| p == partition) {
                    push(step.at_ms, Kind::Control, control.encode_to_vec());
                }
            }
        }
    }
    entries
}

/// Folds one record.
pub fn fold(machine: &mut Machine, entry: &Entered, scratch: &mut Vec<u8>) {
    let record = Record {
        offset: machine.position.next_offset,
        append_ms: entry.append_ms,
        bytes: &entry.bytes,
        input: record::decode(entry.kind, &entry.bytes, scratch),
        headers: reckon::wire::record::Headers::default(),
    };
    while machine.advance(&record) != Advance::Done {}
    while machine.settle_down() != Advance::Done {}
}

/// Folds everything in memory.
pub fn folded(entries: &[Entered], source: Source) -> (Machine, Vec<Output>) {
    let genesis_ms = entries.first().map_or(0, |e| e.append_ms);
    let mut machine = Machine::new(0, 1, source, genesis_ms);
    machine.outputs.calls_on = true;
    let mut scratch = Vec::new();
    entries.iter().for_each(|e| fold(&mut machine, e, &mut scratch));
    let (outputs, _) = machine.outputs.take();
    (machine, outputs)
}

/// Audits everything.
pub fn audited(entries: &[Entered], source: Source) -> Findings {
    let genesis_ms = entries.first().map_or(0, |e| e.append_ms);
    let source = match source {
        Source::Append => ClockSource::Append,
        Source::Ticks => ClockSource::Ticks,
    };
    let mut auditor = Auditor::new(source, genesis_ms);
    for (n, entry) in entries.iter().enumerate() {
        let bytes = entry.bytes.as_slice();
        let word = match entry.kind {
            Kind::Event => pb::CallEvent::decode(bytes).map_or(Word::Unreadable, Word::Event),
            Kind::Control => pb::Control::decode(bytes).map_or(Word::Unreadable, Word::Control),
            Kind::Tick => pb::Tick::decode(bytes)
                .ok()
                .and_then(|t| t.at)
                .map_or(Word::Unreadable, |at| Word::Tick(reckon::wire::check::instant_ms(&at))),
            Kind::Genesis => Word::Unreadable,
        };
        auditor.take(&Entry::new(n as u64 + 1, entry.append_ms, word));
    }
    auditor.findings()
}
