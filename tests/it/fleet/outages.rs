//! G23: what one process knows of an outage, and what its siblings make of it.

use std::{future::pending, io};

use apivideo_auth::testing::Fault;
use axum::body::Body as AnyBody;
use http::{Request, Response};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::*;
use crate::support::get;

/// What stands between one process and the API.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sickness {
    Refused,
    /// Packets are dropped: nothing ever answers.
    Silent,
    /// A proxy answers in the API's place.
    Proxy,
}

impl Sickness {
    async fn answer(self) -> io::Result<Response<AnyBody>> {
        match self {
            Self::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
            Self::Silent => pending().await,
            Self::Proxy => {
                let mut response = Response::new(AnyBody::from("<html>no upstream</html>"));
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                Ok(response)
            }
        }
    }
}

/// A process without a way to the API, which goes on trying.
fn start_sick(builder: Builder, sickness: Sickness) -> JoinHandle<()> {
    let layer = builder.build().expect("good settings");
    let client = layer.layer(service_fn(move |_: Request<Body>| sickness.answer()));
    tokio::spawn(async move {
        loop {
            let request = client.clone().oneshot(get("/videos"));
            let _ = tokio::time::timeout(seconds(60.0), request).await;
            sleep(seconds(5.0)).await;
        }
    })
}

const SICKNESSES: [Sickness; 3] = [Sickness::Refused, Sickness::Silent, Sickness::Proxy];

/// Whether the sick one, and the healthy one, hold the API key.
const KEYS: [(bool, bool); 4] = [(true, true), (false, true), (true, false), (false, false)];

#[tokio::test(start_paused = true)]
async fn g23_one_without_a_way_to_the_api_pauses_nobody() {
    for (sickness, keys) in SICKNESSES
        .into_iter()
        .flat_map(|it| KEYS.map(|keys| (it, keys)))
    {
        let fleet = Fleet::logged_in().await;
        let builder = |with_key| fleet.builder(with_key).early_window(seconds(300.0));
        let sick = start_sick(builder(keys.0), sickness);
        let healthy = fleet.start(builder(keys.1));
        let begun = Instant::now();
        while begun.elapsed() < 4 * HOUR + seconds(100.0) {
            let asked = Instant::now();
            assert_eq!(
                healthy.list().await,
                Ok(200),
                "{sickness:?}, keys: {keys:?}"
            );
            assert_eq!(
                asked.elapsed(),
                Duration::ZERO,
                "{sickness:?}, keys: {keys:?}"
            );
            sleep(seconds(60.0)).await;
        }
        sick.abort();
        let counts = fleet.api.counts();
        assert_eq!(
            (counts.grants, counts.reuse_violations),
            (5, 0),
            "{sickness:?}, keys: {keys:?}"
        );
    }
}

/// The token has expired, and the sick one was first.
#[tokio::test(start_paused = true)]
async fn g23_a_healthy_process_comes_through_behind_a_sick_one() {
    for (sickness, keys) in SICKNESSES
        .into_iter()
        .flat_map(|it| KEYS.map(|keys| (it, keys)))
    {
        for after in [0.5, 3.0, 70.0] {
            let fleet = Fleet::logged_in().await;
            sleep(HOUR).await;
            let sick = start_sick(fleet.builder(keys.0), sickness);
            sleep(seconds(after)).await;
            let is_written = fleet.store.read().unwrap().header.not_before.is_some();
            assert!(
                !is_written || sickness != Sickness::Refused,
                "nothing was sent"
            );
            let healthy = fleet.start(fleet.builder(keys.1));
            let begun = Instant::now();
            while healthy.list().await != Ok(200) {
                sleep(seconds(0.1)).await;
            }
            sick.abort();
            // A call that hangs has a mark, and a lock, that have to be waited for.
            let bound = if sickness == Sickness::Silent {
                70.0
            } else {
                1.0
            };
            let waited = begun.elapsed();
            println!("{sickness:?}, keys: {keys:?}, {after} s: {waited:?}");
            assert!(
                waited < seconds(bound),
                "{sickness:?}, keys: {keys:?}, {after} s: {waited:?}"
            );
            assert_eq!(fleet.api.counts().reuse_violations, 0);
        }
    }
}

/// A process without a key whose call hangs reads on, and its mark says so, beyond the last moment at which a sibling's
/// renewal could call.
#[tokio::test(start_paused = true)]
async fn g21_a_key_does_not_wait_in_vain_for_a_long_mark() {
    for call_timeout in [10.0, 1.5] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let timed = |builder: Builder| builder.call_timeout(seconds(call_timeout));
        let sick = start_sick(timed(fleet.keyless()), Sickness::Silent);
        sleep(seconds(0.1)).await;
        let healthy = fleet.start(timed(fleet.keyed()));
        let begun = Instant::now();
        assert_eq!(healthy.list().await, Ok(200), "{call_timeout}");
        assert!(begun.elapsed() < seconds(30.0), "{:?}", begun.elapsed());
        assert_eq!(healthy.way(), Some(GrantType::ApiKey));
        // The pair is saved as soon as the sick one lets the lock go.
        assert!(healthy.layer.shutdown(seconds(60.0)).await);
        sick.abort();
        let sibling = fleet.start(fleet.keyless());
        assert_eq!(sibling.list().await, Ok(200));
        assert_eq!(
            (sibling.way(), fleet.api.counts().grants),
            (Some(GrantType::Store), 2)
        );
    }
}

/// So many cool-downs fit into an outage, if each is as short as it may be.
fn most_probes(outage: f64) -> usize {
    let (mut at, mut probes) = (0.0, 0);
    while at < outage {
        at += 0.7 * f64::clamp(at / 5.0, 1.0, 30.0);
        probes += 1;
    }
    probes
}

#[tokio::test(start_paused = true)]
async fn g23_an_outage_costs_one_call_for_each_process() {
    const OUTAGE: f64 = 120.0;
    for (name, fault, most) in [
        ("503", Fault::status(503), most_probes(OUTAGE)),
        ("asks for 5 s", Fault::retry_after(503, 5), 24),
        (
            "closes connections",
            Fault::disconnect(),
            most_probes(OUTAGE),
        ),
        ("hangs", Fault::latency(HOUR), most_probes(OUTAGE)),
    ] {
        for with_key in [true, false] {
            let fleet = Fleet::logged_in().await;
            sleep(HOUR).await;
            let start = |_| fleet.start(fleet.builder(with_key));
            let processes: Vec<_> = (0..20).map(start).collect();
            fleet.api.fault(fault.clone().always());
            let before = fleet.api.counts().token_calls;
            let begun = Instant::now();
            while begun.elapsed() < seconds(OUTAGE) {
                let requests: Vec<_> = processes.iter().map(Process::spawn).collect();
                for request in requests {
                    request.await.unwrap().expect_err("an outage");
                }
                sleep(seconds(0.2)).await;
            }
            let calls = fleet.api.counts().token_calls - before;
            println!("20 processes, key: {with_key}, an API that {name}: {calls} token calls");
            // One for each, and the first one's renewal repeats its call three times within a second.
            let own = if name.starts_with("asks") { 1 } else { 20 + 3 };
            assert!(calls <= own + most, "{name}, key: {with_key}: {calls}");

            fleet.api.fault(None);
            let ended = Instant::now();
            for process in &processes {
                while process.list().await != Ok(200) {
                    sleep(seconds(0.1)).await;
                }
            }
            assert!(ended.elapsed() < seconds(31.0), "{:?}", ended.elapsed());
            assert_eq!(fleet.api.counts().reuse_violations, 0);
        }
    }
}
