//! What the measures share: rounds, medians, tables, goals.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use http::{Request, StatusCode};
use tokio::{runtime, time::timeout};

use crate::{
    api::{Api, Rules},
    peer::{Body, Client, Peer, get},
    table::Table,
};

/// How far away the token endpoint is.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

/// No round of one peer may take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A peer, and how one round of a measure is run with it.
pub(crate) struct Entry<T> {
    pub(crate) name: &'static str,
    pub(crate) renews: bool,
    pub(crate) run: fn() -> Result<T, String>,
}

impl<T> Entry<T> {
    pub(crate) fn of<P: Peer>(run: fn() -> Result<T, String>) -> Self {
        Self {
            name: P::NAME,
            renews: P::RENEWS,
            run,
        }
    }
}

/// The entries of all peers for a function that is generic over the peer.
macro_rules! entries {
    ($measure:ident) => {{
        let mut entries = Vec::new();
        $crate::peers::for_each_peer!(
            |P| entries.push($crate::rounds::Entry::of::<P>($measure::<P>))
        );
        entries
    }};
}
pub(crate) use entries;

/// All rounds of one peer.
pub(crate) struct Row<T> {
    pub(crate) name: &'static str,
    pub(crate) rounds: Rounds<T>,
}

pub(crate) enum Rounds<T> {
    Done(Vec<T>),
    /// It renews nothing.
    Cannot,
    Failed(String),
}

impl<T> Row<T> {
    pub(crate) fn done(&self) -> Option<&[T]> {
        match &self.rounds {
            Rounds::Done(rounds) => Some(rounds),
            _ => None,
        }
    }

    /// The cells of a line, or one that says why there are none.
    pub(crate) fn line(&self, table: &mut Table, cells: impl FnOnce(&[T]) -> Vec<String>) {
        let cells = match &self.rounds {
            Rounds::Done(rounds) => cells(rounds),
            Rounds::Cannot => vec!["-".to_owned()],
            Rounds::Failed(why) => {
                table.notes.push(format!("{} failed: {why}", self.name));
                vec!["failed".to_owned()]
            }
        };
        table.line(self.name, cells);
    }
}

/// Runs a measure in rounds, each of them with every peer.
pub(crate) fn interleave<T>(measure: &str, rounds: usize, entries: Vec<Entry<T>>) -> Vec<Row<T>> {
    let start = |entry: &Entry<T>| Row {
        name: entry.name,
        rounds: if entry.renews {
            Rounds::Done(Vec::new())
        } else {
            Rounds::Cannot
        },
    };
    let mut rows: Vec<_> = entries.iter().map(start).collect();
    for round in 1..=rounds {
        for (entry, row) in entries.iter().zip(&mut rows) {
            let Rounds::Done(done) = &mut row.rounds else {
                continue;
            };
            eprintln!("{measure}, round {round} of {rounds}: {}", entry.name);
            match again_if_failed(entry.run) {
                Ok(outcome) => done.push(outcome),
                Err(why) => row.rounds = Rounds::Failed(why),
            }
        }
    }
    rows
}

/// A machine that is suspended in the middle of a round makes it fail, once.
pub(crate) fn again_if_failed<T>(round: impl Fn() -> Result<T, String>) -> Result<T, String> {
    round().or_else(|why| {
        eprintln!("  once more, for it failed: {why}");
        round()
    })
}

/// Runs `future` in a runtime that ends with it, so that no task of a peer runs on into the next round.
pub(crate) fn in_runtime<T: Send + 'static>(
    future: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let (outcome, was_stopped) =
        watched(|| runtime.block_on(async { timeout(LIMIT, tokio::spawn(future)).await }));
    runtime.shutdown_background();
    match outcome {
        _ if was_stopped => Err("the program was stopped meanwhile".to_owned()),
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no end within {LIMIT:?}")),
    }
}

/// Does something, and says whether this program stood still for more than a second meanwhile: timers then tell nothing.
fn watched<T>(work: impl FnOnce() -> T) -> (T, bool) {
    const NAP: Duration = Duration::from_millis(100);
    thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let watcher = scope.spawn(move || {
            let mut longest = Duration::ZERO;
            loop {
                let asleep = Instant::now();
                let end = is_done.recv_timeout(NAP);
                longest = longest.max(asleep.elapsed());
                if end != Err(RecvTimeoutError::Timeout) {
                    return longest > NAP + Duration::from_secs(1);
                }
            }
        });
        let outcome = work();
        drop(done);
        (outcome, watcher.join().expect("it only sleeps"))
    })
}

pub(crate) fn api(lifetime: Duration) -> Api {
    Api::new(Rules {
        latency: LATENCY,
        lifetime,
    })
}

/// One request that has to be answered 200.
pub(crate) async fn warm_up<C: Client>(client: &C) -> Result<(), String> {
    match client.clone().send(get("/videos")).await {
        Ok(response) if response.status() == StatusCode::OK => Ok(()),
        Ok(response) => Err(format!(
            "the first request was answered {}",
            response.status().as_u16()
        )),
        Err(error) => Err(format!("the first request failed: {error}")),
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    /// `None`: an error instead of a response.
    pub(crate) status: Option<StatusCode>,
}

impl Sample {
    pub(crate) async fn of(client: &mut impl Client) -> Self {
        Self::of_request(client, get("/videos")).await
    }

    pub(crate) async fn of_request(client: &mut impl Client, request: Request<Body>) -> Self {
        let started = Instant::now();
        let status = client
            .send(request)
            .await
            .ok()
            .map(|response| response.status());
        Self {
            started,
            took: started.elapsed(),
            status,
        }
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.status == Some(StatusCode::OK)
    }

    pub(crate) fn ended(&self) -> Instant {
        self.started + self.took
    }
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    quantile(&mut values, 0.5)
}

/// NaN if there is no value, which no table prints as a number.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index is small and positive"
    )]
    let index = (last as f64 * part).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// The largest of some counts.
pub(crate) fn most(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().max().unwrap_or(0)
}

/// Counts of several rounds: one number, or the smallest and the largest.
pub(crate) fn span(counts: impl IntoIterator<Item = u64>) -> String {
    let counts: Vec<_> = counts.into_iter().collect();
    match (counts.iter().min(), counts.iter().max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        _ => "-".to_owned(),
    }
}

/// Two or three digits, but no digit of a large number is lost.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// What was aimed at, and whether the numbers of this run reach it.
pub(crate) struct Goal {
    pub(crate) aim: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}
