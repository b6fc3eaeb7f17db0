//! A pinned log and its digest: whoever changes what is billed sees this test fail, and raises `FOLD_VERSION`.
//!
//! `tests/golden/log.hex` has one record a line: kind (`e`vent, `t`ick, `c`ontrol), append time in ms, bytes in hex. It was
//! made once from the realistic and the arbitrary workload, and stays as it is.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::folding::{Entered, folded};
use reckon::machine::clock::Source;
use reckon::wire::record::Kind;

/// The version that the digest below belongs to.
const FOLD_VERSION: u32 = 5;
const DIGEST: &str = "3a1a3613c078554fd5f7cab2bff1b33a";

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log.hex")
}

fn parse(line: &str) -> Option<Entered> {
    let mut words = line.split(' ');
    let kind = match words.next()? {
        "e" => Kind::Event,
        "t" => Kind::Tick,
        "c" => Kind::Control,
        _ => return None,
    };
    let append_ms = words.next()?.parse().ok()?;
    let hex = words.next()?;
    let byte = |i: usize| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok();
    let bytes = (0..hex.len() / 2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some(Entered { append_ms, kind, bytes })
}

fn show(entry: &Entered) -> String {
    let mut line = format!("{} {} ", &entry.kind.as_str()[..1], entry.append_ms);
    for byte in &entry.bytes {
        write!(line, "{byte:02x}").expect("text");
    }
    line
}

#[test]
fn the_golden_log_has_its_digest() {
    let text = std::fs::read_to_string(file()).expect("tests/golden/log.hex");
    let entries: Vec<Entered> = text.lines().map(|l| parse(l).expect("a record")).collect();
    assert!(entries.len() > 3_000, "{} records", entries.len());
    assert!(
        entries.iter().map(show).eq(text.lines().map(str::to_owned)),
        "the file comes back"
    );
    let (machine, _) = folded(&entries, Source::Ticks);
    assert_eq!(
        format!("{:032x}", machine.digest.value()),
        DIGEST,
        "the fold has changed. If bills change on purpose: raise FOLD_VERSION in src/store/rocks.rs and here"
    );
}

#[cfg(feature = "store")]
#[test]
fn the_digest_belongs_to_this_fold() {
    assert_eq!(reckon::store::rocks::FOLD_VERSION, FOLD_VERSION);
}
