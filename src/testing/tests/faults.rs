//! What a fault says of when it strikes, whom and how often is what it does.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header, request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt;

use super::{call, get, login, post, read, refresh};
use crate::testing::*;

#[tokio::test]
async fn a_fault_commits_or_leaves_everything_as_it_was() {
    let api = FakeApi::in_process();
    let (_, first) = api.mint_pair();
    let redirect = Fault::redirect(307, "/elsewhere");
    for fault in [
        Fault::status(503),
        Fault::rate_limited(7),
        redirect,
        Fault::status(200),
        Fault::disconnect(),
    ] {
        api.fault(fault);
        let _ = api.service().oneshot(refresh(&first)).await;
        assert_eq!(api.live_refresh_token().as_ref(), Some(&first));
    }

    let edited = Fault::json(|pair| pair["expires_in"] = Value::Null);
    for fault in [
        Fault::disconnect().after_commit(),
        Fault::status(504).after_commit(),
        Fault::disconnect().mid_body(),
        Fault::response(200, http::HeaderMap::new(), "").after_commit(),
        edited,
    ] {
        let live = api.live_refresh_token().unwrap();
        api.fault(fault);
        let _ = api.service().oneshot(refresh(&live)).await;
        assert_ne!(api.live_refresh_token().unwrap(), live);
    }
    assert_eq!(
        (api.counts().reuse_violations, api.counts().in_flight),
        (0, 0)
    );
}

