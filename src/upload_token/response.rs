//! Sends a request, and says what the API's response means.
//!
//! The classes of statuses are those of [`crate::response`]; here they become errors that a caller
//! of an upload understands.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use serde::de::DeserializeOwned;
use tower::{BoxError, Service, ServiceExt};
use zeroize::Zeroizing;

use crate::{
    clock::system_now,
    error::{Error, ErrorKind},
    problem::Problem,
    response::{self, Class},
};

/// How many bytes of a response are read. A page of a hundred tokens has 20 KiB, a video with long
/// descriptions not much more.
const RESPONSE_LIMIT: usize = 1024 * 1024;

/// Sends a request and reads the response, if it is a good one, in full.
///
/// The bytes are wiped when they are dropped: a list of tokens is a list of secrets.
///
/// # Errors
///
/// See [the module](super#errors). What the API said is the source of the error, never its text.
pub(super) async fn send<S, B, R>(
    service: S,
    request: Request<Bytes>,
) -> Result<Zeroizing<Vec<u8>>, Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: From<Bytes>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let response = service
        .oneshot(request.map(B::from))
        .await
        .map_err(|error| failed(error.into()))?;
    let (head, body) = response.into_parts();
    let body = response::read(body, RESPONSE_LIMIT).await;
    if head.status.is_success() {
        body
    } else {
        Err(declined(
            head.status,
            &head.headers,
            &body.unwrap_or_default(),
        ))
    }
}

/// Reads JSON. What does not fit leaves open what the API has done, so it is ambiguous and not a
/// refusal.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // The parser's own error may quote the body: it is not kept.
    serde_json::from_slice(body).map_err(|_| unreadable())
}

/// A 2xx that says nothing we understand.
pub(super) fn unreadable() -> Error {
    Error::new(
        ErrorKind::Ambiguous,
        "the API's response is not the JSON it should be",
    )
}

/// An error of the service: ours stays as it is, so that a caller sees why no token could be had.
fn failed(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) if response::never_sent(&*error) => Error::with_source(
            ErrorKind::Unavailable,
            "the API could not be reached",
            error,
        ),
        Err(error) => Error::with_source(ErrorKind::Ambiguous, "the call broke off", error),
    }
}

/// A response that is no success. The wait of a 429 goes along, for whoever sends again.
fn declined(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let problem = Problem::read(status, body);
    let (kind, message) = match status.as_u16() {
        401 if problem.kind().contains("upload-token") => (
            ErrorKind::Refused,
            "the API knows no such upload token; it was deleted, or has expired",
        ),
        401 => (ErrorKind::Refused, "the API refused the credentials"),
        403 if problem.kind() == "authorization-suspended-account" => {
            (ErrorKind::Suspended, "the api.video account is suspended")
        }
        404 => (
            ErrorKind::NotFound,
            "the API knows no such upload token or video",
        ),
        429 => (ErrorKind::Unavailable, "the API asks for a pause"),
        _ => match response::class(status) {
            Class::Ambiguous => (ErrorKind::Ambiguous, "a gateway lost the API's response"),
            Class::Transient => (ErrorKind::Unavailable, "the API can't serve now"),
            Class::Other => (ErrorKind::Rejected, "the API declined the call"),
        },
    };
    Error::with_source(kind, message, problem).after(response::wait(
        status,
        headers,
        system_now().wall,
    ))
}
