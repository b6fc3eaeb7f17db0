//! What an open call takes in memory.

use prost::Message;

use super::CliError;
use crate::machine::clock::Source;
use crate::machine::fold::{Machine, Record};
use crate::wire::pb;
use crate::wire::record::{Headers, Kind, decode};
use crate::workload::dense::START_MS;

/// Calls of the measurement: enough for tables to be as full as they get on the mean of two doublings.
const CALLS: u64 = 200_000;

/// What the edge and the upstream have said of a call that is open still: it has started, and the upstream has ended it with
/// three quantities.
fn events(call: u64) -> [pb::CallEvent; 2] {
    let begun = pb::CallEvent {
        account_id: format!("acct-{:05}", call % 10_000),
        call_id: format!("0192f3a4-7b6c-7def-8123-{call:012x}"),
        phase: pb::Phase::Started as i32,
        observer: pb::Observer::Edge as i32,
        occurred_at: Some(crate::wire::check::timestamp(START_MS)),
        attempt: 1,
        product: "m-large".to_owned(),
        ..Default::default()
    };
    let usage = ["input_tokens_uncached", "cache_read_tokens", "output_tokens"].map(|meter| pb::Quantity {
        meter: meter.to_owned(),
        value: 412,
        provenance: pb::Provenance::UpstreamMeasured as i32,
        ..Default::default()
    });
    let ended = pb::CallEvent {
        phase: pb::Phase::AttemptEnded as i32,
        observer: pb::Observer::Upstream as i32,
        end: Some(pb::Termination {
            cause: pb::Cause::Completed as i32,
            progress: pb::Progress::Complete as i32,
            client_status: 200,
            ..Default::default()
        }),
        usage: usage.into(),
        ..begun.clone()
    };
    [begun, ended]
}

/// Bytes of memory per open call, tables and all.
pub(super) fn memory_bytes_per_call() -> Result<f64, CliError> {
    let mut machine = Machine::new(0, 1, Source::Append, START_MS);
    let first = machine.position.next_offset;
    for (offset, event) in (first..).zip((0..CALLS).flat_map(events)) {
        let bytes = event.encode_to_vec();
        let mut scratch = Vec::new();
        machine.advance(&Record {
            offset,
            append_ms: START_MS,
            bytes: &bytes,
            headers: Headers::default(),
            input: decode(Kind::Event, &bytes, &mut scratch),
        });
    }
    if machine.calls.open() != CALLS {
        let what = format!("{} calls are open of {CALLS}", machine.calls.open());
        return Err(CliError::Finding(what));
    }
    Ok(machine.calls.memory_bytes() as f64 / CALLS as f64)
}
