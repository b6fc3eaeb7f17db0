//! What the machine says of a partition beside what the auditor says.

use std::collections::BTreeMap;

use prost::Message;
use reckon::auditor::Findings;
use reckon::machine::fold::Machine;
use reckon::machine::output::{Output, Topic, calls_of};
use reckon::model::quantity::Quantity;
use reckon::wire::pb::{self, statement_record::Body};

type UsageKey = (String, String, String, String, String, &'static str);

/// Usage as now known, in the auditor's form.
fn usage(
    machine: &Machine,
) -> (
    BTreeMap<UsageKey, i128>,
    BTreeMap<(String, String, &'static str, &'static str), i64>,
) {
    let symbols = &machine.names.symbols;
    let (mut usage, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for (number, account) in machine.accounts.iter() {
        for period in &account.periods {
            for (_, bucket) in machine.days_of(number, period.month) {
                for line in &bucket.lines {
                    for (meter, nano) in &line.meters {
                        let key = (
                            account.id.to_string(),
                            period.month.to_string(),
                            symbols.name(line.key.service).to_owned(),
                            symbols.name(line.key.product).to_owned(),
                            symbols.name(*meter).to_owned(),
                            line.key.class.as_str(),
                        );
                        *usage.entry(key).or_default() += nano;
                    }
                }
                for ((outcome, reason), calls) in &bucket.counts {
                    let key = (
                        account.id.to_string(),
                        period.month.to_string(),
                        outcome.as_str(),
                        reason.as_str(),
                    );
                    *counts.entry(key).or_default() += calls;
                }
            }
        }
    }
    usage.retain(|_, nano| *nano != 0);
    counts.retain(|_, calls| *calls != 0);
    (usage, counts)
}

fn first_difference<K: Ord + Clone + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    own: &BTreeMap<K, V>,
    audited: &BTreeMap<K, V>,
) -> Option<String> {
    let key = own
        .keys()
        .chain(audited.keys())
        .find(|k| own.get(k) != audited.get(k))?;
    Some(format!(
        "{what} {key:?}\n  machine {:?}\n  auditor {:?}",
        own.get(key),
        audited.get(key)
    ))
}

/// The first difference between the machine with its outputs and the auditor, in words.
pub fn compare(machine: &Machine, outputs: &[Output], findings: &Findings) -> Option<String> {
    let mut calls: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut frozen: BTreeMap<UsageKey, i128> = BTreeMap::new();
    let mut rejects: BTreeMap<u64, String> = BTreeMap::new();
    let chunks = outputs
        .iter()
        .filter(|o| o.topic == Topic::Calls)
        .map(|o| o.body.as_slice());
    for chunk in chunks.chain([machine.outputs.calls.as_slice()]) {
        for call in calls_of(chunk).expect("a chunk") {
            let quantities: BTreeMap<&str, &str> = call
                .quantities
                .iter()
                .map(|q| (q.meter.as_str(), q.quantity.as_str()))
                .collect();
            let shown = format!(
                "{} {} billed {} {} {}/{} {quantities:?} estimated {}",
                call.outcome, call.reason, call.billed, call.period, call.service, call.product, call.estimated
            );
            calls.insert((call.account_id.clone(), call.call_id.clone()), shown);
        }
    }
    for output in outputs {
        match output.topic {
            Topic::Rejects => {
                let reject = pb::Rejected::decode(output.body.as_slice()).expect("a reject");
                rejects.insert(reject.offset, reject.reason);
            }
            Topic::Statements => {
                let record = pb::StatementRecord::decode(output.body.as_slice()).expect("a statement");
                let Some(Body::PeriodClosed(statement)) = record.body else {
                    continue;
                };
                for row in statement.usage {
                    let class = reckon::model::outcome::Class::ALL
                        .iter()
                        .map(|c| c.as_str())
                        .find(|c| *c == row.class)
                        .expect("a class");
                    let key = (
                        statement.account_id.clone(),
                        statement.period.clone(),
                        row.service,
                        row.product,
                        row.meter,
                        class,
                    );
                    *frozen.entry(key).or_default() += row.quantity.parse::<Quantity>().expect("a number").0;
                }
            }
            Topic::Calls | Topic::Alerts => {}
        }
    }
    let audited_calls: BTreeMap<(String, String), String> = findings
        .calls
        .iter()
        .map(|(key, v)| {
            let quantities: BTreeMap<&str, String> = v
                .quantities
                .iter()
                .map(|(m, q)| (m.as_str(), Quantity(*q).to_string()))
                .collect();
            let shown = format!(
                "{} {} billed {} {} {}/{} {quantities:?} estimated {}",
                v.outcome, v.reason, v.billed, v.period, v.service, v.product, v.estimated
            );
            (key.clone(), shown)
        })
        .collect();
    // Reasons of RULES §5 must agree; those that it leaves open ("what else control records need") are named by each.
    let open = [
        "bad_control",
        "expired",
        "bad_time_zone",
        "bad_currency",
        "bad_period",
        "bad_operator_keys",
    ];
    let known = |all: &BTreeMap<u64, String>| -> BTreeMap<u64, String> {
        all.iter()
            .map(|(offset, reason)| {
                let reason = if open.contains(&reason.as_str()) {
                    "content"
                } else {
                    reason
                };
                (*offset, reason.to_owned())
            })
            .collect()
    };
    let audited_rejects = findings.rejects.iter().map(|(o, r)| (*o, (*r).to_owned())).collect();
    let (usage, counts) = usage(machine);
    first_difference("reject", &known(&rejects), &known(&audited_rejects))
        .or_else(|| first_difference("call", &calls, &audited_calls))
        .or_else(|| first_difference("usage", &usage, &findings.usage))
        .or_else(|| first_difference("count", &counts, &findings.counts))
        .or_else(|| first_difference("frozen", &frozen, &findings.frozen))
        .or_else(|| {
            (machine.calls.open() != findings.open)
                .then(|| format!("open calls: {} and {}", machine.calls.open(), findings.open))
        })
}
