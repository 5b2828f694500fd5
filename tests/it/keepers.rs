//! The background keeper: G2, G9 and G11 without traffic.

use std::time::Duration;

use apivideo_auth::{
    Credentials, GrantType, RenewalReason,
    testing::{Fault, GatePoint},
};
use futures::FutureExt;
use tokio::time::{self, Instant};

use crate::support::{
    Body, HOUR, client, list, paused, renewed, seconds, settle, with_key, with_refresh_token,
};

#[tokio::test(start_paused = true)]
async fn g2_a_keeper_renews_without_traffic() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let guard = client.source::<Body>().keep_fresh().unwrap();
    let mut news = layer.subscribe();
    assert_eq!(
        renewed(&mut news).await.unwrap().reason,
        RenewalReason::First
    );
    for generation in 2..6 {
        let begun = Instant::now();
        let renewed = renewed(&mut news).await.unwrap();
        assert_eq!(
            (renewed.generation, renewed.reason),
            (generation, RenewalReason::Early)
        );
        assert!((3300..=3376).contains(&begun.elapsed().as_secs()));
        assert_eq!(list(&client).now_or_never().expect("no wait").unwrap(), 200);
    }
    drop(guard);
    time::sleep(HOUR * 3).await;
    assert_eq!(api.counts().token_calls, 5);
}

/// Timers stand still while a machine sleeps: the keeper looks at the clock all the same.
#[tokio::test(start_paused = true)]
async fn g9_a_keeper_notices_within_30_s_that_the_machine_slept() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    let _guard = client.source::<Body>().keep_fresh().unwrap();
    let mut news = layer.subscribe();
    renewed(&mut news).await.unwrap();
    time::sleep(seconds(100)).await;
    clock.suspend(HOUR * 8);
    let begun = Instant::now();
    assert_eq!(renewed(&mut news).await.unwrap().generation, 2);
    assert!(begun.elapsed() <= seconds(31));
}

#[tokio::test(start_paused = true)]
async fn g2_a_keeper_survives_outages_and_permanent_errors() {
    for fault in [
        Fault::status(503),
        Fault::disconnect(),
        Fault::latency(HOUR * 24),
    ] {
        let (api, clock) = paused();
        let layer = with_key(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        let _guard = client.source::<Body>().keep_fresh().unwrap();
        let mut news = layer.subscribe();
        api.fault(fault.clone().always());
        time::sleep(HOUR).await;
        assert!(
            api.counts().token_calls <= 220,
            "{fault:?}: {}",
            api.counts().token_calls
        );
        api.fault(None);
        let begun = Instant::now();
        renewed(&mut news).await.unwrap();
        // A call that hangs when the outage ends is waited for.
        assert!(
            begun.elapsed() <= seconds(41),
            "{fault:?}: {:?}",
            begun.elapsed()
        );
    }

    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let _guard = client.source::<Body>().keep_fresh().unwrap();
    let mut news = layer.subscribe();
    api.revoke_refresh_tokens();
    time::sleep(HOUR).await;
    assert_eq!(api.counts().token_calls, 1);
    layer
        .set_credentials(Credentials::new().api_key(api.api_key()))
        .unwrap();
    assert_eq!(
        time::timeout(seconds(31), renewed(&mut news))
            .await
            .unwrap()
            .unwrap()
            .grant,
        GrantType::ApiKey
    );
}

/// After an outage without traffic the keeper is as quick as a caller.
#[tokio::test(start_paused = true)]
async fn g11_a_keeper_recovers_within_a_fifth_of_the_outage() {
    for outage in [5, 20, 100] {
        let (api, clock) = paused();
        let layer = with_key(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        let _guard = client.source::<Body>().keep_fresh().unwrap();
        let mut news = layer.subscribe();
        api.fault(Fault::status(503).always());
        time::sleep(seconds(outage)).await;
        api.fault(None);
        let begun = Instant::now();
        renewed(&mut news).await.unwrap();
        let limit = (seconds(outage) / 5).clamp(seconds(1), seconds(30));
        assert!(
            begun.elapsed() <= limit,
            "{outage} s: {:?}",
            begun.elapsed()
        );
    }
}

/// A probe that takes longer than its waiters' patience and then fails: the next one is not late for that.
#[tokio::test(start_paused = true)]
async fn g11_a_keeper_whose_probe_took_too_long_tries_again_in_time() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::status(503).always());
    let _guard = client.source::<Body>().keep_fresh().unwrap();
    let mut news = layer.subscribe();
    time::sleep(Duration::from_millis(710)).await;
    assert_eq!(api.counts().token_calls, 4);
    let gate = api.gate(GatePoint::BeforeCommit);
    time::timeout(seconds(2), gate.reached(1)).await.unwrap();
    time::sleep(seconds(3)).await;
    gate.open();
    api.fault(None);
    let outage = seconds(5);
    assert!(
        time::timeout(outage, renewed(&mut news)).await.is_ok(),
        "it sleeps on"
    );
}

#[tokio::test(start_paused = true)]
async fn g2_a_keeper_ends_with_its_guard_the_last_handle_or_shutdown() {
    for end in ["guard", "handle", "shutdown", "shutdown of a source"] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        let guard = client.source::<Body>().keep_fresh().unwrap();
        assert_eq!(list(&client).await.unwrap(), 200);
        let (mut guard, mut handles) = (Some(guard), Some((layer, client)));
        match end {
            "guard" => drop(guard.take()),
            "handle" => drop(handles.take()),
            "shutdown" => assert!(handles.as_ref().unwrap().0.shutdown(seconds(5)).await),
            _ => assert!(
                handles
                    .as_ref()
                    .unwrap()
                    .1
                    .source::<Body>()
                    .shutdown(seconds(5))
                    .await
            ),
        }
        settle().await;
        assert_eq!(
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            0,
            "{end}"
        );
        time::sleep(HOUR * 2).await;
        assert_eq!(api.counts().token_calls, 1, "{end}");
    }
}
