//! Credentials, and the environments that they belong to.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};

/// A string that is never printed and whose bytes are wiped when the last copy is dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub(crate) fn new(value: Zeroizing<String>) -> Self {
        Self(Arc::new(value))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Secrets travel in headers and JSON: a stray newline or an empty variable is found here, not there.
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

macro_rules! secret {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// `Debug` is redacted, there is no `Display`, and the bytes are wiped from memory when the last clone
        /// is dropped.
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name($crate::credentials::Secret);

        impl $name {
            /// The secret itself, to be handed on with care.
            #[must_use]
            pub fn expose(&self) -> &str {
                self.0.expose()
            }

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
    ApiKey
}

secret! {
    /// A refresh token: it is presented for the next pair of tokens, once.
    RefreshToken
}

/// What a token source can renew with; see [`ApiVideoAuthLayer::set_credentials`].
///
/// [`ApiVideoAuthLayer::set_credentials`]: crate::ApiVideoAuthLayer::set_credentials
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub(crate) api_key: Option<ApiKey>,
    pub(crate) refresh_token: Option<RefreshToken>,
}

impl Credentials {
    /// No credential yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an API key.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<ApiKey>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Adds a refresh token.
    #[must_use]
    pub fn refresh_token(mut self, token: impl Into<RefreshToken>) -> Self {
        self.refresh_token = Some(token.into());
        self
    }

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantPreference {
    /// Spend the refresh token; fall back to the API key if one is held.
    #[default]
    RefreshToken,
    /// Log in with the API key each time and never spend a refresh token, not even a given one.
    ApiKey,
}

/// Which of api.video's two environments to talk to. An API key belongs to one of them.
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
    /// The origin of the environment's API.
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
