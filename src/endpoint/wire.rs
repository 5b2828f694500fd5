//! The server's JSON and statuses; nothing else knows them. The facts are from the API's reference
//! (<https://docs.api.video/reference/api/Authentication>).
//!
//! No field of a response is declared required there, and its pages contradict each other on the
//! status of a refusal (400 or 401). So this file reads whatever makes sense and takes neither for
//! granted.

use std::{
    error::Error as StdError,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tower::BoxError;
use zeroize::Zeroizing;

use super::{Grant, Outcome, TokenResponse};
use crate::{
    credentials::{Environment, RefreshToken},
    error::{Error, ErrorKind},
    origin::Origin,
    problem::Problem,
    response::{self, Class, Text},
    token::AccessToken,
};

/// Assumed where the API states no readable lifetime: short enough to do little harm, long enough not to
/// hammer the endpoint. If the token dies earlier, a 401 tells.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(300);

/// No lifetime above this is believed: api.video's tokens live for an hour.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Path and body of a token call: `{"refreshToken": "…"}` or `{"apiKey": "…"}`. Written into a
/// buffer of its final size, which is wiped afterwards.
pub(super) fn request(grant: &Grant) -> (&'static str, Zeroizing<Vec<u8>>) {
    /// The one field of the request's JSON, by the API's name for it.
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    enum Form<'a> {
        ApiKey(&'a str),
        RefreshToken(&'a str),
    }
    let (path, form, length) = match grant {
        Grant::RefreshToken(token) => (
            "/auth/refresh",
            Form::RefreshToken(token.expose()),
            token.expose().len(),
        ),
        Grant::ApiKey(key) => (
            "/auth/api-key",
            Form::ApiKey(key.expose()),
            key.expose().len(),
        ),
    };
    // Room for every character to be escaped: growing would leave a copy behind.
    let mut body = Zeroizing::new(Vec::with_capacity(2 * length + 64));
    serde_json::to_writer(&mut *body, &form).expect("strings always serialize into memory");
    (path, body)
}

/// A call that surely never went out: the credential is as good as before. Where client and server can't agree on TLS, no
/// time mends it.
pub(super) fn not_sent(api: &Origin, error: BoxError) -> Outcome {
    let (kind, message) = match tls_mismatch(&*error) {
        Some(remedy) => (
            ErrorKind::Configuration,
            format!("the token endpoint at {api} {remedy}"),
        ),
        None => (
            ErrorKind::Unavailable,
            format!("the token endpoint at {api} could not be reached"),
        ),
    };
    Outcome::NotSent(Error::with_source(kind, message, error))
}

/// A call that was sent, and whose response never came.
pub(super) fn broke_off(api: &Origin, grant: &Grant, error: BoxError) -> Outcome {
    // The first bytes of a TLS server are no HTTP. Words again: they are hyper's.
    let is_tls = root(&*error).to_string().contains("invalid HTTP version");
    let hint = if is_tls {
        "; does it speak TLS? Then give `base_url` with `https://`"
    } else {
        ""
    };
    let message = format!("the token call to {api} broke off{hint}");
    lost(
        grant,
        Error::with_source(ErrorKind::Ambiguous, message, error),
    )
}

fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut root = error;
    while let Some(next) = root.source() {
        root = next;
    }
    root
}

/// What to do where one side does TLS and the other does not. The errors of TLS libraries are no types of ours, so it is
/// their words that tell: those of hyper-util, rustls and OpenSSL. In other words it is an outage like any.
fn tls_mismatch(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let text = root(error).to_string();
    if text.contains("scheme is not http") {
        Some(
            "needs TLS, which this client can't do; build it over an HTTPS connector, such as that of hyper-rustls",
        )
    } else if text.contains("InvalidContentType") || text.contains("wrong version number") {
        Some("does not speak TLS; check the port of `base_url`, or give it with `http://`")
    } else {
        None
    }
}

/// A call that was sent and brought nothing: with a refresh token, it may be spent; a login does no harm.
pub(super) fn lost(grant: &Grant, error: Error) -> Outcome {
    match grant {
        Grant::RefreshToken(_) => Outcome::Ambiguous {
            error,
            refresh_token: None,
        },
        Grant::ApiKey(_) => Outcome::Transient { error, wait: None },
    }
}

/// Puts a response into its class. Status first, then the problem's type.
///
/// A refusal needs both: the right status and a problem type that this crate knows. A proxy's own
/// 401, or a login page of a hotel, must not end a refresh token. The body is `Err` where it broke
/// off or was too long.
pub(super) fn outcome(
    api: &Origin,
    grant: &Grant,
    status: StatusCode,
    headers: &HeaderMap,
    body: Result<Zeroizing<Vec<u8>>, Error>,
    now: SystemTime,
) -> Outcome {
    if status.is_success() {
        return match body {
            Ok(body) => pair(api, grant, &body),
            Err(error) => {
                let message = format!("the response of the token endpoint at {api} can't be read");
                lost(grant, Error::with_source(error.kind(), message, error))
            }
        };
    }
    let problem = match (status.as_u16(), &body) {
        (400 | 401 | 403, Ok(body)) => meaning(&Problem::read(status, body)),
        _ => Meaning::Unknown,
    };
    let hint = match status.as_u16() {
        300..=399 => {
            "; no redirect is followed with a credential; is `base_url` right, or a login page in between?"
        }
        404 => "; is `base_url` right?",
        400 | 401 | 403 => " for no reason that the API gives; is a proxy in between?",
        _ => "",
    };
    // With its name: not everybody knows the numbers.
    let text = format!("the token endpoint at {api} answered {status}{hint}");
    match (status.as_u16(), problem) {
        (400 | 401, Meaning::Refusal) => Outcome::Refused(Error::new(
            ErrorKind::Refused,
            match grant {
                Grant::RefreshToken(_) => format!("the refresh token was refused by {api}"),
                Grant::ApiKey(_) => key_refused(api),
            },
        )),
        (403, Meaning::Suspension) => Outcome::Suspended(Error::new(
            ErrorKind::Suspended,
            format!("the account is suspended, says {api}; only api.video can end that"),
        )),
        (400, Meaning::Misunderstanding) => Outcome::Misunderstood(Error::new(
            ErrorKind::Protocol,
            "the API did not understand the token call, which is a bug of apivideo-auth",
        )),
        // A 4xx without a known problem is a proxy's, which did not let the call through.
        (code, _)
            if matches!(code, 400 | 401 | 403 | 404)
                || response::class(status) == Class::Transient =>
        {
            Outcome::Transient {
                error: Error::new(ErrorKind::Unavailable, text),
                wait: response::wait(status, headers, now),
            }
        }
        _ => lost(grant, Error::new(ErrorKind::Ambiguous, text)),
    }
}

/// A key of the other environment is refused like one that never was.
fn key_refused(api: &Origin) -> String {
    let hint = [
        (
            Environment::Production,
            "a key of the sandbox needs `Environment::Sandbox`",
        ),
        (
            Environment::Sandbox,
            "a key of production needs `Environment::Production`",
        ),
    ]
    .into_iter()
    .find(|(environment, _)| environment.base_url() == api.to_string())
    .map_or(
        "is it one of the sandbox, or of production?",
        |(_, hint)| hint,
    );
    format!("the API key was refused by {api}; {hint}")
}

/// Reads a pair out of a 2xx.
///
/// Every field is optional and read on its own, so that an odd one does not cost the others.
/// Without a usable access token the refresh token is kept all the same: the one that was sent is
/// spent by now, and this may be all that is left. A `token_type` other than `Bearer`, in whatever
/// case, is no token of ours.
fn pair(api: &Origin, grant: &Grant, body: &[u8]) -> Outcome {
    /// The fields of a pair, none of them required.
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Pair {
        token_type: Text,
        access_token: Text,
        refresh_token: Text,
        expires_in: Text,
    }
    // The parser's own error may quote the body: it is not kept.
    let Ok(pair) = serde_json::from_slice::<Pair>(body) else {
        return lost(
            grant,
            Error::new(
                ErrorKind::Ambiguous,
                format!(
                    "the response of the token endpoint at {api} is not the JSON it should be; is a proxy or a login page \
                     in between?"
                ),
            ),
        );
    };
    let token = |text: Text| {
        text.0
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
    };
    let refresh_token = token(pair.refresh_token).map(RefreshToken::from);
    let bearer = pair
        .token_type
        .0
        .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    match token(pair.access_token).filter(|_| bearer) {
        Some(access_token) => Outcome::Granted(TokenResponse {
            access_token: AccessToken::from(access_token),
            refresh_token,
            lifetime: lifetime(pair.expires_in.0.as_deref().map(String::as_str)),
        }),
        None => {
            let error = Error::new(
                ErrorKind::Ambiguous,
                format!("the response of the token endpoint at {api} has no usable access token"),
            );
            match refresh_token {
                Some(_) => Outcome::Ambiguous {
                    error,
                    refresh_token,
                },
                None => lost(grant, error),
            }
        }
    }
}

/// Whole seconds out of a number, a digit string or a fraction, rounded down: a token that is
/// believed to live longer than it does costs a 401. Absent, zero, negative or unreadable,
/// [`ASSUMED_LIFETIME`].
fn lifetime(expires_in: Option<&str>) -> Duration {
    let seconds = expires_in
        .and_then(|text| text.trim().parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds >= 1.0);
    match seconds {
        // The order matters: what is above the limit never reaches the conversion.
        Some(seconds) if seconds >= MAX_LIFETIME.as_secs_f64() => MAX_LIFETIME,
        Some(seconds) => Duration::from_secs_f64(seconds.floor()),
        None => ASSUMED_LIFETIME,
    }
}

/// What a problem says of a token call.
enum Meaning {
    /// The credential is invalid.
    Refusal,
    /// The account is suspended, whatever the credential.
    Suspension,
    /// The API could not read our payload.
    Misunderstanding,
    /// Nothing that this crate knows: it may be another party's.
    Unknown,
}

/// The kinds are written in two styles: `authentication-invalid-api-key` and
/// `authenticationinvalid_credentials`. Letters and digits are all that is compared.
fn meaning(problem: &Problem) -> Meaning {
    let name: String = problem
        .kind()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    match name.as_str() {
        "authenticationinvalidapikey"
        | "authenticationinvalidrefreshtoken"
        | "authenticationinvalidcredentials"
        | "authenticationinvalidusercredentials" => Meaning::Refusal,
        "authorizationsuspendedaccount" => Meaning::Suspension,
        "invalidpayload" | "attributerequired" => Meaning::Misunderstanding,
        _ => Meaning::Unknown,
    }
}
