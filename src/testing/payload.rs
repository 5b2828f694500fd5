//! What requests bring: the objects in their bodies, and their bearers.

use bytes::Bytes;
use http::{header, request};
use serde_json::{Map, Value};

use super::responses::Refusal;

/// The object that a request brings, or its refusal: its type has to be given, as to a strict server.
pub(super) fn object(parts: &request::Parts, body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let essence = content_type
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .unwrap_or_default()
        .trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(("invalid-payload", "Content-Type"));
    }
    serde_json::from_slice(body).map_err(|_| ("invalid-payload", ""))
}

/// For the counts: the token that came, good or not.
pub(super) fn bearer(parts: &request::Parts) -> Option<&str> {
    parts
        .headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}
