//! `reckon demo`: the whole main job on made-up traffic, explained to someone who has never heard of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::Datelike;
use clap::Args;
use serde_json::json;

use super::terminal::{Table, grouped, progress, say};
use super::{CliError, audit, explain, import};
use crate::log::appender::Appender;
use crate::model::period::Month;
use crate::partition::host::Host;
use crate::partition::rows::{AdjustmentRow, StatementRow};
use crate::wire::pb::statement_record::Body;
use crate::workload::play::append_steps;
use crate::workload::synthetic::{Made, Synthetic};

/// Play synthetic traffic across the end of last month, and show what it comes to
///
/// An embedded log is made, made-up traffic of a week is played into it (every rule of the verdict table occurs; sizes and
/// arrivals as in the Azure LLM inference traces), the month closes, late words arrive, and an auditor counts again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon demo --data ./reckon-demo")]
pub struct Demo {
    /// Folder of the log and the stores; must not have a log yet. A temporary one by default
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The same seed, the same traffic
    #[arg(long, default_value_t = 7)]
    seed: u64,

    /// Calls
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    calls: u32,

    /// The month that ends, such as 2026-09; last month by default
    #[arg(long)]
    month: Option<Month>,
}

fn last_month() -> Month {
    let today = chrono::Utc::now();
    Month(today.year() as u32 * 12 + today.month() - 1).prev()
}

/// Verdicts by outcome and reason: calls, and whether they are charged.
type Verdicts = BTreeMap<(String, String, bool), u64>;

fn n(count: u64) -> String {
    grouped(&count.to_string())
}

impl Demo {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let stamp = chrono::Utc::now().timestamp_millis();
        let data = self
            .data
            .clone()
            .unwrap_or_else(|| std::env::temp_dir().join(format!("reckon-demo-{stamp}")));
        if crate::partition::host::log_path(&data).exists() {
            return Err(CliError::Usage(format!(
                "there is a log in {} already; give another --data, or remove it",
                data.display()
            )));
        }
        let month = self.month.unwrap_or_else(last_month);
        if !json {
            say!("Reckon decides what every call of an API comes to, and what its account owes.")?;
            say!(
                "What follows is SYNTHETIC traffic (seed {}): {} calls of 12 accounts,",
                self.seed,
                n(self.calls.into())
            )?;
            say!("from three days before to four days after the end of {month}.\n")?;
        }
        let made = Synthetic {
            seed: self.seed,
            month,
            calls: self.calls,
        }
        .make();
        let mut host = import::open(&data, 4)?;
        play(&mut host, &made)?;
        if json {
            return self.print_json(&mut host, &made);
        }
        verdicts(&host)?;
        usage(&host, month)?;
        let adjusted = statements(&host, month)?;
        explained(&mut host, &made)?;
        adjustments(&adjusted)?;
        audited(&host)?;
        let data = data.display();
        say!("\nLook further (the log and the stores are in {data}):")?;
        say!("  reckon inspect --data {data}")?;
        say!("  reckon export statements --data {data} --period {month}")?;
        say!("  reckon export usage --data {data} --account acme --format csv")?;
        say!("  reckon replay --data {data}")?;
        Ok(())
    }

    fn print_json(&self, host: &mut Host, made: &Made) -> Result<(), CliError> {
        let compared = audit::compare(host)?;
        let counts: Vec<_> = count_verdicts(host)?
            .into_iter()
            .map(|((outcome, reason, billed), calls)| json!({"outcome": outcome, "reason": reason, "billed": billed, "calls": calls}))
            .collect();
        let highlights: Vec<_> = made
            .highlights
            .iter()
            .map(|h| json!({"account": h.account, "call": h.call, "why": h.why}))
            .collect();
        say!(
            "{}",
            json!({"synthetic": true, "seed": self.seed, "verdicts": counts, "highlights": highlights,
                "auditor": {"calls": compared.calls, "sums": compared.sums, "differences": compared.differences}})
        )?;
        agreed(&compared)
    }
}

fn play(host: &mut Host, made: &Made) -> Result<(), CliError> {
    let log = std::sync::Arc::clone(&host.log);
    let mut appender = Appender::new(log.as_ref(), 0);
    let bar = progress(made.steps.len() as u64, "playing");
    for steps in made.steps.chunks(5_000) {
        append_steps(&mut appender, steps.iter().cloned())?;
        appender.flush()?;
        host.catch_up(&|_| ())?;
        bar.inc(steps.len() as u64);
    }
    bar.finish_and_clear();
    host.finish()?;
    Ok(())
}

fn count_verdicts(host: &Host) -> Result<Verdicts, CliError> {
    let mut counts = Verdicts::new();
    for partition in &host.partitions {
        let mut latest = BTreeMap::new();
        partition.verdicts(|call| {
            let verdict = (call.outcome, call.reason, call.billed);
            latest.insert((call.account_id, call.call_id), verdict);
        })?;
        for verdict in latest.into_values() {
            *counts.entry(verdict).or_default() += 1;
        }
    }
    Ok(counts)
}

