//! Admits requests: by a token where there is a key, else everything from this machine itself.
//!
//! Keys are read again every few seconds, and sooner when a token names one that isn't known ([`Gatekeeper::keep_up`]), so that they
//! rotate by key id without a restart: while both public keys are there both kinds of token hold, and when the old one is taken
//! away its tokens are refused. So are tokens that were revoked by their ids. No request reads the disk.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{Method, header};
use parking_lot::{Mutex, RwLock};
use thiserror::Error;
use tokio::sync::Notify;

use super::caller::{Caller, Scope};
use super::origin;
use super::problem::{Code, Problem};
use super::service::{Service, blocking};
use super::token::{self, Claims, TokenError};
use super::token_keys::{KeyError, KeyFolder, Ring};

/// How long a change of the keys may go unnoticed.
pub const KEYS_READ_EVERY: Duration = Duration::from_secs(2);
/// So much sooner they are read again for a token whose key isn't known; not at once, or garbage would read the disk at will.
const KEYS_READ_FOR_UNKNOWN: Duration = Duration::from_millis(100);
/// Tokens whose signature isn't checked again. Checking one takes a tenth of a millisecond, more than most answers do; a look-up, a
/// hundredth of that.
const VERIFIED_MAX: usize = 1_024;

/// The cookie that a browser has for its token, where only this site can have set it.
pub const COOKIE: &str = "__Host-reckon";
/// The same in the clear on this machine's own network, where browsers keep no `Secure` cookies.
pub const PLAIN_COOKIE: &str = "reckon";

/// Why the service can't be opened like that.
#[derive(Debug, Error)]
pub enum GatekeeperError {
    /// The keys can't be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A file that should be a key.
    #[error("{0}")]
    Broken(String),
    /// Everybody would be let in.
    #[error(
        "there is no key in {folder}, so that everybody who reaches {listen} might do everything: make a key with `reckon token \
         key new`, or listen on a loopback address such as 127.0.0.1:{}", listen.port()
    )]
    NoKey {
        /// Where keys would be.
        folder: String,
        /// Where it was to listen.
        listen: SocketAddr,
    },
}

/// The keys of one time, and the tokens that were found good by them.
#[derive(Debug, Default)]
struct Door {
    ring: Ring,
    verified: Mutex<HashMap<Box<str>, Arc<Claims>>>,
}

/// Admits requests.
#[derive(Debug)]
pub struct Gatekeeper {
    folder: KeyFolder,
    log_id: String,
    door: RwLock<Arc<Door>>,
    /// A token's key isn't known: it may have been made just now.
    unknown: Notify,
}

impl Gatekeeper {
    /// Reads the keys. Without one, only a loopback address may be listened on.
    pub fn open(folder: KeyFolder, log_id: &str, listen: SocketAddr) -> Result<Self, GatekeeperError> {
        let ring = folder.ring()?;
        if let Some(broken) = ring.broken.first() {
            return Err(GatekeeperError::Broken(broken.clone()));
        }
        if !ring.asks && !origin::is_loopback(listen.ip()) {
            return Err(GatekeeperError::NoKey {
                folder: folder.path().display().to_string(),
                listen,
            });
        }
        let gatekeeper = Self {
            folder,
            log_id: log_id.to_owned(),
            door: RwLock::new(Arc::new(Door {
                ring,
                ..Door::default()
            })),
            unknown: Notify::new(),
        };
        match gatekeeper.notice() {
            Some(notice) => tracing::warn!("{notice}"),
            None if gatekeeper.door().ring.keys.is_empty() => {
                tracing::warn!("every key is retired: no token holds; `reckon token key new` makes a key");
            }
            None => {}
        }
        Ok(gatekeeper)
    }

    /// What must be said aloud: that everything is let through, and the cure.
    pub fn notice(&self) -> Option<String> {
        (!self.asks_for_tokens()).then(|| {
            format!(
                "NO TOKENS: there is no key in {}, so whoever is on this machine may read and write everything; `reckon token key \
                 new` makes a key",
                self.folder.path().display()
            )
        })
    }

    /// Whether tokens are asked for.
    pub fn asks_for_tokens(&self) -> bool {
        self.door().ring.asks
    }

    /// Who asks.
    pub fn admit(&self, parts: &Parts) -> Result<Caller, Problem> {
        if !self.door().ring.asks {
            meant_for_this_machine(parts)?;
            return Ok(Caller {
                name: String::new(),
                scope: Scope::Operator,
            });
        }
        let claims = self.verify(presented(parts)?)?;
        Ok(Caller {
            name: claims.sub.clone(),
            scope: claims.scope.clone(),
        })
    }

