//! G7 to G9: when a token is renewed, and who waits for it. Who has seen a newer one uses no older one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ErrorKind, GrantType, RenewalReason,
    testing::{FakeApi, Fault, GatePoint, ManualClock, hold_time},
};
use futures::FutureExt;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use tokio::time::{self, Instant, advance};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use crate::support::{
    Body, HOUR, aging, client, get, list, ours, paused, renewed, seconds, settle, with_key,
    with_refresh_token,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn g7_nobody_waits_while_a_side_renewal_runs() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let clients: Vec<_> = (0..64).map(|_| client(&layer, &api)).collect();
    assert_eq!(list(&clients[0]).await.unwrap(), 200);
    let mut news = layer.subscribe();
    clock.advance(seconds(3400.0));
    let hold = hold_time();
    let gate = api.gate(GatePoint::BeforeCommit);
    for turn in 0..1000 {
        let outcome = list(&clients[turn % 64]).now_or_never().expect("no wait");
        assert_eq!(outcome.unwrap(), 200);
    }
    gate.reached(1).await;
    settle().await;
    assert_eq!(api.counts().token_calls, 2);
    gate.open();
    let renewed = renewed(&mut news).await.unwrap();
    assert_eq!(
        (renewed.generation, renewed.reason, renewed.grant),
        (2, RenewalReason::Early, GrantType::RefreshToken)
    );
    drop(hold);
    assert_eq!(api.counts().max_in_flight, 1);
}

/// A side renewal that fails, for now or for good, is noticed by nobody before the token expires.
#[tokio::test(start_paused = true)]
async fn g8_a_usable_token_beats_a_failed_side_renewal() {
    type Break = fn(&FakeApi);
    let cases: [(Break, ErrorKind); 4] = [
        (
            |api| api.fault(Fault::status(503).always()),
            ErrorKind::Unavailable,
        ),
        (
            |api| api.fault(Fault::disconnect().always()),
            ErrorKind::Ambiguous,
        ),
        (FakeApi::revoke_refresh_tokens, ErrorKind::Refused),
        (
            |api| api.fault(Fault::problem(403, "authorization-suspended-account").always()),
            ErrorKind::Suspended,
        ),
    ];
    for (break_it, kind) in cases {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .clock(clock.clone())
            .build()
            .unwrap();
        let client = client(&layer, &api);
        assert_eq!(list(&client).await.unwrap(), 200);
        break_it(&api);
        advance(seconds(3400.0)).await;
        for _ in 0..189 {
            assert_eq!(
                list(&client).now_or_never().expect("no wait").unwrap(),
                200,
                "{kind:?}"
            );
            advance(seconds(1.0)).await;
            settle().await;
        }
        assert!(api.counts().token_calls > 1);
        advance(seconds(1.0)).await;
        let error = time::timeout(seconds(31.0), list(&client))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(ours(&error).kind(), kind);
    }
}

#[tokio::test(start_paused = true)]
async fn g7_short_lifetimes_mean_no_renewal_per_request() {
    for lifetime in [1.0, 5.0, 30.0] {
        let (api, clock) = paused();
        api.set_token_lifetime(seconds(lifetime));
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        let begun = Instant::now();
        while begun.elapsed() < seconds(lifetime * 10.0) {
            assert_eq!(list(&client).await.unwrap(), 200);
            time::sleep(seconds(lifetime / 50.0)).await;
        }
        let counts = api.counts();
        assert!(
            (10..=21).contains(&counts.token_calls),
            "{lifetime} s: {}",
            counts.token_calls
        );
        assert_eq!((counts.unauthorized, counts.reuse_violations), (0, 0));
    }
}

