//! Where a request comes from, as far as browsers say: whether it was meant for this machine's own name, and whether another site
//! sent it. (A page of another site can make a browser send requests here; a name that it controls can be made to lead here.)

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, Method, Uri, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What proxies leave behind: these, and every header that begins like those of [`FORWARDED_LIKE`]. A proxy may leave nothing: so
/// no proxy may stand before a service without a key.
const FORWARDED: [HeaderName; 12] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-envoy-external-address"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-arr-log-id"),
    HeaderName::from_static("x-amzn-trace-id"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("fastly-client-ip"),
    HeaderName::from_static("fly-client-ip"),
];

/// See [`FORWARDED`].
const FORWARDED_LIKE: [&str; 3] = ["x-forwarded-", "x-original-", "cf-"];

/// A header's text if it is there exactly once.
fn only<'a>(parts: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let mut values = parts.headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

/// Whether the address is of this machine alone.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether the authority (`HOST[:PORT]`) is a name or an address of this machine alone.
fn names_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let host = authority.host().to_ascii_lowercase();
    if authority.as_str().contains('@') {
        return false;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(&host);
    match bare.parse::<IpAddr>() {
        Ok(address) => is_loopback(address),
        // RFC 6761: these never leave the machine.
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether the client is on this machine, and asked for it by a name of this machine.
pub fn is_local(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let asked = parts.uri.authority().is_none_or(|a| names_loopback(a.as_str()));
    peer.is_some_and(|ConnectInfo(peer)| is_loopback(peer.ip()))
        && asked
        && only(parts, &header::HOST).is_some_and(names_loopback)
}

/// Whether a proxy has passed it on.
pub fn is_forwarded(parts: &Parts) -> bool {
    let like = |name: &HeaderName| FORWARDED_LIKE.iter().any(|begin| name.as_str().starts_with(begin));
    parts.headers.keys().any(|name| FORWARDED.contains(name) || like(name))
}

/// Whether it came in the clear over this machine's own network, where a `Secure` cookie wouldn't be kept by every browser.
pub fn is_plain_local(parts: &Parts) -> bool {
    is_local(parts) && !is_forwarded(parts)
}

/// Whether it only follows a link to a page, which tells the page with the link nothing.
fn follows_a_link(parts: &Parts) -> bool {
    (parts.method == Method::GET || parts.method == Method::HEAD)
        && only(parts, &SEC_FETCH_MODE) == Some("navigate")
        && only(parts, &SEC_FETCH_DEST) == Some("document")
}

/// Whether a page of another site has sent it. Programs other than browsers say nothing of it, and aren't meant.
pub fn is_cross_site(parts: &Parts) -> bool {
    if parts.headers.contains_key(SEC_FETCH_SITE) {
        return !matches!(only(parts, &SEC_FETCH_SITE), Some("same-origin" | "none")) && !follows_a_link(parts);
    }
    // Browsers from before 2020, and those that don't trust the address enough to say more.
    if !parts.headers.contains_key(header::ORIGIN) {
        return false;
    }
    let origin = only(parts, &header::ORIGIN).and_then(|o| o.parse::<Uri>().ok());
    let own = only(parts, &header::HOST);
    match (origin.as_ref().and_then(Uri::authority), own) {
        (Some(origin), Some(own)) => !origin.as_str().eq_ignore_ascii_case(own),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = axum::http::Request::builder().method(method).uri("/v1/events");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
        parts.extensions.insert(ConnectInfo(peer));
        parts
    }

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:7070",
            "reckon.localhost:7070",
            "127.0.0.1:7070",
            "127.8.9.1",
            "[::1]:7070",
            "[::ffff:127.0.0.1]:7070",
        ] {
            assert!(is_local(&parts("GET", &[("host", host)])), "{host}");
        }
        for host in [
            "evil.example:7070",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil@localhost",
            "10.0.0.1:7070",
            "[::2]",
            "0.0.0.0:7070",
            "",
        ] {
            assert!(!is_local(&parts("GET", &[("host", host)])), "{host}");
        }
        assert!(!is_local(&parts("GET", &[])));
        assert!(!is_local(&parts(
            "GET",
            &[("host", "localhost"), ("host", "evil.example")]
        )));
        let mut from_afar = parts("GET", &[("host", "localhost")]);
        from_afar
            .extensions
            .insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 7], 40_000))));
        assert!(!is_local(&from_afar));
    }

    #[test]
    fn what_proxies_leave_behind() {
        for name in [
            "Forwarded",
            "Via",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Server",
            "X-Real-IP",
            "CF-Ray",
            "CF-Connecting-IP",
            "True-Client-IP",
            "X-Original-Host",
        ] {
            let parts = parts("GET", &[("host", "localhost"), (name, "x")]);
            assert!(is_forwarded(&parts) && !is_plain_local(&parts), "{name}");
        }
        let plain = [("host", "localhost"), ("x-request-id", "x"), ("cookie", "x=y")];
        assert!(!is_forwarded(&parts("GET", &plain)) && is_plain_local(&parts("GET", &plain)));
    }

    #[test]
    fn other_sites() {
        let host = ("host", "127.0.0.1:7070");
        let navigates = [
            host,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let cases: [(&str, &[(&str, &str)], bool); 10] = [
            ("POST", &[host], false),
            ("POST", &[host, ("sec-fetch-site", "same-origin")], false),
            ("GET", &[host, ("sec-fetch-site", "none")], false),
            ("POST", &[host, ("sec-fetch-site", "cross-site")], true),
            ("POST", &[host, ("sec-fetch-site", "same-site")], true),
            ("GET", &[host, ("sec-fetch-site", "cross-site")], true),
            ("POST", &[host, ("origin", "http://127.0.0.1:7070")], false),
            ("POST", &[host, ("origin", "http://127.0.0.1:8080")], true),
            ("POST", &[host, ("origin", "null")], true),
            ("POST", &[host, ("origin", "https://evil.example")], true),
        ];
        for (method, headers, cross) in cases {
            assert_eq!(is_cross_site(&parts(method, headers)), cross, "{method} {headers:?}");
        }
        assert!(!is_cross_site(&parts("GET", &navigates)));
        assert!(is_cross_site(&parts("POST", &navigates)));
    }
}
