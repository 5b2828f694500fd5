//! What can go wrong with a token call, on either side of the point of commitment.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use super::responses;

/// Something that goes wrong with a token call. See [`FakeApi::fault`](super::FakeApi::fault).
///
/// "Committed" faults come after the call was processed: its refresh token is spent and a new pair exists,
/// although the client may never see it. The others leave everything as it was.
#[derive(Clone)]
#[non_exhaustive]
pub enum Fault {
    /// Answered as given, not processed. It carries no rate-limit headers but those given here.
    #[non_exhaustive]
    Status {
        /// The status code.
        status: u16,
        /// All headers.
        headers: HeaderMap,
        /// The body.
        body: Bytes,
    },
    /// Processed and answered as usual, but after this time (of Tokio's clock).
    Latency(Duration),
    /// The connection is closed before the call is processed.
    DropBefore,
    /// Committed, then the connection is closed without a response.
    DropAfter,
    /// Committed, then answered with this status and a gateway's HTML page.
    StatusAfter(u16),
    /// A redirect of this status to this location, not processed.
    Redirect(u16, String),
    /// A 200 with an HTML page, not processed.
    Malformed,
    /// Committed; the connection is closed in the middle of the response's body.
    Truncated,
    /// Committed; a 200 with an empty body.
    Empty,
    /// Committed; a 200 with a body of 8 MiB.
    Huge,
    /// Committed; a 200 whose body is one byte each 100 ms (of Tokio's clock), without end.
    Drip,
    /// Committed; the pair in the response is passed through the function. Made by [`Fault::json`].
    Json(JsonEdit),
}

/// A function that changes the JSON of a response.
pub type JsonEdit = Arc<dyn Fn(&mut Value) + Send + Sync>;

impl Fault {
    /// A response with this status and a gateway's HTML page, not processed. Its `type` is none, so
    /// even a 401 says nothing of a credential.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        Self::Status {
            status,
            headers,
            body: responses::html(status),
        }
    }

    /// Any response, not processed.
    #[must_use]
    pub fn response(status: u16, headers: HeaderMap, body: impl Into<Bytes>) -> Self {
        Self::Status {
            status,
            headers,
            body: body.into(),
        }
    }

    /// A problem document of this kind, such as `authentication-invalid-refresh-token`. Not processed.
    ///
    /// ```
    /// use apivideo_auth::testing::{FakeApi, Fault};
    ///
    /// let api = FakeApi::in_process();
    /// api.fault(Fault::problem(400, "authentication-invalid-refresh-token"));
    /// ```
    #[must_use]
    pub fn problem(status: u16, kind: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        Self::Status {
            status,
            headers,
            body: responses::problem_document(status, kind, ""),
        }
    }

    /// A 429 of the API's rate limit with `X-RateLimit-Retry-After`, not processed.
    #[must_use]
    pub fn rate_limited(seconds: u64) -> Self {
        let mut fault = Self::problem(429, "too-many-requests");
        if let Self::Status { headers, .. } = &mut fault {
            responses::add_rate_limit(headers, 0, seconds);
        }
        fault
    }

    /// A response with a `Retry-After` header (seconds, a date, or nonsense), not processed.
    ///
    /// # Panics
    ///
    /// If the value is not a valid header value.
    #[must_use]
    pub fn retry_after(status: u16, value: impl fmt::Display) -> Self {
        let mut fault = Self::status(status);
        if let Self::Status { headers, .. } = &mut fault {
            let value = HeaderValue::from_str(&value.to_string())
                .expect("the value is a valid header value");
            headers.insert(header::RETRY_AFTER, value);
        }
        fault
    }

    /// Committed; the pair in the response is passed through `edit`, which may change or remove any field.
    ///
    /// ```
    /// use apivideo_auth::testing::{FakeApi, Fault};
    ///
    /// let api = FakeApi::in_process();
    /// // A response without a lifetime.
    /// api.fault(Fault::json(|pair| pair["expires_in"] = serde_json::Value::Null));
    /// ```
    #[must_use]
    pub fn json(edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Json(Arc::new(edit))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, .. } => f.debug_tuple("Status").field(status).finish(),
            Self::Latency(latency) => f.debug_tuple("Latency").field(latency).finish(),
            Self::DropBefore => f.write_str("DropBefore"),
            Self::DropAfter => f.write_str("DropAfter"),
            Self::StatusAfter(status) => f.debug_tuple("StatusAfter").field(status).finish(),
            Self::Redirect(status, _) => f.debug_tuple("Redirect").field(status).finish(),
            Self::Malformed => f.write_str("Malformed"),
            Self::Truncated => f.write_str("Truncated"),
            Self::Empty => f.write_str("Empty"),
            Self::Huge => f.write_str("Huge"),
            Self::Drip => f.write_str("Drip"),
            Self::Json(_) => f.write_str("Json"),
        }
    }
}
