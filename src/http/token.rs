//! A token: a JWT signed by EdDSA that says who asks, of which log, with what scope, and until when.
//!
//! What is checked, in this order: its form, `alg` (EdDSA and nothing else), `kid` (a key that is known now), the signature, `iss`,
//! `aud` (the log's id, so that a token of a test system opens nothing in production), and the times. Whatever fails is said in
//! words, under one code.

use std::collections::BTreeMap;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::caller::Scope;
use crate::model::period::rfc3339;

/// Who issues tokens.
pub const ISSUER: &str = "reckon";
/// Seconds from issue to end at most; a token that says more isn't taken.
pub const LIFETIME_MAX_S: u64 = 366 * 24 * 3_600;
/// Seconds by which the clocks of issuer and service may differ.
pub const LEEWAY_S: u64 = 30;
/// Bytes of a token at most: a cookie must hold it too.
pub const BYTES_MAX: usize = 3_800;

/// Public keys by their id: the raw point of Ed25519.
pub type PublicKeys = BTreeMap<String, [u8; 32]>;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// [`ISSUER`].
    pub iss: String,
    /// Id of the log that it is for.
    pub aud: String,
    /// Name of who holds it.
    pub sub: String,
    /// When it was issued; all times in seconds since 1970.
    pub iat: u64,
    /// From when it holds, if not from its issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// From when it holds no more.
    pub exp: u64,
    /// Its own id.
    pub jti: String,
    /// What it is good for.
    #[serde(flatten)]
    pub scope: Scope,
}

/// Why a token doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Over the limit.
    #[error("the token has more than {BYTES_MAX} bytes")]
    TooLong,
    /// No JWT.
    #[error("the token is not a JWT: three parts in base64url, separated by dots")]
    Malformed,
    /// Signed some other way, or not at all.
    #[error("the token is not signed by EdDSA; nothing else is taken")]
    Algorithm,
    /// Its header is no header of a JWT; `alg` may be `none`, or unheard of.
    #[error("the token's header can't be read, and only `alg` EdDSA is taken: {0}")]
    Header(String),
    /// Asks for an extension.
    #[error("the token's header has `crit`; no extension is known")]
    Critical,
    /// Names no key.
    #[error("the token's header has no `kid`")]
    NoKeyId,
    /// Names one that isn't known.
    #[error("the token's key {0:?} is not known, or not any more")]
    UnknownKey(String),
    /// Not signed by that key.
    #[error("the token's signature is not its key's")]
    Signature,
    /// Says too little, or in another form.
    #[error("the token's claims can't be read: {0}")]
    Claims(String),
    /// From another issuer.
    #[error("the token's `iss` is not {ISSUER:?}")]
    Issuer,
    /// For another log.
    #[error("the token's `aud` is another log")]
    Audience,
    /// Over.
    #[error("the token held until {0}")]
    Expired(String),
    /// Not begun.
    #[error("the token holds from {0} on")]
    NotYet(String),
    /// Taken back.
    #[error("the token {0} was revoked")]
    Revoked(String),
    /// Longer than any token may live.
    #[error("the token lives longer than {} days", LIFETIME_MAX_S / 86_400)]
    LivesTooLong,
}

/// Seconds since 1970 as they are shown.
pub fn time_shown(seconds: u64) -> String {
    rfc3339((seconds as i64).saturating_mul(1_000))
}

/// Now, in seconds since 1970.
pub fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Claims {
    /// Whether it holds at that time.
    pub fn hold_at(&self, now: u64) -> Result<(), TokenError> {
        if now >= self.exp.saturating_add(LEEWAY_S) {
            return Err(TokenError::Expired(time_shown(self.exp)));
        }
        let from = self.nbf.unwrap_or(0).max(self.iat);
        if from > now.saturating_add(LEEWAY_S) {
            return Err(TokenError::NotYet(time_shown(from)));
        }
        if self.exp.saturating_sub(self.iat) > LIFETIME_MAX_S {
            return Err(TokenError::LivesTooLong);
        }
        Ok(())
    }
}

/// Signs a token.
pub fn sign(claims: &Claims, key_id: &str, key: &EncodingKey) -> Result<String, jsonwebtoken::errors::Error> {
    let header = Header {
        kid: Some(key_id.to_owned()),
        ..Header::new(Algorithm::EdDSA)
    };
    jsonwebtoken::encode(&header, claims, key)
}

/// What a token says, whoever signed it and whether it holds or not: to look at, not to act on.
pub fn read_unverified(token: &str) -> Result<(Option<String>, Claims), TokenError> {
    let header = header_of(token)?;
    let claims = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(of_kind)?;
    Ok((header.kid, claims))
}

/// What the token says, if one of the keys has signed it for that log. Its times are for [`Claims::hold_at`].
pub fn verify(token: &str, keys: &PublicKeys, log_id: &str) -> Result<Claims, TokenError> {
    if token.len() > BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    let header = header_of(token)?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::Algorithm);
    }
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let key_id = header.kid.ok_or(TokenError::NoKeyId)?;
    let Some(key) = keys.get(&key_id) else {
        return Err(TokenError::UnknownKey(key_id.chars().take(64).collect()));
    };
    let mut wanted = Validation::new(Algorithm::EdDSA);
    wanted.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    wanted.set_issuer(&[ISSUER]);
    wanted.set_audience(&[log_id]);
    // The times are asked for at every use, the rest once.
    wanted.validate_exp = false;
    let read = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_ed_der(key), &wanted).map_err(of_kind)?;
    Ok(read.claims)
}

fn header_of(token: &str) -> Result<Header, TokenError> {
    jsonwebtoken::decode_header(token).map_err(|cause| match cause.kind() {
        ErrorKind::Json(cause) => TokenError::Header(cause.to_string()),
        _ => TokenError::Malformed,
    })
}