type Step = (&'static str, f64);

fn pass(clock: &ManualClock, (what, by): Step) {
    match what {
        "pass" => clock.advance(seconds(by)),
        "suspend" => clock.suspend(seconds(by)),
        "forward" => clock.advance_wall(seconds(by)),
        "back" => clock.set_wall_back(seconds(by)),
        _ => unreachable!(),
    }
}

/// Each row: what the clocks go through, and whether a token of an hour then counts as expired.
#[tokio::test]
async fn g9_the_clock_table() {
    let day = DAY.as_secs_f64();
    let rows: [(&[Step], bool); 14] = [
        (&[("pass", 3589.0)], false),
        (&[("pass", 3590.0)], true),
        (&[("suspend", 3589.0)], false),
        (&[("suspend", 3590.0)], true),
        (&[("suspend", 10.0 * day)], true),
        (&[("suspend", 3000.0), ("pass", 589.0)], false),
        (&[("suspend", 3000.0), ("pass", 590.0)], true),
        (&[("back", day)], false),
        (&[("back", day), ("pass", 3589.0)], false),
        (&[("back", day), ("pass", 3590.0)], true),
        (&[("forward", day)], true),
        (&[("forward", day), ("back", day)], false),
        (&[("back", day), ("forward", day), ("pass", 3590.0)], true),
        // Set back while asleep: nothing but the server's 401 can tell.
        (&[("suspend", 3590.0), ("back", day)], false),
    ];
    for (steps, expired) in rows {
        let (clock, api) = (ManualClock::new(), FakeApi::in_process());
        let layer = with_key(&api)
            .early_window(Duration::ZERO)
            .clock(clock.clone())
            .build()
            .unwrap();
        let client = client(&layer, &api);
        assert_eq!(list(&client).await.unwrap(), 200);
        steps.iter().for_each(|step| pass(&clock, *step));
        // Both a clone that has its own copy of the header and one that looks at the shared pair.
        for _ in 0..2 {
            assert_eq!(list(&client).await.unwrap(), 200);
        }
        assert_eq!(
            api.counts().token_calls,
            if expired { 2 } else { 1 },
            "{steps:?}"
        );
    }
}

/// A token got while the clock was wrong lives no longer than its lifetime once it is put right.
#[tokio::test]
async fn g9_a_wrong_clock_prolongs_no_lifetime_when_put_right() {
    for wrong in ["forward", "back"] {
        let (clock, api) = (ManualClock::new(), FakeApi::in_process());
        let layer = with_key(&api)
            .early_window(Duration::ZERO)
            .clock(clock.clone())
            .build()
            .unwrap();
        let client = client(&layer, &api);
        let right = if wrong == "forward" {
            "back"
        } else {
            "forward"
        };
        pass(&clock, (wrong, DAY.as_secs_f64()));
        assert_eq!(list(&client).await.unwrap(), 200);
        pass(&clock, (right, DAY.as_secs_f64()));
        pass(&clock, ("pass", 3590.0));
        assert_eq!(list(&client).await.unwrap(), 200);
        assert_eq!(api.counts().token_calls, 2, "{wrong}");
        pass(&clock, ("pass", 3589.0));
        assert_eq!(list(&client).await.unwrap(), 200);
        assert_eq!(api.counts().token_calls, 2, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn g9_a_lifetime_counts_from_the_moment_the_call_was_sent() {
    for (after, renews) in [(3584.9, false), (3585.1, true)] {
        let (api, clock) = paused();
        let layer = with_key(&api)
            .early_window(Duration::ZERO)
            .clock(clock.clone())
            .build()
            .unwrap();
        let client = client(&layer, &api);
        let sent = apivideo_auth::Clock::now(&clock).wall;
        api.fault(Fault::latency(seconds(5.0)));
        let token = client.source::<Body>().token().await.unwrap();
        assert_eq!(token.expires_at(), sent + seconds(3600.0));
        clock.advance(seconds(after));
        assert_eq!(list(&client).await.unwrap(), 200);
        assert_eq!(api.counts().token_calls, if renews { 2 } else { 1 });
    }
}

const CLONES: usize = 64;

const ROUNDS: usize = 100;

/// Answers with the token of the request.
/// The machine has slept, or its clock was set, while the token was on its way.
#[tokio::test(start_paused = true)]
async fn g9_a_token_that_expired_on_its_way_is_not_sent() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock.clone()).build().unwrap();
    let client = client(&layer, &api);
    let gate = api.gate(GatePoint::AfterCommit);
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { list(&client).await })
        })
        .collect();
    gate.reached(1).await;
    clock.advance_wall(2 * HOUR);
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 200);
    }
    // A request that was sent twice, or with the first token, would make more.
    let counts = api.counts();
    assert_eq!((counts.token_calls, counts.api_calls), (2, 3));
    let token = client.source::<Body>().token().await.unwrap();
    assert_eq!(api.requests_with(token.expose()), 3);
}

/// A token that lives no longer than its call takes is as good as the next one.
#[tokio::test(start_paused = true)]
async fn g9_a_token_that_lives_for_a_second_is_bought_once() {
    let (api, layer, client) = aging(FakeApi::builder().token_lifetime(seconds(1.0)), |layer| {
        layer
    });
    api.fault(Fault::latency(seconds(2.0)).always());
    for calls in 1..=3 {
        assert_eq!(list(&client).await.unwrap(), 200);
        assert_eq!(api.counts().token_calls, calls);
    }
    assert!(layer.shutdown(seconds(10.0)).await);
}

async fn echo(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let token = request.headers()[header::AUTHORIZATION]
        .to_str()?
        .trim_start_matches("Bearer ")
        .to_owned();
    Ok(Response::new(Body::from(token)))
}

/// A request: the least generation that it might use, and the token that it used.
type Seen = (u64, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_starts_with_a_token_known_to_be_replaced() {
    let api = FakeApi::in_process();
    let layer = with_refresh_token(&api)
        .token_service::<_, Body>(api.service())
        .build()
        .unwrap();
    let client = layer.layer(service_fn(echo));
    let known = Arc::new(AtomicU64::new(0));
    let sent = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let tasks: Vec<_> = (0..CLONES)
        .map(|_| {
            let (mut client, known, sent) = (client.clone(), known.clone(), sent.clone());
            let (done, seen) = (done.clone(), seen.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Acquire) {
                    let least = known.load(Ordering::Acquire);
                    let response = client
                        .ready()
                        .await
                        .unwrap()
                        .call(get("/videos"))
                        .await
                        .unwrap();
                    let token = response.into_body().collect().await.unwrap().to_bytes();
                    seen.lock()
                        .unwrap()
                        .push((least, String::from_utf8(token.to_vec()).unwrap()));
                    sent.fetch_add(1, Ordering::AcqRel);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut generations = HashMap::new();
    for round in 0..ROUNDS {
        let bearer = if round % 2 == 0 {
            client.source().renew().await.unwrap()
        } else {
            // Known to be out of use from here on, before there is another.
            let current = client.source().token().await.unwrap();
            layer.invalidate(&current);
            known.store(current.generation() + 1, Ordering::Release);
            client.source().token().await.unwrap()
        };
        generations.insert(bearer.expose().to_owned(), bearer.generation());
        known.store(bearer.generation(), Ordering::Release);
        // Each clone gets to use it, most of them more than once.
        let enough = sent.load(Ordering::Acquire) + 3 * CLONES;
        while sent.load(Ordering::Acquire) < enough {
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 3 * CLONES * ROUNDS);
    for (least, token) in seen.iter() {
        // What no round knows was used before the first one ended.
        let used = generations.get(token).copied().unwrap_or(0);
        assert!(
            used >= *least,
            "generation {used} was used when {least} was known"
        );
    }
}
