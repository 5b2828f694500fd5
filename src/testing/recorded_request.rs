//! What the fake server remembers of requests.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request};

/// One request that the fake server saw, and how it was answered.
///
/// `Debug` leaves out the body, the query and the authorization.
///
/// ```
/// use apivideo_auth::testing::FakeApi;
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let api = FakeApi::in_process();
/// let request = http::Request::get("/echo").body(Full::<Bytes>::default())?;
/// api.service().oneshot(request).await?;
///
/// let journal = api.journal();
/// assert_eq!(journal[0].uri, "/echo");
/// assert_eq!(journal[0].status, Some(http::StatusCode::UNAUTHORIZED));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The method, as sent.
    pub method: Method,
    /// The URI, as it came in.
    pub uri: Uri,
    /// The HTTP version.
    pub version: Version,
    /// The headers, `Authorization` included: `Debug` alone leaves it out.
    pub headers: HeaderMap,
    /// The body, empty as long as it has not been read in full. Of uploads, bodies over 64 KiB are left out.
    pub body: Bytes,
    /// The status of the response. `None` while the request is pending, and where no response was sent.
    pub status: Option<StatusCode>,
    /// Whether this was a call to `/auth/...`.
    pub is_token_call: bool,
}

impl RecordedRequest {
    /// As it arrives: body and status are not known yet.
    fn new(parts: &request::Parts, is_token_call: bool) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            body: Bytes::new(),
            status: None,
            is_token_call,
        }
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut headers = self.headers.clone();
        for name in [
            header::AUTHORIZATION,
            header::PROXY_AUTHORIZATION,
            header::COOKIE,
        ] {
            if headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_static("[redacted]"));
            }
        }
        f.debug_struct("RecordedRequest")
            .field("method", &self.method)
            .field("path", &shown(self.uri.path()))
            .field("version", &self.version)
            .field("headers", &headers)
            .field("body", &format_args!("[{} bytes]", self.body.len()))
            .field("status", &self.status)
            .field("is_token_call", &self.is_token_call)
            .finish()
    }
}

/// The path of an upload token ends with the token.
///
/// It is cut off, so that `Debug` shows none.
fn shown(path: &str) -> &str {
    const TOKENS: &str = "/upload-tokens/";
    if path.starts_with(TOKENS) {
        TOKENS
    } else {
        path
    }
}

/// The number of a request, in order of arrival.
///
/// It stays good when the journal is cleared meanwhile: it then stands for nothing.
#[derive(Clone, Copy)]
pub(super) struct Entry(usize);

/// All requests since the start or the last `clear`. The number of the first one is kept, so that
/// numbers given out before a `clear` are not reused.
pub(super) struct Journal {
    enabled: bool,
    first: usize,
    requests: Vec<RecordedRequest>,
}

impl Journal {
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            first: 0,
            requests: Vec::new(),
        }
    }

    /// A request has come; recorded at once, so that one that hangs is seen too.
    pub(super) fn arrived(&mut self, parts: &request::Parts, is_token_call: bool) -> Entry {
        let entry = Entry(self.first + self.requests.len());
        if self.enabled {
            self.requests
                .push(RecordedRequest::new(parts, is_token_call));
        }
        entry
    }

    /// Its body has been read in full.
    pub(super) fn read(&mut self, entry: Entry, body: &Bytes) {
        if let Some(request) = self.get(entry) {
            request.body = body.clone();
        }
    }

    /// Its response is on its way.
    pub(super) fn answered(&mut self, entry: Entry, status: StatusCode) {
        if let Some(request) = self.get(entry) {
            request.status = Some(status);
        }
    }

    pub(super) fn all(&self) -> Vec<RecordedRequest> {
        self.requests.clone()
    }

    pub(super) fn clear(&mut self) {
        self.first += self.requests.len();
        self.requests.clear();
    }

    /// `None` after a `clear`, or if nothing is kept.
    fn get(&mut self, entry: Entry) -> Option<&mut RecordedRequest> {
        self.requests.get_mut(entry.0.checked_sub(self.first)?)
    }
}
