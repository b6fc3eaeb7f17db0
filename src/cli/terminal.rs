//! What people see: results on standard output, numbers with separators, tables, progress.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use crate::model::quantity::grouped;

/// Writes a line of a result to standard output. `println!` panics where nobody reads any more (`reckon config | head -1`);
/// this is an error to hand on, and the command ends well.
macro_rules! say {
    ($($line:tt)*) => {
        $crate::cli::terminal::put(format_args!("{}\n", format_args!($($line)*)))
    };
}
pub(super) use say;

/// Writes a result to standard output that has its lines' ends itself; as `say!` does.
pub fn put(text: impl Display) -> std::io::Result<()> {
    write!(std::io::stdout().lock(), "{text}")
}

/// Text of unknown origin on one line, as it reads: only what would move the cursor, or isn't seen, is escaped.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Controls, and marks that turn the direction of writing or have no width.
            '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A bar on standard error for work of known length; silent where that is no terminal.
pub fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg:12} {bar:40} {human_pos}/{human_len} {per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Columns of text; numbers stand right, names left.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table whose columns have these heads; one that begins with `>` stands right.
    pub fn new(heads: &[&str]) -> Self {
        Self {
            right: heads.iter().map(|h| h.starts_with('>')).collect(),
            rows: vec![heads.iter().map(|h| h.trim_start_matches('>').to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether it has no rows but the head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(column));
            cells.map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::from(" ");
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                if *right {
                    line.push_str(&format!(" {cell:>width$} "));
                } else {
                    line.push_str(&format!(" {cell:<width$} "));
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, shown) in [
            ("0", "0"),
            ("1234", "1,234"),
            ("-1234567.50", "-1,234,567.50"),
            ("999", "999"),
        ] {
            assert_eq!(grouped(number), shown);
        }
    }

    #[test]
    fn text_reads_as_it_is_and_moves_no_cursor() {
        for text in [
            "\"complete\" is not one",
            "a producer's",
            r"C:\logs",
            "Zürich",
            "e\u{301}",
        ] {
            assert_eq!(plain(text), text);
        }
        assert_eq!(plain("a\x1b[2J\nb\u{202e}c"), r"a\u{1b}[2J\nb\u{202e}c");
    }
}
