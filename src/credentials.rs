//! Credentials, and the environments that they belong to.
//!
//! A secret is a type of its own from the moment it enters the crate: it can't be printed, compared
//! with another kind of secret, or written out by serde. It leaves through `expose`, a word that
//! can be searched for.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};

/// A string that is never printed and whose bytes are wiped when the last copy is dropped.
///
/// Behind an [`Arc`], so that clones share one copy: what is not copied need not be wiped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes over a string that is wiped already. A plain `String` that was given before stays
    /// where it was.
    pub(crate) fn new(value: Zeroizing<String>) -> Self {
        Self(Arc::new(value))
    }

    /// The bare text. Each use is a place to look at in a review.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Secrets travel in headers and JSON: a stray newline or an empty variable is found here, not there.
    ///
    /// The text itself is not part of the error.
    pub(crate) fn check(&self, name: &str) -> Result<(), Error> {
        let advice = if self.0.is_empty() {
            "is empty; leave it out or check where it is read from"
        } else if self.0.bytes().any(|byte| !byte.is_ascii_graphic()) {
            "contains white space or a character outside ASCII; trim it (files often end with a newline)"
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Configuration,
            format!("the {name} {advice}"),
        ))
    }
}

/// Makes a newtype around a [`Secret`]. A macro rather than a generic type, so that each kind has
/// its own name in signatures and none can stand where another is wanted.
macro_rules! secret {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// `Debug` is redacted, there is no `Display`, and the bytes are wiped from memory when the last clone
        /// is dropped.
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name($crate::credentials::Secret);

        impl $name {
            /// The secret itself, to be handed on with care: what is made of it is neither redacted
            /// nor wiped.
            #[must_use]
            pub fn expose(&self) -> &str {
                self.0.expose()
            }

            /// For the checks of this crate, which are the same for all secrets.
            #[allow(dead_code, reason = "not every secret is checked or read from a response")]
            pub(crate) fn secret(&self) -> &$crate::credentials::Secret {
                &self.0
            }
        }

        impl From<zeroize::Zeroizing<String>> for $name {
            fn from(value: zeroize::Zeroizing<String>) -> Self {
                Self($crate::credentials::Secret::new(value))
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                zeroize::Zeroizing::new(value).into()
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                String::from(value).into()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}
pub(crate) use secret;

secret! {
    /// An api.video API key. Anyone who holds it can do everything that the account can.
    ///
    /// It belongs to one [`Environment`]: a key of the other gets a 401
    /// (<https://docs.api.video/reference/api/Authentication>). To keep it out of a process, give
    /// that process a [`RefreshToken`] or a store instead.
    ApiKey
}

secret! {
    /// A refresh token: it is presented for the next pair of tokens, once.
    ///
    /// Each refresh brings a new one, and the one sent is dead then
    /// (<https://docs.api.video/reference/api/Authentication>). So a copy is worth something only
    /// until its source renews, and two programs that start from the same one end each other's
    /// pair.
    RefreshToken
}

/// What a token source can renew with; see [`ApiVideoAuthLayer::set_credentials`].
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, Credentials};
///
/// // Built before anybody has logged in.
/// let layer = ApiVideoAuthLayer::builder().build()?;
/// // A person has logged in elsewhere: from now on, requests find a way.
/// layer.set_credentials(Credentials::new().refresh_token("test-only-refresh-token"))?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// It replaces both credentials: what it leaves out is no longer held. One that is empty, or has
/// white space in it, is refused when it is handed over, not here.
///
/// [`ApiVideoAuthLayer::set_credentials`]: crate::ApiVideoAuthLayer::set_credentials
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub(crate) api_key: Option<ApiKey>,
    pub(crate) refresh_token: Option<RefreshToken>,
}

impl Credentials {
    /// No credential yet. A source with none fails with
    /// [`ErrorKind::NoCredentials`] when it needs a token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an API key: it logs in when there is no refresh token that works, or always with
    /// [`GrantPreference::ApiKey`].
    #[must_use]
    pub fn api_key(mut self, key: impl Into<ApiKey>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Adds a refresh token. Without a store it is presented at the next renewal; with one it is a
    /// *seed*, used only if the store holds no pair that works and no API key can log in.
    #[must_use]
    pub fn refresh_token(mut self, token: impl Into<RefreshToken>) -> Self {
        self.refresh_token = Some(token.into());
        self
    }

    /// Finds what no server would take, before it is taken over: an environment variable that is
    /// empty, a file that ends with a newline.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.api_key
            .as_ref()
            .map_or(Ok(()), |key| key.secret().check("API key"))?;
        self.refresh_token
            .as_ref()
            .map_or(Ok(()), |token| token.secret().check("refresh token"))
    }
}

/// Which credential a renewal presents for the next pair of tokens.
///
/// The default keeps logins rare: a login may end the refresh tokens that other processes hold
/// (api.video leaves the scope open), a refresh touches nothing but its own pair. Choose `ApiKey`
/// where refresh tokens are of no use, in a job that runs for a minute for example.
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, GrantPreference};
///
/// let layer = ApiVideoAuthLayer::builder()
///     .api_key("test-only-key")
///     .grant_preference(GrantPreference::ApiKey)
///     .build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantPreference {
    /// Spend the refresh token; fall back to the API key if one is held and the refresh token was
    /// refused or may be spent.
    #[default]
    RefreshToken,
    /// Log in with the API key each time and never spend a refresh token, not even a given one.
    /// Without a key there is nothing to renew with.
    ApiKey,
}

/// Which of api.video's two environments to talk to. An API key belongs to one of them, and so does
/// a stored pair: stores keep the two apart by the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Environment {
    /// `https://ws.api.video`
    #[default]
    Production,
    /// `https://sandbox.api.video`: free, videos are watermarked and deleted after a day.
    Sandbox,
}

impl Environment {
    /// The origin of the environment's API, which the builder's `base_url` takes as well.
    ///
    /// ```
    /// use apivideo_auth::Environment;
    ///
    /// assert_eq!(Environment::Sandbox.base_url(), "https://sandbox.api.video");
    /// assert_eq!(Environment::default().base_url(), "https://ws.api.video");
    /// ```
    #[must_use]
    pub fn base_url(self) -> &'static str {
        match self {
            Self::Production => "https://ws.api.video",
            Self::Sandbox => "https://sandbox.api.video",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        })
    }
}
