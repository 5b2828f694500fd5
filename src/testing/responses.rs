//! The building blocks of responses: problem documents, JSON, the rate-limit headers, dates.
//!
//! Titles and kinds are those of the API's error pages, such as
//! <https://docs.api.video/reference/too-many-requests>.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// The headers of the API's rate limit, which stand on every response of the API and on none of a
/// gateway.
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RETRY_AFTER: HeaderName = HeaderName::from_static("x-ratelimit-retry-after");

/// Which problem it is, and what it is about.
pub(super) type Refusal = (&'static str, &'static str);

/// A JSON response.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Bytes> {
    with_type(status, "application/json", value.to_string().into())
}

/// No body, and so no type of one.
pub(super) fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// Any body; the type is part of what a client may stumble over.
pub(super) fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A problem with the status that the API's error table gives it.
///
/// A kind that the table does not know is a 400.
pub(super) fn problem(kind: &str) -> Response<Bytes> {
    named_problem(kind, "")
}

/// A problem about the parameter `name`.
pub(super) fn named_problem(kind: &str, name: &str) -> Response<Bytes> {
    let status = match kind {
        "authorization-suspended-account" => StatusCode::FORBIDDEN,
        "resource-not-found" => StatusCode::NOT_FOUND,
        "method-not-allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "payload-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        #[cfg(not(feature = "upload-tokens"))]
        "not-played" => StatusCode::NOT_IMPLEMENTED,
        kind if kind.starts_with("authentication-") => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_REQUEST,
    };
    problem_as(status, kind, name)
}

/// A problem with a status of its own.
pub(super) fn problem_as(status: StatusCode, kind: &str, name: &str) -> Response<Bytes> {
    let document = problem_document(status.as_u16(), kind, name);
    with_type(status, "application/problem+json", document)
}

/// A number in the query that is too small or too large. The API's own example has no `type`.
#[cfg(feature = "upload-tokens")]
pub(super) fn out_of_range(name: &str, range: Value) -> Response<Bytes> {
    let problem = json!({
        "title": "This parameter is out of the allowed range of values.",
        "name": name, "status": 400, "range": range,
    });
    let document = problem.to_string().into();
    with_type(
        StatusCode::BAD_REQUEST,
        "application/problem+json",
        document,
    )
}

/// A 405, which has to name what is allowed.
pub(super) fn method_not_allowed(allow: &'static str) -> Response<Bytes> {
    let mut response = problem("method-not-allowed");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// The document alone, for a fault that sends it with another status than the API would.
pub(super) fn problem_document(status: u16, kind: &str, name: &str) -> Bytes {
    let title = match kind {
        "authentication-invalid-api-key" => "The API key is invalid.",
        "authentication-invalid-access-token" => "The access token is invalid or expired.",
        "authentication-invalid-upload-token" => "The upload token is invalid or expired.",
        "authentication-invalid-refresh-token" => "The refresh token is invalid.",
        "authentication-invalid-authorization-header-value" => {
            "The \"Authorization\" header value is invalid."
        }
        "authentication-missing-authorization-header" => "The \"Authorization\" header is missing.",
        "authentication-missing-upload-token" => "The upload token is missing.",
        "authentication-invalid-user-credentials" => "The user credentials were incorrect.",
        "authorization-suspended-account" => "Suspended account",
        "resource-not-found" => "The requested resource was not found.",
        "too-many-requests" => "Too many requests.",
        "invalid-attribute" => "This attribute is invalid.",
        "video-source-already-uploaded" => "The source of the video is already uploaded.",
        "uploaded-file-no-file" => "There is no uploaded file in the request.",
        "uploaded-file-multiple-files" => "There is more than one uploaded file in the request.",
        "attribute-required" => "This attribute is required.",
        "invalid-payload" => "The payload is invalid.",
        #[cfg(not(feature = "upload-tokens"))]
        "not-played" => "The fake server plays this with the feature `upload-tokens` only.",
        _ => "An error occurred.",
    };
    let url = format!("https://docs.api.video/reference/{kind}");
    let mut document = json!({ "type": url, "title": title, "status": status });
    // It is about no parameter.
    if kind != "too-many-requests" {
        document["name"] = name.into();
    }
    document.to_string().into()
}

/// What a gateway in front of the API says.
///
/// A client that takes it for the API's word has a fault.
pub(super) fn html(status: u16) -> Bytes {
    format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>")
        .into()
}

/// A test may ask for a status that HTTP does not have: an error of the call, not a panic in the
/// server.
pub(super) fn status(code: u16) -> io::Result<StatusCode> {
    StatusCode::from_u16(code).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// The rate-limit headers, where the response has none yet.
pub(super) fn add_rate_limit(headers: &mut HeaderMap, remaining: u64, retry_after: u64) {
    headers
        .entry(LIMIT)
        .or_insert(HeaderValue::from_static("500"));
    headers
        .entry(REMAINING)
        .or_insert(HeaderValue::from(remaining));
    headers
        .entry(RETRY_AFTER)
        .or_insert(HeaderValue::from(retry_after));
}

/// What a browser needs to show a response to a page of `origin`, and to send the request in the first place.
pub(super) fn allow_origin(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if origin != "*" {
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE, OPTIONS");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    const HEADERS: &str = "Authorization, Content-Type, Content-Range, AV-Origin-Client, AV-Origin-App, AV-Origin-Sdk";
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(HEADERS),
    );
    const EXPOSED: &str = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Retry-After";
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
}

/// `2020-12-02T10:13:19+00:00`
///
/// The form in which the API writes dates.
#[cfg(feature = "upload-tokens")]
pub(super) fn date(wall: std::time::SystemTime) -> String {
    let time = time::OffsetDateTime::from(wall);
    let (hour, minute, second) = time.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}+00:00", time.date())
}
