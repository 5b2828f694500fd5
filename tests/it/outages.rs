//! G11: how often the token endpoint is called while it fails, and how soon after.

use std::time::Duration;

use apivideo_auth::{
    ErrorKind,
    testing::{Fault, GatePoint},
};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    support::{HOUR, client, list, ours, paused, seconds, with_key, with_refresh_token},
    traces::Traces,
};

#[tokio::test(start_paused = true)]
async fn g11_a_refused_api_key_is_asked_again_after_five_minutes() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    api.refuse_api_key(true);
    let begun = Instant::now();
    while begun.elapsed() < HOUR {
        let error = list(&client).await.unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::Refused);
        time::sleep(seconds(1.0)).await;
    }
    assert!(
        (11..=12).contains(&api.counts().logins),
        "{}",
        api.counts().logins
    );
}

#[tokio::test(start_paused = true)]
async fn g11_waits_that_the_server_asks_for() {
    let reset = |seconds: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-ratelimit-retry-after",
            HeaderValue::from_str(seconds).unwrap(),
        );
        Fault::response(429, headers, "")
    };
    let max = u64::MAX.to_string();
    let date = |seconds: u64| {
        httpdate::fmt_http_date(
            std::time::UNIX_EPOCH + Duration::from_secs(1_750_000_000 + seconds),
        )
    };
    for (fault, waits) in [
        (Fault::rate_limited(0), 0.1),
        (Fault::rate_limited(2), 2.0),
        (Fault::rate_limited(3600), 120.0),
        (Fault::rate_limited(u64::MAX), 120.0),
        (reset("99999999999999999999999999"), 120.0),
        (reset("-1"), 0.1),
        (reset("soon"), 0.1),
        (Fault::retry_after(429, 2), 2.0),
        (Fault::retry_after(503, 0), 0.1),
        (Fault::retry_after(503, 2), 2.0),
        (Fault::retry_after(503, "3600"), 120.0),
        (Fault::retry_after(503, &max), 120.0),
        (Fault::retry_after(503, date(2)), 2.0),
        (Fault::retry_after(503, date(0)), 0.1),
        (Fault::retry_after(503, date(7200)), 120.0),
        (Fault::retry_after(503, "Sun, 99 Nope"), 0.1),
        // Only 429 and 503 ask us to wait.
        (Fault::retry_after(500, 3600), 0.1),
        (Fault::retry_after(404, 3600), 0.1),
    ] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        api.fault(fault.clone());
        let begun = Instant::now();
        let mut outcome = list(&client).await;
        if waits > 30.0 {
            // It does not fit the flight: the callers are told, and nobody calls before.
            let error = outcome.unwrap_err();
            let left = ours(&error).retry_after().unwrap();
            assert_eq!(
                (left, begun.elapsed()),
                (seconds(waits), Duration::ZERO),
                "{fault:?}"
            );
            time::sleep(left - seconds(0.01)).await;
            list(&client).await.unwrap_err();
            assert_eq!(api.counts().token_calls, 1, "{fault:?}");
            time::sleep(seconds(0.02)).await;
            outcome = list(&client).await;
        }
        assert_eq!(outcome.unwrap(), 200);
        assert_eq!(api.counts().token_calls, 2, "{fault:?}");
        let waited = begun.elapsed().as_secs_f64();
        assert!((waited - waits).abs() < 0.05, "{fault:?}: {waited} s");
    }
}

#[tokio::test(start_paused = true)]
async fn g11_a_wait_of_15_s_blocks_nobody_and_is_logged() {
    for fault in [Fault::retry_after(503, 15), Fault::rate_limited(15)] {
        let traces = Traces::default();
        let _subscribed = traces.subscribe();
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        api.fault(fault.clone());
        let begun = Instant::now();
        for waits in [15.0, 10.0, 5.0] {
            let asked = Instant::now();
            let error = list(&client).await.unwrap_err();
            assert_eq!(asked.elapsed(), Duration::ZERO, "{fault:?}");
            let error = ours(&error);
            assert_eq!(error.retry_after(), Some(seconds(waits)), "{fault:?}");
            assert!(error.is_transient());
            time::sleep(seconds(5.0)).await;
        }
        assert!(
            traces.warned("access token not renewed"),
            "{}",
            traces.text()
        );
        assert_eq!(
            (list(&client).await.unwrap().as_u16(), begun.elapsed()),
            (200, seconds(15.0))
        );
        assert_eq!(api.counts().token_calls, 2, "{fault:?}");
    }
}

