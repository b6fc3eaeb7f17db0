//! Call ids: UUIDs and ULIDs in 16 bytes, anything else as the text it is.
//!
//! Only the canonical spelling is folded (lower-case hyphenated UUID, upper-case ULID), so the text comes back byte for byte.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A call id as it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKey<'a> {
    /// A canonical UUID.
    Uuid(u128),
    /// A canonical ULID.
    Ulid(u128),
    /// Any other id.
    Text(&'a str),
}

/// A call id as it is kept. 24 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallId {
    /// A canonical UUID, big-endian.
    Uuid([u8; 16]),
    /// A canonical ULID, big-endian.
    Ulid([u8; 16]),
    /// Any other id.
    Text(Box<str>),
}

const BAD: u8 = 0xff;

/// Eight hexadecimal digits in lower case, all at once (digit by digit takes three times as long); and 0 unless one is bad.
#[inline(always)]
fn parse_hex(chars: u64) -> (u32, u64) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // '0' is 0x30 and 'a' 0x61: bit 6 tells a letter.
    let letters = chars >> 6 & ONES;
    let digits = (chars & (0x0f * ONES)).wrapping_add(letters.wrapping_mul(9));
    // A byte is its digit's character; it is a letter if, and only if, the digit is from 10 to 15.
    let spelt = digits
        .wrapping_add(0x30 * ONES)
        .wrapping_add(letters.wrapping_mul(0x27));
    let from_ten = digits.wrapping_add(6 * ONES) >> 4 & ONES;
    let bad = spelt ^ chars | from_ten ^ letters | digits & (0x10 * ONES);
    let pairs = digits.swap_bytes();
    let pairs = (pairs | pairs >> 4) & 0x00ff_00ff_00ff_00ff;
    let pairs = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    ((pairs | pairs >> 16) as u32, bad)
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

const fn crockford_table() -> [u8; 256] {
    let mut table = [BAD; 256];
    let mut i = 0;
    while i < 32 {
        table[CROCKFORD[i] as usize] = i as u8;
        i += 1;
    }
    table
}

const BASE32: [u8; 256] = crockford_table();

fn parse_uuid(text: &[u8]) -> Option<u128> {
    let text: &[u8; 36] = text.try_into().ok()?;
    if text[8] != b'-' || text[13] != b'-' || text[18] != b'-' || text[23] != b'-' {
        return None;
    }
    // Four times eight digits, the hyphens left out. One branch for all: they are good nearly always.
    let four = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
    let eight = |a: usize, b: usize| u64::from(four(b)) << 32 | u64::from(four(a));
    let (a, bad_a) = parse_hex(eight(0, 4));
    let (b, bad_b) = parse_hex(eight(9, 14));
    let (c, bad_c) = parse_hex(eight(19, 24));
    let (d, bad_d) = parse_hex(eight(28, 32));
    let (high, low) = (u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d));
    (bad_a | bad_b | bad_c | bad_d == 0).then_some(u128::from(high) << 64 | u128::from(low))
}

fn parse_ulid(text: &[u8]) -> Option<u128> {
    let text: &[u8; 26] = text.try_into().ok()?;
    if text[0] > b'7' {
        return None;
    }
    let mut value = 0u128;
    let mut seen = 0u8;
    for &byte in text {
        let digit = BASE32[byte as usize];
        seen |= digit;
        value = value << 5 | u128::from(digit & 31);
    }
    (seen < 32).then_some(value)
}

impl<'a> CallKey<'a> {
    /// Recognises the canonical forms.
    pub fn parse(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        match bytes.len() {
            36 => parse_uuid(bytes).map_or(Self::Text(text), Self::Uuid),
            26 => parse_ulid(bytes).map_or(Self::Text(text), Self::Ulid),
            _ => Self::Text(text),
        }
    }

    /// The same hash in every process and version: it is on disk beside the packed blocks.
    pub fn hash(&self, account: u32) -> u64 {
        let seed = u64::from(account);
        match self {
            Self::Uuid(value) => mix(*value, seed),
            Self::Ulid(value) => mix(*value, seed ^ 0x9e37_79b9_7f4a_7c15),
            Self::Text(text) => xxh3_64_with_seed(text.as_bytes(), seed),
        }
    }

    /// The form that is kept.
    pub fn to_owned(self) -> CallId {
        match self {
            Self::Uuid(value) => CallId::Uuid(value.to_be_bytes()),
            Self::Ulid(value) => CallId::Ulid(value.to_be_bytes()),
            Self::Text(text) => CallId::Text(text.into()),
        }
    }
}

