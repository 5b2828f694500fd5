//! The token is expired and the token endpoint is down for five seconds, while requests go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    peer::{Client, Peer},
    rounds::{
        Goal, Row, Sample, api, entries, in_runtime, interleave, median, most, ms, number,
        quantile, span, warm_up,
    },
    service::ApiService,
    table::Table,
};

pub(crate) const OUTAGE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(5);
const SHORT: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

/// A request without a response for so long never gets one.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long after the end of the outage the recovery is waited for, and how long requests go on after it.
const RECOVERY: Duration = Duration::from_secs(10);
const AFTERWARDS: Duration = Duration::from_millis(500);

pub(crate) struct Outage {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// One that was never answered is not among them.
    pub(crate) samples: Vec<Sample>,
    unanswered: u64,
    calls: u64,
}

impl Outage {
    /// Requests made during the outage that were answered, if with an error, before it ended; of 1.
    pub(crate) fn answered(&self) -> f64 {
        let during = || {
            self.samples
                .iter()
                .filter(|sample| sample.started < self.ended)
        };
        let answered = during()
            .filter(|sample| sample.ended() <= self.ended)
            .count();
        answered as f64 / (during().count() as f64 + self.unanswered as f64)
    }

    /// How long requests made during the outage took, whenever they were answered.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let during = self
            .samples
            .iter()
            .filter(|sample| sample.started < self.ended);
        let mut times: Vec<_> = during.map(|sample| ms(sample.took)).collect();
        times.extend((0..self.unanswered).map(|_| ms(PATIENCE)));
        quantile(&mut times, part)
    }

    /// Until the first request succeeded, in seconds from the end of the outage.
    pub(crate) fn recovery(&self) -> Option<f64> {
        let ok = self
            .samples
            .iter()
            .filter(|sample| sample.is_ok() && sample.ended() >= self.ended);
        ok.map(|sample| (sample.ended() - self.ended).as_secs_f64())
            .min_by(f64::total_cmp)
    }
}

pub(crate) fn run(quick: bool) -> Vec<Row<Outage>> {
    interleave("outage", if quick { 1 } else { 2 }, entries!(measure))
}

fn measure<P: Peer>() -> Result<Outage, String> {
    in_runtime(async {
        let api = api(SHORT);
        let client = P::client(&api, ApiService::of(&api)).await;
        warm_up(&client).await?;
        // Before the token expires: who renews without requests must not slip through.
        api.set_down(true);
        api.set_lifetime(HOUR);
        let before = api.counts().calls;
        sleep(SHORT + Duration::from_millis(100)).await;

        let load = Load {
            client,
            recovered: Arc::default(),
        };
        let began = Instant::now();
        let mut requests = Vec::new();
        load.send(&mut requests, || began.elapsed() >= OUTAGE).await;
        let calls = api.counts().calls - before;
        api.set_down(false);
        let ended = Instant::now();
        load.send(&mut requests, || {
            ended.elapsed() >= RECOVERY || load.has_recovered()
        })
        .await;
        let last = Instant::now();
        load.send(&mut requests, || last.elapsed() >= AFTERWARDS)
            .await;

        let (mut samples, mut unanswered) = (Vec::new(), 0);
        for request in requests {
            match request.await.map_err(|error| error.to_string())? {
                Some(sample) => samples.push(sample),
                None => unanswered += 1,
            }
        }
        Ok(Outage {
            began,
            ended,
            samples,
            unanswered,
            calls,
        })
    })
}

/// Requests at a steady pace, each a task of its own.
struct Load<C> {
    client: C,
    recovered: Arc<AtomicBool>,
}

impl<C: Client> Load<C> {
    async fn send(
        &self,
        requests: &mut Vec<JoinHandle<Option<Sample>>>,
        is_over: impl Fn() -> bool,
    ) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !is_over() {
            ticks.tick().await;
            let (mut client, recovered) = (self.client.clone(), self.recovered.clone());
            requests.push(tokio::spawn(async move {
                let sample = timeout(PATIENCE, Sample::of(&mut client)).await.ok()?;
                recovered.fetch_or(sample.is_ok(), Ordering::Relaxed);
                Some(sample)
            }));
        }
    }

    fn has_recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }
}

pub(crate) fn table(rows: &[Row<Outage>]) -> String {
    let mut table = Table::new(&[
        "outage of 5 s",
        "token calls in it",
        "answered in it (%)",
        "median (ms)",
        "p99 (ms)",
        "never answered",
        "recovered after (s)",
    ]);
    for row in rows {
        row.line(&mut table, |rounds| {
            let over = |pick: fn(&Outage) -> f64| number(median(rounds.iter().map(pick)));
            let recovery: Option<Vec<_>> = rounds.iter().map(Outage::recovery).collect();
            vec![
                span(rounds.iter().map(|round| round.calls)),
                over(|round| 100.0 * round.answered()),
                over(|round| round.quantile(0.5)),
                over(|round| round.quantile(0.99)),
                span(rounds.iter().map(|round| round.unanswered)),
                recovery.map_or_else(|| "not in 10 s".to_owned(), |times| number(median(times))),
            ]
        });
    }
    table.markdown()
}

pub(crate) fn goal(ours: &[Outage]) -> Goal {
    let calls = most(ours.iter().map(|round| round.calls));
    let answered = ours.iter().map(Outage::answered).fold(1.0, f64::min);
    let unanswered: u64 = ours.iter().map(|round| round.unanswered).sum();
    let time = median(ours.iter().map(|round| round.quantile(0.5)));
    let recovery = ours
        .iter()
        .map(|round| round.recovery().unwrap_or(f64::INFINITY))
        .fold(0.0, f64::max);
    Goal {
        aim: "at most 10 token calls, each request answered, in less than 1 ms by the median, recovered 1.1 s after the end"
            .to_owned(),
        measured: format!(
            "at most {calls} calls, {unanswered} requests never answered, {} % answered while the outage lasted, median \
             {} ms, recovered after {} s at the latest",
            number(100.0 * answered),
            number(time),
            number(recovery)
        ),
        met: calls <= 10 && unanswered == 0 && time < 1.0 && recovery <= 1.1,
    }
}
