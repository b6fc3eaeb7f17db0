//! An Ed25519 key pair and its forms: PEM in files, DER for those who sign tokens.

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use thiserror::Error;

/// Why something is no key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct NotAKey(String);

impl NotAKey {
    fn of(cause: &impl std::fmt::Display) -> Self {
        Self(cause.to_string())
    }
}

/// The pair; it doesn't show its secret.
#[derive(Clone, Debug)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The pair of a secret, which must be random.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Reads a private key: PKCS#8 in PEM.
    pub fn from_pem(text: &str) -> Result<Self, NotAKey> {
        SigningKey::from_pkcs8_pem(text).map(Self).map_err(|e| NotAKey::of(&e))
    }

    /// The private key as PKCS#8 in PEM: without the public key beside it, so that OpenSSL reads it, too.
    pub fn to_pem(&self) -> Result<String, NotAKey> {
        let alone = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        let pem = alone.to_pkcs8_pem(LineEnding::LF).map_err(|e| NotAKey::of(&e))?;
        Ok(pem.as_str().to_owned())
    }

    /// The private key as PKCS#8 in DER.
    pub fn to_der(&self) -> Result<Vec<u8>, NotAKey> {
        let der = self.0.to_pkcs8_der().map_err(|e| NotAKey::of(&e))?;
        Ok(der.as_bytes().to_vec())
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> Result<String, NotAKey> {
        let pem = self.0.verifying_key().to_public_key_pem(LineEnding::LF);
        pem.map_err(|e| NotAKey::of(&e))
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// Reads a public key in PEM.
pub fn public_from_pem(text: &str) -> Result<[u8; 32], NotAKey> {
    let key = VerifyingKey::from_public_key_pem(text).map_err(|e| NotAKey::of(&e))?;
    check_public(&key.to_bytes())
}

/// The bytes, if they are a public key that proves anything.
pub fn check_public(bytes: &[u8]) -> Result<[u8; 32], NotAKey> {
    let bytes: [u8; 32] = bytes
        .try_into()
        .map_err(|_| NotAKey(format!("{} bytes; a public key has 32", bytes.len())))?;
    let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NotAKey("not a point of the curve".to_owned()))?;
    // Such a key "signs" whatever is asked for.
    if key.is_weak() {
        return Err(NotAKey("its point is of small order".to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_comes_back_and_one_of_openssl_is_read() {
        let pair = KeyPair::from_secret(&[7; 32]);
        let pem = pair.to_pem().expect("text");
        assert_eq!(KeyPair::from_pem(&pem).map(|p| p.public()), Ok(pair.public()));
        assert_eq!(public_from_pem(&pair.public_pem().expect("text")), Ok(pair.public()));
        // `openssl genpkey -algorithm ed25519`; the example of RFC 8410.
        let made = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        assert!(KeyPair::from_pem(made).is_ok());
        assert_eq!(pem.len(), made.len());
        assert!(!format!("{pair:?}").contains("7, 7"), "the secret isn't shown");
    }
}