/// Multiply and fold twice: every bit of the id and the account reaches every bit of the hash.
fn mix(value: u128, seed: u64) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a).wrapping_mul(u128::from(b));
        (product as u64) ^ (product >> 64) as u64
    };
    let (low, high) = (value as u64, (value >> 64) as u64);
    let first = fold(
        low ^ 0xa076_1d64_78bd_642f,
        high ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xe703_7ed1_a0b4_28db,
    );
    fold(first ^ seed, 0x8ebc_6af0_9c88_c6e3)
}

impl CallId {
    /// The form that is looked up.
    pub fn key(&self) -> CallKey<'_> {
        match self {
            Self::Uuid(bytes) => CallKey::Uuid(u128::from_be_bytes(*bytes)),
            Self::Ulid(bytes) => CallKey::Ulid(u128::from_be_bytes(*bytes)),
            Self::Text(text) => CallKey::Text(text),
        }
    }

    /// Whether it is the same id.
    pub fn is(&self, key: &CallKey<'_>) -> bool {
        match (self, key) {
            (Self::Uuid(a), CallKey::Uuid(b)) | (Self::Ulid(a), CallKey::Ulid(b)) => u128::from_be_bytes(*a) == *b,
            (Self::Text(a), CallKey::Text(b)) => a.as_ref() == *b,
            _ => false,
        }
    }
}

/// Where the hyphens stand.
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn uuid_text(value: u128) -> [u8; 36] {
    let mut text = [b'-'; 36];
    let mut at = 0;
    for byte in value.to_be_bytes() {
        for digit in [byte >> 4, byte & 15] {
            at += usize::from(UUID_HYPHENS.contains(&at));
            text[at] = b"0123456789abcdef"[usize::from(digit)];
            at += 1;
        }
    }
    text
}

fn ulid_text(value: u128) -> [u8; 26] {
    std::array::from_fn(|i| CROCKFORD[(value >> (125 - 5 * i)) as usize & 31])
}

impl CallKey<'_> {
    /// Its text, without an allocation.
    pub fn with_text<R>(&self, take: impl FnOnce(&str) -> R) -> R {
        // Digits are UTF-8.
        match self {
            Self::Uuid(value) => take(std::str::from_utf8(&uuid_text(*value)).unwrap_or_default()),
            Self::Ulid(value) => take(std::str::from_utf8(&ulid_text(*value)).unwrap_or_default()),
            Self::Text(text) => take(text),
        }
    }
}

impl fmt::Display for CallKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_ids_are_folded_and_come_back() {
        let uuid = "0192f3a4-7b6c-7def-8123-456789abcdef";
        let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert!(matches!(CallKey::parse(uuid), CallKey::Uuid(_)));
        assert!(matches!(CallKey::parse(ulid), CallKey::Ulid(_)));
        for text in [uuid, ulid, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "call-1", ""] {
            assert_eq!(CallKey::parse(text).to_owned().to_string(), text);
        }
    }

    #[test]
    fn every_byte_is_a_hex_digit_or_none() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut text = *b"0a1b9f2c";
                text[place] = byte;
                let plain = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let wanted = std::str::from_utf8(&text).ok().filter(|_| plain);
                let wanted = wanted.and_then(|t| u32::from_str_radix(t, 16).ok());
                let (value, bad) = parse_hex(u64::from_le_bytes(text));
                assert_eq!((bad == 0).then_some(value), wanted, "{text:?}");
            }
        }
    }

    #[test]
    fn other_spellings_stay_text() {
        for text in [
            "0192F3A4-7b6c-7def-8123-456789abcdef",
            "0192f3a4-7b6c-7def-8123-456789abcdeg",
            "0192f3a4x7b6c-7def-8123-456789abcdef",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "01ARZ3NDEKTSV4RRFFQ69G5FAI",
            "01arz3ndektsv4rrffq69g5fav",
        ] {
            assert_eq!(CallKey::parse(text), CallKey::Text(text));
        }
    }

    #[test]
    fn ids_of_other_accounts_and_forms_hash_apart() {
        let key = CallKey::Uuid(7);
        assert_ne!(key.hash(1), key.hash(2));
        assert_ne!(key.hash(1), CallKey::Ulid(7).hash(1));
        assert_eq!(size_of::<CallId>(), 24);
    }
}
