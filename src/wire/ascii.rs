//! Bytes to text where they are ASCII, as nearly all names and ids are.
//!
//! `str::from_utf8` takes a third of the scan's time on strings of 10 to 40 bytes, `is_ascii` a sixth, this a tenth: eight
//! bytes at a time, and the last eight whatever the length. Measured with `reckon bench fold` ("own decode").

#![allow(
    unsafe_code,
    reason = "one call, guarded by the line before it; a fifth of the decoder's time"
)]

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

/// Whether `is_bad` of eight bytes has no high bit set, for all of them. Too short bytes are filled up with spaces.
#[inline(always)]
fn none(bytes: &[u8], is_bad: impl Fn(u64) -> u64) -> bool {
    let Some(last) = bytes.last_chunk() else {
        let all = bytes.iter().fold(0x20 * ONES, |all, &byte| all << 8 | u64::from(byte));
        return is_bad(all) & HIGH == 0;
    };
    for eight in bytes.as_chunks().0 {
        if is_bad(u64::from_le_bytes(*eight)) & HIGH != 0 {
            return false;
        }
    }
    is_bad(u64::from_le_bytes(*last)) & HIGH == 0
}

/// Whether all bytes are printable ASCII: no control character, nothing else either.
#[inline]
pub fn is_plain(bytes: &[u8]) -> bool {
    // A byte under 0x20 borrows, 0x7f carries into the high bit. Neighbours are touched only where one is bad already.
    none(bytes, |eight| {
        eight | eight.wrapping_sub(0x20 * ONES) | eight.wrapping_add(ONES)
    })
}

/// The bytes as text, unless they are not UTF-8.
#[inline(always)]
pub fn text(bytes: &[u8]) -> Option<&str> {
    if none(bytes, |eight| eight) {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_utf8_says() {
        for bytes in [
            &b""[..],
            b"acme",
            "n\u{e9}e".as_bytes(),
            &[0xff],
            &[0x61, 0xc3],
            b"0123456789abcdef0123456789abcdef\xf0",
        ] {
            assert_eq!(text(bytes), std::str::from_utf8(bytes).ok());
        }
    }

    #[test]
    fn one_byte_that_is_not_plain_is_seen_wherever_it_stands() {
        for len in 0..20 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b' '; len];
                    bytes[at] = byte;
                    assert_eq!(
                        is_plain(&bytes),
                        (0x20..0x7f).contains(&byte),
                        "{byte} at {at} of {len}"
                    );
                    assert_eq!(text(&bytes), std::str::from_utf8(&bytes).ok());
                }
            }
        }
    }
}
