//! Rejections as their sender is told them: what is wrong, and how to write it. The fold's own words are terse and, being in its
//! outputs, never change.

use crate::model::event::{CallKind, Cause, EndMarker, Observer, Phase, Progress, Provenance};
use crate::model::limits::{
    ATTEMPT_MAX, CONTRACT_METERS, DIMENSION_KEY_BYTES_MAX, DIMENSION_VALUE_BYTES_MAX, DIMENSIONS_MAX, LABEL_BYTES_MAX,
    METER_REQUESTS,
};
use crate::model::reject::Reject;
use crate::wire::pb;

/// The values of the enum that a field is of, by its last name.
fn values_of(field: &str) -> Option<String> {
    macro_rules! values {
        ($enumeration:ty) => {
            <$enumeration>::ALL
                .iter()
                // Not those that stand for a field that isn't given.
                .filter(|value| **value as u8 != 0)
                .map(|value| value.as_str())
                .collect()
        };
    }
    let values: Vec<&str> = match field.rsplit('.').next()? {
        "phase" => values!(Phase),
        "observer" => values!(Observer),
        "kind" => values!(CallKind),
        "cause" => values!(Cause),
        "progress" => values!(Progress),
        "end_marker" => values!(EndMarker),
        "provenance" => values!(Provenance),
        _ => return None,
    };
    Some(values.join(", "))
}

/// Of an enum's value that the contract doesn't have.
pub(super) fn not_one(found: &str, field: &str) -> String {
    match values_of(field) {
        Some(values) => format!("{found} is not one of {values}"),
        None => format!("{found} is not one"),
    }
}

/// Of a meter that can't be reported.
pub(super) fn no_meter(meter: &str) -> String {
    if meter == METER_REQUESTS {
        return format!("{meter:?} is counted, never reported: leave it out");
    }
    format!(
        "{meter:?} is not a meter; use {} or x.<vendor>.<name>",
        CONTRACT_METERS.join(", ")
    )
}

/// Of a time that can't be read: with one that can.
pub(super) fn with_instant(reject: Reject) -> Reject {
    let told = format!("{}: write it as 2026-09-01T12:00:00.250Z", reject.detail);
    reject.telling(told)
}

/// How a field of an event is over its limit; `None` if it isn't.
pub(super) fn oversize(event: &pb::CallEvent, field: &str) -> Option<String> {
    let label = |text: &str| {
        let len = text.len();
        (len > LABEL_BYTES_MAX).then(|| format!("{len} bytes, at most {LABEL_BYTES_MAX}"))
    };
    match field {
        "attempt" => (event.attempt > ATTEMPT_MAX).then(|| format!("{} is over {ATTEMPT_MAX}", event.attempt)),
        "service" => label(&event.service),
        "product" => label(&event.product),
        "end.error_type" => label(&event.end.as_ref()?.error_type),
        "usage.meter" => {
            let mut usage = event.usage.iter().enumerate();
            usage.find_map(|(index, quantity)| Some(format!("usage[{index}]: {}", label(&quantity.meter)?)))
        }
        "dimensions" => oversize_pairs(event.dimensions.iter()),
        "native" => oversize_pairs(event.native.iter()),
        _ => None,
    }
}