    /// The token of a request that was admitted; `None` where no tokens are asked for.
    pub fn token_of<'a>(&self, parts: &'a Parts) -> Option<&'a str> {
        if self.asks_for_tokens() {
            presented(parts).ok()
        } else {
            None
        }
    }

    /// What a token says, if it holds now.
    pub fn verify(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let door = self.door();
        let known = door.verified.lock().get(token).map(Arc::clone);
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = token::verify(token, &door.ring.keys, &self.log_id);
                if matches!(claims, Err(TokenError::UnknownKey(_))) {
                    self.unknown.notify_one();
                }
                let claims = Arc::new(claims?);
                if door.ring.revoked.contains(&claims.jti) {
                    return Err(TokenError::Revoked(claims.jti.clone()));
                }
                let mut verified = door.verified.lock();
                if verified.len() >= VERIFIED_MAX {
                    verified.clear();
                }
                verified.insert(token.into(), Arc::clone(&claims));
                claims
            }
        };
        claims.hold_at(token::now_s())?;
        Ok(claims)
    }

    fn door(&self) -> Arc<Door> {
        Arc::clone(&self.door.read())
    }

    /// Reads the keys again and again, beside the tasks that serve sockets.
    pub async fn keep_up(service: Arc<Service>) {
        loop {
            // Garbage doesn't read the disk at will.
            tokio::time::sleep(KEYS_READ_FOR_UNKNOWN).await;
            let rest = KEYS_READ_EVERY.saturating_sub(KEYS_READ_FOR_UNKNOWN);
            // Either is a reason.
            let _ = tokio::time::timeout(rest, service.gatekeeper.unknown.notified()).await;
            let reading = Arc::clone(&service);
            if blocking(move || reading.gatekeeper.read_again()).await.is_err() {
                tracing::error!("reading the keys again has panicked");
            }
        }
    }

    fn read_again(&self) {
        let mut ring = match self.folder.ring() {
            Ok(ring) => ring,
            Err(cause) => {
                tracing::error!(%cause, "the keys can't be read again: those that were known stay");
                return;
            }
        };
        let known = Arc::clone(&self.door.read());
        // What was shut once stays shut while the service runs, also if the whole folder goes away.
        ring.asks |= known.ring.asks;
        if ring == known.ring {
            return;
        }
        for broken in &ring.broken {
            tracing::error!("{broken}");
        }
        let keys: Vec<&String> = ring.keys.keys().collect();
        let revoked = ring.revoked.len();
        tracing::warn!(
            ?keys,
            revoked,
            "the keys have changed: tokens of these hold now, but for those that were revoked"
        );
        // Tokens that were found good by the old keys are forgotten with them.
        *self.door.write() = Arc::new(Door {
            ring,
            ..Door::default()
        });
    }
}

/// Refuses what another site, another machine or a proxy has sent to a service that lets everything through.
fn meant_for_this_machine(parts: &Parts) -> Result<(), Problem> {
    const CURE: &str =
        "this service has no key and takes only what this machine itself sends; `reckon token key new` makes one";
    let refused = |what: &str| Err(Problem::new(Code::Forbidden, format!("{what}: {CURE}")));
    if !origin::is_local(parts) {
        return refused("the Host is not a loopback name or address, or the client is another machine");
    }
    if origin::is_forwarded(parts) {
        return refused("the request came through a proxy");
    }
    if origin::is_cross_site(parts) {
        return refused("the request was sent by a page of another site");
    }
    Ok(())
}

/// The token of the request. A cookie is for reading alone: a browser would send it with what other pages make it send, too.
fn presented(parts: &Parts) -> Result<&str, Problem> {
    let refused = |what: &str| Err(Problem::new(Code::Unauthenticated, what));
    let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = headers.next() {
        if headers.next().is_some() {
            return refused("there is more than one Authorization header");
        }
        let bearer = value.to_str().ok().and_then(|text| text.split_once(' '));
        return match bearer {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
            _ => refused("the Authorization header is not `Bearer TOKEN`"),
        };
    }
    match cookie(parts) {
        Some(_) if parts.method != Method::GET && parts.method != Method::HEAD => {
            refused("a cookie is good for reading alone; send the token in the Authorization header")
        }
        Some(token) => Ok(token),
        None => refused("there is no token"),
    }
}

fn cookie(parts: &Parts) -> Option<&str> {
    // In the clear a page of a neighbouring name could have set it; only this machine is trusted not to.
    let plain = origin::is_plain_local(parts).then_some(PLAIN_COOKIE);
    let cookies = || {
        let headers = parts.headers.get_all(header::COOKIE).iter();
        let pairs = headers.filter_map(|h| h.to_str().ok()).flat_map(|h| h.split(';'));
        pairs.filter_map(|pair| pair.trim().split_once('='))
    };
    let find = |wanted: &str| cookies().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    find(COOKIE).or_else(|| plain.and_then(find))
}

