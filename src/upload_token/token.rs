//! Upload tokens as the API gives them, and the secret in them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use crate::{
    credentials::secret,
    error::{Error, ErrorKind},
};

secret! {
    /// An upload token itself: it may upload videos into the account, and nothing else, without any other credential.
    ///
    /// It works any number of times, for whoever holds it, until it expires or is deleted
    /// (<https://docs.api.video/vod/delegated-upload-tokens>). In an upload it is a part of the
    /// URI, so it stands in the logs of whatever logs URIs.
    UploadTokenSecret
}

impl UploadTokenSecret {
    /// It is put into URIs as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if it would change the URI, or be changed by it. The token is
    /// not quoted.
    pub(super) fn check(&self) -> Result<(), Error> {
        let text = self.expose();
        if !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Configuration,
            "the upload token is empty or contains something other than letters, digits, `-` and `_`; check where \
             it is read from (files often end with a newline)",
        ))
    }
}

/// An upload token and what the API knows of it.
///
/// `Debug` shows when it expires and not the token.
#[derive(Clone)]
pub struct UploadToken {
    token: UploadTokenSecret,
    ttl: Option<Duration>,
    created_at: Option<SystemTime>,
    expires_at: Option<SystemTime>,
}

impl UploadToken {
    /// The token itself: what to give to a browser or a camera.
    #[must_use]
    pub fn secret(&self) -> &UploadTokenSecret {
        &self.token
    }

    /// How long it lives, from its creation on. `None` means for ever.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// When it was created, by the API's clock. `None` if the API did not say so in a readable way.
    #[must_use]
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at
    }

    /// When it expires, by the API's clock. `None` means never, or that the API did not say so in a readable way;
    /// [`ttl`](Self::ttl) tells the two apart.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }
}

impl fmt::Debug for UploadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadToken")
            .field("ttl", &self.ttl)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A token as the API writes it. All but the token may be missing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    token: Zeroizing<String>,
    #[serde(default)]
    ttl: Option<u64>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    expires_at: Option<String>,
}

impl TryFrom<Wire> for UploadToken {
    type Error = Error;

    fn try_from(wire: Wire) -> Result<Self, Error> {
        let token = UploadTokenSecret::from(wire.token);
        token.check().map_err(|_| super::response::unreadable())?;
        let ttl = wire.ttl.filter(|ttl| *ttl > 0).map(Duration::from_secs);
        let created_at = wire.created_at.as_deref().and_then(date);
        let said = wire.expires_at.as_deref().and_then(date);
        let expires_at = said.or_else(|| created_at?.checked_add(ttl?));
        Ok(Self {
            token,
            ttl,
            created_at,
            expires_at,
        })
    }
}

/// Reads a date of the API, `2020-12-02T10:13:19+00:00`, from 1970 on; fractions of a second are left out.
fn date(text: &str) -> Option<SystemTime> {
    let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let seconds = u64::try_from(date.unix_timestamp()).ok()?;
    // Not every system's clock reaches as far as a date does.
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_with_any_offset_and_nonsense_is_not() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2020-12-02T10:13:19+00:00", 1_606_903_999),
            ("2020-12-02T11:13:19.123456+01:00", 1_606_903_999),
            ("2020-12-02t05:43:19-04:30", 1_606_903_999),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2094-01-01T00:00:00Z", 3_913_142_400),
        ] {
            assert_eq!(
                date(text),
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "2020",
            "2020-12-02",
            "2020-13-02T10:13:19Z",
            "2020-12-02T10:13:19",
            "1969-12-31T23:59:59Z",
            "2020-12-02T10:13:19+1",
            "0000-01-01T00:00:00Z",
            "2020-02-30T00:00:00Z",
            "é020-12-02T10:13:19Z",
        ] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
