//! `reckon replay`: whichever row of a store is damaged, it is found and named.

use std::path::Path;
use std::sync::Arc;

use reckon::machine::adjust::{Adjustment, ClosedPeriod};
use reckon::machine::usage::Bucket;
use reckon::partition::host::open_log;
use reckon::store::keys::table;
use reckon::store::rocks::{Budget, Rocks, StoreIdentity};
use reckon::store::values::Stored;

use crate::{good, history, reckon};

struct Store {
    folder: tempfile::TempDir,
}

impl Store {
    fn folded() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Self { folder };
        good(&[
            "import",
            "events",
            &history(),
            "--data",
            store.data(),
            "--partitions",
            "1",
        ]);
        store
    }

    fn data(&self) -> &str {
        self.folder.path().to_str().expect("a path")
    }

    /// Changes the first row of a table.
    fn change(&self, table: u8, change: impl FnOnce(&[u8]) -> Vec<u8>) {
        let path = self.folder.path().join("store/0");
        let rocks = Rocks::open(&path, &identity(self.folder.path()), &Budget::default()).expect("a store");
        let mut first = None;
        let scanned = rocks.scan(&[table], |key, value| {
            first.get_or_insert_with(|| (key.to_vec(), value.to_vec()));
            Ok(())
        });
        scanned.expect("rows");
        let (key, value) = first.expect("a row");
        let mut batch = rocksdb::WriteBatch::default();
        batch.put(key, change(&value));
        rocks.write(batch).expect("written");
        rocks.flush().expect("flushed");
    }

    /// What replay says: the table that it names.
    fn named(&self) -> String {
        let ran = reckon(&["replay", "--data", self.data(), "--json"]);
        let row: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!((ran.code, &row["identical"]), (1, &false.into()), "{row}");
        let first = &row["first"];
        let text = |name: &str| first[name].as_str().expect("text");
        assert!(ran.err.contains(text("place")), "{}", ran.err);
        format!("{}, {}", text("table"), text("place"))
    }
}

fn identity(data: &Path) -> StoreIdentity {
    let log = open_log(data, Arc::new(|| 0)).expect("a log");
    StoreIdentity::of(&log, 0)
}

#[test]
fn a_store_as_it_was_folded_is_identical() {
    let store = Store::folded();
    let ran = good(&["replay", "--data", store.data(), "--json"]);
    let row: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(row["identical"], true);
    assert!(good(&["replay", "--data", store.data()]).out.contains("identical"));
}

#[test]
fn a_damaged_row_is_found_and_named() {
    let closed = Store::folded();
    closed.change(table::CLOSED, |bytes| {
        let mut row = ClosedPeriod::from_bytes(bytes).expect("a row");
        row.cards += 1;
        row.to_bytes()
    });
    assert_eq!(closed.named(), "closed periods, account globex, 2026-09");

    let usage = Store::folded();
    usage.change(table::BUCKET, |bytes| {
        let mut row = Bucket::from_bytes(bytes).expect("a row");
        row.lines[0].meters[0].1 += 1;
        row.to_bytes()
    });
    assert!(usage.named().starts_with("usage, account acme, day 2026-09-10"));

    let adjustment = Store::folded();
    adjustment.change(table::ADJUSTMENT, |bytes| {
        let mut row = Adjustment::from_bytes(bytes).expect("a row");
        row.noticed += rust_decimal::Decimal::ONE;
        row.to_bytes()
    });
    assert_eq!(adjustment.named(), "adjustments, account acme, 2026-09");

    let id = Store::folded();
    id.change(table::CONTROL_ID, |bytes| bytes.iter().map(|b| b ^ 1).collect());
    assert!(id.named().starts_with("control ids, "));
}
