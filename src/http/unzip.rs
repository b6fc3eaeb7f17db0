//! Undoes gzip as a body arrives.

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::TryStreamExt;
use tokio_util::io::{ReaderStream, StreamReader};

use super::framing::is_gzip;

/// Bytes that are unpacked at a time.
const UNPACKED_BYTES: usize = 64 << 10;

/// Unpacks gzip, all its members (RFC 1952 §2.2): a sender may put together what it has packed piece by piece, and what
/// stood behind the first would be acknowledged without having been looked at. Other encodings are left for the handler to refuse.
pub async fn unzip(request: Request, next: Next) -> Response {
    if !is_gzip(request.headers()) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    // They are of what has come, not of what is in it.
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    let packed = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let mut unpacked = GzipDecoder::new(packed);
    unpacked.multiple_members(true);
    let body = Body::from_stream(ReaderStream::with_capacity(unpacked, UNPACKED_BYTES));
    next.run(Request::from_parts(parts, body)).await
}
