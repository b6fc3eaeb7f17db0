//! Style and script of the pages, embedded; their addresses change with their content, so they are kept for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use xxhash_rust::xxh3::xxh3_64;

use super::super::problem::{Code, Problem};

/// One file.
pub struct Asset {
    /// Where it is.
    pub address: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(name: &str, kind: &'static str, text: &'static str) -> Self {
        Self {
            address: format!("/assets/{:016x}/{name}", xxh3_64(text.as_bytes())),
            kind,
            text,
        }
    }
}

/// How the pages look.
pub static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("../../../templates/page.css");
    Asset::new("page.css", "text/css; charset=utf-8", text)
});

/// What keeps the billing page up to date.
pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("../../../templates/live.js");
    Asset::new("live.js", "text/javascript; charset=utf-8", text)
});

/// The mark in a browser's tab.
pub static ICON: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("../../../templates/icon.svg");
    Asset::new("icon.svg", "image/svg+xml", text)
});

/// A file by its address.
pub async fn asset(Path((hash, name)): Path<(String, String)>) -> Result<Response, Problem> {
    let address = format!("/assets/{hash}/{name}");
    let found = [&STYLE, &SCRIPT, &ICON].into_iter().find(|a| a.address == address);
    let asset = found.ok_or_else(|| Problem::new(Code::NoRoute, format!("there is no {address}")))?;
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, asset.text).into_response())
}
