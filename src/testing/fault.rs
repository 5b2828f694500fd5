//! What can go wrong with a call, and when.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header, request};
use serde_json::Value;

use super::responses;

/// Something that goes wrong with a call. See [`FakeApi::fault`](super::FakeApi::fault).
///
/// A constructor says what goes wrong; the methods say when, with which calls and how often:
///
/// | when | has the API done what was asked? |
/// | --- | --- |
/// | [`before_read`](Self::before_read): the request's body has not been read | no |
/// | without a method: it has been read | no |
/// | [`after_commit`](Self::after_commit): before the response | yes |
/// | [`mid_body`](Self::mid_body): half of the response's body has been sent | yes |
///
/// Of a token call that was carried out, the refresh token is spent and a new pair exists, although the client may
/// never see it. A fault does not ask whether the call would have been refused. Its response has no headers but its own.
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::testing::{FakeApi, Fault};
/// use http::Method;
///
/// let api = FakeApi::in_process();
/// // The next token call is carried out, and its response is lost.
/// api.fault(Fault::disconnect().after_commit());
/// // The two after it meet a gateway.
/// api.fault(Fault::status(502).times(2));
/// // A video is created, and the client is told of an error.
/// api.fault(Fault::status(500).after_commit().on(|request| {
///     request.method == Method::POST && request.uri.path() == "/videos"
/// }));
/// // Each upload takes a second.
/// let upload = |request: &http::request::Parts| request.uri.path().ends_with("/source");
/// api.fault(Fault::latency(Duration::from_secs(1)).on(upload).always());
/// // All is well again.
/// api.fault(None);
/// ```
#[derive(Clone)]
#[must_use = "give it to `FakeApi::fault`"]
pub struct Fault {
    pub(super) kind: Kind,
    pub(super) point: Point,
    /// `None`: token calls.
    on: Option<Concerns>,
    /// `None`: always.
    times: Option<usize>,
}

/// What goes wrong.
#[derive(Clone)]
pub(super) enum Kind {
    Response(u16, HeaderMap, Payload),
    Disconnect,
    Latency(Duration),
    Json(JsonEdit),
}

/// The body of a fault's own response.
#[derive(Clone)]
pub(super) enum Payload {
    Bytes(Bytes),
    Huge,
    Drip,
}

/// When it goes wrong; in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    BeforeRead,
    BeforeCommit,
    AfterCommit,
    MidBody,
}

/// Which calls a fault is for.
type Concerns = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;

/// Changes the JSON of a response.
type JsonEdit = Arc<dyn Fn(&mut Value) + Send + Sync>;

impl Fault {
    /// A response with this status and a gateway's HTML page. Its `type` is none, so even a 401 says nothing of a
    /// credential.
    pub fn status(status: u16) -> Self {
        Self::typed(status, "text/html", responses::html(status))
    }

    /// Any response.
    pub fn response(status: u16, headers: HeaderMap, body: impl Into<Bytes>) -> Self {
        Self::new(Kind::Response(status, headers, Payload::Bytes(body.into())))
    }

    /// A problem document of this kind, such as `authentication-invalid-refresh-token`.
    ///
    /// ```
    /// use apivideo_auth::testing::{FakeApi, Fault};
    ///
    /// let api = FakeApi::in_process();
    /// api.fault(Fault::problem(400, "authentication-invalid-refresh-token"));
    /// ```
    pub fn problem(status: u16, kind: &str) -> Self {
        let document = responses::problem_document(status, kind, "");
        Self::typed(status, "application/json", document)
    }

    /// A 429 of the API's rate limit with `X-RateLimit-Retry-After`.
    pub fn rate_limited(seconds: u64) -> Self {
        let mut fault = Self::problem(429, "too-many-requests");
        if let Kind::Response(_, headers, _) = &mut fault.kind {
            responses::add_rate_limit(headers, 0, seconds);
        }
        fault
    }

    /// [`status`](Self::status) with a `Retry-After` header: seconds, a date, or nonsense.
    ///
    /// # Panics
    ///
    /// If the value is not a valid header value.
    pub fn retry_after(status: u16, value: impl fmt::Display) -> Self {
        Self::status(status).with(header::RETRY_AFTER, &value.to_string())
    }

    /// A redirect of this status to this location.
    ///
    /// # Panics
    ///
    /// If the location is not a valid header value.
    pub fn redirect(status: u16, location: impl AsRef<str>) -> Self {
        Self::response(status, HeaderMap::new(), "").with(header::LOCATION, location.as_ref())
    }

    /// The connection is closed.
    pub fn disconnect() -> Self {
        Self::new(Kind::Disconnect)
    }

    /// Nothing happens for this time (of Tokio's clock), and then all goes on as usual.
    pub fn latency(latency: Duration) -> Self {
        Self::new(Kind::Latency(latency))
    }

