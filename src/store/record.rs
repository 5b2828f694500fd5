//! The stored form of a pair: versioned JSON, the same in all stores.
//!
//! All that a process needs in order to go on is in here, and nothing that a store has to
//! understand. A newer form is refused rather than read in part: to write it back would lose what
//! is not known here.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Record, form::refuse_newer};
use crate::{
    credentials::RefreshToken,
    error::{Error, ErrorKind},
    token::AccessToken,
};

/// The form written here.
const FORM: u32 = 1;

/// What an encrypted record begins with, whatever its form.
pub(super) const SEALED: &[u8] = b"sealed:";

/// Says whether two secrets are the same without telling either.
///
/// A SHA-256, in full: the secrets have far more entropy than could be guessed, so no salt is
/// needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    pub(crate) fn of(secret: &str) -> Self {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(secret.as_bytes()) {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }
}

/// A record when it is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredTokens {
    /// Missing after a refresh that brought a refresh token alone, and after a log-out.
    pub(crate) access_token: Option<AccessToken>,
    pub(crate) refresh_token: Option<RefreshToken>,
    /// The whole lifetime of the access token: what is left of it is in the header, and never
    /// counts for more than this, whatever a clock says.
    pub(crate) lifetime: Duration,
    /// Whose pair it is: that of the key whose login began its family. A holder of another key neither uses it nor writes
    /// over it. `None` if it began with a seed: nobody knows whose that is.
    pub(crate) api_key: Option<Fingerprint>,
    /// The API itself asked for the cool-down in the header. One that only followed a failure is
    /// believed by those that have failed as well.
    pub(crate) pause_was_asked: bool,
}

/// The JSON. Whatever is missing has a default, so that fields can be added without a new form.
#[derive(Serialize, Deserialize)]
struct Form {
    form: u32,
    #[serde(default)]
    access_token: Option<Zeroizing<String>>,
    #[serde(default)]
    refresh_token: Option<Zeroizing<String>>,
    #[serde(default)]
    lifetime_ms: u64,
    #[serde(default)]
    api_key: Option<Fingerprint>,
    #[serde(default)]
    pause_was_asked: bool,
}

impl StoredTokens {
    /// Writes the record, in memory that is wiped and never grows.
    pub(crate) fn close(&self) -> Record {
        let text = |secret: &str| Zeroizing::new(secret.to_owned());
        let form = Form {
            form: FORM,
            access_token: self.access_token.as_ref().map(|token| text(token.expose())),
            refresh_token: self
                .refresh_token
                .as_ref()
                .map(|token| text(token.expose())),
            lifetime_ms: u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX),
            api_key: self.api_key.clone(),
            pause_was_asked: self.pause_was_asked,
        };
        // Tokens have no characters to escape; the rest is short. Growing would leave a copy behind.
        let length = [&form.access_token, &form.refresh_token]
            .into_iter()
            .flatten()
            .map(|t| t.len())
            .sum::<usize>();
        let mut bytes = Vec::with_capacity(2 * length + 1024);
        serde_json::to_writer(&mut bytes, &form)
            .expect("strings and numbers always serialize into memory");
        Record::new(bytes)
    }

    /// Reads a record; for its errors see [`read`].
    pub(crate) fn open(record: &Record) -> Result<Self, Error> {
        let form: Form = read(record, FORM)?;
        Ok(Self {
            access_token: form.access_token.map(AccessToken::from),
            refresh_token: form.refresh_token.map(RefreshToken::from),
            lifetime: Duration::from_millis(form.lifetime_ms),
            api_key: form.api_key,
            pause_was_asked: form.pause_was_asked,
        })
    }
}

/// Reads a record that is JSON with a form up to `known`.
///
/// # Errors
///
/// [`ErrorKind::StoreCorrupt`] if it is not what this crate writes, [`ErrorKind::StoreUnreadable`] if it was written by a
/// newer version or is encrypted: that one is sound, and must not be quarantined.
pub(super) fn read<T: DeserializeOwned>(record: &Record, known: u32) -> Result<T, Error> {
    /// Read first, and alone: a newer form may have fields that this one can't read.
    #[derive(Deserialize)]
    struct Envelope {
        form: u32,
    }
    // The parser's own error may quote the record: it is not kept.
    let corrupt = |_| {
        Error::new(
            ErrorKind::StoreCorrupt,
            "the stored record is not what this crate writes",
        )
    };
    if record.expose().starts_with(SEALED) {
        let message =
            "the stored record is encrypted; wrap the store in an `EncryptedStore` with its key";
        return Err(Error::new(ErrorKind::StoreUnreadable, message));
    }
    let Envelope { form } = serde_json::from_slice(record.expose()).map_err(corrupt)?;
    refuse_newer("the stored record", form, known)?;
    serde_json::from_slice(record.expose()).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g22_a_record_comes_back_as_it_was_and_an_odd_one_is_an_error() {
        let contents = StoredTokens {
            access_token: Some("test-only-access".into()),
            refresh_token: Some("test-only-refresh".into()),
            lifetime: Duration::from_secs(3600),
            api_key: Some(Fingerprint::of("test-only-key")),
            pause_was_asked: true,
        };
        let record = contents.close();
        assert!(!format!("{record:?} {contents:?}").contains("test-only"));
        let opened = StoredTokens::open(&record).expect("what was closed");
        assert_eq!(opened.access_token, contents.access_token);
        assert_eq!(opened.refresh_token, contents.refresh_token);
        assert_eq!(opened.lifetime, contents.lifetime);
        assert!(opened.pause_was_asked);

        for end in 0..record.expose().len() {
            let cut = Record::new(record.expose()[..end].to_vec());
            assert_eq!(
                StoredTokens::open(&cut).expect_err("cut").kind(),
                ErrorKind::StoreCorrupt
            );
        }
        for sound in [
            br#"{"form":2,"pair":"test-only"}"#.as_slice(),
            b"sealed:1test-only",
        ] {
            let error = StoredTokens::open(&Record::new(sound.to_vec())).expect_err("not for us");
            assert_eq!(error.kind(), ErrorKind::StoreUnreadable);
        }
    }
}
