//! `reckon inspect`: how things stand, partition by partition.

use clap::Args;
use serde_json::{Value, json};

use super::terminal::{Table, bytes, grouped, put, say};
use super::{CliError, Data};
use crate::model::period::rfc3339;
use crate::partition::Settings;
use crate::partition::host::Host;
use crate::partition::worker::Partition;
use crate::store::rocks::{Budget, FOLD_VERSION, FORMAT_VERSION};

/// Show positions, clocks, open calls, sizes, versions and rejects
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon inspect --data ./reckon-data")]
pub struct Inspect {
    #[command(flatten)]
    data: Data,
}

fn row(host: &Host, partition: &Partition) -> Result<Value, CliError> {
    let machine = &partition.machine;
    let rejects: serde_json::Map<String, Value> = machine
        .counters
        .rejects
        .iter()
        .map(|(reason, count)| (reason.as_str().to_owned(), (*count).into()))
        .collect();
    Ok(json!({
        "partition": partition.number,
        "position": machine.position.next_offset,
        "step": machine.position.step,
        "log_start": host.log.start(partition.number)?,
        "log_end": host.log.end(partition.number)?,
        "clock": machine.clock.now.map(rfc3339),
        "digest": format!("{:032x}", machine.digest.value()),
        "accounts": machine.accounts.len(),
        "calls_open": machine.calls.open(),
        "calls_remembered": partition.shelf.len() + machine.calls.resident() - machine.calls.open(),
        "calls_settled": machine.counters.settled,
        "verdicts_amended": machine.counters.amended,
        "events": machine.counters.events,
        "events_that_changed_nothing": machine.counters.copies,
        "forwarded": machine.counters.forwarded,
        "unknown_fields": machine.counters.unknown_fields,
        "rejects": rejects,
        "control_version": machine.ledger.version,
        "closes_due": machine.closes.len(),
        "closes_held": machine.held.len(),
        "store_disk_bytes": partition.rocks.disk_bytes(),
        "memory_bytes": {
            "calls": machine.calls.memory_bytes(),
            "remembered_calls": partition.shelf.memory_bytes(),
            "accounts": machine.accounts.memory_bytes(),
            "names": machine.names.memory_bytes(),
        },
    }))
}

impl Inspect {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let host = Host::open_beside(&self.data.data, &Budget::default(), &Settings::default())?;
        let identity = host.log.identity();
        let rows = host
            .partitions
            .iter()
            .map(|p| row(&host, p))
            .collect::<Result<Vec<Value>, CliError>>()?;
        if json {
            say!(
                "{}",
                json!({"log_id": identity.log_id, "clock": identity.source.as_str(), "format_version": FORMAT_VERSION,
                    "fold_version": FOLD_VERSION, "partitions": rows})
            )?;
            return Ok(());
        }
        say!(
            "log {}: {} partitions, clock source {}; store format {FORMAT_VERSION}, fold {FOLD_VERSION}\n",
            identity.log_id,
            identity.partition_count,
            identity.source.as_str()
        )?;
        let heads = [
            "partition",
            ">position",
            ">of",
            "clock",
            ">accounts",
            ">open",
            ">remembered",
            ">amended",
            ">store",
            "digest",
        ];
        let mut table = Table::new(&heads);
        let n = |value: &Value| grouped(&value.to_string());
        for row in &rows {
            table.row([
                row["partition"].to_string(),
                n(&row["position"]),
                n(&row["log_end"]),
                row["clock"].as_str().unwrap_or("not begun").to_owned(),
                n(&row["accounts"]),
                n(&row["calls_open"]),
                n(&row["calls_remembered"]),
                n(&row["verdicts_amended"]),
                bytes(row["store_disk_bytes"].as_u64().unwrap_or(0)),
                row["digest"]
                    .as_str()
                    .unwrap_or_default()
                    .get(..12)
                    .unwrap_or_default()
                    .to_owned(),
            ]);
        }
        put(&table)?;
        for row in rows.iter().filter(|row| row["forwarded"] != 0) {
            let forwarded = n(&row["forwarded"]);
            say!(
                "  partition {}: {forwarded} misplaced events forwarded",
                row["partition"]
            )?;
        }
        for row in &rows {
            for (reason, count) in row["rejects"].as_object().into_iter().flatten() {
                say!("  partition {}: {} rejected, {reason}", row["partition"], n(count))?;
            }
        }
        Ok(())
    }
}
