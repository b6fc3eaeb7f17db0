//! The keys by which the operator's word is known: named in genesis, changed by `operator_keys` records (RULES §1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use thiserror::Error;

use super::check::is_good_id;
use super::key_pair::{NotAKey, check_public};
use super::pb;
use super::record::Headers;
use super::signature::{Keys, SignatureError, verify};

/// Keys of a log at most.
pub const KEYS_MAX: usize = 64;

/// Why keys can't be a log's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OperatorKeyError {
    /// An id that can't stand before a signature.
    #[error("{0:?} can't be a key's id: it has 1 to 128 bytes, no colon and no control characters")]
    BadId(String),
    /// Not a public key.
    #[error("key {id:?}: {cause}")]
    NotAKey {
        /// Which.
        id: String,
        /// Why.
        cause: NotAKey,
    },
    /// An id that stands there twice, or is there already.
    #[error("key id {0:?} twice")]
    Twice(String),
    /// To be removed, and not there.
    #[error("there is no key {0:?}")]
    Unknown(String),
    /// Nobody could sign any more.
    #[error("no key would remain")]
    NoneLeft,
    /// More than a log keeps.
    #[error("over {KEYS_MAX} keys")]
    TooMany,
}

/// Whether an id can stand before a signature.
pub fn is_key_id(id: &str) -> bool {
    !id.is_empty() && is_good_id(id) && !id.contains(':')
}

fn insert(keys: &mut Keys, key: &pb::OperatorKey) -> Result<(), OperatorKeyError> {
    let id = &key.key_id;
    if !is_key_id(id) {
        return Err(OperatorKeyError::BadId(id.clone()));
    }
    let public =
        check_public(&key.ed25519_public).map_err(|cause| OperatorKeyError::NotAKey { id: id.clone(), cause })?;
    if keys.insert(id.clone(), public).is_some() {
        return Err(OperatorKeyError::Twice(id.clone()));
    }
    if keys.len() > KEYS_MAX {
        return Err(OperatorKeyError::TooMany);
    }
    Ok(())
}

/// The keys that a genesis names.
pub fn read(named: &[pb::OperatorKey]) -> Result<Keys, OperatorKeyError> {
    let mut keys = Keys::new();
    named.iter().try_for_each(|key| insert(&mut keys, key))?;
    Ok(keys)
}

/// The keys after a change of them.
pub fn changed(keys: &Keys, change: &pb::OperatorKeys) -> Result<Keys, OperatorKeyError> {
    let mut keys = keys.clone();
    for id in &change.remove {
        if keys.remove(id).is_none() {
            return Err(OperatorKeyError::Unknown(id.clone()));
        }
        // Not in one record: which of the two keys is meant should never have to be asked.
        if change.add.iter().any(|key| key.key_id == *id) {
            return Err(OperatorKeyError::Twice(id.clone()));
        }
    }
    change.add.iter().try_for_each(|key| insert(&mut keys, key))?;
    if keys.is_empty() {
        return Err(OperatorKeyError::NoneLeft);
    }
    Ok(keys)
}

/// A public key as a line: `KEYID:BASE64`.
pub fn to_line(key: &pb::OperatorKey) -> String {
    format!("{}:{}", key.key_id, STANDARD.encode(&key.ed25519_public))
}

/// Reads such a line.
pub fn from_line(line: &str) -> Result<pb::OperatorKey, OperatorKeyError> {
    let (id, public) = line.trim().split_once(':').unwrap_or((line.trim(), ""));
    let key = pb::OperatorKey {
        key_id: id.to_owned(),
        ed25519_public: STANDARD.decode(public).unwrap_or_default(),
    };
    read(std::slice::from_ref(&key))?;
    Ok(key)
}

/// Why a partition's first record can't be its genesis.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// Not a genesis at all.
    #[error("it can't be decoded: {0}")]
    Undecodable(String),
    /// No log id, or one that can't be one.
    #[error("log id {0:?}: it has 1 to 128 bytes without control characters")]
    LogId(String),
    /// Its place among the partitions.
    #[error("partition {partition} of {count}")]
    Partition {
        /// Index.
        partition: u32,
        /// Count.
        count: u32,
    },
    /// Another one's than the log at hand says.
    #[error("it is that of partition {partition} of {count} of log {log_id:?}")]
    Other {
        /// Whose it is.
        log_id: String,
        /// Index.
        partition: u32,
        /// Count.
        count: u32,
    },
    /// A clock source of a later version.
    #[error("clock source {0} is unknown to this version")]
    ClockSource(i32),
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] OperatorKeyError),
    /// It names keys, and none of them has signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Reads a genesis. One that names keys must be signed with one of them.
