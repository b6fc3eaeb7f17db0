//! The tree's own rules: layers, names, sizes.

use std::path::{Path, PathBuf};

/// Lower layers first: a file may name those before its own, and its own.
const LAYERS: [&str; 11] = [
    "model",
    "wire",
    "machine",
    "auditor",
    "store",
    "log",
    "partition",
    "http",
    "workload",
    "config",
    "cli",
];

/// Layers that do no I/O and don't wait.
const PURE: [&str; 4] = ["model", "wire", "machine", "auditor"];

/// What pure code doesn't name.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::io",
    "std::time",
    "rocksdb",
    "tokio",
    "Utc::now",
    "std::thread",
    "HashMap",
];

const LINES_MAX: usize = 700;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The file's code without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a file");
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

fn all() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .filter(|p| !p.components().any(|c| c.as_os_str() == "tests") && !p.ends_with("tests.rs"))
        .map(|p| {
            let text = code(&p);
            (p.strip_prefix(&root).expect("in src").to_owned(), text)
        })
        .collect()
}

fn layer(path: &Path) -> Option<usize> {
    let first = path.components().next()?.as_os_str().to_str()?;
    LAYERS.iter().position(|l| *l == first)
}

#[test]
fn layers_name_lower_ones_only() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let Some(own) = layer(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            // The log stores its batches with the store's bytes; both are adapters over RocksDB.
            for (other, name) in LAYERS.iter().enumerate().filter(|(n, _)| *n > own) {
                if line.contains(&format!("crate::{name}")) && !line.trim_start().starts_with("//") {
                    wrong.push(format!("{}:{} names {} ({})", path.display(), number + 1, name, other));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_auditor_shares_nothing_with_the_machine() {
    for (path, text) in all().into_iter().filter(|(p, _)| p.starts_with("auditor")) {
        for name in ["crate::machine", "crate::model", "crate::store", "crate::partition"] {
            assert!(!text.contains(name), "{} names {name}", path.display());
        }
    }
}

#[test]
fn pure_code_does_no_io_and_knows_no_wall_clock() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let pure = layer(&path).is_some_and(|l| PURE.contains(&LAYERS[l]));
        for (number, line) in text.lines().enumerate().filter(|_| pure) {
            let names = IMPURE.iter().find(|name| line.contains(*name));
            if let Some(name) = names.filter(|_| !line.trim_start().starts_with("//")) {
                wrong.push(format!("{}:{} names {name}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fold_has_no_floats_and_no_panics() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let folds = ["model", "wire", "machine", "store", "log", "partition"]
            .iter()
            .any(|l| path.starts_with(l));
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            for name in [
                "f32",
                "f64",
                ".unwrap()",
                ".expect(",
                "panic!(",
                "todo!",
                "unimplemented!",
            ] {
                if folds && line.contains(name) && !line.contains("resume_unwind") {
                    wrong.push(format!("{}:{}: {name}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_one_noun_each() {
    for (path, text) in all() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for name in ["util", "utils", "helpers", "manager", "common", "misc"] {
            assert_ne!(stem, name, "{}", path.display());
        }
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}
