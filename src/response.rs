//! What can be told of any response, and of an error in place of one.
//!
//! Token calls, uploads and the middleware judge responses by the same rules, so the rules are
//! here, once. All of it is pure but [`read`] and [`drain`].

use std::{
    error::Error as StdError,
    fmt::{self, Write as _},
    io,
    pin::pin,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BufMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use tokio::{runtime::Handle, time};
use tower::BoxError;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};

/// No server makes us wait longer than this. api.video counts its limits by the minute
/// (<https://docs.api.video/reference/too-many-requests>); a longer wait is a mistake somewhere on the
/// way.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// How much of a response that nobody wants is read. The API's problem documents are far below it.
const DRAIN_BYTES: usize = 16 * 1024;
/// For how long it is read. The rest of a short response is here already, or is not worth waiting
/// for.
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// Reads a body of at most `limit` bytes into memory that is wiped afterwards: it may hold tokens.
///
/// It sets no time limit: the caller has one for the whole call.
///
/// # Errors
///
/// [`ErrorKind::Ambiguous`] if the body breaks off or is too long: the call itself may have been
/// carried out.
pub(crate) async fn read<R>(body: R, limit: usize) -> Result<Zeroizing<Vec<u8>>, Error>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    let too_long = || {
        Error::new(
            ErrorKind::Ambiguous,
            format!("the response is over {} KiB", limit / 1024),
        )
    };
    let mut body = pin!(body);
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(too_long());
    }
    // Reserved once where the size is known, so that no copy of a token is left behind by growing. Where it is not,
    // responses with tokens are under 64 KiB.
    let expected = hint
        .exact()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(64 * 1024);
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected.min(limit)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Error::with_source(ErrorKind::Ambiguous, "the response broke off", error)
        })?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        if data.remaining() > limit - bytes.len() {
            return Err(too_long());
        }
        bytes.put(&mut data);
    }
    Ok(bytes)
}

/// What a status tells of a request that was not answered with success, whatever it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A gateway lost the response: the request may have been carried out.
    Ambiguous,
    /// The server can't serve it now, or not here: it was not carried out.
    Transient,
    /// It depends on the request.
    Other,
}

/// 504 and its kin come from a gateway that had passed the request on; 503 from one that had not,
/// or from the API itself before it did anything. 3xx is transient: somebody on the way (a captive
/// portal) answers in the API's place, and a redirect of a token call is never followed.
pub(crate) fn class(status: StatusCode) -> Class {
    match status.as_u16() {
        // 408 is a server's word that the request did not arrive; but a timeout layer below answers so as well, when the
        // request has long been carried out.
        408 | 502 | 504 | 520..=529 => Class::Ambiguous,
        300..=399 | 425 | 429 | 500..=599 => Class::Transient,
        _ => Class::Other,
    }
}

/// Reads a response that nobody wants to its end, so that its connection can be used again; unless that takes too
/// much or too long: then the connection is not worth it.
///
/// # Cancel safety
///
/// Dropping it drops the body, and with it the connection: nothing else is lost.
pub(crate) async fn drain<R: Body>(body: R) {
    let read = async {
        let mut body = pin!(body);
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Buf::remaining);
            let Some(rest) = left.checked_sub(length) else {
                return;
            };
            left = rest;
        }
    };
    // There is no timer without a runtime.
    if Handle::try_current().is_ok() {
        let _ = time::timeout(DRAIN_TIME, read).await;
    }
}

/// Whether only a client that is signed in is answered so. A gateway that limits rates, redirects to a captive portal or
/// has lost its upstream answers anybody.
///
/// So a 404 proves that a token was accepted, and a 403 does not.
pub(crate) fn is_from_signed_in(status: StatusCode) -> bool {
    status.is_success()
        || status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 408 | 425 | 429)
}

/// The error of a request without its own words, which quote a secret, for `reason`. Whether the request may have been carried out is
/// kept.
#[cfg(any(feature = "reqwest-middleware", feature = "upload-tokens"))]
pub(crate) fn without_words(error: &(dyn StdError + 'static), reason: &str) -> Error {
    if never_sent(error) {
        let message = format!("the API could not be reached; {reason}");
        return Error::new(ErrorKind::Unavailable, message);
    }
    let message = format!("the call broke off; {reason}");
    Error::with_source(ErrorKind::Ambiguous, message, BrokenOff)
}

/// Whether an error of ours is about a request that may have been carried out, and not about the token that it needs.
#[cfg(feature = "upload-tokens")]
pub(crate) fn is_broken_off(error: &Error) -> bool {
    error
        .source()
        .is_some_and(|source| source.is::<BrokenOff>())
}

/// What is left of an error that is left out.
#[cfg(any(feature = "reqwest-middleware", feature = "upload-tokens"))]
#[derive(Debug)]
struct BrokenOff;

#[cfg(any(feature = "reqwest-middleware", feature = "upload-tokens"))]
impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error that is left out")
    }
}

#[cfg(any(feature = "reqwest-middleware", feature = "upload-tokens"))]
impl StdError for BrokenOff {}

