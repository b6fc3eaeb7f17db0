//! An event as it was scanned, whatever carried it, and every check of it that needs no clock.

use smallvec::SmallVec;

use super::check::{id_fault, is_good_id, is_in_range, is_known_meter};
use super::wording;
use crate::model::Ms;
use crate::model::event::{CallKind, Cause, End, EndMarker, Event, Observer, Phase, Progress, Provenance, Reading};
use crate::model::limits::{
    ATTEMPT_MAX, DIMENSION_KEY_BYTES_MAX, DIMENSION_VALUE_BYTES_MAX, DIMENSIONS_MAX, LABEL_BYTES_MAX, RECORD_BYTES_MAX,
    SCALE_MAX,
};
use crate::model::quantity::canonical;
use crate::model::reject::{Reject, RejectReason};

/// An ending's fields.
#[derive(Default)]
pub(super) struct RawEnd<'a> {
    pub cause: i32,
    pub progress: i32,
    pub client_status: u32,
    pub upstream_status: u32,
    pub end_marker: i32,
    pub error_type: &'a str,
}

/// A quantity's fields.
#[derive(Clone, Copy, Default)]
pub(super) struct RawQuantity<'a> {
    pub meter: &'a str,
    pub value: i64,
    pub scale: u32,
    pub provenance: i32,
}

/// An event's fields; 0 and empty are absent, as in protobuf.
#[derive(Default)]
pub(super) struct Raw<'a> {
    pub account: &'a str,
    pub call: &'a str,
    pub phase: i32,
    pub observer: i32,
    pub occurred_at: Option<(i64, i32)>,
    pub attempt: u32,
    pub seq: u64,
    pub service: &'a str,
    pub product: &'a str,
    pub kind: i32,
    pub end: Option<RawEnd<'a>>,
    pub usage: SmallVec<[RawQuantity<'a>; 4]>,
    pub source: &'a str,
    pub dimensions: SmallVec<[(&'a str, &'a str); 2]>,
    pub native: u32,
    pub too_large: Option<&'static str>,
    pub unknown_fields: u32,
}

impl<'a> Raw<'a> {
    /// Notes a pair over its sizes.
    pub(super) fn measure_pair(&mut self, pair: (&str, &str), field: &'static str) {
        if pair.0.len() > DIMENSION_KEY_BYTES_MAX || pair.1.len() > DIMENSION_VALUE_BYTES_MAX {
            self.too_large = Some(field);
        }
    }

    fn ends(&self) -> bool {
        self.phase == Phase::Ended as i32 || self.phase == Phase::AttemptEnded as i32
    }