pub fn check_genesis(bytes: &[u8], headers: &Headers<'_>) -> Result<pb::Genesis, GenesisError> {
    let genesis = pb::Genesis::decode(bytes).map_err(|e| GenesisError::Undecodable(e.to_string()))?;
    let (partition, count) = (genesis.partition, genesis.partition_count);
    if genesis.log_id.is_empty() || !is_good_id(&genesis.log_id) {
        return Err(GenesisError::LogId(genesis.log_id));
    }
    if partition >= count {
        return Err(GenesisError::Partition { partition, count });
    }
    if pb::ClockSource::try_from(genesis.clock_source).is_err() {
        return Err(GenesisError::ClockSource(genesis.clock_source));
    }
    let keys = read(&genesis.keys)?;
    if !keys.is_empty() {
        verify(headers.signature, &genesis.log_id, bytes, &keys)?;
    }
    Ok(genesis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::key_pair::KeyPair;
    use crate::wire::signature::Signer;

    fn signer(id: &str, secret: u8) -> Signer {
        Signer::new(id, KeyPair::from_secret(&[secret; 32]))
    }

    fn key(id: &str, secret: u8) -> pb::OperatorKey {
        signer(id, secret).operator_key()
    }

    #[test]
    fn keys_change_and_one_remains() {
        let keys = read(&[key("a", 1), key("b", 2)]).expect("two keys");
        let change = |add: &[pb::OperatorKey], remove: &[&str]| {
            let remove = remove.iter().map(|id| (*id).to_owned()).collect();
            changed(
                &keys,
                &pb::OperatorKeys {
                    add: add.to_vec(),
                    remove,
                },
            )
            .map(|k| k.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(change(&[key("c", 3)], &["a"]), Ok(vec!["b".to_owned(), "c".to_owned()]));
        assert_eq!(change(&[key("c", 3)], &["a", "b"]), Ok(vec!["c".to_owned()]));
        let twice = |id: &str| Err(OperatorKeyError::Twice(id.to_owned()));
        assert_eq!(change(&[key("b", 3)], &[]), twice("b"));
        assert_eq!(change(&[key("b", 3)], &["b"]), twice("b"));
        assert_eq!(change(&[key("c", 3), key("c", 4)], &[]), twice("c"));
        assert_eq!(change(&[], &["a", "a"]), Err(OperatorKeyError::Unknown("a".to_owned())));
        assert_eq!(change(&[], &["a", "b"]), Err(OperatorKeyError::NoneLeft));
        for id in ["", "a:b", "a\n", &"k".repeat(129)] {
            assert_eq!(change(&[key(id, 3)], &[]), Err(OperatorKeyError::BadId(id.to_owned())));
        }
        let mut weak = key("c", 3);
        weak.ed25519_public = vec![0; 32];
        weak.ed25519_public[0] = 1;
        assert!(matches!(
            change(&[weak.clone()], &[]),
            Err(OperatorKeyError::NotAKey { .. })
        ));
        weak.ed25519_public.pop();
        assert!(matches!(change(&[weak], &[]), Err(OperatorKeyError::NotAKey { .. })));
        let many: Vec<_> = (0..63).map(|n| key(&n.to_string(), 3)).collect();
        assert_eq!(change(&many, &[]), Err(OperatorKeyError::TooMany));
    }

    #[test]
    fn a_line_is_read_back() {
        let key = key("ops-1", 1);
        assert_eq!(from_line(&to_line(&key)), Ok(key));
        assert!(from_line("ops-1").is_err() && from_line("ops-1:AAAA").is_err() && from_line("").is_err());
    }

    #[test]
    fn a_genesis_with_keys_is_signed_with_one_of_them() {
        let mut genesis = pb::Genesis {
            log_id: "log-1".to_owned(),
            partition: 1,
            partition_count: 4,
            ..pb::Genesis::default()
        };
        let check = |genesis: &pb::Genesis, by: Option<&Signer>| {
            let bytes = genesis.encode_to_vec();
            let signature = by.map(|s| s.sign("log-1", &bytes));
            let headers = Headers {
                signature: signature.as_deref(),
                ..Headers::default()
            };
            check_genesis(&bytes, &headers)
        };
        let (ops, other) = (signer("ops", 1), signer("ops", 2));
        assert_eq!(check(&genesis, None), Ok(genesis.clone()));
        genesis.keys = vec![ops.operator_key(), key("backup", 3)];
        assert_eq!(check(&genesis, None), Err(SignatureError::Absent.into()));
        assert_eq!(
            check(&genesis, Some(&other)),
            Err(SignatureError::Wrong("ops".to_owned()).into())
        );
        assert_eq!(check(&genesis, Some(&ops)), Ok(genesis.clone()));
        let refused = |change: fn(&mut pb::Genesis)| {
            let mut genesis = genesis.clone();
            change(&mut genesis);
            check(&genesis, Some(&signer("ops", 1))).is_err()
        };
        assert!(refused(|g| g.log_id.clear()));
        assert!(refused(|g| g.log_id = "other".to_owned()));
        assert!(refused(|g| g.partition = 4));
        assert!(refused(|g| g.clock_source = 9));
        assert!(refused(|g| g.keys[1].key_id = "ops".to_owned()));
    }
}
