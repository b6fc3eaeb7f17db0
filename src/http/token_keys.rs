//! The folder of keys that tokens are signed with:
//!
//! ```text
//! KID.private.pem   signs (PKCS#8, only for its owner); needed where tokens are issued, not where they are checked
//! KID.public.pem    checks: while it is here, the key's tokens hold
//! KID.retired.pem   a public key that was put aside: the key's tokens hold no more
//! revoked           a line for each token that was taken back: its id, and what else helps to know it
//! ```
//!
//! A folder with any of them asks for tokens, also when no public key is left: who removes the last key has shut the door, not
//! opened it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jsonwebtoken::EncodingKey;
use thiserror::Error;

use super::token::PublicKeys;
use crate::wire::key_pair::{KeyPair, NotAKey, public_from_pem};

const PRIVATE: &str = ".private.pem";
const PUBLIC: &str = ".public.pem";
const RETIRED: &str = ".retired.pem";

/// Ids of tokens that were taken back.
const REVOKED: &str = "revoked";

/// Characters of a token's id at most, whoever issued it.
const TOKEN_ID_LENGTH_MAX: usize = 128;

/// Hex digits of a token's id as `reckon token issue` makes it.
const TOKEN_ID_DIGITS: usize = 32;

/// Characters of a key's id at most.
const ID_LENGTH_MAX: usize = 64;

/// Why keys can't be read or made.
#[derive(Debug, Error)]
pub enum KeyError {
    /// A file's or the folder's.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Not a key.
    #[error(
        "{path} is not an Ed25519 key in PEM: {cause}; make one with `reckon token key new`, or take the file away"
    )]
    NotAKey {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// An id that can't be a file's name.
    #[error("{0:?} can't be a key's id: it has 1 to {ID_LENGTH_MAX} letters, digits, `-` and `_`")]
    BadId(String),
    /// An id that can't be a token's.
    #[error(
        "{0:?} is neither a token nor a token's id: give the token as it was issued, or its id, {TOKEN_ID_DIGITS} hex digits, \
         which `reckon token inspect TOKEN` shows"
    )]
    BadTokenId(String),
    /// An id that is taken.
    #[error("there is a key {0:?} already, or has been; ids are not used again")]
    Taken(String),
    /// No key of that id.
    #[error("there is no public key {0:?}; `reckon token key list` shows what there is")]
    Unknown(String),
    /// Nothing to sign with.
    #[error("no key in {0} can sign; make one with `reckon token key new`")]
    NoSigner(PathBuf),
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    NoRandomness(#[from] getrandom::Error),
}

/// How a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its tokens hold.
    Active,
    /// Its tokens hold no more.
    Retired,
    /// It has a private file alone: its tokens don't hold here.
    Unpublished,
}

impl KeyState {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Unpublished => "unpublished",
        }
    }
}

/// One key of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// `kid` of its tokens.
    pub id: String,
    /// How it stands.
    pub state: KeyState,
    /// It is active, and its private file is here: new tokens can be signed with it.
    pub can_sign: bool,
}

/// What the folder says of tokens at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Keys whose tokens hold.
    pub keys: PublicKeys,
    /// Ids of tokens that hold no more, whoever signed them.
    pub revoked: BTreeSet<String>,
    /// Whether tokens are asked for: the folder holds a key of whatever state.
    pub asks: bool,
    /// Files that should be keys and aren't, and why.
    pub broken: Vec<String>,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct KeyFolder(PathBuf);