fn oversize_pairs<'a>(mut pairs: impl ExactSizeIterator<Item = (&'a String, &'a String)>) -> Option<String> {
    let count = pairs.len();
    if count > DIMENSIONS_MAX {
        return Some(format!("{count} pairs, at most {DIMENSIONS_MAX}"));
    }
    pairs.find_map(|(key, text)| {
        // A key that is too long isn't repeated.
        if key.len() > DIMENSION_KEY_BYTES_MAX {
            return Some(format!(
                "a key of {} bytes, at most {DIMENSION_KEY_BYTES_MAX}",
                key.len()
            ));
        }
        let over = text.len() > DIMENSION_VALUE_BYTES_MAX;
        over.then(|| {
            format!(
                "{key:?} has a value of {} bytes, at most {DIMENSION_VALUE_BYTES_MAX}",
                text.len()
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::model::limits::RECORD_BYTES_MAX;
    use crate::model::reject::{Reject, RejectReason};
    use crate::wire::record::{Input, Kind, decode, decode_event, too_large};

    /// Field, what the sender is told, and what the fold writes down.
    fn both(more: &str) -> (String, String, String) {
        let text = format!(
            r#"{{"account_id":"acme","call_id":"c","phase":"started","occurred_at":"2026-09-01T12:00:00Z"{more}}}"#
        );
        assert!(text.len() < RECORD_BYTES_MAX);
        let mut scratch = Vec::new();
        let told = decode_event(text.as_bytes(), &mut scratch).map(|_| ());
        let told = told.expect_err("it is rejected");
        let mut scratch = Vec::new();
        let Input::Event(Err(folded)) = decode(Kind::Event, text.as_bytes(), &mut scratch) else {
            panic!("the fold takes {text}");
        };
        assert_eq!((told.reason, &told.field), (folded.reason, &folded.field), "{text}");
        (told.field.into_owned(), told.detail, folded.detail)
    }

    #[test]
    fn senders_are_told_the_cure_and_the_fold_keeps_its_words() {
        // The right column is in digests: it stays as it is.
        for (more, field, told, folded) in [
            (
                r#","occurred_at":"nope""#,
                "occurred_at",
                r#""nope" is not a time of RFC 3339: write it as 2026-09-01T12:00:00.250Z"#,
                r#""nope" is not a time of RFC 3339"#,
            ),
            (
                r#","started_at":1788264000"#,
                "started_at",
                "1788264000 is not a string: write it as 2026-09-01T12:00:00.250Z",
                "1788264000 is not a string",
            ),
            (
                r#","kind":"strem""#,
                "kind",
                r#""strem" is not one of unary, stream, async_task, batch_item, session_slice"#,
                r#""strem" is not one"#,
            ),
            (
                r#","phase":"ended","end":{"cause":"completed","end_marker":"gone"}"#,
                "end.end_marker",
                r#""gone" is not one of seen, missing"#,
                r#""gone" is not one"#,
            ),
            (
                r#","observer":9"#,
                "observer",
                "9 is not one of edge, upstream, provider",
                "number 9",
            ),
            (
                r#","usage":[{"meter":"bytes_in","value":1},{"meter":"requests","value":1}]"#,
                "usage.meter",
                r#"usage[1]: "requests" is counted, never reported: leave it out"#,
                r#""requests" is not a meter"#,
            ),
            (
                r#","usage":[{"meter":"tokens","value":1}]"#,
                "usage.meter",
                "usage[0]: \"tokens\" is not a meter; use input_tokens_uncached, cache_read_tokens, cache_write_tokens, \
                 output_tokens, bytes_in, bytes_out, compute_ms or x.<vendor>.<name>",
                r#""tokens" is not a meter"#,
            ),
            (
                r#","usage":[{"meter":"bytes_in","value":1,"scale":10}]"#,
                "usage.scale",
                "usage[0]: 10 is over 9",
                "10 is over 9",
            ),
            (
                r#","usage":[{"meter":"bytes_in","value":1.5}]"#,
                "usage[0].value",
                "1.5 is not a whole number from 0 to 9223372036854775807",
                "1.5 is not one",
            ),
        ] {
            let expected = (field.to_owned(), told.to_owned(), folded.to_owned());
            assert_eq!(both(more), expected);
        }
    }

    #[test]
    fn what_is_too_large_is_told_with_its_limit() {
        let long = "w".repeat(129);
        for (more, field, told) in [
            (r#""attempt":256"#.to_owned(), "attempt", "256 is over 255"),
            (format!(r#""product":"{long}""#), "product", "129 bytes, at most 128"),
            (
                format!(r#""usage":[{{"meter":"bytes_in"}},{{"meter":"x.{long}"}}]"#),
                "usage.meter",
                "usage[1]: 131 bytes, at most 128",
            ),
            (
                format!(r#""dimensions":{{"{long}":""}}"#),
                "dimensions",
                "a key of 129 bytes, at most 64",
            ),
            (
                format!(r#""native":{{"flags":"{long}{long}"}}"#),
                "native",
                r#""flags" has a value of 258 bytes, at most 256"#,
            ),
        ] {
            let text = format!(
                r#"{{"account_id":"a","call_id":"c","phase":"started","occurred_at":"2026-09-01T12:00:00Z",{more}}}"#
            );
            let mut scratch = Vec::new();
            let found = decode_event(text.as_bytes(), &mut scratch).map(|event| event.too_large);
            assert_eq!(found, Ok(Some(field)));
            let reject = too_large(field, text.as_bytes());
            assert_eq!((&*reject.field, reject.detail.as_str()), (field, told));
        }
    }

    #[test]
    fn a_bad_id_is_told_for_what_it_is() {
        let with = |id: &str| {
            let id = serde_json::Value::from(id);
            let text = format!(r#"{{"account_id":{id},"call_id":"c","phase":1,"occurred_at":"2026-09-01T12:00:00Z"}}"#);
            let mut scratch = Vec::new();
            let reject = decode_event(text.as_bytes(), &mut scratch).map(|_| ());
            let Reject { reason, detail, .. } = reject.expect_err("it is rejected");
            assert_eq!(reason, RejectReason::BadId);
            detail
        };
        assert_eq!(with(&"é".repeat(65)), "130 bytes, at most 128");
        assert_eq!(with("a\u{7}"), r#""a\u{7}" has control characters"#);
    }
}
