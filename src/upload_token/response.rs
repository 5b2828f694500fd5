//! Sends a request, and says what the API's response means.
//!
//! The classes of statuses are those of [`crate::response`]; here they become errors that a caller
//! of an upload understands.

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

/// How many letters of the API's own words are quoted.
const QUOTED: usize = 200;

/// How many bytes of a response are read. A page of a hundred tokens has 20 KiB, a video with long
/// descriptions not much more.
const RESPONSE_LIMIT: usize = 1024 * 1024;

/// A call that brought no success.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) effect: Effect,
}

/// What a call that brought no success may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The API was never reached, or asked for a pause before it began.
    Nothing,
    /// The response says no, but it need not be the API's: what stands in between may say it after all was done.
    Declined,
    /// Nobody says.
    Unknown,
}

/// Sends a request and reads the response, if it is a good one, in full.
///
/// The bytes are wiped when they are dropped: a list of tokens is a list of secrets.
///
/// # Errors
///
/// See [the module](super#errors). What the API said is the source of the error, never its text.
pub(super) async fn send<S, B, R>(
    mut service: S,
    request: Request<B>,
) -> Result<(StatusCode, Zeroizing<Vec<u8>>), Failed>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let unready = |error: S::Error| Failed {
        error: failed(error.into()).error,
        effect: Effect::Nothing,
    };
    let called = service.ready().await.map_err(unready)?.call(request);
    let response = called.await.map_err(|error| failed(error.into()))?;
    let (head, body) = response.into_parts();
    let body = response::read(body, RESPONSE_LIMIT).await;
    if !head.status.is_success() {
        let body = body.unwrap_or_default();
        return Err(declined(head.status, &head.headers, &body));
    }
    let lost = |error| Failed {
        error,
        effect: Effect::Unknown,
    };
    Ok((head.status, body.map_err(lost)?))
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
fn failed(error: BoxError) -> Failed {
    match error.downcast::<Error>() {
        Ok(error) => Failed {
            // There was no token, so that nothing was sent, unless an error of a request was left out.
            effect: match response::is_broken_off(&error) {
                true => Effect::Unknown,
                false => Effect::Nothing,
            },
            error: *error,
        },
        Err(error) => {
            let (kind, message, effect) = match response::never_sent(&*error) {
                true => {
                    let message = "the API could not be reached";
                    (ErrorKind::Unavailable, message, Effect::Nothing)
                }
                false => (ErrorKind::Ambiguous, "the call broke off", Effect::Unknown),
            };
            Failed {
                error: Error::with_source(kind, message, error),
                effect,
            }
        }
    }
}

/// A response that is no success. The wait of a 429 goes along, for whoever sends again.
fn declined(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failed {
    let problem = Problem::read(status, body);
    let class = response::class(status);
    let (kind, message) = match status.as_u16() {
        // The API's documents give the same problem as 400 and as 401.
        400 | 401 if problem.kind().starts_with("authentication") => {
            let message = match problem.kind().contains("upload") {
                true => "the API knows no such upload token; it was deleted, or has expired",
                false => "the API refused the credentials",
            };
            (ErrorKind::Refused, message)
        }
        401 => (ErrorKind::Refused, "the API refused the credentials"),
        403 if problem.kind() == "authorization-suspended-account" => {
            (ErrorKind::Suspended, "the api.video account is suspended")
        }
        404 => (
            ErrorKind::NotFound,
            "the API knows no such upload token or video",
        ),
        429 => (ErrorKind::Unavailable, "the API asks for a pause"),
        _ => match class {
            Class::Ambiguous => (ErrorKind::Ambiguous, "a gateway lost the API's response"),
            Class::Transient => (ErrorKind::Unavailable, "the API can't serve now"),
            Class::Other => (ErrorKind::Rejected, "the API declined the call"),
        },
    };
    let wait = response::wait(status, headers, system_now().wall);
    Failed {
        error: Error::with_source(kind, message, problem).after(wait),
        // A 5xx may come after all was done, and a 3xx from anybody on the way.
        effect: match class {
            _ if status == StatusCode::TOO_MANY_REQUESTS => Effect::Nothing,
            Class::Other => Effect::Declined,
            _ => Effect::Unknown,
        },
    }
}

/// The error with what the API said in its text, for people: the status, and of a problem its title and name.
pub(super) fn quoting(error: Error) -> Error {
    let Some(problem) = Problem::of(&error).cloned() else {
        return error;
    };
    let (title, name) = (shown(problem.title()), shown(problem.name()));
    let mut text = format!("{error}: status {}", problem.status().as_u16());
    if !title.is_empty() {
        text += &format!(", {title}");
    }
    if !name.is_empty() {
        text += &format!(" ({name})");
    }
    let wait = error.retry_after();
    Error::with_source(error.kind(), text, problem).after(wait)
}

/// The API's words, as far as they may be printed: no control characters, not without end, and no word that may be a
/// token. Those are long, with digits or capitals within; the words of the API's titles are not, or have neither.
fn shown(text: &str) -> String {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let is_odd = |letter: char| letter.is_ascii_digit() || letter.is_ascii_uppercase();
    let may_be_secret = |word: &str| word.len() >= 20 && word.chars().skip(1).any(is_odd);
    let parts = text.split_inclusive(|letter| !is_letter(letter));
    let shown: String = parts
        .map(|part| {
            let word = part.trim_end_matches(|letter| !is_letter(letter));
            match may_be_secret(word) {
                true => part.replacen(word, "…", 1),
                false => part.to_owned(),
            }
        })
        .collect();
    let printable = shown.chars().filter(|letter| !letter.is_control());
    printable.take(QUOTED).collect()
}