/// Whether an error proves that the request never left: it failed while connecting.
///
/// Only a proof counts. Taken for unsent by mistake, a refresh token would be presented twice, and
/// the server may take that for theft. So a client's own word (`is_connect`) goes before anything
/// deeper in the chain, and "unreachable" counts only where no client speaks: on an established
/// connection the same error comes after the request.
pub(crate) fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        #[cfg(feature = "reqwest-middleware")]
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            return error.is_connect();
        }
        if error.is::<tower::load_shed::error::Overloaded>() {
            // What `LoadShed` answers instead of waiting for readiness.
            return true;
        }
        // It leaves the error that it stands for out of the chain.
        #[cfg(feature = "reqwest-middleware")]
        if let Some(reqwest_middleware::Error::Reqwest(error)) = error.downcast_ref() {
            return error.is_connect();
        }
        // An unreachable host is no proof: an established connection may end so, after the request was sent.
        let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if error.downcast_ref().is_some_and(is_refused) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether an error, or what it comes from, is the timeout of a layer or of a client below us. Such
/// a timeout, shorter than the call's own, throws responses away that hold the only living refresh
/// token; a warning says so.
pub(crate) fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tower::timeout::error::Elapsed>() {
            return true;
        }
        #[cfg(feature = "reqwest-middleware")]
        if error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(reqwest::Error::is_timeout)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// What the server asks for in seconds, or as a date. `X-RateLimit-Retry-After` stands on every
/// response and means "wait" on a 429 only (<https://docs.api.video/reference/too-many-requests>).
/// `Retry-After` is a gateway's, and is believed on a 429 and a 503.
///
/// The longer of the two counts, up to [`MAX_WAIT`]. What can't be read is no wait.
pub(crate) fn wait(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let read = |name: &str| headers.get(name)?.to_str().ok();
    let seconds = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are still a wait, the longest.
        digits.then(|| {
            text.parse()
                .map_or(MAX_WAIT, Duration::from_secs)
                .min(MAX_WAIT)
        })
    };
    let reset = (status == StatusCode::TOO_MANY_REQUESTS)
        .then(|| read("x-ratelimit-retry-after"))
        .flatten();
    let asked = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
    .then(|| read(header::RETRY_AFTER.as_str()))
    .flatten();
    let date = |text: &str| {
        let date = httpdate::parse_http_date(text).ok()?;
        // The server's own clock, where it is told, keeps ours out of the sum.
        let now = read(header::DATE.as_str())
            .and_then(|text| httpdate::parse_http_date(text).ok())
            .unwrap_or(now);
        Some(
            date.duration_since(now)
                .unwrap_or(Duration::ZERO)
                .min(MAX_WAIT),
        )
    };
    reset
        .and_then(seconds)
        .max(asked.and_then(|text| seconds(text).or_else(|| date(text))))
}

/// The API's own keys and tokens are far longer.
const SHORTEST_SECRET: usize = 8;

/// Whether an error, or what it comes from, shows a secret when it is printed. Some clients quote the request.
///
/// Such an error is replaced, not mended: nobody can cut a secret out of an opaque error. A secret of a few letters is none: a
/// dummy like `x` is found in any text, and would hide what went wrong.
pub(crate) fn quotes(error: &(dyn StdError + 'static), secret: &str) -> bool {
    if secret.len() < SHORTEST_SECRET {
        return false;
    }
    let mut shown = format!("{error:?}");
    let mut next = Some(error);
    while let Some(error) = next {
        // Writing into a string does not fail; an error's own `Display` may, and then shows nothing.
        let _ = write!(shown, " {error}");
        next = error.source();
    }
    shown.contains(secret)
}

/// A string or a number as text, wiped after use; anything else reads as absent, so that one odd
/// field does not cost the others. A server that sends `"expires_in": "3600"` or `"name": null`
/// still gets its tokens read.
#[derive(Clone, Default)]
pub(crate) struct Text(pub(crate) Option<Zeroizing<String>>);

impl Text {
    /// Empty if absent.
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_deref().map_or("", String::as_str)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Takes every kind of value. Lists and maps are read to their end and dropped: the parser
        /// must arrive behind them.
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_str<E>(self, value: &str) -> Result<Text, E> {
                Ok(Text(Some(Zeroizing::new(value.to_owned()))))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Text, E> {
                Ok(Text(Some(Zeroizing::new(value.to_string()))))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Text, E> {
                Ok(Text(Some(Zeroizing::new(value.to_string()))))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Text, E> {
                Ok(Text(Some(Zeroizing::new(value.to_string()))))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                // With serde_json's `arbitrary_precision`, which any other crate may switch on, a number is a map with
                // this one key.
                let mut text = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == "$serde_json::private::Number" {
                        text = Some(Zeroizing::new(map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Text(text))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error as ValueError, MapDeserializer};

    use super::*;

    #[test]
    fn g12_a_number_of_arbitrary_precision_is_read() {
        let read = |map: &[(&'static str, &'static str)]| {
            Text::deserialize(MapDeserializer::<_, ValueError>::new(map.iter().copied()))
                .expect("anything can be read")
                .0
        };
        let number = read(&[("$serde_json::private::Number", "3600.0")]);
        assert_eq!(number.as_deref().map(String::as_str), Some("3600.0"));
        assert_eq!(read(&[("number", "3600.0")]), None);
    }

    #[test]
    fn g15_only_a_signed_in_api_accepts_a_token() {
        for (code, accepts) in [
            (200, true),
            (204, true),
            (400, true),
            (404, true),
            (302, false),
            (401, false),
            (403, false),
            (408, false),
            (429, false),
            (500, false),
            (502, false),
        ] {
            let status = StatusCode::from_u16(code).expect("a status");
            assert_eq!(is_from_signed_in(status), accepts, "{code}");
        }
    }
}