/// Callers without an API key that never give up, for 20 s.
#[tokio::test(start_paused = true)]
async fn g3_a_thousand_impatient_callers_make_two_calls_in_a_hang() {
    for (call_timeout, calls) in [(10.0, 2), (1.5, 1)] {
        let (api, clock) = paused();
        let builder = with_refresh_token(&api).clock(clock);
        let layer = builder.call_timeout(seconds(call_timeout)).build().unwrap();
        api.fault(Fault::latency(HOUR).always());
        let begun = Instant::now();
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let client = client(&layer, &api);
                tokio::spawn(async move {
                    let mut most = call_timeout;
                    while begun.elapsed() <= seconds(20.0) {
                        let asked = Instant::now();
                        let error = list(&client).await.unwrap_err();
                        let waited = asked.elapsed().as_secs_f64();
                        assert!(waited <= most + 0.1, "{waited} s");
                        assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
                        most = 1.0;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(api.counts().token_calls, calls, "{call_timeout}");
        time::sleep_until(begun + seconds(29.0)).await;
        assert_eq!(api.counts().token_calls, 2, "{call_timeout}");
    }
}

/// Requests all the time during an outage and after it: when the first one succeeds.
#[tokio::test(start_paused = true)]
async fn g11_an_outage_is_over_within_a_fifth_of_its_length() {
    for outage in [0.3, 1.0, 3.0, 5.0, 10.0, 60.0, 149.0, 300.0] {
        for fault in [
            Fault::status(503),
            Fault::disconnect(),
            Fault::retry_after(503, 1),
        ] {
            let (api, clock) = paused();
            let layer = with_key(&api).clock(clock).build().unwrap();
            let client = client(&layer, &api);
            let tick = seconds(f64::clamp(outage / 200.0, 0.02, 0.2));
            let succeeds = async || {
                let outcome = time::timeout(tick, list(&client)).await;
                time::sleep(tick).await;
                matches!(outcome, Ok(Ok(_)))
            };
            api.fault(fault.clone().always());
            let begun = Instant::now();
            while begun.elapsed() < seconds(outage) {
                assert!(!succeeds().await);
            }
            api.fault(None);
            let ended = Instant::now();
            while !succeeds().await {}
            let took = ended.elapsed().as_secs_f64();
            let limit = (outage / 5.0).clamp(1.0, 30.0);
            assert!(
                took <= limit + 0.1 + 2.0 * tick.as_secs_f64(),
                "{fault:?} for {outage} s: recovered after {took} s"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g11_calls_in_an_hour_of_outage_are_few() {
    for (fault, most) in [
        (Fault::status(503), 220),
        (Fault::disconnect(), 220),
        (Fault::latency(HOUR * 2), 220),
        (Fault::rate_limited(60), 70),
        (
            Fault::problem(401, "authentication-invalid-refresh-token"),
            15,
        ),
        (Fault::problem(403, "authorization-suspended-account"), 13),
        (Fault::json(|pair| *pair = json!({})), 220),
    ] {
        for with_api_key in [false, true] {
            let (api, clock) = paused();
            let mut layer = with_refresh_token(&api).clock(clock);
            if with_api_key {
                layer = layer.api_key(api.api_key());
            }
            let layer = layer.build().unwrap();
            let client = client(&layer, &api);
            api.fault(fault.clone().always());
            let begun = Instant::now();
            let mut requests = 0;
            while begun.elapsed() < HOUR {
                let response = time::timeout(seconds(1.0), list(&client)).await;
                assert!(!matches!(response, Ok(Ok(_))));
                requests += 1;
                time::sleep(seconds(3.0)).await;
            }
            let calls = api.counts().token_calls;
            println!(
                "an hour of {fault:?}, API key {with_api_key}: {requests} requests, {calls} token calls"
            );
            assert!(calls <= most, "{fault:?}: {calls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g11_callers_wait_for_a_probe_no_longer_than_patience() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::status(503).always());
    list(&client).await.unwrap_err();
    api.fault(None);
    time::sleep(seconds(1.0)).await;
    let gate = api.gate(GatePoint::AfterCommit);
    for _ in 0..3 {
        let begun = Instant::now();
        let error = list(&client).await.unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::Unavailable);
        assert_eq!(begun.elapsed().as_millis() / 10, 100);
    }
    assert_eq!(api.counts().token_calls, 5);
    gate.open();
    assert_eq!(list(&client).await.unwrap(), 200);
    assert_eq!(api.counts().token_calls, 5);
}

#[tokio::test(start_paused = true)]
async fn g11_a_failure_long_after_another_is_an_outage_of_its_own() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::status(503).always());
    for quiet in [Duration::ZERO, HOUR] {
        time::sleep(quiet).await;
        let error = list(&client).await.unwrap_err();
        assert!(
            ours(&error).retry_after().unwrap() <= seconds(1.0),
            "{error:?}"
        );
    }
}