fn of_kind(cause: jsonwebtoken::errors::Error) -> TokenError {
    match cause.into_kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            TokenError::Algorithm
        }
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Claims(format!("`{claim}` is missing")),
        ErrorKind::Json(cause) => TokenError::Claims(cause.to_string()),
        _ => TokenError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: "a-log".to_owned(),
            sub: "edge-1".to_owned(),
            iat: NOW,
            nbf: None,
            exp: NOW + 3_600,
            jti: "t-1".to_owned(),
            scope: Scope::Ingest {
                sources: vec!["edge-*".to_owned()],
            },
        }
    }

    fn keys(of: u8) -> (PublicKeys, EncodingKey) {
        use ed25519_dalek::pkcs8::EncodePrivateKey;
        let signing = ed25519_dalek::SigningKey::from_bytes(&[of; 32]);
        let der = signing.to_pkcs8_der().unwrap();
        let public = PublicKeys::from([("k1".to_owned(), signing.verifying_key().to_bytes())]);
        (public, EncodingKey::from_ed_der(der.as_bytes()))
    }

    #[test]
    fn what_is_signed_is_read_back() {
        let (public, private) = keys(1);
        for scope in [
            claims().scope,
            Scope::Ingest { sources: Vec::new() },
            Scope::Account {
                account: "acme".to_owned(),
            },
            Scope::Operator,
        ] {
            let claims = Claims { scope, ..claims() };
            let token = sign(&claims, "k1", &private).unwrap();
            assert_eq!(verify(&token, &public, "a-log"), Ok(claims.clone()));
            assert_eq!(read_unverified(&token), Ok((Some("k1".to_owned()), claims)));
        }
    }

    #[test]
    fn whatever_fails_is_told_apart() {
        let (public, private) = keys(1);
        let signed = |claims: &Claims, key_id: &str| sign(claims, key_id, &private).unwrap();
        let verified = |token: &str| verify(token, &public, "a-log").unwrap_err();
        assert_eq!(verified("garbage"), TokenError::Malformed);
        assert_eq!(verified("a.b.c"), TokenError::Malformed);
        assert_eq!(verified(&"a".repeat(BYTES_MAX + 1)), TokenError::TooLong);
        assert_eq!(
            verified(&signed(&claims(), "k2")),
            TokenError::UnknownKey("k2".to_owned())
        );
        let (_, forged) = keys(2);
        assert_eq!(
            verified(&sign(&claims(), "k1", &forged).unwrap()),
            TokenError::Signature
        );
        let aud = "another".to_owned();
        assert_eq!(
            verified(&signed(&Claims { aud, ..claims() }, "k1")),
            TokenError::Audience
        );
        let iss = "another".to_owned();
        assert_eq!(verified(&signed(&Claims { iss, ..claims() }, "k1")), TokenError::Issuer);
        let secret = EncodingKey::from_secret(&public["k1"]);
        let header = Header {
            kid: Some("k1".to_owned()),
            ..Header::new(Algorithm::HS256)
        };
        let confused = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
        assert_eq!(verified(&confused), TokenError::Algorithm);
        let no_kid = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims(), &private).unwrap();
        assert_eq!(verified(&no_kid), TokenError::NoKeyId);
        let critical = Header {
            kid: Some("k1".to_owned()),
            crit: Some(vec!["b64".to_owned()]),
            ..Header::new(Algorithm::EdDSA)
        };
        let critical = jsonwebtoken::encode(&critical, &claims(), &private).unwrap();
        assert_eq!(verified(&critical), TokenError::Critical);
        // {"alg":"none","kid":"k1"}
        let good = signed(&claims(), "k1");
        let (_, rest) = good.split_once('.').unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{rest}");
        assert!(matches!(verified(&unsigned), TokenError::Header(_)));
        let header = Header {
            kid: Some("k1".to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        let endless =
            serde_json::json!({"iss": ISSUER, "aud": "a-log", "sub": "x", "iat": NOW, "jti": "t", "scope": "operator"});
        let endless = jsonwebtoken::encode(&header, &endless, &private).unwrap();
        assert!(matches!(verified(&endless), TokenError::Claims(_)));
        let grown = serde_json::json!({"iss": ISSUER, "aud": "a-log", "sub": "x", "iat": NOW, "exp": NOW + 9, "jti": "t", "scope": "owner"});
        let grown = jsonwebtoken::encode(&header, &grown, &private).unwrap();
        assert!(matches!(verified(&grown), TokenError::Claims(_)));
    }

    #[test]
    fn times_are_kept() {
        let at = |claims: Claims, now: u64| claims.hold_at(now);
        assert_eq!(at(claims(), NOW), Ok(()));
        assert_eq!(at(claims(), NOW - LEEWAY_S), Ok(()));
        assert!(matches!(at(claims(), NOW - LEEWAY_S - 1), Err(TokenError::NotYet(_))));
        assert_eq!(at(claims(), NOW + 3_600 + LEEWAY_S - 1), Ok(()));
        assert!(matches!(
            at(claims(), NOW + 3_600 + LEEWAY_S),
            Err(TokenError::Expired(_))
        ));
        let nbf = Some(NOW + 600);
        assert!(matches!(
            at(Claims { nbf, ..claims() }, NOW),
            Err(TokenError::NotYet(_))
        ));
        let exp = NOW + LIFETIME_MAX_S;
        assert_eq!(at(Claims { exp, ..claims() }, NOW), Ok(()));
        assert_eq!(
            at(
                Claims {
                    exp: exp + 1,
                    ..claims()
                },
                NOW
            ),
            Err(TokenError::LivesTooLong)
        );
    }
}
