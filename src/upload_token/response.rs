//! What the API answers, read and judged.

use std::{error::Error as StdError, fmt};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::{BoxError, Service, ServiceExt};
use zeroize::Zeroizing;

use crate::{
    clock::system_now,
    error::{Error, ErrorKind},
    response::{self, Class},
};

/// A page of a hundred tokens has 20 KiB, a video with long descriptions not much more.
const RESPONSE_LIMIT: usize = 1024 * 1024;

/// What the API said when it declined a call: its problem document.
///
/// It is found in the chain of sources of an [`Error`]; the error's own text does not quote it.
#[derive(Clone)]
pub struct Problem {
    status: StatusCode,
    kind: String,
    title: String,
    name: String,
}

impl Problem {
    /// Whatever is no text in it, or not there, counts as empty.
    fn read(status: StatusCode, body: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| document[name].as_str().unwrap_or_default();
        let path = text("type")
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .trim_end_matches('/');
        let kind = path.rsplit('/').next().unwrap_or_default().to_owned();
        Self {
            status,
            kind,
            title: text("title").to_owned(),
            name: text("name").to_owned(),
        }
    }

    /// The problem behind an error, if the API has answered with one.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        let mut next = Some(error as &(dyn StdError + 'static));
        while let Some(error) = next {
            if let Some(problem) = error.downcast_ref() {
                return Some(problem);
            }
            next = error.source();
        }
        None
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The last part of the `type`, such as `resource-not-found`. Empty where the response was no problem document.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What the API says for people to read. Empty where the response was no problem document.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Which parameter it is about. Empty if about none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the status is {}", self.status.as_u16())
    }
}

impl StdError for Problem {}

/// Sends a request and reads the response, if it is a good one, in full.
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

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // The parser's own error may quote the body: it is not kept.
    serde_json::from_slice(body).map_err(|_| unreadable())
}

pub(super) fn unreadable() -> Error {
    Error::new(
        ErrorKind::Ambiguous,
        "the API's response is not the JSON it should be",
    )
}

/// An error of the service: ours stays as it is.
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
