//! The fake server against an extract of the API's OpenAPI file: `tests/openapi.json`, which names its source.
//!
//! What the file leaves open, or says twice, is at the lines that allow it.

mod requests;
mod responses;
mod spec;

use std::{collections::BTreeSet, time::Duration};

use apivideo_auth::testing::{FakeApi, FakeApiBuilder, ManualClock};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use spec::{Operation, Spec};

/// A request, and what the file says of its response.
struct Account {
    api: FakeApi,
    clock: ManualClock,
    spec: Spec,
    seen: BTreeSet<(Operation, u16)>,
    faults: Vec<String>,
}

impl Account {
    fn new(builder: FakeApiBuilder) -> Self {
        let clock = ManualClock::new();
        Self {
            api: builder.clock(clock.clone()).build(),
            clock,
            spec: Spec::read(),
            seen: BTreeSet::new(),
            faults: Vec::new(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let operation = self.spec.operation(method, path).unwrap();
        let response = self.api.service().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let faults = self
            .spec
            .faults(&operation, head.status, &head.headers, &body);
        let what = format!("{operation:?} {}", head.status);
        self.faults
            .extend(faults.into_iter().map(|fault| format!("{what}: {fault}")));
        let status = head.status.as_u16();
        self.seen.insert((operation, status));
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// With JSON, unless there is none.
    async fn call(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !path.starts_with("/auth/") {
            let bearer = format!("Bearer {}", self.api.mint_pair().0);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let mut text = String::new();
        if !body.is_null() {
            request = request.header(header::CONTENT_TYPE, "application/json");
            text = body.to_string();
        }
        self.send(request.body(Full::from(text)).unwrap()).await
    }

    async fn upload(&mut self, path: &str, range: &str, file: &[u8]) -> (u16, Value) {
        let bearer = format!("Bearer {}", self.api.mint_pair().0);
        let mut request = Request::post(path)
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=xyz");
        if !range.is_empty() {
            request = request.header(header::CONTENT_RANGE, range);
        }
        let mut form =
            b"--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
                .to_vec();
        form.extend_from_slice(file);
        form.extend_from_slice(b"\r\n--xyz--\r\n");
        self.send(request.body(Full::from(form)).unwrap()).await
    }

    async fn status(&mut self, video: &Value) -> Value {
        let path = format!("/videos/{}/status", video["videoId"].as_str().unwrap());
        self.call("GET", &path, &Value::Null).await.1
    }
}