impl KeyFolder {
    /// A folder, there or not.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where a data folder has it.
    pub fn of_data(data: &Path) -> Self {
        Self(data.join("keys"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, id: &str, kind: &str) -> PathBuf {
        self.0.join(format!("{id}{kind}"))
    }

    /// Names of the files in it; none if it isn't there.
    fn names(&self) -> Result<BTreeSet<String>, KeyError> {
        let listed = match std::fs::read_dir(&self.0) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            listed => listed.and_then(Iterator::collect::<std::io::Result<Vec<_>>>),
        };
        let listed = listed.map_err(|cause| at(&self.0, cause))?;
        Ok(listed
            .into_iter()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect())
    }

    /// The public keys as they are now.
    pub fn ring(&self) -> Result<Ring, KeyError> {
        let mut ring = Ring {
            revoked: self.revoked()?,
            ..Ring::default()
        };
        for name in self.names()? {
            ring.asks |= [PRIVATE, PUBLIC, RETIRED].iter().any(|kind| name.ends_with(kind));
            let Some(id) = name.strip_suffix(PUBLIC).filter(|id| check_id(id).is_ok()) else {
                continue;
            };
            match read_public(&self.0.join(&name)) {
                Ok(Some(key)) => _ = ring.keys.insert(id.to_owned(), key),
                // Taken away since it was listed.
                Ok(None) => {}
                Err(cause) => ring.broken.push(cause.to_string()),
            }
        }
        Ok(ring)
    }

    /// All keys, by id.
    pub fn list(&self) -> Result<Vec<KeyEntry>, KeyError> {
        let names = self.names()?;
        let id_of = |name: &String| {
            let kinds = [PRIVATE, PUBLIC, RETIRED];
            let id = kinds.iter().find_map(|kind| name.strip_suffix(kind))?;
            check_id(id).ok().map(|()| id.to_owned())
        };
        let ids: BTreeSet<String> = names.iter().filter_map(id_of).collect();
        let has = |id: &str, kind: &str| names.contains(&format!("{id}{kind}"));
        let entries = ids.into_iter().map(|id| KeyEntry {
            state: if has(&id, PUBLIC) {
                KeyState::Active
            } else if has(&id, RETIRED) {
                KeyState::Retired
            } else {
                KeyState::Unpublished
            },
            can_sign: has(&id, PUBLIC) && has(&id, PRIVATE),
            id,
        });
        Ok(entries.collect())
    }

    /// Makes a key pair and says its id.
    pub fn make(&self, id: Option<&str>) -> Result<String, KeyError> {
        let key = generate()?;
        let id = id.map_or_else(|| new_id(&key), str::to_owned);
        check_id(&id)?;
        let mut builder = std::fs::DirBuilder::new();
        // Others may read public keys, nobody else may put one here.
        let made = builder.recursive(true).mode(0o755).create(&self.0);
        made.map_err(|cause| at(&self.0, cause))?;
        let (private, public) = (self.file(&id, PRIVATE), self.file(&id, PUBLIC));
        if public.exists() || self.file(&id, RETIRED).exists() {
            return Err(KeyError::Taken(id));
        }
        let pem = key.to_pem().map_err(|cause| not_a_key(&private, cause))?;
        match write_new(&private, 0o600, pem.as_bytes()) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => return Err(KeyError::Taken(id)),
            written => written.map_err(|cause| at(&private, cause))?,
        }
        let pem = key.public_pem().map_err(|cause| not_a_key(&public, cause))?;
        // Whole or not at all: a service that runs may be reading.
        let half = self.file(&id, ".public.half");
        write_new(&half, 0o644, pem.as_bytes()).map_err(|cause| at(&half, cause))?;
        std::fs::rename(&half, &public).map_err(|cause| at(&public, cause))?;
        sync_folder(&self.0)?;
        Ok(id)
    }

