//! G13: a timeout below that is shorter than `call_timeout` ends a token call whose response was on its way.

use std::time::Duration;

use ::reqwest::ClientBuilder;
use apivideo_auth::{
    ApiVideoAuthMiddleware,
    testing::{FakeApi, Fault, GatePoint},
};
use http::{Request, Response};
use tokio::time::timeout;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::{
    support::{Body, get, paused, with_key, with_refresh_token},
    traces::Traces,
};

/// Real time, since sockets know no other.
const SHORT: Duration = Duration::from_millis(50);

const SOON: Duration = Duration::from_secs(5);

fn plain() -> ClientBuilder {
    ::reqwest::Client::builder().no_proxy()
}

#[tokio::test]
async fn g13_a_timeout_in_reqwests_builder_loses_no_token() {
    let mut rows = Vec::new();
    for (name, calls) in [
        ("timeout", plain().timeout(SHORT)),
        ("read_timeout", plain().read_timeout(SHORT)),
    ] {
        let api = FakeApi::start().await.expect("a port");
        let layer = with_refresh_token(&api).build().expect("good settings");
        let auth = ApiVideoAuthMiddleware::new(&layer, calls).expect("a client");
        let gate = api.gate(GatePoint::AfterCommit);
        let renewed = tokio::spawn(async move { auth.source().renew().await.map(|_| ()) });
        timeout(SOON, gate.reached(1)).await.expect("a token call");
        // A second presentation would come soon after the timeout.
        let again = timeout(SHORT * 4, gate.reached(2)).await.is_ok();
        gate.open();
        let outcome = timeout(SOON, renewed).await.expect("in time");
        let outcome = outcome.expect("no panic").map_err(|error| error.kind());
        let violations = api.counts().reuse_violations;
        println!("{name}: presented again: {again}, {violations} violations, {outcome:?}");
        rows.push((again, violations, outcome));
    }
    assert_eq!(rows, [(false, 0, Ok(())), (false, 0, Ok(()))]);
}

/// A refresh of 3 s, a `timeout` layer of 2 s.
#[tokio::test(start_paused = true)]
async fn g13_a_timeout_layer_below_is_said_aloud() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .api_key(api.api_key())
        .clock(clock)
        .build()
        .expect("good settings");
    let client = ServiceBuilder::new()
        .layer(layer)
        .timeout(Duration::from_secs(2))
        .service(api.service());
    let traces = Traces::default();
    let subscribed = traces.subscribe();
    api.fault(Fault::latency(Duration::from_secs(3)));
    let response = client.oneshot(get("/videos")).await;
    assert_eq!(response.expect("by the key").status(), 200);
    drop(subscribed);
    assert!(traces.warned("timeout"), "{}", traces.text());
}

/// The same with a reqwest client as the token service.
#[tokio::test]
async fn g13_a_timeout_of_a_reqwest_below_is_said_aloud() {
    let api = FakeApi::start().await.expect("a port");
    let reqwest = plain().timeout(SHORT).build().expect("a client");
    let token_service = service_fn(move |request: Request<Body>| {
        let reqwest = reqwest.clone();
        async move {
            let request = ::reqwest::Request::try_from(request.map(::reqwest::Body::wrap))?;
            let response: Response<::reqwest::Body> = reqwest.execute(request).await?.into();
            Ok::<_, BoxError>(response)
        }
    });
    let layer = with_key(&api)
        .refresh_token(api.mint_pair().1)
        .token_service::<_, Body>(token_service)
        .build()
        .expect("good settings");
    let client = layer.layer(api.service());
    let traces = Traces::default();
    let subscribed = traces.subscribe();
    let gate = api.gate(GatePoint::BeforeCommit);
    let request = tokio::spawn(client.oneshot(get("/videos")));
    timeout(SOON, gate.reached(2)).await.expect("a second call");
    gate.open();
    let response = timeout(SOON, request).await.expect("in time");
    assert_eq!(
        response.expect("no panic").expect("by the key").status(),
        200
    );
    drop(subscribed);
    assert!(traces.warned("timeout"), "{}", traces.text());
}
