//! 100 requests at once, whose token was revoked; then the same with the token that replaced it.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::{
    api::Api,
    peer::{Client, Peer},
    rounds::{Goal, Row, Sample, api, entries, in_runtime, interleave, span, warm_up},
    service::ApiService,
    table::Table,
};

const CALLERS: usize = 100;
const HOUR: Duration = Duration::from_secs(3600);
const ON_THE_WAY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Outcome {
    first: Refused,
    second: Refused,
}

struct Refused {
    ok: u64,
    calls: u64,
}

pub(crate) fn run(quick: bool) -> Vec<Row<Outcome>> {
    interleave("refused", if quick { 1 } else { 5 }, entries!(measure))
}

fn measure<P: Peer>() -> Result<Outcome, String> {
    in_runtime(async {
        let api = api(HOUR);
        // All are on their way before the first is answered.
        let inner = ApiService::of(&api).map_future(|answer| async {
            let answer = answer.await;
            sleep(ON_THE_WAY).await;
            answer
        });
        let client = P::client(&api, inner).await;
        warm_up(&client).await?;
        Ok(Outcome {
            first: revoke(&api, &client).await,
            second: revoke(&api, &client).await,
        })
    })
}

async fn revoke(api: &Api, client: &impl Client) -> Refused {
    api.revoke_access_tokens();
    let before = api.counts().calls;
    let callers = (0..CALLERS).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { timeout(PATIENCE, Sample::of(&mut client)).await })
    });
    let callers: Vec<_> = callers.collect();
    let is_ok =
        |end: &Result<Result<Sample, _>, _>| matches!(end, Ok(Ok(answer)) if answer.is_ok());
    let ok = join_all(callers)
        .await
        .iter()
        .filter(|end| is_ok(end))
        .count() as u64;
    Refused {
        ok,
        calls: api.counts().calls - before,
    }
}

pub(crate) fn table(rows: &[Row<Outcome>]) -> String {
    let mut table = Table::new(&[
        "100 requests with a revoked token",
        "answered 200",
        "token calls",
        "again: answered 200",
        "token calls",
    ]);
    for row in rows {
        row.line(&mut table, |rounds| {
            let (first, second) = (
                || rounds.iter().map(|round| &round.first),
                || rounds.iter().map(|round| &round.second),
            );
            vec![
                span(first().map(|one| one.ok)),
                span(first().map(|one| one.calls)),
                span(second().map(|one| one.ok)),
                span(second().map(|one| one.calls)),
            ]
        });
    }
    table.markdown()
}

pub(crate) fn goal(ours: &[Outcome]) -> Goal {
    let all = || {
        ours.iter()
            .flat_map(|outcome| [&outcome.first, &outcome.second])
    };
    Goal {
        aim: "100 answered 200 with one token call, both times".to_owned(),
        measured: format!(
            "{} answered 200, token calls: {}",
            span(all().map(|one| one.ok)),
            span(all().map(|one| one.calls))
        ),
        met: all().all(|one| one.ok == CALLERS as u64 && one.calls == 1),
    }
}
