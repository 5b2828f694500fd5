//! The caller who started a renewal goes away just after the endpoint has spent the refresh token.

use std::time::Duration;

use futures::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    peer::{Client, Peer},
    rounds::{Goal, Row, Sample, api, entries, in_runtime, interleave, most, span},
    service::ApiService,
    table::Table,
};

const FOLLOWERS: usize = 100;
const HOUR: Duration = Duration::from_secs(3600);

/// No follower waits longer.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Outcome {
    leader: Dropped,
    all: Dropped,
}

struct Dropped {
    /// The token was there before there was a caller.
    came_early: bool,
    calls: u64,
    reused: u64,
    served: u64,
    later_served: bool,
}

impl Dropped {
    /// A pair that was kept is used, and needs no second call.
    fn lost_answer(&self) -> bool {
        self.calls > 1 || !self.later_served
    }
}

pub(crate) fn run(quick: bool) -> Vec<Row<Outcome>> {
    interleave("dropped", if quick { 1 } else { 2 }, entries!(measure))
}

fn measure<P: Peer>() -> Result<Outcome, String> {
    Ok(Outcome {
        leader: in_runtime(drops::<P>(false))?,
        all: in_runtime(drops::<P>(true))?,
    })
}

async fn drops<P: Peer>(all: bool) -> Result<Dropped, String> {
    let api = api(HOUR);
    let mut commitments = api.commitments();
    let client = P::client(&api, ApiService::of(&api)).await;
    let came_early = api.counts().granted > 0;
    let leader = call(&client);
    // Long enough for the leader to be the leader, and too short for the commitment.
    sleep(Duration::from_millis(5)).await;
    let followers: Vec<_> = (0..FOLLOWERS).map(|_| call(&client)).collect();
    let committed = commitments.wait_for(|granted| *granted > 0);
    timeout(PATIENCE, committed)
        .await
        .map_err(|_| "no token call".to_owned())?
        .map_err(|e| e.to_string())?;
    leader.abort();
    if all {
        followers.iter().for_each(JoinHandle::abort);
    }
    let served = join_all(followers)
        .await
        .into_iter()
        .filter(|end| matches!(end, Ok(true)))
        .count() as u64;
    let later_served = call(&client).await.map_err(|error| error.to_string())?;
    let counts = api.counts();
    Ok(Dropped {
        came_early,
        calls: counts.calls,
        reused: counts.reused,
        served,
        later_served,
    })
}

fn call(client: &impl Client) -> JoinHandle<bool> {
    let mut client = client.clone();
    tokio::spawn(async move {
        timeout(PATIENCE, Sample::of(&mut client))
            .await
            .is_ok_and(|response| response.is_ok())
    })
}

pub(crate) fn table(rows: &[Row<Outcome>]) -> String {
    let mut table = Table::new(&[
        "dropped in mid-refresh",
        "leader: token calls",
        "reused",
        "followers served of 100",
        "later caller",
        "response lost",
        "all: token calls",
        "reused",
        "later caller",
        "response lost",
    ]);
    for row in rows {
        row.line(&mut table, |rounds| {
            if rounds.iter().any(|outcome| outcome.leader.came_early) {
                return vec!["-".to_owned()];
            }
            let rounds = |pick: fn(&Outcome) -> &Dropped| rounds.iter().map(pick);
            let (leader, all) = (
                || rounds(|outcome| &outcome.leader),
                || rounds(|outcome| &outcome.all),
            );
            vec![
                span(leader().map(|one| one.calls)),
                span(leader().map(|one| one.reused)),
                span(leader().map(|one| one.served)),
                word(leader().all(|one| one.later_served), "served", "failed"),
                word(leader().any(Dropped::lost_answer), "yes", "no"),
                span(all().map(|one| one.calls)),
                span(all().map(|one| one.reused)),
                word(all().all(|one| one.later_served), "served", "failed"),
                word(all().any(Dropped::lost_answer), "yes", "no"),
            ]
        });
    }
    table.markdown()
}

fn word(condition: bool, yes: &str, no: &str) -> String {
    (if condition { yes } else { no }).to_owned()
}

pub(crate) fn goal(ours: &[Outcome]) -> Goal {
    let both = || {
        ours.iter()
            .flat_map(|outcome| [&outcome.leader, &outcome.all])
    };
    let calls = most(both().map(|one| one.calls));
    let served = ours
        .iter()
        .map(|outcome| outcome.leader.served)
        .min()
        .unwrap_or(0);
    let lost = both().filter(|one| one.lost_answer()).count();
    Goal {
        aim: "one token call, no pair lost, all followers served".to_owned(),
        measured: format!(
            "at most {calls} call, {lost} pairs lost, at least {served} of 100 followers served"
        ),
        met: calls == 1 && lost == 0 && served == FOLLOWERS as u64,
    }
}
