//! The forms in which events come, and how a body is cut into them.
//!
//! | content type | body |
//! |---|---|
//! | `application/json` | one event, or an array of them |
//! | `application/x-ndjson` | one event a line; taken as the lines arrive |
//! | `application/x-protobuf` | one `CallEvent` |
//! | `application/x-protobuf; framing=delimited` | `CallEvent`s, each after its length as a varint (`writeDelimitedTo`); taken as they arrive |
//! | `application/cloudevents+json` | one CloudEvent in structured mode |
//! | `application/cloudevents-batch+json` | an array of them |
//!
//! Protobuf doesn't say where a message ends, and a delimited body may also be read as one odd message: so the parameter
//! says it, nothing is guessed. A length that doesn't fit the body refuses the rest of the body; without the parameter a
//! delimited body is one event that can't be decoded.

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::value::RawValue;

use super::problem::{Code, Problem};

/// How events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One object, or an array.
    Json,
    /// An object a line.
    Lines,
    /// One message.
    Protobuf,
    /// Messages, each after its length.
    Delimited,
    /// One envelope.
    CloudEvent,
    /// An array of envelopes.
    CloudEvents,
}

/// The forms taken by `POST /v1/events`, for refusals.
const FORMS: &str = "application/json, application/x-ndjson, application/x-protobuf (with framing=delimited for many), \
     application/cloudevents+json and application/cloudevents-batch+json are taken";

/// The media type without parameters, and its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<(String, Vec<(String, String)>)> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next()?.to_owned();
    let parameters = parts.filter_map(|p| p.split_once('='));
    let parameters =
        parameters.map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
    Some((media, parameters.collect()))
}

fn unsupported(detail: impl Into<String>) -> Problem {
    Problem::new(Code::UnsupportedType, detail)
}

/// Whether the body is packed with gzip. Codings are told without regard to case (RFC 9110 §8.4.1).
pub fn is_gzip(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let coding = codings.next().map(|coding| coding.as_bytes().trim_ascii());
    let is_gzip = |coding: &[u8]| coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip");
    coding.is_some_and(is_gzip) && codings.next().is_none()
}

/// Refuses a body that is encoded in a way that isn't undone: `gzip` is by now.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let plain = |coding: &&HeaderValue| {
        matches!(coding.as_bytes().trim_ascii(), b"") || coding.as_bytes().eq_ignore_ascii_case(b"identity")
    };
    match headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .find(|coding| !plain(coding))
        .map(HeaderValue::as_bytes)
    {
        None => Ok(()),
        Some(other) => Err(unsupported(format!(
            "content encoding {:?}; gzip and identity are taken",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// Whether the body is NDJSON.
pub fn check_lines(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers) {
        Some((media, _)) if is_lines(&media) => Ok(()),
        media => Err(unsupported(format!(
            "{} isn't taken; application/x-ndjson is",
            media.map_or("no content type".to_owned(), |m| format!("{:?}", m.0))
        ))),
    }
}

fn is_lines(media: &str) -> bool {
    matches!(
        media,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl"
    )
}

impl Form {
    /// As the request's content type says.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some((media, parameters)) = media_type(headers) else {
            return Err(unsupported(format!("no content type; {FORMS}")));
        };
        let framing = parameters
            .iter()
            .find(|(name, _)| name == "framing")
            .map(|(_, v)| v.as_str());
        match (media.as_str(), framing) {
            ("application/json", _) => Ok(Self::Json),
            (lines, _) if is_lines(lines) => Ok(Self::Lines),
            ("application/x-protobuf" | "application/protobuf", None) => Ok(Self::Protobuf),
            ("application/x-protobuf" | "application/protobuf", Some("delimited")) => Ok(Self::Delimited),
            ("application/x-protobuf" | "application/protobuf", Some(other)) => {
                Err(unsupported(format!("framing {other:?}; only delimited is one")))
            }
            ("application/cloudevents+json", _) => Ok(Self::CloudEvent),
            ("application/cloudevents-batch+json", _) => Ok(Self::CloudEvents),
            (other, _) => Err(unsupported(format!("{other:?} isn't taken; {FORMS}"))),
        }
    }

    /// Whether events can be taken before the body is complete.
    pub const fn streams(self) -> bool {
        matches!(self, Self::Lines | Self::Delimited)
    }

    /// How many bytes at the beginning of `body` are whole events; for forms that stream.
    pub fn whole(self, body: &[u8]) -> Result<usize, Problem> {
        match self {
            Self::Lines => Ok(memchr::memrchr(b'\n', body).map_or(0, |at| at + 1)),
            _ => {
                let mut at = 0;
                loop {
                    let (from, len) = match length_at(body, at) {
                        Ok(Some(length)) => length,
                        // What comes before a length that can't be read counts.
                        Err(problem) if at == 0 => return Err(problem),
                        Ok(None) | Err(_) => break,
                    };
                    match from.checked_add(len).filter(|until| *until <= body.len()) {
                        Some(until) => at = until,
                        None => break,
                    }
                }
                Ok(at)
            }
        }
    }

    /// Cuts whole events apart; a problem if the body as a whole can't be read.
    pub fn split(self, body: &[u8]) -> Result<Vec<&[u8]>, Problem> {
        match self {
            Self::Lines => Ok(lines(body)),
            Self::Protobuf => Ok(vec![body]),
            Self::Delimited => {
                let (mut at, mut pieces) = (0, Vec::new());
                while let Some((from, len)) = length_at(body, at)? {
                    let until = from.checked_add(len);
                    let piece = until
                        .and_then(|until| body.get(from..until))
                        .ok_or_else(|| bad_body(format!("the last event breaks off: {len} bytes were announced")))?;
                    pieces.push(piece);
                    at = from + len;
                }
                if at < body.len() {
                    return Err(bad_body("the body ends within the length of an event"));
                }
                Ok(pieces)
            }
            Self::Json | Self::CloudEvents if body.trim_ascii_start().starts_with(b"[") => {
                let elements: Vec<&RawValue> =
                    serde_json::from_slice(body).map_err(|e| bad_body(format!("not a JSON array: {e}")))?;
                Ok(elements.into_iter().map(|e| e.get().as_bytes()).collect())
            }
            Self::CloudEvents => Err(bad_body("not a JSON array")),
            Self::Json | Self::CloudEvent => match body.trim_ascii() {
                b"" => Err(bad_body("the body is empty")),
                event => Ok(vec![event]),
            },
        }
    }
}

/// The lines that aren't blank, without blanks around.
pub fn lines(body: &[u8]) -> Vec<&[u8]> {
    let lines = body.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).collect()
}

