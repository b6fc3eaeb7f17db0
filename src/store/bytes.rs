//! The bytes of every stored value: varints and length-prefixed strings, nothing else.
//!
//! Unsigned numbers are LEB128, signed ones zigzag LEB128, strings and lists are prefixed with their length.

use thiserror::Error;

/// A stored value that can't be read: the store was written by something else, or is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a stored {what} can't be read; restore a backup, or remove the store and fold the log again")]
pub struct Damaged {
    /// What kind of value.
    pub what: &'static str,
}

/// Writes values.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written.
    pub bytes: Vec<u8>,
}

impl Writer {
    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// An unsigned number.
    pub fn uint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A signed number, short when near 0.
    pub fn int(&mut self, value: i64) {
        self.uint((value << 1 ^ value >> 63) as u64);
    }

    /// A wide signed number.
    pub fn wide(&mut self, value: i128) {
        let mut zigzag = (value << 1 ^ value >> 127) as u128;
        while zigzag >= 0x80 {
            self.bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.bytes.push(zigzag as u8);
    }

    /// Bytes with their length before them.
    pub fn slice(&mut self, value: &[u8]) {
        self.uint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// Text with its length before it.
    pub fn text(&mut self, value: &str) {
        self.slice(value.as_bytes());
    }

    /// An optional signed number.
    pub fn maybe(&mut self, value: Option<i64>) {
        match value {
            None => self.byte(0),
            Some(value) => {
                self.byte(1);
                self.int(value);
            }
        }
    }
}

/// Reads what [`Writer`] wrote.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// What is left.
    pub rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of a value of that kind.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The error for this kind of value.
    pub fn damaged(&self) -> Damaged {
        Damaged { what: self.what }
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let (&first, rest) = self.rest.split_first().ok_or(self.damaged())?;
        self.rest = rest;
        Ok(first)
    }

    /// An unsigned number.
    pub fn uint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(self.damaged());
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    /// An unsigned number of at most 32 bits.
    pub fn u32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.uint()?).map_err(|_| self.damaged())
    }

    /// A count of things that take at least a byte each.
    pub fn count(&mut self) -> Result<usize, Damaged> {
        let count = self.uint()?;
        if count > self.rest.len() as u64 {
            return Err(self.damaged());
        }
        Ok(count as usize)
    }

    /// A signed number.
    pub fn int(&mut self) -> Result<i64, Damaged> {
        let zigzag = self.uint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// A wide signed number.
    pub fn wide(&mut self) -> Result<i128, Damaged> {
        let mut zigzag = 0u128;
        for shift in (0..133).step_by(7) {
            let byte = self.byte()?;
            if shift == 126 && byte > 3 {
                return Err(self.damaged());
            }
            zigzag |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1) as i128 ^ -((zigzag & 1) as i128));
            }
        }
        Err(self.damaged())
    }

    /// Exactly `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        if len > self.rest.len() {
            return Err(self.damaged());
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes with their length before them.
    pub fn slice(&mut self) -> Result<&'a [u8], Damaged> {
        let len = self.count()?;
        self.take(len)
    }

    /// Text with its length before it.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        let damaged = self.damaged();
        std::str::from_utf8(self.slice()?).map_err(|_| damaged)
    }

    /// An optional signed number.
    pub fn maybe(&mut self) -> Result<Option<i64>, Damaged> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(self.int()?)),
            _ => Err(self.damaged()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() -> Result<(), Damaged> {
        let ints = [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN];
        let wides = [0, -1, i128::from(i64::MAX) * 1_000_000_000, i128::MAX, i128::MIN];
        let mut writer = Writer::default();
        ints.iter().for_each(|i| writer.int(*i));
        wides.iter().for_each(|w| writer.wide(*w));
        writer.uint(u64::MAX);
        writer.text("né");
        let mut reader = Reader::new(&writer.bytes, "test");
        for i in ints {
            assert_eq!(reader.int()?, i);
        }
        for w in wides {
            assert_eq!(reader.wide()?, w);
        }
        assert_eq!(reader.uint()?, u64::MAX);
        assert_eq!(reader.text()?, "né");
        assert!(reader.is_empty());
        assert!(reader.byte().is_err());
        assert!(Reader::new(&[0xff; 11], "test").uint().is_err());
        Ok(())
    }
}
