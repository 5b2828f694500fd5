//! G4: few slots below, and a token endpoint that hangs.

use std::time::Duration;

use apivideo_auth::testing::{FakeApi, Fault};
use tokio::time::{Instant, sleep};
use tower::{
    Layer, Service, ServiceExt,
    limit::{ConcurrencyLimit, ConcurrencyLimitLayer},
};

use crate::support::{Body, get, paused, with_refresh_token};

const HOUR: Duration = Duration::from_secs(3600);

/// The default.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);

type Client = apivideo_auth::ApiVideoAuth<ConcurrencyLimit<apivideo_auth::testing::FakeService>>;

fn client(slots: usize, with_key: bool) -> (FakeApi, Client) {
    let (api, clock) = paused();
    let mut builder = with_refresh_token(&api).clock(clock);
    if with_key {
        builder = builder.api_key(api.api_key());
    }
    let layer = builder.build().expect("good settings");
    let client = layer.layer(ConcurrencyLimitLayer::new(slots).layer(api.service()));
    (api, client)
}

/// Two requests a second for this long: when each began and ended, and whether it was served.
async fn requests<S>(client: &S, time: Duration) -> Vec<(Instant, Instant, bool)>
where
    S: Service<http::Request<Body>, Response = http::Response<apivideo_auth::testing::FakeBody>>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let mut tasks = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let request = client.clone().oneshot(get("/videos"));
        tasks.push(tokio::spawn(async move {
            let begun = Instant::now();
            let served = request.await.is_ok_and(|response| response.status() == 200);
            (begun, Instant::now(), served)
        }));
        sleep(SECOND / 2).await;
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.expect("no panic"));
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn g4_hung_refreshes_hold_up_no_usable_token() {
    let mut rows = Vec::new();
    for with_key in [false, true] {
        for slots in [1, 2, 3, 4, 8] {
            let (api, client) = client(slots, with_key);
            let first = client.clone().oneshot(get("/videos")).await;
            assert_eq!(first.expect("a first token").status(), 200);
            // In the early window of every jitter, and usable to the end.
            sleep(HOUR - Duration::from_secs(220)).await;
            api.fault(Fault::latency(2 * HOUR).always());
            let outcomes = requests(&client, Duration::from_secs(140)).await;
            assert!(outcomes.iter().all(|(_, _, served)| *served));
            let longest = outcomes
                .iter()
                .map(|(begun, ended, _)| ended.duration_since(*begun))
                .max()
                .expect("requests");
            println!("API key {with_key:5}, {slots} slots: longest wait {longest:.1?}");
            rows.push((with_key, slots, longest));
        }
    }
    for (with_key, slots, longest) in rows {
        let limit = match slots {
            1 | 2 => CALL_TIMEOUT + SECOND,
            // As with a header that never changes.
            _ => Duration::from_millis(10),
        };
        assert!(
            longest <= limit,
            "API key {with_key}, {slots} slots: a request waited {longest:.1?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g4_an_outage_behind_one_slot_ends_as_any() {
    const OUTAGE: Duration = Duration::from_secs(25);
    let mut rows = Vec::new();
    for with_key in [false, true] {
        for slots in [64, 1] {
            let (api, client) = client(slots, with_key);
            api.fault(Fault::latency(2 * HOUR).always());
            let begun = Instant::now();
            let healing = tokio::spawn(async move {
                sleep(OUTAGE).await;
                api.fault(None);
            });
            let outcomes = requests(&client, Duration::from_secs(150)).await;
            healing.await.expect("no panic");
            let recovered = outcomes
                .iter()
                .filter(|(_, _, served)| *served)
                .map(|(_, ended, _)| ended.duration_since(begun))
                .min()
                .expect("it recovers");
            println!("API key {with_key:5}, {slots} slots: recovered after {recovered:.1?}");
            rows.push((with_key, slots, recovered));
        }
    }
    for (with_key, slots, recovered) in rows {
        // What hangs when the outage ends is noticed `call_timeout` later at the most, and counts as a part of it.
        let noticed = OUTAGE + CALL_TIMEOUT;
        assert!(
            recovered <= noticed + noticed / 5 + SECOND,
            "API key {with_key}, {slots} slots: recovered {recovered:.1?} after the beginning"
        );
    }
}
