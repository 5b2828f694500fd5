//! What the clients saw, as a table.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use apivideo_auth::testing::Counts;

/// One request of a client.
pub(crate) struct Seen {
    pub(crate) took: Duration,
    pub(crate) during_renewal: bool,
    pub(crate) failure: Option<String>,
}

pub(crate) fn print(
    seen: &[Seen],
    reasons: &BTreeMap<&str, usize>,
    counts: &Counts,
    revoked_at: Duration,
) {
    let failures = seen.iter().filter(|seen| seen.failure.is_some()).count();
    let in_renewal = seen.iter().filter(|seen| seen.during_renewal);
    let slowest = in_renewal.map(|seen| seen.took).max().unwrap_or_default();
    let mut times: Vec<_> = seen.iter().map(|seen| seen.took).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let by_reason: Vec<_> = reasons
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();

    println!();
    row("requests", seen.len());
    row("failures", failures);
    row("renewals, by reason", by_reason.join(", "));
    row("token calls", counts.token_calls);
    row("token calls at once, at most", counts.max_in_flight);
    let revoked = format!(
        "at {:.1} s: {} requests met a 401 and were sent again",
        revoked_at.as_secs_f64(),
        counts.unauthorized
    );
    row("token revoked under load", revoked);
    let times = format!(
        "{:.1} ms (median of all: {:.1} ms)",
        millis(slowest),
        millis(median)
    );
    row("slowest request in a renewal", times);
    println!();
}

fn row(name: &str, value: impl Display) {
    println!("  {name:<30} {value}");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