#[tokio::test]
async fn a_truncated_answer_breaks_in_its_body() {
    let api = FakeApi::in_process();
    api.fault(Fault::disconnect().mid_body());
    let response = api.service().oneshot(login(&api)).await.unwrap();
    assert_eq!(
        read(response).await.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
}

/// Each point, and whether the call has been carried out there.
type When = fn(Fault) -> Fault;
const POINTS: [(When, bool); 4] = [
    (Fault::before_read, false),
    (|fault| fault, false),
    (Fault::after_commit, true),
    (Fault::mid_body, true),
];

fn echo(request: &request::Parts) -> bool {
    request.uri.path() == "/echo"
}

#[tokio::test]
async fn a_fault_meets_the_calls_it_is_for_as_often_as_it_says() {
    let api = FakeApi::in_process();
    let (bearer, _) = api.mint_pair();
    let status = async |request: Request<Full<Bytes>>| call(&api, request).await.0;
    api.fault(Fault::status(503).always());
    api.fault(Fault::status(502).times(2));
    api.fault(Fault::status(504).on(echo));
    for expected in [502, 502, 503, 503] {
        assert_eq!(status(login(&api)).await, expected);
    }
    assert_eq!(status(get("/echo/below", &bearer)).await, 200);
    for expected in [504, 200] {
        assert_eq!(status(get("/echo", &bearer)).await, expected);
    }
    api.fault(Fault::status(500).always());
    assert_eq!(status(login(&api)).await, 500);
    api.fault(None);
    assert_eq!(status(login(&api)).await, 200);
}

#[tokio::test]
async fn the_function_of_a_fault_may_use_the_server() {
    let api = FakeApi::in_process();
    let (bearer, _) = api.mint_pair();
    let handle = api.clone();
    api.fault(
        Fault::status(503)
            .on(move |_| handle.counts().api_calls == 2)
            .always(),
    );
    for expected in [200, 503, 200] {
        assert_eq!(call(&api, get("/echo", &bearer)).await.0, expected);
    }
}

#[tokio::test]
async fn a_response_or_the_end_of_the_connection_comes_at_each_point() {
    for (when, committed) in POINTS {
        for fault in [Fault::retry_after(503, 7), Fault::disconnect()] {
            let fault = when(fault);
            let shown = format!("{fault:?}");
            let mid_body = shown.contains("MidBody");
            let api = FakeApi::in_process();
            let (bearer, _) = api.mint_pair();
            api.fault(fault.on(|call| call.method == Method::POST));
            let request = post("/upload-tokens", &json!({}));
            let (mut parts, body) = request.into_parts();
            let value = format!("Bearer {bearer}").parse().unwrap();
            parts.headers.insert(header::AUTHORIZATION, value);
            let response = api
                .service()
                .oneshot(Request::from_parts(parts, body))
                .await;
            match response {
                Ok(response) => {
                    let disconnected = shown.contains("disconnect");
                    assert_eq!(
                        response.status(),
                        if disconnected { 200 } else { 503 },
                        "{shown}"
                    );
                    let header = response.headers().get(header::RETRY_AFTER);
                    assert_eq!(header.is_some(), !disconnected, "{shown}");
                    let body = response.into_body().collect().await;
                    assert_eq!(body.is_err(), mid_body, "{shown}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{shown}");
                    assert!(shown.contains("disconnect") && !mid_body);
                }
            }
            let (_, tokens) = call(&api, get("/upload-tokens", &bearer)).await;
            let made = tokens["data"].as_array().map_or(0, Vec::len);
            assert_eq!(made, usize::from(committed), "{shown}");
            assert_eq!(
                api.journal()[0].body.is_empty(),
                shown.contains("BeforeRead"),
                "{shown}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn latency_passes_at_its_point() {
    for (when, committed) in POINTS {
        let api = FakeApi::in_process();
        api.fault(when(Fault::latency(Duration::from_secs(60))));
        let begun = Instant::now();
        let login_call = async { read(api.service().oneshot(login(&api)).await.unwrap()).await };
        // Given up, and then in full.
        let given_up = tokio::time::timeout(Duration::from_secs(59), login_call).await;
        assert!(given_up.is_err());
        assert_eq!(api.counts().grants, usize::from(committed));

        api.fault(when(Fault::latency(Duration::from_secs(60))));
        assert_eq!(call(&api, login(&api)).await.0, 200);
        assert_eq!(begun.elapsed(), Duration::from_secs(59 + 60));
    }
}

#[tokio::test]
async fn a_body_that_is_edited_is_that_of_a_success() {
    let api = FakeApi::in_process();
    let (bearer, _) = api.mint_pair();
    let edit = || Fault::json(|echoed| echoed["b"] = 2.into()).on(echo);
    let request = |bearer: &str| {
        let request = Request::post("/echo").header(header::AUTHORIZATION, bearer);
        request.body(Full::from(r#"{"a":1}"#)).unwrap()
    };
    api.fault(edit());
    let (status, body) = call(&api, request(&format!("Bearer {bearer}"))).await;
    assert_eq!((status, body), (200, json!({ "a": 1, "b": 2 })));
    api.fault(edit());
    let (status, problem) = call(&api, request("Bearer unknown")).await;
    assert_eq!((status, problem.get("b")), (401, None));
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_ends_in_its_middle_where_that_is_asked_for() {
    for (fault, expected) in [(Fault::huge(), 4 << 20), (Fault::drip(), 10)] {
        let api = FakeApi::in_process();
        let (bearer, _) = api.mint_pair();
        api.fault(fault.mid_body().on(echo));
        let response = api.service().oneshot(get("/echo", &bearer)).await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut body, mut length) = (response.into_body(), 0);
        let error = loop {
            match body.frame().await.expect("it breaks off") {
                Ok(frame) => length += frame.into_data().unwrap().len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(
            (expected..expected + (1 << 16)).contains(&length),
            "{length}"
        );
    }
}

#[tokio::test]
async fn what_is_no_json_is_not_edited() {
    let api = FakeApi::in_process();
    let (bearer, _) = api.mint_pair();
    api.on_api_request(|request| {
        (request.uri.path() == "/text").then(|| http::Response::new(Bytes::from_static(b"text")))
    });
    api.fault(Fault::json(|value| *value = json!(1)).on(|_| true).always());
    for (path, length) in [("/echo", 0), ("/text", 4)] {
        let response = api.service().oneshot(get(path, &bearer)).await;
        let body = response.expect("a response").into_body().collect().await;
        assert_eq!(body.unwrap().to_bytes().len(), length, "{path}");
    }
}