    /// A 200 with a body of 8 MiB whose length is not told beforehand. After the commit.
    pub fn huge() -> Self {
        Self::new(Kind::Response(200, HeaderMap::new(), Payload::Huge)).after_commit()
    }

    /// A 200 whose body is one byte each 100 ms (of Tokio's clock), without end. After the commit.
    pub fn drip() -> Self {
        Self::new(Kind::Response(200, HeaderMap::new(), Payload::Drip)).after_commit()
    }

    /// The JSON of the API's own response is passed through `edit`, which may change or remove any field. After the
    /// commit, whatever else is said; refusals, and what is no JSON, are left as they are.
    ///
    /// ```
    /// use apivideo_auth::testing::{FakeApi, Fault};
    ///
    /// let api = FakeApi::in_process();
    /// // A response without a lifetime.
    /// api.fault(Fault::json(|pair| pair["expires_in"] = serde_json::Value::Null));
    /// ```
    pub fn json(edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::new(Kind::Json(Arc::new(edit)))
    }

    /// Before the request's body is read, as a gateway does with a large upload.
    pub fn before_read(self) -> Self {
        self.at(Point::BeforeRead)
    }

    /// After the call was carried out, before its response.
    pub fn after_commit(self) -> Self {
        self.at(Point::AfterCommit)
    }

    /// After the call was carried out, in the middle of the response's body: status and headers are with the client.
    /// There a fault with a response of its own, which is sent instead, closes the connection; a response without a
    /// body does not begin. The middle of [`huge`](Self::huge) comes after 4 MiB, that of [`drip`](Self::drip) after a
    /// second.
    pub fn mid_body(self) -> Self {
        self.at(Point::MidBody)
    }

    /// For these calls, not for token calls. Their paths tell one from another: those of token calls begin with `/auth/`.
    ///
    /// The function runs outside the server's lock, so it may use the [`FakeApi`](super::FakeApi).
    pub fn on(mut self, calls: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.on = Some(Arc::new(calls));
        self
    }

    /// For so many calls. Default: one.
    pub fn times(mut self, calls: usize) -> Self {
        self.times = Some(calls);
        self
    }

    /// For all calls until faults are taken back: an outage.
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            point: Point::BeforeCommit,
            on: None,
            times: Some(1),
        }
    }

    fn typed(status: u16, content_type: &'static str, body: Bytes) -> Self {
        Self::response(status, HeaderMap::new(), body).with(header::CONTENT_TYPE, content_type)
    }

    /// # Panics
    ///
    /// If the value is not a valid header value.
    fn with(mut self, name: header::HeaderName, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("the value is a valid header value");
        if let Kind::Response(_, headers, _) = &mut self.kind {
            headers.insert(name, value);
        }
        self
    }

    fn at(mut self, point: Point) -> Self {
        self.point = point;
        self
    }

    fn concerns(&self, call: &request::Parts, is_token_call: bool) -> bool {
        match &self.on {
            Some(concerns) => concerns(call),
            None => is_token_call,
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.kind {
            Kind::Response(status, _, Payload::Bytes(_)) => format!("status {status}"),
            Kind::Response(_, _, Payload::Huge) => "huge".to_owned(),
            Kind::Response(_, _, Payload::Drip) => "drip".to_owned(),
            Kind::Disconnect => "disconnect".to_owned(),
            Kind::Latency(latency) => format!("latency {latency:?}"),
            Kind::Json(_) => "json".to_owned(),
        };
        write!(f, "Fault({what}, {:?})", self.point)
    }
}

/// The faults that calls may meet. Clones share how often each is left, so that the functions of a test can run
/// outside the server's lock.
#[derive(Clone, Default)]
pub(super) struct Faults(Vec<(Fault, Arc<AtomicUsize>)>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        // Those that are used up are let go here.
        self.0
            .retain(|(fault, left)| fault.times.is_none() || left.load(Ordering::Relaxed) > 0);
        let left = Arc::new(AtomicUsize::new(fault.times.unwrap_or_default()));
        self.0.push((fault, left));
    }

    /// The fault of a call that has come: the oldest with a number, or else the newest without.
    pub(super) fn take(&self, call: &request::Parts, is_token_call: bool) -> Option<Fault> {
        let counted = self.0.iter().find(|(fault, left)| {
            fault.times.is_some()
                && left.load(Ordering::Relaxed) > 0
                && fault.concerns(call, is_token_call)
                // Another call may have taken the last one meanwhile.
                && left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
        });
        let lasting = || {
            let mut newest_first = self.0.iter().rev();
            newest_first
                .find(|(fault, _)| fault.times.is_none() && fault.concerns(call, is_token_call))
        };
        counted.or_else(lasting).map(|(fault, _)| fault.clone())
    }
}
