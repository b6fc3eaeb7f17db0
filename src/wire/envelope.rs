//! A signed record on its way over HTTP: `{"signed": {"kind": "control", "value": "BASE64", "signature": "KEYID:BASE64"}}`.
//!
//! `value` is the record's bytes as its signer made and signed them: they are decoded to be looked at, and never written anew.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::record::Kind;
use super::signature::{SignatureError, is_well_formed};

/// What is in an envelope. Whether the signature holds the fold says, which knows the log's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Control or tick.
    pub kind: Kind,
    /// What was signed.
    pub bytes: Vec<u8>,
    /// `KEYID:BASE64`.
    pub signature: String,
}

#[derive(Deserialize)]
struct Any {
    signed: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    signed: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    kind: String,
    value: String,
    signature: String,
}

/// The record of a line, or what is wrong with its envelope; `None` if the line is none.
pub fn open(line: &str) -> Option<Result<Signed, String>> {
    // Most lines are events.
    let may_be = line.contains("\"signed\"") && serde_json::from_str::<Any>(line).is_ok_and(|any| any.signed.is_some());
    may_be.then(|| opened(line))
}

fn opened(line: &str) -> Result<Signed, String> {
    let fields = serde_json::from_str::<Envelope>(line)
        .map_err(|cause| cause.to_string())?
        .signed;
    let kind = match fields.kind.as_str() {
        "control" => Kind::Control,
        "tick" => Kind::Tick,
        other => return Err(format!("kind {other:?} is neither control nor tick")),
    };
    let bytes = STANDARD
        .decode(&fields.value)
        .map_err(|cause| format!("value isn't base64: {cause}"))?;
    if !is_well_formed(&fields.signature) {
        return Err(SignatureError::Malformed.to_string());
    }
    Ok(Signed {
        kind,
        bytes,
        signature: fields.signature,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_envelopes_are_opened() {
        let signature = format!("ops:{}", STANDARD.encode([7; 64]));
        let line = |kind: &str, value: &str, signature: &str| {
            format!(r#"{{"signed": {{"kind": "{kind}", "value": "{value}", "signature": "{signature}"}}}}"#)
        };
        let good = open(&line("control", "AAEC", &signature));
        let record = Signed {
            kind: Kind::Control,
            bytes: vec![0, 1, 2],
            signature: signature.clone(),
        };
        assert_eq!(good, Some(Ok(record)));
        for bad in [
            line("event", "AAEC", &signature),
            line("control", "?", &signature),
            line("control", "AAEC", "ops:AAAA"),
            line("control", "AAEC", &signature[3..]),
            r#"{"signed": {"kind": "control"}}"#.to_owned(),
            format!(r#"{{"event": {{}}, {}"#, &line("tick", "AAEC", &signature)[1..]),
        ] {
            assert!(matches!(open(&bad), Some(Err(_))), "{bad}");
        }
        for none in [
            r#"{"event": {"source": "signed"}}"#,
            r#"{"event": {"signed": 1}}"#,
            "signed",
        ] {
            assert_eq!(open(none), None);
        }
    }
}
