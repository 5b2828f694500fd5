//! G13: a redirect of a token call is never followed by us.

use std::sync::{Arc, Mutex};

use apivideo_auth::{
    TokenCall,
    testing::{FakeBody, Fault},
};
use http::{Request, Response};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_http::follow_redirect::{
    FollowRedirectLayer,
    policy::{Action, Attempt, Policy},
};

use crate::support::{Body, client, get, list, paused, with_key, with_refresh_token};

const STATUSES: [u16; 6] = [301, 302, 303, 307, 308, 300];

#[tokio::test(start_paused = true)]
async fn g13_a_redirected_token_call_is_not_sent_elsewhere() {
    for status in STATUSES {
        for location in [
            "https://evil.example/auth/refresh",
            "/auth/refresh?again",
            "//evil.example/",
            "",
        ] {
            for login in [false, true] {
                let (api, clock) = paused();
                let layer = if login {
                    with_key(&api)
                } else {
                    with_refresh_token(&api)
                };
                let layer = layer.clock(clock).build().unwrap();
                api.fault(Fault::redirect(status, location));
                assert_eq!(list(&client(&layer, &api)).await.unwrap(), 200);
                let path = if login {
                    "/auth/api-key"
                } else {
                    "/auth/refresh"
                };
                let own = format!("{}{path}", api.url());
                let calls: Vec<_> = api
                    .journal()
                    .into_iter()
                    .filter(|exchange| exchange.is_token_call)
                    .collect();
                assert_eq!(
                    calls.len(),
                    2,
                    "the same call again, by us, where it belongs"
                );
                assert!(
                    calls
                        .iter()
                        .all(|call| call.uri == own.as_str() && call.method == "POST")
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g13_endless_redirects_are_an_outage() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    api.fault(Fault::redirect(307, "/auth/refresh").always());
    let error = list(&client(&layer, &api)).await.unwrap_err();
    assert!(crate::support::ours(&error).is_transient());
    assert_eq!(api.counts().token_calls, 4);
}

/// Follows everything, with the body; told so, spares token calls.
#[derive(Clone)]
struct Follow {
    spares_token_calls: bool,
    is_token_call: bool,
}

impl<E> Policy<Body, E> for Follow {
    fn redirect(&mut self, _: &Attempt<'_>) -> Result<Action, E> {
        Ok(if self.spares_token_calls && self.is_token_call {
            Action::Stop
        } else {
            Action::Follow
        })
    }

    fn on_request(&mut self, request: &mut Request<Body>) {
        self.is_token_call |= request.extensions().get::<TokenCall>().is_some();
    }

    fn clone_body(&self, body: &Body) -> Option<Body> {
        Some(body.clone())
    }
}

/// A layer below that follows redirects would take the refresh token elsewhere, unless its policy knows token
/// calls or they have a service of their own.
#[tokio::test(start_paused = true)]
async fn g13_a_redirect_layer_below_must_spare_token_calls() {
    for (spares_token_calls, separate, leaks) in [
        (false, false, true),
        (true, false, false),
        (false, true, false),
    ] {
        for status in [307, 308] {
            let (api, clock) = paused();
            let builder = with_refresh_token(&api).clock(clock);
            let strayed = Arc::new(Mutex::new(0));
            let net = {
                let (strayed, service) = (strayed.clone(), api.service());
                service_fn(move |request: Request<Body>| {
                    let elsewhere = request.uri().host() == Some("evil.example");
                    *strayed.lock().unwrap() += usize::from(elsewhere);
                    let response = service.clone().oneshot(request);
                    async move { Ok::<Response<FakeBody>, BoxError>(response.await?) }
                })
            };
            let follow = Follow {
                spares_token_calls,
                is_token_call: false,
            };
            let below = FollowRedirectLayer::with_policy(follow).layer(net);
            api.fault(Fault::redirect(status, "https://evil.example/auth/refresh"));
            let status = if separate {
                let layer = builder
                    .token_service::<_, Body>(api.service())
                    .build()
                    .unwrap();
                layer
                    .layer(below)
                    .oneshot(get("/videos"))
                    .await
                    .unwrap()
                    .status()
            } else {
                let layer = builder.build().unwrap();
                layer
                    .layer(below)
                    .oneshot(get("/videos"))
                    .await
                    .unwrap()
                    .status()
            };
            assert_eq!(status, 200);
            assert_eq!(*strayed.lock().unwrap(), usize::from(leaks));
        }
    }
}

/// tower-http's own policies follow a 307 of a token call nowhere, since they can't clone its body.
#[tokio::test(start_paused = true)]
async fn g13_the_usual_redirect_layer_sends_no_secret_elsewhere() {
    for status in STATUSES {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = ServiceBuilder::new()
            .layer(layer)
            .layer(FollowRedirectLayer::new())
            .service(api.service());
        api.fault(Fault::redirect(status, "https://evil.example/auth/refresh"));
        let _ = client.oneshot(get("/videos")).await;
        for exchange in api.journal() {
            let elsewhere = exchange.uri.host() == Some("evil.example");
            assert!(!elsewhere || exchange.body.is_empty(), "{status}");
            assert!(
                !elsewhere || !exchange.headers.contains_key("authorization"),
                "{status}"
            );
        }
    }
}

/// Above the layer each hop is a request of its own, judged by where it goes.
#[tokio::test(start_paused = true)]
async fn g13_a_redirect_layer_above_takes_no_token_elsewhere() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(layer)
        .service(api.service());
    for (location, carries) in [("/echo", true), ("https://evil.example/echo", false)] {
        let url = location.to_owned();
        api.on_api_request(move |request| {
            let redirect = Response::builder().status(302).header("location", &url);
            (request.uri.path() == "/videos").then(|| redirect.body(bytes::Bytes::new()).unwrap())
        });
        api.clear_journal();
        let mut request = get("/videos");
        *request.uri_mut() = format!("{}/videos", api.url()).parse().unwrap();
        let status = client.clone().oneshot(request).await.unwrap().status();
        assert_eq!(status, if carries { 200 } else { 401 });
        let last = api.journal().pop().unwrap();
        assert_eq!(
            last.headers.contains_key("authorization"),
            carries,
            "{location}"
        );
    }
}
