//! 10 000 callers at once, who have no token yet or whose token has just expired.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Barrier, time::sleep};

use crate::{
    api::{Api, Counts},
    peer::{Client, Peer, get},
    rounds::{
        Goal, Row, Sample, api, entries, in_runtime, interleave, median, most, ms, number, span,
        warm_up,
    },
    service::ApiService,
    table::Table,
};

const CALLERS: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_secs(2);

pub(crate) struct Outcome {
    cold: Stampede,
    expired: Stampede,
}

struct Stampede {
    calls: u64,
    reused: u64,
    failed: u64,
    ms: f64,
}

pub(crate) fn run(quick: bool) -> Vec<Row<Outcome>> {
    interleave("stampede", if quick { 1 } else { 3 }, entries!(measure))
}

fn measure<P: Peer>() -> Result<Outcome, String> {
    Ok(Outcome {
        cold: in_runtime(cold::<P>())?,
        expired: in_runtime(expired::<P>())?,
    })
}

async fn cold<P: Peer>() -> Result<Stampede, String> {
    let api = api(HOUR);
    let client = P::client(&api, ApiService::of(&api)).await;
    stampede(&api, Counts::default(), &client).await
}

async fn expired<P: Peer>() -> Result<Stampede, String> {
    let api = api(SHORT);
    let client = P::client(&api, ApiService::of(&api)).await;
    warm_up(&client).await?;
    let before = api.counts();
    api.set_lifetime(HOUR);
    sleep(SHORT + Duration::from_millis(100)).await;
    stampede(&api, before, &client).await
}

async fn stampede(api: &Api, before: Counts, client: &impl Client) -> Result<Stampede, String> {
    let barrier = Arc::new(Barrier::new(CALLERS));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (mut client, barrier) = (client.clone(), barrier.clone());
            tokio::spawn(async move {
                let request = get("/videos");
                barrier.wait().await;
                Sample::of_request(&mut client, request).await
            })
        })
        .collect();
    // One after the other: being woken for each of them would slow down those who still wait.
    let mut answers = Vec::with_capacity(CALLERS);
    for caller in callers {
        answers.push(caller.await.map_err(|error| error.to_string())?);
    }
    let first = answers
        .iter()
        .map(|response| response.started)
        .min()
        .ok_or("no caller")?;
    let last = answers.iter().map(Sample::ended).max().ok_or("no caller")?;
    let after = api.counts();
    Ok(Stampede {
        calls: after.calls - before.calls,
        reused: after.reused - before.reused,
        failed: answers.iter().filter(|response| !response.is_ok()).count() as u64,
        ms: ms(last - first),
    })
}

pub(crate) fn table(rows: &[Row<Outcome>]) -> String {
    let mut table = Table::new(&[
        "10 000 callers at once",
        "cold: token calls",
        "reused",
        "failed",
        "ms",
        "expired: token calls",
        "reused",
        "failed",
        "ms",
    ]);
    for row in rows {
        row.line(&mut table, |rounds| {
            let cells = |pick: fn(&Outcome) -> &Stampede| {
                let rounds = || rounds.iter().map(pick);
                [
                    span(rounds().map(|one| one.calls)),
                    span(rounds().map(|one| one.reused)),
                    span(rounds().map(|one| one.failed)),
                    number(median(rounds().map(|one| one.ms))),
                ]
            };
            [
                cells(|outcome| &outcome.cold),
                cells(|outcome| &outcome.expired),
            ]
            .concat()
        });
    }
    table.markdown()
}

pub(crate) fn goal(ours: &[Outcome]) -> Goal {
    let both = || {
        ours.iter()
            .flat_map(|outcome| [&outcome.cold, &outcome.expired])
    };
    let slower = [
        |outcome: &Outcome| outcome.cold.ms,
        |outcome: &Outcome| outcome.expired.ms,
    ]
    .map(|pick| median(ours.iter().map(pick)))
    .into_iter()
    .fold(0.0, f64::max);
    let (calls, failed) = (
        most(both().map(|one| one.calls)),
        most(both().map(|one| one.failed)),
    );
    Goal {
        aim: "one token call, no failure, at most 70 ms, with refresh tokens that work once"
            .to_owned(),
        measured: format!(
            "at most {calls} call, {failed} failures, {} ms",
            number(slower)
        ),
        met: calls == 1 && failed == 0 && slower <= 70.0 && both().all(|one| one.reused == 0),
    }
}