fn verdicts(host: &Host) -> Result<(), CliError> {
    let counts = count_verdicts(host)?;
    let sum = |billed: bool| -> u64 { counts.iter().filter(|(k, _)| k.2 == billed).map(|(_, c)| c).sum() };
    say!(
        "1. VERDICTS: {} calls are charged, {} are not, and why\n",
        n(sum(true)),
        n(sum(false))
    )?;
    for billed in [true, false] {
        let mut table = Table::new(&[if billed { "charged" } else { "not charged" }, "because", ">calls"]);
        for ((outcome, reason, _), calls) in counts.iter().filter(|(k, _)| k.2 == billed) {
            table.row([outcome.clone(), reason.clone(), n(*calls)]);
        }
        say!("{table}")?;
    }
    Ok(())
}

/// Accounts that are shown.
const SHOWN: [&str; 3] = ["acme", "umbrella", "tyrell"];

fn usage(host: &Host, month: Month) -> Result<(), CliError> {
    say!("2. USAGE of the running month, live (account, meter, class)\n")?;
    let mut table = Table::new(&["account", "product", "meter", "class", ">quantity"]);
    for partition in &host.partitions {
        for account in SHOWN {
            let Some(usage) = partition
                .usage(Some(account))?
                .remove(&(account.to_owned(), month.next()))
            else {
                continue;
            };
            for ((_, product, meter, class), nano) in usage.usage {
                if meter == "output_tokens" {
                    let quantity = crate::model::quantity::Quantity(nano).to_string();
                    table.row([account.to_owned(), product, meter, class.to_owned(), grouped(&quantity)]);
                }
            }
        }
    }
    say!("{table}")?;
    Ok(())
}

/// Shows statements; returns the notices.
fn statements(host: &Host, month: Month) -> Result<Vec<AdjustmentRow>, CliError> {
    say!("3. STATEMENTS of {month}, closed a day after the month's end in each account's time zone\n")?;
    let mut notices = Vec::new();
    let mut table = Table::new(&[
        "account",
        "zone",
        "product",
        "meter",
        ">quantity",
        ">price a million",
        ">amount",
        "currency",
    ]);
    for partition in &host.partitions {
        partition.statements(|sequence, body| match body {
            Body::PeriodClosed(s) if SHOWN.contains(&s.account_id.as_str()) && s.period == month.to_string() => {
                let row = StatementRow::new(sequence, s);
                for line in row.lines.iter().filter(|l| l.amount != "0") {
                    table.row([
                        row.account.clone(),
                        row.time_zone.clone(),
                        line.product.clone(),
                        line.meter.clone(),
                        grouped(&line.quantity),
                        line.unit_price.clone(),
                        grouped(&line.amount),
                        row.currency.clone(),
                    ]);
                }
                let blank = String::new();
                let total = [
                    row.account,
                    blank.clone(),
                    "total".to_owned(),
                    blank.clone(),
                    blank.clone(),
                    blank,
                ];
                table.row(total.into_iter().chain([grouped(&row.total), row.currency]));
            }
            Body::AdjustmentNoticed(notice) => notices.push(AdjustmentRow::new(sequence, notice)),
            _ => {}
        })?;
    }
    say!("{table}")?;
    Ok(notices)
}

fn explained(host: &mut Host, made: &Made) -> Result<(), CliError> {
    say!("4. ONE CALL, EXPLAINED (reckon explain ACCOUNT CALL --data DIR)\n")?;
    if let Some(highlight) = made.highlights.first() {
        say!("{}:", highlight.why)?;
        say!("{}", explain::of_host(host, &highlight.account, &highlight.call)?)?;
    }
    Ok(())
}

fn adjustments(notices: &[AdjustmentRow]) -> Result<(), CliError> {
    say!(
        "5. AFTER THE CLOSE: statements are never rewritten; what changes is noticed, and is a line of the next one\n"
    )?;
    let mut table = Table::new(&[
        "account",
        "month",
        ">owes more (or less)",
        "currency",
        ">calls",
        "noticed at",
    ]);
    for notice in notices {
        table.row([
            notice.account.clone(),
            notice.period.clone(),
            grouped(&notice.amount),
            notice.currency.clone(),
            notice.calls.len().to_string(),
            notice.noticed_at.clone(),
        ]);
    }
    say!("{table}")?;
    Ok(())
}

fn audited(host: &Host) -> Result<(), CliError> {
    say!("6. THE AUDITOR, a second computation written from the rules alone, counts again\n")?;
    let compared = audit::compare(host)?;
    say!(
        "   {} verdicts and {} sums compared: {} differ",
        n(compared.calls),
        n(compared.sums),
        compared.differences.len()
    )?;
    agreed(&compared)
}

fn agreed(compared: &audit::Compared) -> Result<(), CliError> {
    if compared.differences.is_empty() {
        return Ok(());
    }
    let first: Vec<&str> = compared.differences.iter().take(5).map(String::as_str).collect();
    Err(CliError::Finding(format!(
        "the auditor disagrees: {}",
        first.join("; ")
    )))
}
