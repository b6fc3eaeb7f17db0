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
    bytes: usize,
}

impl Default for Symbols {
    fn default() -> Self {
        Self {
            names: vec!["".into()],
            by_name: HashTable::new(),
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
