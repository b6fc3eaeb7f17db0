//! The file of an operator's key, which signs control records, ticks of histories and geneses:
//!
//! ```text
//! PATH      the private key (PKCS#8 in PEM, only for its owner); whoever can read it can change what is billed
//! PATH.pub  the public key, one line: KEYID:BASE64
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::http::token_keys::{generate, new_id, write_new};
use crate::wire::key_pair::{KeyPair, NotAKey};
use crate::wire::operator_keys::{OperatorKeyError, from_line, is_key_id, to_line};
use crate::wire::pb;
use crate::wire::signature::Signer;

/// Why a key can't be read or made.
#[derive(Debug, Error)]
pub enum OperatorKeyFileError {
    /// The file's.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// There is something already.
    #[error("{0} is there already and is not overwritten; give another --out")]
    Exists(PathBuf),
    /// An id that can't be one.
    #[error(transparent)]
    BadId(#[from] OperatorKeyError),
    /// Not a private key.
    #[error("{path} is not an Ed25519 private key in PEM: {cause}; make one with `reckon keygen --out PATH`")]
    NotAKey {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: NotAKey,
    },
    /// Not a public key's line.
    #[error(
        "{path} is not a line KEYID:BASE64 of an Ed25519 public key: {cause}; `reckon keygen --out PATH` writes one"
    )]
    NotALine {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: OperatorKeyError,
    },
    /// The two files are of two keys.
    #[error("{public} is not the public key of {private}; put the one beside it that was made with it")]
    OtherKey {
        /// The private key's file.
        private: PathBuf,
        /// The public key's.
        public: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    NoRandomness(#[from] getrandom::Error),
}

/// The file of a private key, with its public key beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorKeyFile(PathBuf);

impl OperatorKeyFile {
    /// A file, there or not.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where the private key is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the public key is.
    pub fn public_path(&self) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(".pub");
        path.into()
    }

    /// Makes a key pair; without an id it gets the day and a part of the key.
    pub fn make(&self, id: Option<&str>) -> Result<Signer, OperatorKeyFileError> {
        let pair = generate()?;
        let id = id.map_or_else(|| new_id(&pair), str::to_owned);
        if !is_key_id(&id) {
            return Err(OperatorKeyError::BadId(id).into());
        }
        let public = self.public_path();
        if public.exists() {
            return Err(OperatorKeyFileError::Exists(public));
        }
        let pem = pair.to_pem().map_err(|cause| self.not_a_key(cause))?;
        let signer = Signer::new(id, pair);
        let line = format!("{}\n", to_line(&signer.operator_key()));
        for (path, mode, text) in [(&self.0, 0o600, &pem), (&public, 0o644, &line)] {
            write_new(path, mode, text.as_bytes()).map_err(|cause| match cause.kind() {
                ErrorKind::AlreadyExists => OperatorKeyFileError::Exists(path.clone()),
                _ => at(path, cause),
            })?;
        }
        Ok(signer)
    }

    /// The key to sign with.
    pub fn load(&self) -> Result<Signer, OperatorKeyFileError> {
        let text = std::fs::read_to_string(&self.0).map_err(|cause| at(&self.0, cause))?;
        let pair = KeyPair::from_pem(&text).map_err(|cause| self.not_a_key(cause))?;
        let public = self.public_path();
        let named = read_public(&public)?;
        if named.ed25519_public != pair.public() {
            return Err(OperatorKeyFileError::OtherKey {
                private: self.0.clone(),
                public,
            });
        }
        Ok(Signer::new(named.key_id, pair))
    }

    fn not_a_key(&self, cause: NotAKey) -> OperatorKeyFileError {
        OperatorKeyFileError::NotAKey {
            path: self.0.clone(),
            cause,
        }
    }
}

/// Reads a public key's file.
pub fn read_public(path: &Path) -> Result<pb::OperatorKey, OperatorKeyFileError> {
    let text = std::fs::read_to_string(path).map_err(|cause| at(path, cause))?;
    from_line(&text).map_err(|cause| OperatorKeyFileError::NotALine {
        path: path.to_owned(),
        cause,
    })
}

fn at(path: &Path, cause: std::io::Error) -> OperatorKeyFileError {
    OperatorKeyFileError::File {
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::wire::operator_keys;
    use crate::wire::signature::verify;

    #[test]
    fn what_is_made_signs_and_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = OperatorKeyFile::new(folder.path().join("ops.pem"));
        let made = file.make(Some("ops-1")).expect("made");
        let mode = std::fs::metadata(file.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let loaded = file.load().expect("loaded");
        assert_eq!(loaded.operator_key(), made.operator_key());
        let keys = operator_keys::read(&[read_public(&file.public_path()).expect("a line")]).expect("a key");
        let signature = loaded.sign("log", b"record");
        assert_eq!(verify(Some(&signature), "log", b"record", &keys), Ok("ops-1"));

        assert!(matches!(file.make(None), Err(OperatorKeyFileError::Exists(_))));
        assert_eq!(file.load().expect("as it was").key_id(), "ops-1");
        std::fs::remove_file(file.public_path()).expect("removed");
        assert!(matches!(file.make(None), Err(OperatorKeyFileError::Exists(_))));
        assert!(matches!(file.load(), Err(OperatorKeyFileError::File { .. })));
        let other = OperatorKeyFile::new(folder.path().join("other.pem"));
        other.make(None).expect("made");
        std::fs::copy(other.public_path(), file.public_path()).expect("copied");
        assert!(matches!(file.load(), Err(OperatorKeyFileError::OtherKey { .. })));
        std::fs::write(file.path(), "-----BEGIN PRIVATE KEY-----").expect("written");
        assert!(matches!(file.load(), Err(OperatorKeyFileError::NotAKey { .. })));
        let odd = OperatorKeyFile::new(folder.path().join("odd.pem"));
        assert!(matches!(odd.make(Some("a:b")), Err(OperatorKeyFileError::BadId(_))));
        assert!(!odd.path().exists());
    }
}
