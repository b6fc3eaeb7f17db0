//! The partition's vocabulary: symbols, and the recurring shapes (service, product, rollup values) made of them.

use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::limits::{CONTRACT_METERS, METER_REQUESTS, ROLLUP_OTHER};
use crate::model::symbol::{Sym, Symbols, ends};

macro_rules! fixed {
    ($($(#[$doc:meta])* $konst:ident = $number:literal, $name:expr;)+) => {
        $($(#[$doc])* pub const $konst: Sym = Sym($number);)+
        /// Names with a number of their own, so that rules compare numbers. Never reorder: the numbers are on disk.
        const FIXED: &[(u32, &str)] = &[$(($number, $name),)+];
    };
}

fixed! {
    /// The reserved meter.
    REQUESTS = 1, METER_REQUESTS;
    /// Disjoint from cached input.
    INPUT_TOKENS_UNCACHED = 2, CONTRACT_METERS[0];
    /// Input read from a cache.
    CACHE_READ_TOKENS = 3, CONTRACT_METERS[1];
    /// Input written to a cache.
    CACHE_WRITE_TOKENS = 4, CONTRACT_METERS[2];
    /// Generated tokens.
    OUTPUT_TOKENS = 5, CONTRACT_METERS[3];
    /// Bytes received.
    BYTES_IN = 6, CONTRACT_METERS[4];
    /// Bytes sent.
    BYTES_OUT = 7, CONTRACT_METERS[5];
    /// Compute time.
    COMPUTE_MS = 8, CONTRACT_METERS[6];
    /// The default service.
    API = 9, "api";
    /// Rollup values past the limit.
    OTHER = 10, ROLLUP_OTHER;
    /// Row 5.
    OVERLOADED_ERROR = 11, "overloaded_error";
    /// Row 8.
    IDEMPOTENT_REPLAY = 12, "idempotent_replay";
    /// Row 10.
    REFUSAL = 13, "refusal";
    /// RULES §3, the upstream's word.
    CANCELLED = 14, "cancelled";
    /// RULES §3, the upstream's word.
    CLIENT_CLOSED_REQUEST = 15, "client_closed_request";
    /// RULES §3, the upstream's word.
    BROKEN_PIPE = 16, "broken_pipe";
}

/// Number of a [`Shape`]; 0 says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeId(pub u32);

impl ShapeId {
    /// The shape that says nothing.
    pub const NONE: Self = Self(0);
}

/// What an observer's events said of service, product and rollup dimensions; unset is [`Sym::NONE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// The interface.
    pub service: Sym,
    /// What is priced.
    pub product: Sym,
    /// (name, value), sorted by the name's symbol; only those a policy names.
    pub dimensions: SmallVec<[(Sym, Sym); 1]>,
}

impl Shape {
    fn hash(&self) -> u64 {
        let mut key: SmallVec<[u8; 64]> = SmallVec::new();
        key.extend_from_slice(&self.service.0.to_le_bytes());
        key.extend_from_slice(&self.product.0.to_le_bytes());
        for (name, value) in &self.dimensions {
            key.extend_from_slice(&name.0.to_le_bytes());
            key.extend_from_slice(&value.0.to_le_bytes());
        }
        xxh3_64(&key)
    }

    /// The value of the dimension called `name`.
    pub fn dimension(&self, name: Sym) -> Sym {
        self.dimensions
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(Sym::NONE, |(_, v)| *v)
    }
}

/// Who knows what numbers stand for: the machine, or a reader's copy of what it knew at some record.
pub trait Naming {
    /// The name of a symbol.
    fn name(&self, sym: Sym) -> &str;

    /// What a shape says.
    fn shape_of(&self, id: ShapeId) -> &Shape;

    /// Values of a shape's dimensions in the order in which `rollup` names them; none if the shape has none.
    fn values_of(&self, id: ShapeId, rollup: &[Sym]) -> Vec<String> {
        let shape = self.shape_of(id);
        let named = rollup.iter().filter(|_| !shape.dimensions.is_empty());
        named.map(|&name| self.name(shape.dimension(name)).to_owned()).collect()
    }
}

impl Naming for Names {
    fn name(&self, sym: Sym) -> &str {
        self.symbols.name(sym)
    }

    fn shape_of(&self, id: ShapeId) -> &Shape {
        self.of(id)
    }
}

/// Symbols and shapes of a partition.
#[derive(Debug)]
pub struct Names {
    /// The symbols.
    pub symbols: Symbols,
    shapes: Vec<Shape>,
    by_shape: HashTable<u32>,
    /// Shapes without dimensions found or given lately, each at the place that the ends of its names give.
    recent: Vec<ShapeId>,
}

const RECENT_BITS: u32 = 8;

impl Default for Names {
    fn default() -> Self {
        let mut symbols = Symbols::default();
        for &(number, name) in FIXED {
            let given = symbols.intern(name);
            debug_assert_eq!(given.0, number);
        }
        Self {
            symbols,
            shapes: vec![Shape::default()],
            by_shape: HashTable::new(),
            recent: vec![ShapeId::NONE; 1 << RECENT_BITS],
        }
    }
}

impl Names {
    /// How many symbols there are before any record.
    pub const FIXED_SYMBOLS: usize = FIXED.len() + 1;

    /// The number of the shape of these names and no dimension, given now if it has none.
    ///
    /// Every event asks for one, and nearly always for one of few: the names are compared, nothing is hashed whole.
    pub fn plain_shape(&mut self, service: &str, product: &str) -> ShapeId {
        let place = (ends(service) ^ ends(product).rotate_left(19)) >> (64 - RECENT_BITS);
        let place = place as usize;
        let recent = self.recent[place];
        let shape = self.of(recent);
        if self.symbols.name(shape.product) == product
            && self.symbols.name(shape.service) == service
            && shape.dimensions.is_empty()
        {
            return recent;
        }
        let shape = Shape {
            service: self.symbols.intern(service),
            product: self.symbols.intern(product),
            ..Shape::default()
        };
        let id = self.shape(shape);
        self.recent[place] = id;
        id
    }

    /// The shape's number, given now if it has none.
    pub fn shape(&mut self, shape: Shape) -> ShapeId {
        if shape.service.is_none() && shape.product.is_none() && shape.dimensions.is_empty() {
            return ShapeId::NONE;
        }
        let hash = shape.hash();
        if let Some(&n) = self.by_shape.find(hash, |&n| self.shapes[n as usize] == shape) {
            return ShapeId(n);
        }
        let number = u32::try_from(self.shapes.len()).unwrap_or(u32::MAX);
        self.shapes.push(shape);
        let shapes = &self.shapes;
        self.by_shape
            .insert_unique(hash, number, |&n| shapes[n as usize].hash());
        ShapeId(number)
    }

    /// What the number stands for.
    pub fn of(&self, id: ShapeId) -> &Shape {
        self.shapes.get(id.0 as usize).unwrap_or(&self.shapes[0])
    }

    /// Both merged, part by part: the greater string; unset never wins (RULES §3).
    pub fn merge(&mut self, a: ShapeId, b: ShapeId) -> ShapeId {
        if a == b || b == ShapeId::NONE {
            return a;
        }
        if a == ShapeId::NONE {
            return b;
        }
        let (x, y) = (self.of(a), self.of(b));
        let mut merged = Shape {
            service: self.symbols.greatest(x.service, y.service),
            product: self.symbols.greatest(x.product, y.product),
            dimensions: x.dimensions.clone(),
        };
        for &(name, value) in &y.dimensions {
            match merged.dimensions.binary_search_by_key(&name, |d| d.0) {
                Ok(at) => {
                    merged.dimensions[at].1 = self.symbols.greatest(merged.dimensions[at].1, value);
                }
                Err(at) => merged.dimensions.insert(at, (name, value)),
            }
        }
        self.shape(merged)
    }

    /// How many shapes there are, the one that says nothing included.
    pub fn shapes_len(&self) -> usize {
        self.shapes.len()
    }

    /// Shapes given since there were `from`, in order.
    pub fn shapes_since(&self, from: usize) -> &[Shape] {
        self.shapes.get(from..).unwrap_or_default()
    }

    /// Bytes of memory, roughly.
    pub fn memory_bytes(&self) -> usize {
        self.symbols.memory_bytes() + self.shapes.capacity() * size_of::<Shape>() + self.by_shape.capacity() * 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_names_have_their_numbers() {
        let names = Names::default();
        for &(number, name) in FIXED {
            assert_eq!(names.symbols.find(name), Some(Sym(number)));
        }
        assert_eq!(names.symbols.len(), Names::FIXED_SYMBOLS);
    }

    #[test]
    fn unset_never_wins() {
        let mut names = Names::default();
        let product = names.symbols.intern("a");
        let a = names.shape(Shape {
            service: API,
            ..Shape::default()
        });
        let b = names.shape(Shape {
            product,
            ..Shape::default()
        });
        let both = names.merge(a, b);
        assert_eq!(names.of(both).service, API);
        assert_eq!(names.of(both).product, product);
        assert_eq!(names.merge(b, a), both);
        assert_eq!(names.merge(ShapeId::NONE, a), a);
    }
}