    fn missing_field(&self) -> Option<&'static str> {
        if self.account.is_empty() {
            Some("account_id")
        } else if self.call.is_empty() {
            Some("call_id")
        } else if self.phase == 0 {
            Some("phase")
        } else if self.occurred_at.is_none() {
            Some("occurred_at")
        } else if self.ends() && self.end.as_ref().is_none_or(|e| e.cause == 0) {
            Some("end.cause")
        } else {
            None
        }
    }

    fn too_large(&self, record_bytes: usize) -> Option<&'static str> {
        if record_bytes > RECORD_BYTES_MAX {
            Some("record")
        } else if self.attempt > ATTEMPT_MAX {
            Some("attempt")
        } else if self.service.len() > LABEL_BYTES_MAX {
            Some("service")
        } else if self.product.len() > LABEL_BYTES_MAX {
            Some("product")
        } else if self.usage.iter().any(|q| q.meter.len() > LABEL_BYTES_MAX) {
            Some("usage.meter")
        } else if self.ends() && self.end.as_ref().is_some_and(|e| e.error_type.len() > LABEL_BYTES_MAX) {
            Some("end.error_type")
        } else if self.dimensions.len() > DIMENSIONS_MAX {
            Some("dimensions")
        } else if self.native as usize > DIMENSIONS_MAX {
            Some("native")
        } else {
            self.too_large
        }
    }

    /// What the contract makes of it; `record_bytes` is how long it is as received.
    pub(super) fn check(self, record_bytes: usize) -> Result<Event<'a>, Reject> {
        if let Some((seconds, nanos)) = self.occurred_at
            && !is_in_range(seconds, nanos.into())
        {
            return Err(undecodable(
                "occurred_at",
                format!("{seconds} s {nanos} ns is not an instant of the years 1 to 9999"),
            ));
        }
        if let Some(field) = self.missing_field() {
            return Err(Reject::new(RejectReason::MissingField, field, "absent or empty"));
        }
        for (field, id) in [("account_id", self.account), ("call_id", self.call)] {
            if !is_good_id(id) {
                let detail = format!("{} bytes, or control characters", id.len());
                return Err(Reject::new(RejectReason::BadId, field, detail).telling(id_fault(id)));
            }
        }
        let phase = enum_value(self.phase, None, Phase::from_number, "phase")?;
        let observer = enum_value(self.observer, Some(Observer::Edge), Observer::from_number, "observer")?;
        let kind = match self.kind {
            0 => None,
            number => Some(enum_value(number, None, CallKind::from_number, "kind")?),
        };
        let end = match &self.end {
            Some(end) if self.ends() => Some(End {
                cause: enum_value(end.cause, None, Cause::from_number, "end.cause")?,
                progress: enum_value(end.progress, None, Progress::from_number, "end.progress")?,
                client_status: u16::try_from(end.client_status).unwrap_or(u16::MAX),
                upstream_status: u16::try_from(end.upstream_status).unwrap_or(u16::MAX),
                end_marker: enum_value(end.end_marker, None, EndMarker::from_number, "end.end_marker")?,
                error_type: end.error_type,
            }),
            _ => None,
        };
        // All names first: an unknown one is a reason before a bad quantity.
        let provenance = |quantity: &RawQuantity<'_>| {
            let default = Some(Provenance::EdgeCounted);
            enum_value(
                quantity.provenance,
                default,
                Provenance::from_number,
                "usage.provenance",
            )
        };
        for quantity in &self.usage {
            provenance(quantity)?;
        }
        let mut usage = SmallVec::new();
        for (index, quantity) in self.usage.iter().enumerate() {
            usage.push(reading(quantity, index, provenance(quantity)?, observer)?);
        }
        let too_large = self.too_large(record_bytes);
        let (seconds, nanos) = self.occurred_at.unwrap_or_default();
        Ok(Event {
            account: self.account,
            call: self.call,
            phase,
            observer,
            occurred_at: seconds * 1_000 + Ms::from(nanos) / 1_000_000,
            attempt: u8::try_from(self.attempt).unwrap_or(u8::MAX),
            seq: self.seq,
            service: self.service,
            product: self.product,
            kind,
            end,
            usage,
            source: self.source,
            dimensions: self.dimensions,
            too_large,
            unknown_fields: self.unknown_fields,
        })
    }
}

#[inline(always)]
fn enum_value<T>(
    number: i32,
    default: Option<T>,
    from: fn(u64) -> Option<T>,
    field: &'static str,
) -> Result<T, Reject> {
    if number == 0
        && let Some(default) = default
    {
        return Ok(default);
    }
    u64::try_from(number)
        .ok()
        .and_then(from)
        .ok_or_else(|| unknown_enum(number, field))
}

#[cold]
fn unknown_enum(number: i32, field: &'static str) -> Reject {
    let reject = Reject::new(RejectReason::UnknownEnum, field, format!("number {number}"));
    reject.telling(wording::not_one(&number.to_string(), field))
}

pub(super) fn undecodable(field: &'static str, detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::Undecodable, field, detail)
}

fn reading<'a>(
    raw: &RawQuantity<'a>,
    index: usize,
    provenance: Provenance,
    observer: Observer,
) -> Result<Reading<'a>, Reject> {
    // The field has no index; which of them it is only its sender is told.
    let bad = |field, detail: String| {
        let told = format!("usage[{index}]: {detail}");
        Err(Reject::new(RejectReason::BadQuantity, field, detail).telling(told))
    };
    if !is_known_meter(raw.meter) {
        let reject = Reject::new(
            RejectReason::BadQuantity,
            "usage.meter",
            format!("{:?} is not a meter", raw.meter),
        );
        return Err(reject.telling(format!("usage[{index}]: {}", wording::no_meter(raw.meter))));
    }
    if raw.value < 0 {
        return bad("usage.value", format!("{} is negative or overflows", raw.value));
    }
    if raw.scale > SCALE_MAX {
        return bad("usage.scale", format!("{} is over {SCALE_MAX}", raw.scale));
    }
    if provenance == Provenance::ProviderInvoiced && observer != Observer::Provider {
        return bad(
            "usage.provenance",
            format!("provider_invoiced from {}", observer.as_str()),
        );
    }
    let (value, scale) = canonical(raw.value, raw.scale as u8);
    Ok(Reading {
        meter: raw.meter,
        value,
        scale,
        provenance,
    })
}