impl From<TokenError> for Problem {
    fn from(cause: TokenError) -> Self {
        Self::new(Code::Unauthenticated, cause.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = axum::http::Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(axum::extract::ConnectInfo(LOOPBACK));
        parts
    }

    #[test]
    fn a_token_is_taken_from_where_it_may_be() {
        let host = ("host", "localhost:7070");
        let cookies = ("cookie", "theme=dark; reckon=plain; x=y");
        let secure = ("cookie", "reckon=plain; __Host-reckon=secure");
        let from = |method: &str, headers: &[(&str, &str)]| presented(&parts(method, headers)).map(str::to_owned).ok();
        let taken = |token: &str| Some(token.to_owned());
        assert_eq!(from("POST", &[("authorization", "Bearer abc")]), taken("abc"));
        assert_eq!(from("GET", &[("authorization", "bearer  abc ")]), taken("abc"));
        assert_eq!(
            from("GET", &[("authorization", "Bearer abc"), host, cookies]),
            taken("abc")
        );
        assert_eq!(from("GET", &[host, cookies]), taken("plain"));
        assert_eq!(from("HEAD", &[host, cookies]), taken("plain"));
        assert_eq!(from("GET", &[host, secure]), taken("secure"));
        assert_eq!(from("GET", &[("host", "billing.example"), secure]), taken("secure"));
        for (method, headers) in [
            ("GET", &[host][..]),
            ("POST", &[host, cookies]),
            ("DELETE", &[host, secure]),
            ("GET", &[("host", "billing.example"), cookies]),
            ("GET", &[("authorization", "Basic abc"), host, cookies]),
            ("GET", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]),
        ] {
            let refused = presented(&parts(method, headers)).unwrap_err();
            assert_eq!(refused.code, Code::Unauthenticated, "{method} {headers:?}");
        }
    }

    #[test]
    fn a_token_is_forgotten_with_its_key_and_the_door_stays_shut() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().join("keys"));
        let open = |listen| Gatekeeper::open(keys.clone(), "a-log", listen);
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 7070));
        assert!(matches!(open(everywhere), Err(GatekeeperError::NoKey { .. })));
        let gatekeeper = open(LOOPBACK).unwrap();
        assert!(gatekeeper.notice().is_some());
        keys.make(Some("k1")).unwrap();
        assert!(open(everywhere).is_ok());
        gatekeeper.read_again();
        assert!(gatekeeper.asks_for_tokens() && gatekeeper.notice().is_none());

        let now = token::now_s();
        let claims = Claims {
            iss: token::ISSUER.to_owned(),
            aud: "a-log".to_owned(),
            sub: "ann".to_owned(),
            iat: now,
            nbf: None,
            exp: now + 60,
            jti: "t".to_owned(),
            scope: Scope::Operator,
        };
        let sign = |claims: &Claims| token::sign(claims, "k1", &keys.signer(None).unwrap().1).unwrap();
        let token = sign(&claims);
        let verified = gatekeeper.verify(&token).unwrap();
        assert!(
            Arc::ptr_eq(&verified, &gatekeeper.verify(&token).unwrap()),
            "its signature is checked once"
        );
        let over = sign(&Claims {
            iat: now - 600,
            exp: now - 300,
            ..claims.clone()
        });
        for _ in 0..2 {
            assert!(
                matches!(gatekeeper.verify(&over), Err(TokenError::Expired(_))),
                "its times always"
            );
        }

        let other = sign(&Claims {
            jti: "u".to_owned(),
            ..claims.clone()
        });
        keys.revoke("t", "leaked").unwrap();
        gatekeeper.read_again();
        assert_eq!(gatekeeper.verify(&token), Err(TokenError::Revoked("t".to_owned())));
        assert!(gatekeeper.verify(&other).is_ok());

        std::fs::remove_dir_all(keys.path()).unwrap();
        gatekeeper.read_again();
        assert!(matches!(gatekeeper.verify(&token), Err(TokenError::UnknownKey(_))));
        assert!(gatekeeper.asks_for_tokens());
    }

    #[test]
    fn a_file_that_is_no_key_stops_the_start_and_not_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().to_owned());
        keys.make(Some("good")).unwrap();
        let gatekeeper = Gatekeeper::open(keys.clone(), "a-log", LOOPBACK).unwrap();
        std::fs::write(folder.path().join("bad.public.pem"), "no key").unwrap();
        assert!(matches!(
            Gatekeeper::open(keys, "a-log", LOOPBACK),
            Err(GatekeeperError::Broken(_))
        ));
        gatekeeper.read_again();
        let door = gatekeeper.door();
        assert!(door.ring.keys.contains_key("good") && door.ring.broken.len() == 1);
    }
}
