//! What a second round of attacks found.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, Credentials, ErrorKind,
    testing::{FakeApi, Fault, GatePoint},
};
use axum::body::Body as AnyBody;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::support::{Body, Client, client, list, paused, with_key, with_refresh_token};

const MILLISECONDS: fn(u64) -> Duration = Duration::from_millis;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Asks on `other` until the token is there, for a bound far above the renewal's.
fn served_on(other: &Runtime, client: &Client) -> bool {
    (0..8).any(|_| {
        let request = async { timeout(Duration::from_secs(5), list(client)).await };
        let outcome = other.block_on(request).expect("a bound of its own");
        outcome.is_ok_and(|status| status == 200)
    })
}

#[test]
fn g5_an_unpolled_probe_is_taken_over() {
    let (old, new) = (runtime(), runtime());
    let api = FakeApi::in_process();
    let layer = with_key(&api)
        .call_timeout(MILLISECONDS(200))
        .renewal_timeout(MILLISECONDS(400))
        .build()
        .unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::status(503).always());
    old.block_on(list(&client)).unwrap_err();
    old.block_on(async { sleep(MILLISECONDS(1100)).await });
    // The probe hangs, its caller is gone, and nobody polls `old` any more.
    api.fault(None);
    let gate = api.gate(GatePoint::BeforeCommit);
    old.block_on(async {
        tokio::select! { _ = list(&client) => panic!("it hangs"), () = gate.reached(1) => {} }
    });
    drop(gate);
    assert!(served_on(&new, &client));
}

#[test]
fn g5_an_unpolled_renewal_that_sent_callers_away_is_taken_over() {
    let (old, new) = (runtime(), runtime());
    let api = FakeApi::in_process();
    let layer = with_refresh_token(&api)
        .call_timeout(MILLISECONDS(200))
        .renewal_timeout(MILLISECONDS(800))
        .build()
        .unwrap();
    let client = client(&layer, &api);
    let gate = api.gate(GatePoint::BeforeCommit);
    old.block_on(list(&client)).unwrap_err();
    drop(gate);
    assert!(served_on(&new, &client));
}

#[tokio::test(start_paused = true)]
async fn g6_a_pair_never_mixes_two_accounts() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let source = client(&layer, &api).source::<Body>();
    let pair = source.pair().await.unwrap();
    let (_, other) = api.mint_pair();
    source
        .set_credentials(Credentials::new().refresh_token(other.as_str()))
        .unwrap();
    for is_closed in [false, true] {
        if is_closed {
            assert!(layer.shutdown(Duration::from_secs(5)).await);
        }
        let copy = source.pair().await.unwrap();
        assert_eq!(copy.access_token(), pair.access_token());
        assert!(copy.refresh_token().is_none(), "closed: {is_closed}");
    }
}

#[tokio::test(start_paused = true)]
async fn g11_status_tells_of_every_failure() {
    let (api, clock) = paused();
    for suspended in [true, false] {
        api.suspend(suspended);
        api.refuse_api_key(!suspended);
        let layer = with_key(&api).clock(clock.clone()).build().unwrap();
        let source = client(&layer, &api).source::<Body>();
        source.token().await.unwrap_err();
        sleep(Duration::from_secs(10)).await;
        let status = source.status();
        assert!(
            status.failing_for >= Some(Duration::from_secs(9)),
            "{status:?}"
        );
        assert!(status.retry_in.is_some() && !status.is_usable, "{status:?}");
    }
}

/// A refresh token alone comes late, when the second presentation has been refused.
#[tokio::test(start_paused = true)]
async fn g12_a_late_refresh_token_alone_is_kept_after_a_refusal() {
    let (api, clock) = paused();
    let calls = Arc::new(AtomicUsize::new(0));
    let (service, counted) = (api.service(), calls.clone());
    let slow = service_fn(move |request: Request<Body>| {
        let (service, calls) = (service.clone(), counted.clone());
        async move {
            let is_refresh = request.uri().path() == "/auth/refresh";
            let call = calls.fetch_add(usize::from(is_refresh), Ordering::SeqCst);
            let document = match call {
                1 if is_refresh => {
                    sleep(Duration::from_secs(25)).await;
                    (200, r#"{"refresh_token":"test-only-alone"}"#)
                }
                2 if is_refresh => (
                    401,
                    r#"{"type":"https://docs.api.video/reference/authentication-invalid-refresh-token"}"#,
                ),
                _ => {
                    let response = service.oneshot(request).await?;
                    return Ok::<_, BoxError>(response.map(AnyBody::new));
                }
            };
            let mut response = Response::new(AnyBody::from(document.1));
            *response.status_mut() = StatusCode::from_u16(document.0)?;
            Ok(response)
        }
    });
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let source = layer.layer(slow).source::<Body>();
    source.token().await.unwrap();
    source.renew().await.unwrap_err();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert!(source.status().has_refresh_token);
}

#[tokio::test(start_paused = true)]
async fn g19_a_body_that_breaks_off_quotes_no_credential() {
    let (api, clock) = paused();
    let key = api.api_key().to_owned();
    let quoted = key.clone();
    let service = service_fn(move |_: Request<Body>| {
        let error: BoxError = format!("lost while sending {quoted}").into();
        let frames = futures::stream::iter([Err::<http_body::Frame<Bytes>, _>(error)]);
        let body = StreamBody::new(frames).boxed_unsync();
        async move { Ok::<_, BoxError>(Response::new(body)) }
    });
    let layer: ApiVideoAuthLayer = with_key(&api).clock(clock).build().unwrap();
    let error = layer
        .layer(service)
        .source::<Body>()
        .token()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    let mut shown = format!("{error:?}");
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = next {
        shown += &format!(" {error}");
        next = error.source();
    }
    assert!(!shown.contains(&key), "{shown}");
}
