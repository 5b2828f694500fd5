//! The stream of events.

use apivideo_auth::{
    AttemptOutcome, Credentials, ErrorKind, Event, Events, GrantType, RenewalReason, testing::Fault,
};
use futures::FutureExt;
use tokio::time::sleep;

use crate::{
    fleet::Fleet,
    support::{Body, HOUR, client, list, paused, seconds, settle, with_key, with_refresh_token},
};

/// The events that are there by now.
fn told(events: &mut Events) -> Vec<Event> {
    let told: Vec<_> = std::iter::from_fn(|| events.next().now_or_never().flatten()).collect();
    assert!(
        !format!("{told:?}").contains("test-only"),
        "a secret: {told:?}"
    );
    told
}

/// The names of their variants.
fn names(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| {
        let text = format!("{event:?}");
        let end = text.find([' ', '(']).unwrap_or(text.len());
        text[..end].to_owned()
    };
    events.iter().map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn g29_a_renewal_tells_its_start_calls_and_end() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let mut events = layer.subscribe();
    api.fault(Fault::status(503));
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;
    let events = told(&mut events);
    assert_eq!(
        names(&events),
        [
            "RenewalStarted",
            "Attempt",
            "Renewed",
            "Attempt",
            "RenewalEnded"
        ]
    );
    let Event::Attempt {
        number: 1,
        grant: GrantType::ApiKey,
        outcome: AttemptOutcome::Transient,
        status: Some(503),
        error: Some(error),
        ..
    } = &events[1]
    else {
        panic!("{:?}", events[1]);
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(matches!(
        &events[3],
        Event::Attempt {
            number: 2,
            outcome: AttemptOutcome::Granted,
            status: Some(200),
            error: None,
            ..
        }
    ));
    let Event::RenewalEnded {
        reason: RenewalReason::First,
        grant: Some(GrantType::ApiKey),
        attempts: 2,
        generation: 1,
        duration,
        error: None,
        ..
    } = &events[4]
    else {
        panic!("{:?}", events[4]);
    };
    assert!(*duration >= seconds(0.1) && *duration < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn g29_an_outage_is_told_from_cool_down_to_recovery() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let mut events = layer.subscribe();
    api.fault(Fault::status(503).always());
    list(&client).await.unwrap_err();
    settle().await;
    let failed = told(&mut events);
    assert_eq!(
        names(&failed[failed.len() - 2..]),
        ["CoolDownBegan", "RenewalEnded"]
    );
    for event in &failed[failed.len() - 2..] {
        let (Event::CoolDownBegan { error, .. }
        | Event::RenewalEnded {
            error: Some(error), ..
        }) = event
        else {
            panic!("{event:?}");
        };
        assert!(error.retry_after().is_some(), "{error:?}");
    }
    api.fault(None);
    sleep(seconds(3)).await;
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;
    let ended = told(&mut events);
    let recovered = |event: &Event| match event {
        Event::CoolDownEnded {
            failing_for,
            is_recovered: true,
            ..
        } => Some(*failing_for),
        _ => None,
    };
    let failing_for = ended.iter().find_map(recovered).expect("told");
    assert!(
        (seconds(3)..seconds(5)).contains(&failing_for),
        "{failing_for:?}"
    );

    // New credentials end a pause as well, and say that nothing is proven by it.
    api.fault(Fault::status(503).always());
    client.source::<Body>().renew().await.unwrap_err();
    layer
        .set_credentials(Credentials::new().api_key(api.api_key()))
        .unwrap();
    let ended = told(&mut events);
    assert!(matches!(
        ended.last(),
        Some(Event::CoolDownEnded {
            is_recovered: false,
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn g29_a_replay_and_a_key_fallback_are_told() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    let mut events = layer.subscribe();
    api.revoke_access_tokens();
    api.revoke_refresh_tokens();
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;
    let events = told(&mut events);
    let fallbacks = events.iter().find_map(|event| match event {
        Event::KeyFallback { fallbacks, .. } => Some(*fallbacks),
        _ => None,
    });
    assert_eq!(fallbacks, Some(1));
    assert!(matches!(
        events.last(),
        Some(Event::Replayed {
            generation: 2,
            status: 200,
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn g29_an_adopted_pair_is_told_with_its_family() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let (first, second) = (fleet.start(fleet.keyless()), fleet.start(fleet.keyless()));
    let mut both = [first.layer.subscribe(), second.layer.subscribe()];
    assert_eq!(
        (first.list().await, second.list().await),
        (Ok(200), Ok(200))
    );
    settle().await;
    let ends = both.each_mut().map(|events| {
        let ended = told(events).into_iter().find_map(|event| match event {
            Event::RenewalEnded {
                grant,
                attempts,
                family,
                ..
            } => Some((grant, attempts, family)),
            _ => None,
        });
        ended.expect("a renewal")
    });
    assert_eq!((ends[0].0, ends[0].1), (Some(GrantType::RefreshToken), 1));
    assert_eq!((ends[1].0, ends[1].1), (Some(GrantType::Store), 0));
    assert!(ends[0].2.is_some() && ends[0].2 == ends[1].2, "one family");
}

#[tokio::test(start_paused = true)]
async fn g29_a_slow_reader_hears_how_much_it_missed() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    let mut events = layer.subscribe();
    for _ in 0..40 {
        clock.advance(HOUR);
        assert_eq!(list(&client).await.unwrap(), 200);
        settle().await;
    }
    let told = told(&mut events);
    let Event::Missed(missed) = told[0] else {
        panic!("{:?}", told[0]);
    };
    // Each renewal is told four times.
    assert_eq!(missed + told.len() as u64 - 1, 40 * 4);
    assert_eq!(events.latest().unwrap().generation, 40);
}
