//! From numbers to plots.

use std::time::Instant;

use crate::{
    hot, outage,
    peer::Peer,
    peers::{for_each_peer, ours::Ours},
    plot::{Bar, Panel, Point, Timeline, bars, thin_out, timeline},
    rounds::{Row, Sample, median, ms},
    stall,
};

/// A file for the report.
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) caption: String,
    pub(crate) svg: String,
}

pub(crate) fn hot(rows: &[hot::Row]) -> Option<Plot> {
    let mut groups = GROUPS.map(|title| (title, Vec::new()));
    for_each_peer!(|P| {
        let row = rows
            .iter()
            .find(|row| row.peer == P::NAME && row.usage == hot::Use::LongLived);
        // The static header itself is the line that they are compared with.
        if let Some(row) = row.filter(|_| P::RENEWS) {
            let group = 2 * usize::from(!P::REPLAYS) + usize::from(!P::ROTATES);
            groups[group].1.push(Bar {
                name: P::NAME,
                stands_out: is_ours(P::NAME),
                one_task: row.one_task.median,
                two_threads: row.two_threads.median,
            });
        }
    });
    let caption = "Long-lived clones, requests without further headers.".to_owned();
    drawn("hot_path.svg", caption, bars(&groups))
}

/// What the peers can do.
const GROUPS: [&str; 4] = [
    "send again after a 401, and renew with a refresh token that works once",
    "send again after a 401",
    "renew with a refresh token that works once",
    "neither",
];

pub(crate) fn stall(rows: &[Row<stall::Stall>]) -> Option<Plot> {
    let best = best(rows, |rounds| {
        let renews = rounds
            .iter()
            .all(|round| round.calls > 0 && round.is_clean());
        let slow = median(rounds.iter().map(|round| round.slow() as f64));
        renews.then(|| {
            (
                slow,
                median(rounds.iter().map(|round| round.quantile(0.999))),
            )
        })
    })?;
    let panels = panels(rows, best, |round| Panel {
        name: String::new(),
        points: points(&round.samples, round.began),
        marks: round
            .renewed_at
            .iter()
            .map(|at| (*at - round.began).as_secs_f64())
            .collect(),
    });
    let title = "Time of requests while tokens are renewed";
    let timeline = timeline(&Timeline {
        title,
        marks: Some("a new token was granted"),
        shade: None,
        panels,
    });
    let caption = format!(
        "Of the requests in each hundredth of a second the slowest, in the last round. The best other peer is {best}: of \
         those whose requests were all answered 200, the one with the fewest slower than 10 ms, then the smallest p99.9."
    );
    drawn("renewals.svg", caption, timeline)
}

pub(crate) fn outage(rows: &[Row<outage::Outage>]) -> Option<Plot> {
    let best = best(rows, |rounds| {
        let recovery = median(
            rounds
                .iter()
                .map(|round| round.recovery().unwrap_or(f64::INFINITY)),
        );
        let missing = 1.0 - median(rounds.iter().map(outage::Outage::answered));
        recovery.is_finite().then_some((missing, recovery))
    })?;
    let panels = panels(rows, best, |round| Panel {
        name: String::new(),
        points: points(&round.samples, round.began),
        marks: Vec::new(),
    });
    let end = outage::OUTAGE.as_secs_f64();
    let title = "Time to a response while the token endpoint is down";
    let shade = Some(("token endpoint down", 0.0, end));
    let timeline = timeline(&Timeline {
        title,
        marks: None,
        shade,
        panels,
    });
    let caption = format!(
        "Each request at the time of its start; of those in the same hundredth of a second the slowest, in the last round. The \
         best other peer is {best}: of those that recovered within 10 s, the one that answered most of the requests while \
         the outage lasted."
    );
    drawn("outage.svg", caption, timeline)
}

/// The peer other than ours with the smallest score.
fn best<T>(rows: &[Row<T>], score: impl Fn(&[T]) -> Option<(f64, f64)>) -> Option<&'static str> {
    let others = rows.iter().filter(|row| !is_ours(row.name));
    let scores = others.filter_map(|row| Some((score(row.done()?)?, row.name)));
    let best = scores.min_by(|((a, b), _), ((c, d), _)| a.total_cmp(c).then(b.total_cmp(d)));
    best.map(|(_, name)| name)
}

fn is_ours(name: &str) -> bool {
    name.starts_with(Ours::NAME)
}

fn panels<T>(rows: &[Row<T>], best: &str, panel: impl Fn(&T) -> Panel) -> Vec<Panel> {
    let of = |name: &str| {
        let round = rows.iter().find(|row| row.name == name)?.done()?.last()?;
        Some(Panel {
            name: name.to_owned(),
            ..panel(round)
        })
    };
    [Ours::NAME, best].into_iter().filter_map(of).collect()
}

fn points(samples: &[Sample], began: Instant) -> Vec<Point> {
    let point = |sample: &Sample| Point {
        at: sample
            .started
            .saturating_duration_since(began)
            .as_secs_f64(),
        ms: ms(sample.took),
        ok: sample.is_ok(),
    };
    thin_out(samples.iter().map(point))
}

fn drawn(
    file: &'static str,
    caption: String,
    svg: Result<String, Box<dyn std::error::Error>>,
) -> Option<Plot> {
    match svg {
        Ok(svg) => Some(Plot { file, caption, svg }),
        Err(error) => {
            eprintln!("{file} was not drawn: {error}");
            None
        }
    }
}
