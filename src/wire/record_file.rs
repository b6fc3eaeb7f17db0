//! Files of log records: NDJSON, one record a line in log order (`contract/README.md`).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{control, json, pb};
use crate::model::Ms;
use crate::model::period::parse_rfc3339;
use crate::model::reject::Reject;

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// For all partitions.
    Tick(Ms),
    /// The event's JSON, byte for byte as it stands in the file.
    Event(String),
    /// Of the operator.
    Control(Box<pb::Control>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine<'a> {
    tick: Option<String>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    control: Option<&'a RawValue>,
}

/// Why a line is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Not one of the three forms.
    #[error(
        "not a log record: {0}; write {{\"event\": …}}, {{\"tick\": \"2026-09-01T00:00:00Z\"}} or {{\"control\": …}}"
    )]
    Form(String),
    /// A tick that is no time.
    #[error("tick {0:?} is not a time of RFC 3339; write it as 2026-09-01T12:00:00Z")]
    Tick(String),
    /// A control record that can't be read.
    #[error("control: {0}")]
    Control(Reject),
}

/// Reads one line.
pub fn parse(line: &str) -> Result<Line, BadLine> {
    let raw: RawLine<'_> = serde_json::from_str(line).map_err(|e| BadLine::Form(e.to_string()))?;
    match (raw.tick, raw.event, raw.control) {
        (Some(text), None, None) => parse_rfc3339(&text).map(Line::Tick).ok_or(BadLine::Tick(text)),
        (None, Some(event), None) => Ok(Line::Event(event.get().to_owned())),
        (None, None, Some(value)) => {
            let value = json::parse(value.get().as_bytes()).map_err(BadLine::Control)?;
            // A line isn't in the log yet: only its sender hears of it.
            control::from_json(value)
                .map(|c| Line::Control(Box::new(c)))
                .map_err(|reject| BadLine::Control(reject.for_sender()))
        }
        _ => Err(BadLine::Form(
            "exactly one of tick, event, control is wanted".to_owned(),
        )),
    }
}

/// The control record's own JSON, byte for byte as it stands in the line.
pub fn control_text(line: &str) -> String {
    let raw: Option<RawLine<'_>> = serde_json::from_str(line).ok();
    let control = raw.and_then(|raw| raw.control);
    control.map_or(line, RawValue::get).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(parse(r#"{"tick": "1970-01-01T00:00:01Z"}"#), Ok(Line::Tick(1_000)));
        assert_eq!(
            parse(r#"{"event": {"a": 1} }"#),
            Ok(Line::Event("{\"a\": 1}".to_owned()))
        );
        assert!(matches!(
            parse(r#"{"control": {"id": "c", "hold_close": {"period": "2026-09"}}}"#),
            Ok(Line::Control(_))
        ));
        assert!(matches!(parse(r#"{"tick": "now"}"#), Err(BadLine::Tick(_))));
        assert!(matches!(parse(r#"{"evnt": {}}"#), Err(BadLine::Form(_))));
        assert!(matches!(parse(r#"{"control": {"x": 1}}"#), Err(BadLine::Control(_))));
    }
}
