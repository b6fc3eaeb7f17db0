//! In which form a client wants its answer: what its Accept header prefers (RFC 9110, 12.5.1), if no parameter says so.

use std::cmp::Reverse;

use axum::http::{HeaderMap, header};
use serde::Deserialize;
use utoipa::ToSchema;

const CSV: &str = "text/csv";
const HTML: &str = "text/html";
const JSON: &str = "application/json";

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON.
    Json,
    /// Lines of comma-separated values.
    Csv,
}

/// Whether CSV is asked for.
pub fn wants_csv(format: Option<Format>, headers: &HeaderMap) -> bool {
    match format {
        Some(format) => format == Format::Csv,
        None => preferred(headers, [JSON, CSV]) == Some(CSV),
    }
}

/// Whether a page is wanted rather than JSON: browsers name pages first, programs that take anything don't name them.
pub fn wants_html(headers: &HeaderMap) -> bool {
    preferred(headers, [JSON, HTML]) == Some(HTML)
}

/// One of the forms, by the client's quality, then by the order in which it names them, then by ours. None: it wants none of
/// them, or doesn't say.
fn preferred<'a>(headers: &HeaderMap, forms: [&'a str; 2]) -> Option<&'a str> {
    let ranges: Vec<Range> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Range::of)
        .collect();
    let wish = |form: &&str| {
        // The most specific range says it.
        let fitting = ranges.iter().enumerate();
        let fitting = fitting.filter_map(|(place, range)| Some((range.fits(form)?, Reverse(place), range.thousandths)));
        let (_, place, thousandths) = fitting.max()?;
        (thousandths > 0).then_some((thousandths, place))
    };
    let wished = forms.into_iter().rev().filter_map(|form| Some((wish(&form)?, form)));
    // Of equals the last, which is the first of ours.
    wished.max_by_key(|(wish, _)| *wish).map(|(_, form)| form)
}

/// One of the header's media ranges.
struct Range {
    kind: String,
    /// A thousand: as good as can be; none: not at all.
    thousandths: u16,
}

impl Range {
    /// Nothing if its quality can't be read.
    fn of(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        let quality = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        Some(Self {
            kind,
            thousandths: quality.map_or(Some(1_000), thousandths)?,
        })
    }

    /// How closely it says that type, if at all.
    fn fits(&self, form: &str) -> Option<u8> {
        let family = || form.split_once('/').map_or(form, |(family, _)| family);
        match self.kind.as_str() {
            kind if kind == form => Some(2),
            "*/*" => Some(0),
            kind => (kind.strip_suffix("/*")? == family()).then_some(1),
        }
    }
}

/// A quality: from 0 to 1, with three digits at most.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{digits:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|v| (header::ACCEPT, v.parse().unwrap()));
        values.collect()
    }

    #[test]
    fn csv_is_for_those_who_prefer_it() {
        for (values, csv) in [
            (&["text/csv"][..], true),
            (&["Text/CSV; charset=utf-8"], true),
            (&["text/*"], true),
            (&["text/csv, application/json"], true),
            (&["text/csv, */*"], true),
            (&["*/*;q=0.1", "text/csv;q=0.2"], true),
            (&["application/json;q=0.5, text/csv;q=0.501"], true),
            (&["*/*, application/json;q=0.9"], true),
            (&[], false),
            (&["*/*"], false),
            (&["application/json, text/csv"], false),
            (&["application/json, text/csv;q=0"], false),
            (&["text/*, text/csv;q=0"], false),
            (&["text/csv;q=0.000"], false),
            (&["text/csv;Q=0.4, application/json"], false),
            (&["text/csv;q=2"], false),
            (&["text/csvx"], false),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
                false,
            ),
        ] {
            assert_eq!(wants_csv(None, &accept(values)), csv, "{values:?}");
        }
        // A parameter holds over it.
        assert!(wants_csv(Some(Format::Csv), &accept(&["application/json"])));
        assert!(!wants_csv(Some(Format::Json), &accept(&["text/csv"])));
    }

    #[test]
    fn browsers_are_shown_pages_and_programs_problems() {
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (value, html) in [
            (firefox, true),
            ("*/*", false),
            ("application/json", false),
            ("application/json, text/html", false),
            ("application/json, text/html;q=0.9", false),
            ("application/json;q=0.9, text/html", true),
            ("text/event-stream", false),
        ] {
            assert_eq!(wants_html(&accept(&[value])), html, "{value}");
        }
    }
}
