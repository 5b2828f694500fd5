//! The headers by which api.video's own clients say who makes a call: `AV-Origin-Client` names this crate, and
//! `AV-Origin-App` the program that uses it.
//!
//! They are on token calls and on the calls that the crate makes itself. Other requests are the user's own.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{Error, ErrorKind};

const CLIENT: HeaderName = HeaderName::from_static("av-origin-client");
const APPLICATION: HeaderName = HeaderName::from_static("av-origin-app");

/// The API takes digits only, so a pre-release is told by its plain number.
const THIS_CRATE: &str = concat!(
    "apivideo-auth:",
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR"),
    ".",
    env!("CARGO_PKG_VERSION_PATCH")
);

/// Marks a call as one of this crate's own.
pub(crate) fn add_client(headers: &mut HeaderMap) {
    headers.insert(CLIENT, HeaderValue::from_static(THIS_CRATE));
}

/// Names the program, if it has a name, on a call of this crate's own; all others are left as they are.
pub(crate) fn add_application(headers: &mut HeaderMap, application: Option<&HeaderValue>) {
    if let Some(application) = application
        && headers.get(CLIENT).is_some_and(|it| it == THIS_CRATE)
    {
        headers.insert(APPLICATION, application.clone());
    }
}

/// `name:version` by the rule of the API's official clients.
///
/// # Errors
///
/// [`ErrorKind::Configuration`], with the rule.
pub(crate) fn application(name: &str, version: &str) -> Result<HeaderValue, Error> {
    let name_fits = (1..=50).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let number = |part: &str| {
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let version_fits = version.split('.').count() <= 3 && version.split('.').all(number);
    let value = HeaderValue::try_from(format!("{name}:{version}")).ok();
    value.filter(|_| name_fits && version_fits).ok_or_else(|| {
        Error::new(
            ErrorKind::Configuration,
            "application takes a name of 1 to 50 letters, digits, `_` or `-` and a version like 1.2.3 with up to three \
             digits in each part",
        )
    })
}