fn bad_body(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadBody, detail)
}

/// Where the event behind the length at `at` begins, and that length; `None` if the length isn't there as a whole.
fn length_at(body: &[u8], at: usize) -> Result<Option<(usize, usize)>, Problem> {
    let mut length = 0u64;
    for (n, byte) in body.iter().skip(at).take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * n);
        if *byte < 0x80 {
            return Ok(Some((at + n + 1, usize::try_from(length).unwrap_or(usize::MAX))));
        }
    }
    if body.len() - at >= 5 {
        return Err(bad_body(
            "an event's length has no end; is the body length-delimited protobuf?",
        ));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, text.parse().ok()?);
        Form::of(&headers).ok()
    }

    #[test]
    fn content_types_name_forms() {
        for (text, expected) in [
            ("application/json; charset=utf-8", Some(Form::Json)),
            ("Application/X-NDJSON", Some(Form::Lines)),
            ("application/x-protobuf", Some(Form::Protobuf)),
            ("application/protobuf; Framing=\"delimited\"", Some(Form::Delimited)),
            ("application/x-protobuf; framing=grpc", None),
            ("application/cloudevents+json", Some(Form::CloudEvent)),
            ("application/cloudevents-batch+json", Some(Form::CloudEvents)),
            ("text/plain", None),
        ] {
            assert_eq!(form(text), expected, "{text}");
        }
    }

    #[test]
    fn whole_events_are_cut_off_a_growing_body() -> Result<(), Problem> {
        let mut body = vec![3, 1, 2, 3, 0, 0x81, 0x01];
        assert_eq!(Form::Delimited.whole(&body)?, 5);
        body.extend_from_slice(&[7; 129]);
        assert_eq!(Form::Delimited.whole(&body)?, body.len());
        let pieces = Form::Delimited.split(&body)?;
        assert_eq!(pieces.iter().map(|p| p.len()).collect::<Vec<_>>(), [3, 0, 129]);
        assert!(Form::Delimited.split(&body[..6]).is_err());
        assert!(Form::Delimited.split(&body[..20]).is_err());
        assert!(Form::Delimited.whole(&[0xff; 5]).is_err());
        assert_eq!(Form::Delimited.whole(&[1, 7, 0xff, 0xff, 0xff, 0xff, 0xff])?, 2);
        assert_eq!(Form::Lines.whole(b"{}\n{")?, 3);
        assert_eq!(Form::Lines.split(b" {} \r\n\n{}\n")?, [b"{}", b"{}"]);
        assert_eq!(Form::Json.split(b" [ {\"a\":\n1} ,7] ")?, [&b"{\"a\":\n1}"[..], b"7"]);
        Ok(())
    }
}
