//! What the reads answer, as facts of a scenario.

use std::collections::BTreeMap;

use reckon::model::quantity::Quantity;
use reckon::wire::pb;
use serde_json::Value;

use crate::scenario::expect::{Known, UsageOf};

/// Whoever answers reads.
pub trait Reads {
    /// Status and body of a read that includes all that was appended.
    fn get(&mut self, path: &str) -> Result<(u16, Value), String>;
}

/// A member's text; empty if there is none.
pub fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_default()
}

/// Bytes of a path segment that may stand for themselves.
pub fn segment(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    id.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

fn called(reads: &mut impl Reads, account: &str, call: &str) -> Result<Option<Value>, String> {
    let (status, body) = reads.get(&format!("/v1/accounts/{}/calls/{}", segment(account), segment(call)))?;
    match (status, text(&body, "code")) {
        (200, _) => Ok(Some(body)),
        (404, "call_unknown" | "account_unknown") => Ok(None),
        _ => Err(body.to_string()),
    }
}

/// What a scenario knows of a call.
pub fn known(reads: &mut impl Reads, account: &str, call: &str) -> Result<Known, String> {
    Ok(match called(reads, account, call)? {
        None => Known::Unknown,
        Some(body) if body["settled"] == true => {
            Known::Settled(format!("{} {}", text(&body, "outcome"), text(&body, "reason")))
        }
        Some(_) => Known::Open,
    })
}

/// A settled call's verdict.
pub fn settled(reads: &mut impl Reads, account: &str, call: &str) -> Result<Option<pb::CallSettled>, String> {
    let Some(body) = called(reads, account, call)?.filter(|body| body["settled"] == true) else {
        return Ok(None);
    };
    let quantities = body["quantities"].as_object().cloned().unwrap_or_default();
    let quantity = |(meter, of): (String, Value)| pb::MeterQuantity {
        meter,
        quantity: text(&of, "quantity").to_owned(),
    };
    Ok(Some(pb::CallSettled {
        account_id: account.to_owned(),
        call_id: call.to_owned(),
        revision: body["revision"].as_u64().unwrap_or_default() as u32,
        outcome: text(&body, "outcome").to_owned(),
        reason: text(&body, "reason").to_owned(),
        billed: body["billed"] == true,
        estimated: body["estimated"] == true,
        period: text(&body, "period").to_owned(),
        service: text(&body, "service").to_owned(),
        product: text(&body, "product").to_owned(),
        quantities: quantities.into_iter().map(quantity).collect(),
        ..pb::CallSettled::default()
    }))
}

/// The row of a call's verdict.
pub fn row(reads: &mut impl Reads, account: &str, call: &str) -> Result<String, String> {
    let body = called(reads, account, call)?.ok_or("the call is unknown")?;
    Ok(body["row"].to_string())
}

/// Usage by meter.
pub fn usage(reads: &mut impl Reads, of: &UsageOf<'_>) -> Result<BTreeMap<String, Quantity>, String> {
    let names: Vec<&str> = ["service", "product", "class"]
        .into_iter()
        .chain(of.dimensions.iter().map(|d| d.0.as_str()))
        .collect();
    let path = format!(
        "/v1/accounts/{}/usage?period={}&group_by={}",
        segment(of.account),
        of.period,
        names.join(",")
    );
    let (status, body) = reads.get(&path)?;
    if status == 404 {
        return Ok(BTreeMap::new());
    }
    let rows = body["rows"].as_array().ok_or_else(|| body.to_string())?;
    let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
    for row in rows {
        let fits = text(row, "class") == of.class
            && of.service.is_none_or(|s| s == text(row, "service"))
            && of.product.is_none_or(|p| p == text(row, "product"))
            && of
                .dimensions
                .iter()
                .all(|(name, value)| text(&row["dimensions"], name) == value);
        if fits {
            let quantity: Quantity = text(row, "quantity").parse().map_err(|_| row.to_string())?;
            found.entry(text(row, "meter").to_owned()).or_default().0 += quantity.0;
        }
    }
    Ok(found)
}
