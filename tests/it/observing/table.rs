//! The table in the guide names what there is, and nothing else.

use std::collections::BTreeSet;

const GUIDE: &str = include_str!("../../../src/guide/observing.rs");
const EVENTS: &str = include_str!("../../../src/source/events.rs");
const LOG: &str = include_str!("../../../src/source/log.rs");
const METRICS: &str = include_str!("../../../src/source/metrics.rs");
const SOURCES: [&str; 5] = [
    LOG,
    EVENTS,
    include_str!("../../../src/source/fleet.rs"),
    include_str!("../../../src/source/session.rs"),
    include_str!("../../../src/source/renewal.rs"),
];

/// Between two texts, the second one after the first.
fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let begin = text.find(from).expect(from) + from.len();
    let length = text[begin..].find(to).expect(to);
    &text[begin..begin + length]
}

/// The rows of the table, each with its cells.
fn rows() -> Vec<Vec<String>> {
    let table = between(GUIDE, "//! # The table\n", "//! The span");
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// All words in `text` between two of `quote` that begin so.
fn quoted(text: &str, quote: char, prefix: &str) -> BTreeSet<String> {
    let words = text.split(quote).skip(1).step_by(2);
    words
        .filter(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn g29_the_table_names_each_event_and_no_other() {
    let variants = between(EVENTS, "pub enum Event {", "\n}");
    let names = variants
        .lines()
        .filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    let in_code: BTreeSet<_> = names
        .map(|line| line.split([' ', ',', '(']).next().unwrap().to_owned())
        .collect();
    let in_table: BTreeSet<_> = rows()
        .iter()
        .map(|row| row[0].trim_end_matches('`').to_owned())
        .collect();
    assert_eq!(in_table, in_code);
}

#[test]
fn g29_the_table_names_each_metric_with_its_labels() {
    let in_code = quoted(METRICS, '"', "apivideo_auth.");
    let metrics: String = rows().iter().map(|row| format!("{}\n", row[2])).collect();
    assert_eq!(quoted(&metrics, '`', "apivideo_auth."), in_code);
    let labels: BTreeSet<_> = between(METRICS, "pub(super) fn record", "\nfn describe")
        .split("(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .filter(|label| !["account", "origin", "{}xx"].contains(label))
        .collect();
    for label in &labels {
        assert!(metrics.contains(&format!("`{label}`")), "{label}");
    }
    assert_eq!(labels.len(), 5, "{labels:?}");
}

#[test]
fn g29_the_table_names_each_target_and_span_field() {
    let in_code = quoted(LOG, '"', "apivideo_auth::");
    assert_eq!(
        quoted(&GUIDE.replace("//!", ""), '`', "apivideo_auth::"),
        in_code
    );
    let span = between(LOG, "info_span!(", ");");
    for field in span
        .lines()
        .skip(3)
        .map(str::trim)
        .filter(|line| line.ends_with(','))
    {
        let name = field
            .trim_start_matches('?')
            .split([' ', ','])
            .next()
            .unwrap();
        let name = name.trim_matches('"');
        let told = between(GUIDE, "The span `renewal`", "`outcome` is");
        assert!(
            name == "renewal" || told.contains(&format!("`{name}`")),
            "{name}"
        );
    }
}

/// Each line that a person should look at has a row that says what to do, and each row is such a line.
#[test]
fn g29_each_warning_is_explained_to_operators() {
    let page = between(GUIDE, "# What each warning means\n", "# A health route");
    let code = SOURCES.concat().replace("\\\n", "");
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    for row in page.lines().filter_map(|line| line.strip_prefix("//! | `")) {
        let (lines, _) = row.split_once(" | ").unwrap();
        for line in format!("`{lines}").split('`').skip(1).step_by(2) {
            let words = line.trim_end_matches(" …");
            let is_outcome = !words.contains(' ');
            assert!(
                is_outcome
                    || words == "others may write to a folder above that of the tokens"
                    || code.contains(words),
                "{words}"
            );
        }
    }
    for literal in code.split('"').filter(|text| {
        let failures = [
            "the mark on ",
            "the token store can't",
            "the new pair",
            "a pair of tokens",
            "two new refresh",
            "a timeout below",
            "the given refresh token is not presented: it was",
            "the stored ",
            "a refused refresh",
            "the cool-down after",
            "logging in with",
        ];
        failures.iter().any(|failure| text.starts_with(failure))
            && !text.contains("access token is not a valid")
    }) {
        let begin: String = literal.chars().take(20).collect();
        assert!(
            page.contains(&begin)
                || page.contains("the mark on …") && begin.starts_with("the mark on"),
            "{literal}"
        );
    }
}
