//! Names that recur in every event (services, products, meters, error types, rollup values), kept once and named by number.
//!
//! Numbers are given in the order of first use in the log, so they are equal wherever the same log is folded.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// A name's number; 0 is the empty name, "not given".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sym(pub u32);

impl Sym {
    /// The empty name.
    pub const NONE: Self = Self(0);

    /// Whether it is the empty name.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// All names of a partition.
#[derive(Debug)]
pub struct Symbols {
    names: Vec<Box<str>>,
    by_name: HashTable<u32>,
    /// Numbers found or given lately, each at the place that [`ends`] gives its name.
    recent: Vec<Sym>,
    bytes: usize,
}

const RECENT_BITS: u32 = 7;

/// A hash of a name's ends and length. It tells nearly all names in use apart at a fifth of a whole hash's price; what it is
/// used to find is compared whole.
#[inline]
pub fn ends(name: &str) -> u64 {
    let name = name.as_bytes();
    let (first, last) = if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
    } else {
        // At most three bytes: all of them.
        (name.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)), 0)
    };
    (first ^ last.rotate_left(23) ^ (name.len() as u64) << 57).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Default for Symbols {
    fn default() -> Self {
        Self {
            names: vec!["".into()],
            by_name: HashTable::new(),
            recent: vec![Sym::NONE; 1 << RECENT_BITS],
            bytes: 0,
        }
    }
}

impl Symbols {
    /// The number of `name`, given now if it has none.
    pub fn intern(&mut self, name: &str) -> Sym {
        if name.is_empty() {
            return Sym::NONE;
        }
        let place = (ends(name) >> (64 - RECENT_BITS)) as usize;
        let recent = self.recent[place];
        if self.name(recent) == name {
            return recent;
        }
        let sym = self.intern_slowly(name);
        self.recent[place] = sym;
        sym
    }

    fn intern_slowly(&mut self, name: &str) -> Sym {
        let hash = xxh3_64(name.as_bytes());
        if let Some(&number) = self.by_name.find(hash, |&n| self.names[n as usize].as_ref() == name) {
            return Sym(number);
        }
        // 4 G names of one byte are 4 GiB: memory ends before the numbers do.
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.into());
        self.bytes += name.len();
        let names = &self.names;
        self.by_name
            .insert_unique(hash, number, |&n| xxh3_64(names[n as usize].as_bytes()));
        Sym(number)
    }

    /// The number of `name`, if it has one.
    pub fn find(&self, name: &str) -> Option<Sym> {
        if name.is_empty() {
            return Some(Sym::NONE);
        }
        self.by_name
            .find(xxh3_64(name.as_bytes()), |&n| self.names[n as usize].as_ref() == name)
            .map(|&n| Sym(n))
    }

    /// The name.
    pub fn name(&self, sym: Sym) -> &str {
        self.names.get(sym.0 as usize).map_or("", AsRef::as_ref)
    }

    /// The one whose name is the greater string.
    pub fn greatest(&self, a: Sym, b: Sym) -> Sym {
        if a == b || self.name(a) >= self.name(b) { a } else { b }
    }

    /// How many names there are, the empty one included.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: the empty name is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Names given since there were `from`, in order.
    pub fn since(&self, from: usize) -> impl Iterator<Item = &str> {
        self.names.iter().skip(from).map(AsRef::as_ref)
    }

    /// Bytes of memory, roughly: names, their headers and the table.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.names.capacity() * 16 + self.by_name.capacity() * 5
    }
}
