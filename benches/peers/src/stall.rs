//! Requests at a steady pace through several renewals of a short-lived token: which of them have to wait?

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::StatusCode;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    peer::Peer,
    rounds::{
        Goal, Row, Sample, api, entries, in_runtime, interleave, median, most, ms, number,
        quantile, span, warm_up,
    },
    service::ApiService,
    table::Table,
};

const REQUESTS: u32 = 10_000;
const PER_TICK: u32 = 2;
const TICK: Duration = Duration::from_millis(1);

/// A request that takes longer was held up.
const SLOW: Duration = Duration::from_millis(10);

pub(crate) struct Stall {
    pub(crate) began: Instant,
    pub(crate) samples: Vec<Sample>,
    pub(crate) renewed_at: Vec<Instant>,
    pub(crate) calls: u64,
}

impl Stall {
    pub(crate) fn slow(&self) -> u64 {
        self.samples
            .iter()
            .filter(|sample| sample.took > SLOW)
            .count() as u64
    }

    fn unauthorized(&self) -> u64 {
        let unauthorized = |sample: &&Sample| sample.status == Some(StatusCode::UNAUTHORIZED);
        self.samples.iter().filter(unauthorized).count() as u64
    }

    fn failed(&self) -> u64 {
        self.samples.iter().filter(|sample| !sample.is_ok()).count() as u64 - self.unauthorized()
    }

    /// Whether every request was answered 200.
    pub(crate) fn is_clean(&self) -> bool {
        self.samples.iter().all(Sample::is_ok)
    }

    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut times: Vec<_> = self.samples.iter().map(|sample| ms(sample.took)).collect();
        quantile(&mut times, part)
    }
}

pub(crate) fn run(quick: bool) -> Vec<Row<Stall>> {
    interleave("stall", if quick { 1 } else { 3 }, entries!(measure))
}

fn measure<P: Peer>() -> Result<Stall, String> {
    in_runtime(async {
        let api = api(P::SHORT_LIFETIME);
        let client = P::client(&api, ApiService::of(&api)).await;
        warm_up(&client).await?;
        let before = api.counts().calls;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let began = Instant::now();
        let mut requests = Vec::with_capacity(REQUESTS as usize);
        for _ in 0..REQUESTS / PER_TICK {
            ticks.tick().await;
            for _ in 0..PER_TICK {
                let mut client = client.clone();
                requests.push(tokio::spawn(async move { Sample::of(&mut client).await }));
            }
        }
        let calls = api.counts().calls - before;
        let samples = join_all(requests)
            .await
            .into_iter()
            .collect::<Result<_, _>>();
        let renewed_at = api
            .granted_at()
            .into_iter()
            .filter(|at| *at > began)
            .collect();
        Ok(Stall {
            began,
            samples: samples.map_err(|error| error.to_string())?,
            renewed_at,
            calls,
        })
    })
}

pub(crate) fn table(rows: &[Row<Stall>]) -> String {
    let mut table = Table::new(&[
        "10 000 requests in 5 s",
        "slower than 10 ms",
        "p50 (ms)",
        "p99.9 (ms)",
        "max (ms)",
        "401",
        "errors",
        "token calls",
    ]);
    for row in rows {
        row.line(&mut table, |rounds| {
            let time = |part| number(median(rounds.iter().map(|round| round.quantile(part))));
            vec![
                span(rounds.iter().map(Stall::slow)),
                time(0.5),
                time(0.999),
                time(1.0),
                span(rounds.iter().map(Stall::unauthorized)),
                span(rounds.iter().map(Stall::failed)),
                span(rounds.iter().map(|round| round.calls)),
            ]
        });
    }
    table.markdown()
}

pub(crate) fn goal(ours: &[Stall]) -> Goal {
    let slow = most(ours.iter().map(Stall::slow));
    let unauthorized = most(ours.iter().map(Stall::unauthorized));
    let p999 = median(ours.iter().map(|round| round.quantile(0.999)));
    Goal {
        aim: "of 10 000 requests none slower than 10 ms, p99.9 at most 0.1 ms, no 401".to_owned(),
        measured: format!(
            "at most {slow} slower than 10 ms in a round, p99.9 {} ms, at most {unauthorized} 401s",
            number(p999)
        ),
        met: slow == 0
            && p999 <= 0.1
            && unauthorized == 0
            && ours.iter().all(|round| round.calls > 0),
    }
}
