//! `reckon rejects`.

use crate::{folded, good, same_as_golden};

#[test]
fn rejects_are_listed_as_in_the_golden_file() {
    let ran = good(&["rejects", "list", "--data", folded()]);
    assert!(!ran.out.contains('\\'), "{}", ran.out);
    same_as_golden("rejects.txt", &ran.out);
}

#[test]
fn what_is_shown_of_one_reads_as_it_was_written() {
    let listed = good(&["rejects", "list", "--data", folded(), "--json"]).rows();
    let rejects = listed[0]["rejects"].as_array().expect("rows");
    let quoted = |text: &str| text.contains('"') || text.contains('\'');
    let mut seen = 0;
    for reject in rejects {
        let place = format!("{}:{}", reject["partition"], reject["offset"]);
        let shown = good(&["rejects", "show", &place, "--data", folded()]).out;
        let (head, _) = shown.split_once("\n\n").expect("a head");
        let detail = reject["detail"].as_str().expect("text");
        assert!(
            head.contains(&format!("detail     {detail}\n")),
            "{detail} isn't in {head}"
        );
        seen += usize::from(quoted(detail) || quoted(head));
    }
    assert!(seen > 0, "{rejects:?}");
}
