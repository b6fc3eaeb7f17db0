//! Records side by side in one buffer that is used again, as they are polled and as they are stored.

use xxhash_rust::xxh3::xxh3_64;

use crate::model::Ms;
use crate::store::bytes::{Damaged, Reader, Writer};
use crate::wire::record::Kind;

/// One record's place in a batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    append_ms: Ms,
    kind: Kind,
    from: usize,
    until: usize,
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled<'a> {
    /// Its place in the partition.
    pub offset: u64,
    /// When the log took it.
    pub append_ms: Ms,
    /// What kind.
    pub kind: Kind,
    /// As received.
    pub bytes: &'a [u8],
}

/// Records in the order of their offsets.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl Batch {
    /// Empties it; the buffer stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    /// Adds a record.
    pub fn push(&mut self, offset: u64, append_ms: Ms, kind: Kind, bytes: &[u8]) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.places.push(Place {
            offset,
            append_ms,
            kind,
            from,
            until: self.bytes.len(),
        });
    }

    /// Lets go of records from that offset on.
    pub fn cut(&mut self, offset: u64) {
        let keep = self.places.partition_point(|p| p.offset < offset);
        self.places.truncate(keep);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all records.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The record at that place.
    pub fn get(&self, index: usize) -> Option<Polled<'_>> {
        let place = self.places.get(index)?;
        Some(Polled {
            offset: place.offset,
            append_ms: place.append_ms,
            kind: place.kind,
            bytes: self.bytes.get(place.from..place.until)?,
        })
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = Polled<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The stored form: checksum, then count, first append time, and per record kind, time and bytes.
    pub fn encode(records: &[(Kind, Ms, &[u8])]) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes.extend_from_slice(&[0; 8]);
        w.uint(records.len() as u64);
        let base = records.first().map_or(0, |r| r.1);
        w.int(base);
        for (kind, append_ms, bytes) in records {
            w.byte(*kind as u8);
            w.int(append_ms - base);
            w.slice(bytes);
        }
        let checksum = xxh3_64(&w.bytes[8..]);
        w.bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        w.bytes
    }

    /// Adds the records of a stored batch from offset `from` on; its first has offset `first`. Returns the offset after its last.
    pub fn decode(&mut self, first: u64, stored: &[u8], from: u64) -> Result<u64, Damaged> {
        let damaged = Damaged {
            what: "batch of records",
        };
        let (checksum, rest) = stored.split_at_checked(8).ok_or_else(|| damaged.clone())?;
        if checksum != xxh3_64(rest).to_le_bytes() {
            return Err(damaged);
        }
        let mut r = Reader::new(rest, damaged.what);
        let count = r.count()? as u64;
        let base = r.int()?;
        for n in 0..count {
            let kind = Kind::from_number(r.byte()?).ok_or_else(|| damaged.clone())?;
            let append_ms = base.wrapping_add(r.int()?);
            let bytes = r.slice()?;
            if first + n >= from {
                self.push(first + n, append_ms, kind, bytes);
            }
        }
        Ok(first + count)
    }

    /// How many records a stored batch has, without its checksum being compared.
    pub fn stored_len(stored: &[u8]) -> Result<u64, Damaged> {
        let rest = stored.get(8..).unwrap_or_default();
        Reader::new(rest, "batch of records").uint()
    }

    /// When the first record of a stored batch was appended.
    pub fn stored_since(stored: &[u8]) -> Result<Ms, Damaged> {
        let mut r = Reader::new(stored.get(8..).unwrap_or_default(), "batch of records");
        r.uint()?;
        r.int()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_batch_comes_back_or_is_refused() -> Result<(), Damaged> {
        let stored = Batch::encode(&[(Kind::Tick, 5, b"t"), (Kind::Event, 7, b""), (Kind::Event, 6, b"xyz")]);
        let mut batch = Batch::default();
        assert_eq!(batch.decode(40, &stored, 41)?, 43);
        assert_eq!(batch.len(), 2);
        assert_eq!(
            batch.get(1).map(|r| (r.offset, r.append_ms, r.bytes)),
            Some((42, 6, &b"xyz"[..]))
        );
        for at in 0..stored.len() {
            let mut bad = stored.clone();
            bad[at] ^= 1;
            assert!(Batch::default().decode(40, &bad, 0).is_err(), "byte {at}");
        }
        Ok(())
    }
}
