//! What responses carry besides their own: CORS, and whatever a builder adds.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Full;
use tower::ServiceExt;

use super::{get, login};
use crate::testing::*;

async fn send(api: &FakeApi, request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap) {
    let (head, _) = api.service().oneshot(request).await.unwrap().into_parts();
    (head.status, head.headers)
}

fn preflight(path: &str) -> Request<Full<Bytes>> {
    Request::options(path).body(Full::default()).unwrap()
}

#[tokio::test]
async fn cors_lets_the_pages_of_one_origin_in() {
    let api = FakeApi::in_process();
    let (status, headers) = send(&api, preflight("/upload?token=x")).await;
    assert_eq!(status, 405);
    assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));

    for origin in ["https://www.example.com", "*"] {
        let api = FakeApi::builder().cors(origin).build();
        for (request, expected) in [
            (preflight("/upload?token=x"), 204),
            (preflight("/auth/refresh"), 204),
            (get("/videos", "unknown"), 401),
            (login(&api), 200),
        ] {
            let (status, headers) = send(&api, request).await;
            assert_eq!(status, expected);
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
            let credentials = headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
            assert_eq!(credentials, origin != "*");
        }
        let counts = api.counts();
        assert_eq!((counts.token_calls, counts.api_calls), (1, 1));
        assert_eq!(api.journal().len(), 4, "with the preflights");
        // What is for token calls is not used up by a preflight.
        api.fault(Fault::status(503));
        api.fault(Fault::status(401).on(|call| call.method == http::Method::OPTIONS));
        assert_eq!(send(&api, preflight("/auth/refresh")).await.0, 401);
        assert_eq!(api.counts().unauthorized, 1);
        assert_eq!(send(&api, login(&api)).await.0, 503);
    }
}

#[tokio::test]
async fn responses_carry_the_headers_of_the_builder_and_faults_do_not() {
    let api = FakeApi::builder()
        .response_header("set-cookie", "a=test-only")
        .response_header("set-cookie", "b=test-only")
        .build();
    let cookies = |headers: HeaderMap| headers.get_all(header::SET_COOKIE).iter().count();
    for request in [get("/echo", "unknown"), get("/unknown", ""), login(&api)] {
        assert_eq!(cookies(send(&api, request).await.1), 2);
    }
    api.fault(Fault::status(503));
    assert_eq!(cookies(send(&api, login(&api)).await.1), 0);
}
