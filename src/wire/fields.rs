//! The fields of a protobuf message, one after the other, without a copy.

/// Groups within groups that are skipped; prost's limit for messages.
const DEPTH_MAX: u32 = 100;

/// Not protobuf: where the scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

/// A number of more than one byte, and what is left.
fn long_varint(rest: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    // Up to eight bytes at once: the first without its high bit is the last, and the groups of seven bits close up by pairs.
    if let Some(eight) = rest.first_chunk() {
        let word = u64::from_le_bytes(*eight);
        let ends = !word & 0x8080_8080_8080_8080;
        if ends != 0 {
            let word = word & (ends ^ ends.wrapping_sub(1));
            let pairs = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
            let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
            let value = fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4;
            return Ok((value, &rest[(ends.trailing_zeros() / 8 + 1) as usize..]));
        }
    }
    let mut value = 0u64;
    for (i, &byte) in rest.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return Err(Malformed("a number is longer than 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok((value, &rest[i + 1..]));
        }
    }
    Err(Malformed("a number breaks off"))
}

/// Walks the fields of one message.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// One field's value.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers and groups: nothing of the contract has them.
    Other,
}

impl<'a> Fields<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(byte.into());
        }
        // By value: what is passed by reference has to lie in memory at every other field too.
        let (value, rest) = long_varint(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    #[inline(always)]
    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.rest.split_at_checked(len as usize) else {
            return Err(Malformed("a field breaks off"));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// The next field's number and type, as one number; `None` at the end.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Result<Option<u64>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.varint().map(Some)
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.varint()?;
        self.take(len)
    }

    #[inline(always)]
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        super::ascii::text(self.bytes()?).ok_or(Malformed("a string is not UTF-8"))
    }

    /// The value of a field, whatever it is.
    fn value(&mut self, key: u64) -> Result<Value<'a>, Malformed> {
        if key < 8 || key > u64::from(u32::MAX) {
            return Err(Malformed("a field has no valid number"));
        }
        Ok(match key & 7 {
            0 => Value::Varint(self.varint()?),
            2 => Value::Bytes(self.bytes()?),
            other => {
                self.skip(other, key >> 3, DEPTH_MAX)?;
                Value::Other
            }
        })
    }

    /// The next field's number and value.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        let Some(key) = self.key()? else {
            return Ok(None);
        };
        let value = self.value(key)?;
        Ok(Some((key >> 3, value)))
    }

    /// Passes over a field that the message doesn't have (`unknown`), or has with another type: `known` are the keys it has.
    #[cold]
    pub(super) fn pass(mut self, key: u64, known: &[u64], unknown: &mut u32) -> Result<Self, Malformed> {
        let value = self.value(key)?;
        match known.iter().find(|k| **k >> 3 == key >> 3) {
            None => *unknown += 1,
            Some(wanted) if *wanted == (key >> 3) << 3 => value.number().map(|_| ())?,
            Some(_) => value.bytes().map(|_| ())?,
        }
        Ok(self)
    }

    fn skip(&mut self, wire_type: u64, number: u64, depth: u32) -> Result<(), Malformed> {
        match wire_type {
            0 => self.varint().map(|_| ()),
            1 => self.take(8).map(|_| ()),
            2 => {
                let len = self.varint()?;
                self.take(len).map(|_| ())
            }
            3 if depth > 0 => loop {
                let key = self.varint()?;
                if key & 7 == 4 {
                    return if key >> 3 == number {
                        Ok(())
                    } else {
                        Err(Malformed("a group ends that did not begin"))
                    };
                }
                self.skip(key & 7, key >> 3, depth - 1)?;
            },
            5 => self.take(4).map(|_| ()),
            _ => Err(Malformed("a field has no valid wire type")),
        }
    }
}

impl<'a> Value<'a> {
    #[inline]
    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed("a number has the wrong wire type")),
        }
    }

    #[inline]
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(value) => Ok(value),
            _ => Err(Malformed("a string or message has the wrong wire type")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        super::ascii::text(self.bytes()?).ok_or(Malformed("a string is not UTF-8"))
    }
}
