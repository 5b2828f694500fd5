use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request};

/// One request that the fake server saw, and how it was answered.
///
/// `Debug` leaves out the body, the query and the authorization.
#[derive(Clone)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The method.
    pub method: Method,
    /// The URI, as it came in.
    pub uri: Uri,
    /// The HTTP version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, empty as long as it has not been read in full. Of uploads, bodies over 64 KiB are left out.
    pub body: Bytes,
    /// The status of the response. `None` while the request is pending, and where no response was sent.
    pub status: Option<StatusCode>,
    /// Whether this was a call to `/auth/...`.
    pub is_token_call: bool,
}

impl RecordedRequest {
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
fn shown(path: &str) -> &str {
    const TOKENS: &str = "/upload-tokens/";
    if path.starts_with(TOKENS) {
        TOKENS
    } else {
        path
    }
}

/// The number of a request, in order of arrival.
#[derive(Clone, Copy)]
pub(super) struct Entry(usize);

/// All requests since the start or the last `clear`.
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

    pub(super) fn arrived(&mut self, parts: &request::Parts, is_token_call: bool) -> Entry {
        let entry = Entry(self.first + self.requests.len());
        if self.enabled {
            self.requests
                .push(RecordedRequest::new(parts, is_token_call));
        }
        entry
    }

    pub(super) fn read(&mut self, entry: Entry, body: &Bytes) {
        if let Some(request) = self.get(entry) {
            request.body = body.clone();
        }
    }

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

    fn get(&mut self, entry: Entry) -> Option<&mut RecordedRequest> {
        self.requests.get_mut(entry.0.checked_sub(self.first)?)
    }
}
