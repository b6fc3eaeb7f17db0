//! Path, query and body of a request, refused as a [`Problem`] where they can't be read.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

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
                // serde_path_to_error names the parameter before the cause.
                let text = cause.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                let field = text.split(':').next().unwrap_or_default().to_owned();
                Err(Problem::parameter(&field, text))
            }
            Err(other) => Err(Problem::new(Code::BadParameter, other.body_text())),
        }
    }
}

/// A route without parameters: one that is given is a mistake.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Parts of the path.
pub struct Places<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Places<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(places)) => Ok(Self(places)),
            Err(PathRejection::FailedToDeserializePathParams(cause)) => {
                Err(Problem::new(Code::BadParameter, format!("path: {}", cause.body_text())))
            }
            Err(other) => Err(Problem::new(Code::BadParameter, other.body_text())),
        }
    }
}

/// A month of a path or parameter.
pub fn month(field: &str, text: &str) -> Result<Month, Problem> {
    text.parse::<Month>()
        .map_err(|cause| Problem::parameter(field, cause.to_string()))
}

/// An instant of a parameter.
pub fn instant(field: &str, text: &str) -> Result<Ms, Problem> {
    parse_rfc3339(text).ok_or_else(|| {
        Problem::parameter(
            field,
            format!("{text:?} is not a time of RFC 3339, such as 2026-09-01T00:00:00Z"),
        )
    })
}
