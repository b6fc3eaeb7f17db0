//! `reckon restore`: a data folder from a backup, proved by hashes and digests.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::terminal::{bytes, grouped, progress, say};
use super::{CliError, Data, replay};
use crate::machine::output::Topic;
use crate::model::period::rfc3339;
use crate::partition::restore::{Restored, read_manifest};
use crate::partition::worker::Partition;
use crate::store::rocks::Budget;

/// Make a data folder from a backup: every file's hash and every store's digest compared, then folded to the log's end
///
/// Nothing is put in place before all of it has proved good. --verify also folds the whole log again from nothing, which
/// takes as long as the history is; `reckon replay` does the same later, beside the running service.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  reckon restore /var/backups/reckon/2026-11-24 --data ./reckon-data
  reckon restore /var/backups/reckon/2026-11-24 --data ./reckon-data --verify")]
pub struct Restore {
    /// The backup
    backup: PathBuf,

    #[command(flatten)]
    data: Data,

    /// Fold the log again from nothing and compare
    #[arg(long)]
    verify: bool,
}

impl Restore {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let manifest = read_manifest(&self.backup)?;
        let bar = progress(manifest.bytes(), "copying");
        let behind = manifest
            .partitions
            .iter()
            .map(|p| p.log_end.saturating_sub(p.next_offset))
            .sum();
        let folding = progress(behind, "folding");
        let restored = Restored::new(
            &self.backup,
            &manifest,
            &self.data.data,
            &Budget::default(),
            &mut |bytes| bar.inc(bytes),
            &|records| folding.inc(records),
        );
        bar.finish_and_clear();
        folding.finish_and_clear();
        let restored = restored?;
        if self.verify
            && let Some(found) = replay::compare(&restored.host, &restored.scratch())?
        {
            return Err(CliError::Finding(format!("{found}; nothing was restored")));
        }
        let partitions: Vec<Value> = restored.host.partitions.iter().map(standing).collect();
        let log_id = restored.host.log.identity().log_id.clone();
        restored.install()?;
        let answer = json!({
            "data": self.data.data,
            "log_id": log_id,
            "made_at": manifest.made_at,
            "bytes": manifest.bytes().to_string(),
            "folded_again": self.verify,
            "partitions": partitions,
        });
        if json {
            say!("{answer}")?;
        } else {
            print(&answer)?;
        }
        Ok(())
    }
}

/// Where a restored partition stands, and where its outputs end.
fn standing(partition: &Partition) -> Value {
    let machine = &partition.machine;
    let outputs = Topic::ALL.map(|t| (t.as_str(), machine.outputs.tails[t as usize].sequence.to_string()));
    json!({
        "partition": partition.number,
        "next_offset": machine.position.next_offset.to_string(),
        "clock": machine.clock.now.map(rfc3339),
        "digest": format!("{:032x}", machine.digest.value()),
        "outputs": outputs.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn print(answer: &Value) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say!(
        "restored log {} to {}: {}, every file and digest as in the manifest{}",
        text(&answer["log_id"]),
        text(&answer["data"]),
        bytes(text(&answer["bytes"]).parse().unwrap_or(0)),
        if answer["folded_again"] == true {
            ", and as folded again from nothing"
        } else {
            ""
        }
    )?;
    for p in answer["partitions"].as_array().unwrap_or(&Vec::new()) {
        let outputs: Vec<String> = p["outputs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(t, n)| format!("{t} {}", text(n)))
            .collect();
        say!(
            "  partition {}: folded to offset {}; clock {}; digest {}; outputs end with {}",
            p["partition"],
            grouped(&text(&p["next_offset"])),
            p["clock"].as_str().unwrap_or("not begun"),
            text(&p["digest"]),
            outputs.join(", ")
        )?;
    }
    say!(
        "Records acknowledged after the backup of {} are not in it: have producers send again what happened since, with some \
         overlap; copies do no harm.\nConsumers that have read outputs past the sequences above have read what will be decided \
         anew: compare before you let them go on.",
        text(&answer["made_at"])
    )
}
