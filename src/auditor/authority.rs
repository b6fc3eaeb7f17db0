//! RULES §1: whose records may change money, and in which partition an account's records belong.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};

use super::Entry;
use super::fold::{Auditor, Reject};
use crate::wire::pb;

/// The operator's keys, of a log that others write, too.
pub(super) struct Signed {
    log_id: String,
    keys: BTreeMap<String, VerifyingKey>,
}

fn key(named: &pb::OperatorKey) -> Option<VerifyingKey> {
    let bytes = named.ed25519_public.as_slice().try_into().ok()?;
    VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak())
}

impl Auditor {
    /// A log whose genesis names these keys; none: its process is its only writer.
    pub fn signed(&mut self, log_id: &str, keys: &[pb::OperatorKey]) {
        self.signed = (!keys.is_empty()).then(|| Signed {
            log_id: log_id.to_owned(),
            keys: keys.iter().filter_map(|k| Some((k.key_id.clone(), key(k)?))).collect(),
        });
    }

    /// Which partition it is, of how many.
    pub fn placed(&mut self, partition: u32, count: u32) {
        (self.partition, self.partition_count) = (partition, count.max(1));
    }

    /// Whether the record is the operator's.
    pub(super) fn authorised(&self, entry: &Entry<'_>) -> bool {
        let Some(signed) = &self.signed else { return true };
        let parts = entry.signature.and_then(|text| text.split_once(':'));
        let Some((id, signature)) = parts else { return false };
        let Some(signature) = STANDARD.decode(signature).ok() else {
            return false;
        };
        let Ok(signature) = Signature::from_slice(&signature) else {
            return false;
        };
        let mut message = Vec::from(*b"reckon-control-v1\0");
        message.extend_from_slice(signed.log_id.as_bytes());
        message.push(0);
        message.extend_from_slice(entry.bytes);
        let key = signed.keys.get(id);
        key.is_some_and(|key| key.verify_strict(&message, &signature).is_ok())
    }

    /// Whether the account's records belong in another partition.
    pub(super) fn elsewhere(&self, account: &str) -> bool {
        let positive = murmur2(account.as_bytes()) & i32::MAX.unsigned_abs();
        positive.checked_rem(self.partition_count) != Some(self.partition)
    }

    /// The keys after a change of them, or why it can't be.
    pub(super) fn keys_after(&self, change: &pb::OperatorKeys) -> Result<BTreeMap<String, VerifyingKey>, Reject> {
        let bad = super::reject::BAD_OPERATOR_KEYS;
        let mut keys = self.signed.as_ref().ok_or(bad)?.keys.clone();
        for id in &change.remove {
            keys.remove(id).ok_or(bad)?;
        }
        for added in &change.add {
            let twice = keys.insert(added.key_id.clone(), key(added).ok_or(bad)?).is_some();
            if twice || change.remove.contains(&added.key_id) {
                return Err(bad);
            }
        }
        if keys.is_empty() || keys.len() > 64 {
            Err(bad)
        } else {
            Ok(keys)
        }
    }

    /// From now on these keys hold.
    pub(super) fn take_keys(&mut self, keys: BTreeMap<String, VerifyingKey>) {
        if let Some(signed) = &mut self.signed {
            signed.keys = keys;
        }
    }
}

/// Kafka's murmur2.
fn murmur2(key: &[u8]) -> u32 {
    let mix = 0x5bd1_e995_u32;
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).unwrap_or(u32::MAX);
    for word in key.chunks(4) {
        let mut bytes = [0; 4];
        bytes[..word.len()].copy_from_slice(word);
        let number = u32::from_le_bytes(bytes);
        if word.len() == 4 {
            let mixed = number.wrapping_mul(mix);
            let mixed = (mixed ^ mixed >> 24).wrapping_mul(mix);
            hash = hash.wrapping_mul(mix) ^ mixed;
        } else {
            hash = (hash ^ number).wrapping_mul(mix);
        }
    }
    hash = (hash ^ hash >> 13).wrapping_mul(mix);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    #[test]
    fn murmur2_is_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("abc", 479_470_107),
        ] {
            assert_eq!(super::murmur2(key.as_bytes()), hash as u32, "{key}");
        }
    }
}