    /// Puts the public key aside: the key's tokens hold no more, and it signs no new ones.
    pub fn retire(&self, id: &str) -> Result<(), KeyError> {
        check_id(id)?;
        let public = self.file(id, PUBLIC);
        match std::fs::rename(&public, self.file(id, RETIRED)) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Err(KeyError::Unknown(id.to_owned())),
            moved => moved.map_err(|cause| at(&public, cause)),
        }?;
        sync_folder(&self.0)
    }

    fn revoked(&self) -> Result<BTreeSet<String>, KeyError> {
        let path = self.0.join(REVOKED);
        let text = match std::fs::read_to_string(&path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            text => text.map_err(|cause| at(&path, cause))?,
        };
        let ids = text.lines().filter_map(|line| line.split_whitespace().next());
        Ok(ids.filter(|id| !id.starts_with('#')).map(str::to_owned).collect())
    }

    /// Takes a token back by its id. The note says to people which one it was.
    pub fn revoke(&self, token_id: &str, note: &str) -> Result<(), KeyError> {
        let fits = (1..=TOKEN_ID_LENGTH_MAX).contains(&token_id.len())
            && token_id.bytes().all(|b| b.is_ascii_graphic())
            && !token_id.starts_with('#');
        if !fits {
            return Err(not_a_token_id(token_id));
        }
        if self.revoked()?.contains(token_id) {
            return Ok(());
        }
        let path = self.0.join(REVOKED);
        let note: String = note.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).mode(0o644).open(&path)?;
            // In one piece: a service that runs may be reading, and another may be writing.
            file.write_all(format!("{token_id} {note}\n").as_bytes())?;
            file.sync_all()
        };
        write().map_err(|cause| at(&path, cause))?;
        sync_folder(&self.0)
    }

    /// The key to sign with: that of the id, or the newest that is active.
    pub fn signer(&self, id: Option<&str>) -> Result<(String, EncodingKey), KeyError> {
        let id = match id {
            Some(id) => id.to_owned(),
            None => self.newest()?,
        };
        check_id(&id)?;
        if !self.file(&id, PUBLIC).exists() {
            return Err(KeyError::Unknown(id));
        }
        let path = self.file(&id, PRIVATE);
        let text = std::fs::read_to_string(&path).map_err(|cause| at(&path, cause))?;
        let der = KeyPair::from_pem(&text).and_then(|key| key.to_der());
        let der = der.map_err(|cause| not_a_key(&path, cause))?;
        Ok((id, EncodingKey::from_ed_der(&der)))
    }

    fn newest(&self) -> Result<String, KeyError> {
        let mut newest: Option<(SystemTime, String)> = None;
        let entries = self.list()?;
        for entry in entries.into_iter().filter(|e| e.can_sign) {
            let path = self.file(&entry.id, PRIVATE);
            let made = std::fs::metadata(&path).and_then(|m| m.modified());
            newest = newest.max(Some((made.map_err(|cause| at(&path, cause))?, entry.id)));
        }
        newest.map_or_else(|| Err(KeyError::NoSigner(self.0.clone())), |(_, id)| Ok(id))
    }
}

fn at(path: &Path, cause: std::io::Error) -> KeyError {
    KeyError::File {
        path: path.to_owned(),
        cause,
    }
}

fn not_a_key(path: &Path, cause: NotAKey) -> KeyError {
    KeyError::NotAKey {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

/// A token's id as it was issued here, given by hand: anything else would be taken back without there being such a token, and
/// the one that was meant would go on.
pub fn token_id(text: &str) -> Result<String, KeyError> {
    if text.len() == TOKEN_ID_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(not_a_token_id(text))
    }
}

fn not_a_token_id(text: &str) -> KeyError {
    KeyError::BadTokenId(text.chars().take(TOKEN_ID_LENGTH_MAX).collect())
}

/// A new key pair.
pub fn generate() -> Result<KeyPair, getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(KeyPair::from_secret(&secret))
}

/// The day, so that people see which is older, and the key's own first bytes, so that no two are the same.
pub fn new_id(key: &KeyPair) -> String {
    let [a, b, c, d, ..] = key.public();
    format!("{}-{a:02x}{b:02x}{c:02x}{d:02x}", chrono::Utc::now().format("%Y%m%d"))
}

fn check_id(id: &str) -> Result<(), KeyError> {
    let fits = (1..=ID_LENGTH_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    fits.then_some(()).ok_or_else(|| KeyError::BadId(id.to_owned()))
}

fn read_public(path: &Path) -> Result<Option<[u8; 32]>, KeyError> {
    let text = match std::fs::read_to_string(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|cause| at(path, cause))?,
    };
    public_from_pem(&text).map(Some).map_err(|cause| not_a_key(path, cause))
}

