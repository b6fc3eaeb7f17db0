//! By whose authority a record is (RULES §1): an Ed25519 signature that stands beside its bytes, as `KEYID:BASE64`.
//!
//! What is signed is `reckon-control-v1`, a zero byte, the log's id, a zero byte, and the record's bytes: so a signature is worth
//! nothing for another log, nor for anything but Reckon.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use thiserror::Error;

use super::key_pair::KeyPair;
use super::pb;

const CONTEXT: &[u8] = b"reckon-control-v1";

/// Public keys by their ids.
pub type Keys = BTreeMap<String, [u8; 32]>;

/// Why a record is nobody's word.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// No signature.
    #[error("it isn't signed")]
    Absent,
    /// Not of the form `KEYID:BASE64`, with 64 bytes.
    #[error("the signature is not of the form KEYID:BASE64 with 64 bytes")]
    Malformed,
    /// Signed with a key that isn't known, or no more.
    #[error("key {0:?} is not one of the log's operator keys")]
    UnknownKey(String),
    /// The signature isn't that of these bytes in this log by this key.
    #[error("the signature by key {0:?} doesn't fit the record and the log")]
    Wrong(String),
}

fn message(log_id: &str, bytes: &[u8]) -> Vec<u8> {
    [CONTEXT, log_id.as_bytes(), bytes].join(&0)
}

/// Whether a text has a signature's form; that says nothing of whose it is.
pub fn is_well_formed(text: &str) -> bool {
    let bytes = text.split_once(':').and_then(|(id, signature)| {
        let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
        plain.then(|| STANDARD.decode(signature).ok()).flatten()
    });
    bytes.is_some_and(|bytes| Signature::from_slice(&bytes).is_ok())
}

/// Checks a record's signature. The id of the key that made it.
pub fn verify<'a>(
    signature: Option<&'a str>,
    log_id: &str,
    bytes: &[u8],
    keys: &Keys,
) -> Result<&'a str, SignatureError> {
    let text = signature.ok_or(SignatureError::Absent)?;
    let (id, signature) = text.split_once(':').ok_or(SignatureError::Malformed)?;
    let signature = STANDARD.decode(signature).map_err(|_| SignatureError::Malformed)?;
    let signature = Signature::from_slice(&signature).map_err(|_| SignatureError::Malformed)?;
    let key = keys
        .get(id)
        .ok_or_else(|| SignatureError::UnknownKey(id.chars().take(128).collect()))?;
    let wrong = |_| SignatureError::Wrong(id.to_owned());
    let key = VerifyingKey::from_bytes(key).map_err(wrong)?;
    key.verify_strict(&message(log_id, bytes), &signature).map_err(wrong)?;
    Ok(id)
}

/// Signs records with one operator's key.
#[derive(Clone, Debug)]
pub struct Signer {
    key_id: String,
    pair: KeyPair,
}

impl Signer {
    /// Signs with a pair whose public key goes by that id.
    pub fn new(key_id: impl Into<String>, pair: KeyPair) -> Self {
        Self {
            key_id: key_id.into(),
            pair,
        }
    }

    /// The key's id.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key, as genesis and `operator_keys` records name it.
    pub fn operator_key(&self) -> pb::OperatorKey {
        pb::OperatorKey {
            key_id: self.key_id.clone(),
            ed25519_public: self.pair.public().to_vec(),
        }
    }

    /// The header's text for a record of that log.
    pub fn sign(&self, log_id: &str, bytes: &[u8]) -> String {
        let signature = self.pair.sign(&message(log_id, bytes));
        format!("{}:{}", self.key_id, STANDARD.encode(signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(id: &str, secret: u8) -> Signer {
        Signer::new(id, KeyPair::from_secret(&[secret; 32]))
    }

    #[test]
    fn only_the_signed_bytes_in_their_log_by_a_known_key_hold() {
        let (ops, other) = (signer("ops", 1), signer("ops", 2));
        let keys = Keys::from([("ops".to_owned(), ops.pair.public())]);
        let header = ops.sign("log-1", b"record");
        let check = |header: &str, log_id, bytes| verify(Some(header), log_id, bytes, &keys).map(str::to_owned);
        assert_eq!(check(&header, "log-1", b"record"), Ok("ops".to_owned()));
        let wrong = Err(SignatureError::Wrong("ops".to_owned()));
        assert_eq!(check(&header, "log-2", b"record"), wrong);
        assert_eq!(check(&header, "log-1", b"Record"), wrong);
        assert_eq!(check(&other.sign("log-1", b"record"), "log-1", b"record"), wrong);
        let unknown = check(&signer("kim", 1).sign("log-1", b"record"), "log-1", b"record");
        assert_eq!(unknown, Err(SignatureError::UnknownKey("kim".to_owned())));
        assert_eq!(verify(None, "log-1", b"record", &keys), Err(SignatureError::Absent));
        for text in ["", "ops", ":", "ops:", "ops:AAAA", "ops:*", &header[..header.len() - 2]] {
            assert_eq!(
                check(text, "log-1", b"record"),
                Err(SignatureError::Malformed),
                "{text:?}"
            );
        }
        // No bit of it can be another one.
        let signature = STANDARD.decode(&header[4..]).unwrap_or_default();
        for bit in 0..signature.len() * 8 {
            let mut altered = signature.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                check(&format!("ops:{}", STANDARD.encode(altered)), "log-1", b"record"),
                wrong
            );
        }
    }

    #[test]
    fn the_message_is_as_documented() {
        assert_eq!(message("log", b"\0b"), b"reckon-control-v1\0log\0\0b");
    }
}
