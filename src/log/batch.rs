//! Records side by side in one buffer that is used again, as they are polled and as they are stored.

use xxhash_rust::xxh3::xxh3_64;

use crate::model::Ms;
use crate::store::bytes::{Damaged, Reader, Writer};
use crate::wire::record::{Forwarded, Headers, Kind};

/// One record's place in a batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    append_ms: Ms,
    kind: Kind,
    /// One more than its place among those that have headers; 0 = it has none.
    headers: u32,
    leader_epoch: i32,
    from: usize,
    until: usize,
}

/// Headers of one record; few have any.
#[derive(Clone, Debug, Default)]
struct Beside {
    signature: Option<String>,
    forwarded: Option<Forwarded>,
}

/// One record as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What kind.
    pub kind: Kind,
    /// When the log took it.
    pub append_ms: Ms,
    /// What stands beside its bytes.
    pub headers: Headers<'a>,
    /// As received.
    pub bytes: &'a [u8],
}

/// Added to a stored kind: headers follow.
const HAS_HEADERS: u8 = 0x80;

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled<'a> {
    /// Its place in the partition.
    pub offset: u64,
    /// When the log took it.
    pub append_ms: Ms,
    /// What kind.
    pub kind: Kind,
    /// Which leader of a replicated partition took it; 0 where there is none.
    pub leader_epoch: i32,
    /// What stands beside its bytes.
    pub headers: Headers<'a>,
    /// As received.
    pub bytes: &'a [u8],
}

/// Records in the order of their offsets.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    places: Vec<Place>,
    beside: Vec<Beside>,
}

impl Batch {
    /// Empties it; the buffer stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.beside.clear();
    }

    /// Adds a record with nothing beside its bytes.
    pub fn push(&mut self, offset: u64, append_ms: Ms, kind: Kind, bytes: &[u8]) {
        self.push_led(offset, 0, append_ms, kind, Headers::default(), bytes);
    }

    /// Adds a record that the leader of that epoch took.
    pub fn push_led(
        &mut self,
        offset: u64,
        leader_epoch: i32,
        append_ms: Ms,
        kind: Kind,
        headers: Headers<'_>,
        bytes: &[u8],
    ) {
        let from = self.bytes.len();
        let has_headers = headers != Headers::default();
        if has_headers {
            self.beside.push(Beside {
                signature: headers.signature.map(str::to_owned),
                forwarded: headers.forwarded,
            });
        }
        self.bytes.extend_from_slice(bytes);
        self.places.push(Place {
            offset,
            append_ms,
            kind,
            headers: if has_headers { self.beside.len() as u32 } else { 0 },
            leader_epoch,
            from,
            until: self.bytes.len(),
        });
    }

    /// Adds all records of another batch, whose offsets follow.
    pub fn append(&mut self, other: &Self) {
        let (bytes, beside) = (self.bytes.len(), self.beside.len() as u32);
        self.bytes.extend_from_slice(&other.bytes);
        self.beside.extend_from_slice(&other.beside);
        self.places.extend(other.places.iter().map(|place| Place {
            headers: if place.headers == 0 { 0 } else { place.headers + beside },
            from: place.from + bytes,
            until: place.until + bytes,
            ..*place
        }));
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
        let beside = match place.headers {
            0 => None,
            n => self.beside.get(n as usize - 1),
        };
        Some(Polled {
            leader_epoch: place.leader_epoch,
            headers: beside.map_or_else(Headers::default, |b| Headers {
                signature: b.signature.as_deref(),
                forwarded: b.forwarded,
            }),
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

    /// The stored form: checksum, then count, first append time, and per record kind, time, headers if any, and bytes.
    pub fn encode(records: &[Entry<'_>]) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes.extend_from_slice(&[0; 8]);
        w.uint(records.len() as u64);
        let base = records.first().map_or(0, |r| r.append_ms);
        w.int(base);
        for record in records {
            let plain = record.headers == Headers::default();
            w.byte(record.kind as u8 | if plain { 0 } else { HAS_HEADERS });
            w.int(record.append_ms - base);
            if !plain {
                w.text(record.headers.signature.unwrap_or_default());
                w.text(&record.headers.forwarded.map(Forwarded::to_text).unwrap_or_default());
            }
            w.slice(record.bytes);
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
            let kind = r.byte()?;
            let append_ms = base.wrapping_add(r.int()?);
            let headers = if kind & HAS_HEADERS == 0 {
                Headers::default()
            } else {
                let signature = Some(r.text()?).filter(|s| !s.is_empty());
                let forwarded = Forwarded::parse(r.text()?);
                Headers { signature, forwarded }
            };
            let kind = Kind::from_number(kind & !HAS_HEADERS).ok_or_else(|| damaged.clone())?;
            let bytes = r.slice()?;
            if first + n >= from {
                self.push_led(first + n, 0, append_ms, kind, headers, bytes);
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
        let entry = |kind, append_ms, bytes| Entry {
            kind,
            append_ms,
            headers: Headers::default(),
            bytes,
        };
        let forwarded = Entry {
            headers: Headers {
                signature: Some("ops:AA=="),
                forwarded: Forwarded::parse("3:9:-4"),
            },
            ..entry(Kind::Event, 6, b"xyz")
        };
        let stored = Batch::encode(&[entry(Kind::Tick, 5, b"t"), entry(Kind::Event, 7, b""), forwarded]);
        let mut batch = Batch::default();
        assert_eq!(batch.decode(40, &stored, 41)?, 43);
        assert_eq!(batch.len(), 2);
        assert_eq!(
            batch.get(1).map(|r| (r.offset, r.append_ms, r.bytes)),
            Some((42, 6, &b"xyz"[..]))
        );
        assert_eq!(batch.get(0).map(|r| r.headers), Some(Headers::default()));
        assert_eq!(batch.get(1).map(|r| r.headers), Some(forwarded.headers));
        for at in 0..stored.len() {
            let mut bad = stored.clone();
            bad[at] ^= 1;
            assert!(Batch::default().decode(40, &bad, 0).is_err(), "byte {at}");
        }
        Ok(())
    }
}