/// Writes a file that isn't there yet.
pub fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> Result<(), KeyError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|cause| at(path, cause))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ed25519_dalek::VerifyingKey;
    use ed25519_dalek::pkcs8::EncodePublicKey;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

    use super::*;

    #[test]
    fn keys_are_made_listed_and_retired() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::of_data(folder.path());
        assert_eq!(keys.ring().unwrap(), Ring::default());
        assert!(matches!(keys.signer(None), Err(KeyError::NoSigner(_))));
        let first = keys.make(None).unwrap();
        keys.make(Some("next")).unwrap();
        assert!(matches!(keys.make(Some("next")), Err(KeyError::Taken(_))));
        let private = keys.file("next", PRIVATE);
        let mode = std::fs::metadata(&private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let ring = keys.ring().unwrap();
        assert!(ring.asks && ring.broken.is_empty());
        assert_eq!(ring.keys.len(), 2);
        assert_eq!(keys.signer(None).unwrap().0, "next");
        assert_eq!(keys.signer(Some(&first)).unwrap().0, first);

        keys.retire("next").unwrap();
        assert!(matches!(keys.retire("next"), Err(KeyError::Unknown(_))));
        assert!(matches!(keys.signer(Some("next")), Err(KeyError::Unknown(_))));
        assert!(matches!(keys.make(Some("next")), Err(KeyError::Taken(_))));
        assert_eq!(keys.signer(None).unwrap().0, first);
        // The retired key's private file is still here, and good for nothing.
        std::fs::remove_file(keys.file(&keys.make(Some("unpublished")).unwrap(), PUBLIC)).unwrap();
        let entry = |id: &str, state, can_sign| KeyEntry {
            id: id.to_owned(),
            state,
            can_sign,
        };
        assert_eq!(
            keys.list().unwrap(),
            [
                entry(&first, KeyState::Active, true),
                entry("next", KeyState::Retired, false),
                entry("unpublished", KeyState::Unpublished, false),
            ]
        );
        assert_eq!(keys.signer(None).unwrap().0, first);

        // The last key is gone: tokens are asked for all the same.
        keys.retire(&first).unwrap();
        let ring = keys.ring().unwrap();
        assert!(ring.asks && ring.keys.is_empty());
    }

    #[test]
    fn tokens_are_revoked_by_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().to_owned());
        keys.revoke("t-1", "edge-1,\nuntil then").unwrap();
        keys.revoke("t-1", "again").unwrap();
        keys.revoke("t-2", "").unwrap();
        let text = std::fs::read_to_string(folder.path().join(REVOKED)).unwrap();
        assert_eq!(text, "t-1 edge-1, until then\nt-2 \n");
        let ring = keys.ring().unwrap();
        assert_eq!(ring.revoked.iter().collect::<Vec<_>>(), ["t-1", "t-2"]);
        assert!(!ring.asks, "a key alone shuts the door");
        for id in ["", "a b", "#x", "a\nb", &"t".repeat(129)] {
            assert!(matches!(keys.revoke(id, ""), Err(KeyError::BadTokenId(_))), "{id:?}");
        }
    }

    #[test]
    fn ids_given_by_hand_are_those_of_issued_tokens() {
        let id = "9f2c01ab5d3e4f60718293a4b5c6d7e8";
        assert_eq!(token_id(id).unwrap(), id);
        assert_eq!(token_id(&id.to_uppercase()).unwrap(), id);
        for text in ["", "t-1", "edge-1", &id[1..], &format!("{id}0"), &id.replace('9', "g")] {
            assert!(matches!(token_id(text), Err(KeyError::BadTokenId(_))), "{text:?}");
        }
    }

    #[test]
    fn ids_stay_in_the_folder_and_files_that_are_no_keys_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().to_owned());
        for id in ["", "../x", "a/b", "a.b", "ä", &"k".repeat(65)] {
            assert!(matches!(keys.make(Some(id)), Err(KeyError::BadId(_))), "{id:?}");
            assert!(keys.retire(id).is_err() && keys.signer(Some(id)).is_err(), "{id:?}");
        }
        keys.make(Some("good")).unwrap();
        std::fs::write(folder.path().join("bad.public.pem"), "-----BEGIN PUBLIC KEY-----").unwrap();
        let ring = keys.ring().unwrap();
        assert_eq!(ring.keys.keys().collect::<Vec<_>>(), ["good"]);
        assert!(ring.broken[0].contains("bad.public.pem"), "{:?}", ring.broken);
        // The neutral point: any signature would fit it.
        let mut weak = [0; 32];
        weak[0] = 1;
        let weak = VerifyingKey::from_bytes(&weak).unwrap();
        let pem = weak.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(folder.path().join("bad.public.pem"), pem).unwrap();
        assert!(keys.ring().unwrap().broken[0].contains("small order"));
    }
}
