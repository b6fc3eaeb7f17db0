//! Path, query and body of a request, refused as a [`Problem`] where they can't be read.

use axum::extract::path::ErrorKind;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, RawPathParams};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::problem::{Code, Problem};
use crate::model::Ms;
use crate::model::period::{Month, parse_rfc3339};

/// The query string.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(QueryRejection::FailedToDeserializeQueryString(cause)) => {
                let text = cause.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Err(unreadable(text, &parts.uri))
            }
            Err(other) => Err(Problem::new(Code::BadParameter, other.body_text())),
        }
    }
}

/// A route without parameters: one that is given is a mistake.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// A query that can't be read, from serde's words for it.
fn unreadable(text: &str, uri: &Uri) -> Problem {
    // It names the parameter before the cause, but for one that is there twice.
    if let Some(twice) = text.strip_prefix("duplicate field `") {
        let field = twice.trim_end_matches('`');
        return Problem::parameter(field, format!("{field} is there twice; give it once"));
    }
    let (field, cause) = text.split_once(": ").unwrap_or((text, text));
    // The standard library's words for what is no number of the parameter's type.
    let no_number = cause.contains("invalid digit")
        || cause.contains("integer from empty string")
        || cause.contains("number too large");
    if !no_number {
        return Problem::parameter(field, cause);
    }
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map_or_else(|_| Vec::new(), |Query(pairs)| pairs);
    let given = pairs.iter().find(|(name, _)| name == field);
    let given = given.map_or("", |(_, value)| value);
    let what = if cause.contains("too large") {
        "is too large a number"
    } else {
        "is not a whole number from 0"
    };
    Problem::parameter(field, format!("{given:?} {what}"))
}

/// A whole number of a query, from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: usize, const MAX: usize>(pub usize);

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        let refused = || D::Error::custom(format!("{text:?} is not a whole number from {MIN} to {MAX}"));
        number.map(Self).ok_or_else(refused)
    }
}

/// Parts of the path.
pub struct Places<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Places<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let kind = match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(places)) => return Ok(Self(places)),
            Err(PathRejection::FailedToDeserializePathParams(cause)) => cause.into_kind(),
            Err(other) => return Err(Problem::new(Code::BadParameter, other.body_text())),
        };
        // They can't be read where one of them isn't UTF-8, and then that one is named.
        let raw = RawPathParams::from_request_parts(parts, state).await.ok();
        let places: Vec<(&str, &str)> = raw.iter().flatten().collect();
        Err(unreadable_place(&kind, &places))
    }
}

/// A path that can't be read; `places` are its parts by their names in the route.
fn unreadable_place(kind: &ErrorKind, places: &[(&str, &str)]) -> Problem {
    let (field, detail) = match kind {
        ErrorKind::InvalidUtf8InPathParam { key } => {
            return Problem::parameter(key, format!("{key} of the path is not UTF-8"));
        }
        ErrorKind::ParseErrorAtKey { key, .. } | ErrorKind::DeserializeError { key, .. } => {
            (key.as_str(), kind.to_string())
        }
        ErrorKind::ParseErrorAtIndex { index, .. } => {
            let field = places.get(*index).map_or("", |(name, _)| name);
            (field, kind.to_string())
        }
        // A path of one part doesn't name it.
        _ => (places.first().map_or("", |(name, _)| name), kind.to_string()),
    };
    // What has no such name isn't there; all else is there and can't be read.
    if field == "topic" {
        let given = places.iter().find(|(name, _)| *name == field);
        let given = given.map_or("", |(_, value)| value);
        return Problem {
            field: Some(field.to_owned()),
            ..Problem::new(Code::OutputUnknown, format!("{given:?} is not a topic"))
        };
    }
    Problem::parameter(field, detail)
}

/// A month of a path or parameter.
pub fn month(field: &str, text: &str) -> Result<Month, Problem> {
    text.parse::<Month>()
        .map_err(|cause| Problem::parameter(field, cause.to_string()))
}

/// An instant of a parameter.
pub fn instant(field: &str, text: &str) -> Result<Ms, Problem> {
    parse_rfc3339(text).ok_or_else(|| {
        let mut detail = format!("{text:?} is not a time of RFC 3339, such as 2026-09-01T00:00:00Z");
        // In a query a plus is a space.
        if parse_rfc3339(&text.replace(' ', "+")).is_some() {
            detail.push_str("; write + as %2B in a URL");
        }
        Problem::parameter(field, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        period: Option<String>,
        after: Option<u64>,
        limit: Option<Whole<1, 10_000>>,
    }

    fn asked(query: &str) -> Result<Asked, (Option<String>, String)> {
        let (mut parts, ()) = axum::http::Request::get(format!("/?{query}"))
            .body(())
            .unwrap()
            .into_parts();
        let read = Params::<Asked>::from_request_parts(&mut parts, &());
        let read = waited_for(read);
        read.map(|Params(asked)| asked)
            .map_err(|problem| (problem.field, problem.detail))
    }

    fn waited_for<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_query_that_cant_be_read_names_the_parameter_and_the_cure() {
        let good = asked("limit=10000&after=7").expect("it can be read");
        assert_eq!((good.limit, good.after), (Some(Whole(10_000)), Some(7)));
        for (query, field, detail) in [
            ("period=a&period=b", "period", "period is there twice; give it once"),
            ("limit=abc", "limit", r#""abc" is not a whole number from 1 to 10000"#),
            ("limit=", "limit", r#""" is not a whole number from 1 to 10000"#),
            ("limit=0", "limit", r#""0" is not a whole number from 1 to 10000"#),
            ("after=a%20b", "after", r#""a b" is not a whole number from 0"#),
            ("after=-1", "after", r#""-1" is not a whole number from 0"#),
            ("after=", "after", r#""" is not a whole number from 0"#),
            (
                "after=18446744073709551616",
                "after",
                r#""18446744073709551616" is too large a number"#,
            ),
        ] {
            assert_eq!(
                asked(query),
                Err((Some(field.to_owned()), detail.to_owned())),
                "{query}"
            );
        }
        let unknown = asked("perod=a").expect_err("it is refused");
        assert_eq!(unknown.0.as_deref(), Some("perod"));
        assert!(unknown.1.contains("`period`"), "{unknown:?}");
    }

    #[test]
    fn a_plus_that_became_a_space_is_seen() {
        let detail = |text: &str| instant("from", text).map_err(|problem| problem.detail);
        assert_eq!(detail("2026-09-01T00:00:00+02:00"), Ok(1_788_213_600_000));
        assert!(detail("2026-09-01T00:00:00 02:00").is_err_and(|detail| detail.ends_with("write + as %2B in a URL")));
        assert!(detail("soon").is_err_and(|detail| !detail.contains("%2B")));
    }
}
