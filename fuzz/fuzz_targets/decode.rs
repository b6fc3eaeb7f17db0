//! Any bytes as any kind of record: a value or a named rejection, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reckon::wire::record::{Kind, decode};
use reckon::wire::record_file;

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let mut scratch = Vec::new();
    if let Some(kind) = Kind::from_number(first % 4) {
        let _ = decode(kind, rest, &mut scratch);
    }
    let _ = record_file::parse(&String::from_utf8_lossy(rest));
});
