//! Why a renewal ends without a token, and what is to follow: the texts of the errors that a person has to act on.

use std::time::Duration;

use super::{cool_down::Pause, store_session::SourceStore};
use crate::error::{Error, ErrorKind};

/// How often a store is looked at for another pair when there is nothing left to try.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Why a renewal ends without a token.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) pause: Pause,
}

impl Failure {
    pub(super) fn outage(error: Error) -> Self {
        Self {
            error,
            pause: Pause::Outage { asked: None },
        }
    }

    /// A refresh token that can't be marked in the store is not presented.
    pub(super) fn kept_back(error: &Error) -> Self {
        let message =
            "the store can't note that the refresh token is in use, so it was not presented";
        Self::outage(Error::with_source(error.kind(), message, error.clone()))
    }

    /// The API key was refused a short while ago, and is asked again after `wait`.
    pub(super) fn key_refused(refused: Option<Error>, wait: Duration, has_store: bool) -> Self {
        let error = || Error::new(ErrorKind::Refused, "the API key was refused");
        // A store may show another pair before.
        let wait = if has_store {
            wait.min(LOOK_AGAIN)
        } else {
            wait
        };
        Self {
            error: refused.unwrap_or_else(error),
            pause: Pause::For(wait),
        }
    }

    /// No credential is left, or none was there. See [`naming`](Self::naming) for an empty store.
    pub(super) fn nothing_left(is_refused: bool, has_store: bool) -> Self {
        let error = if is_refused {
            Error::new(
                ErrorKind::Refused,
                "the refresh token was refused (it was used before, has ended, or belongs to another environment) and no \
                 API key is held; log in again, and give the builder or `set_credentials` the new one",
            )
        } else {
            Error::new(
                ErrorKind::NoCredentials,
                "there is nothing to get a token with; give the builder an API key or a refresh token (renewal by API \
                 key needs the key), or call `set_credentials`",
            )
        };
        // A store may show another pair one day.
        let pause = if has_store {
            Pause::For(LOOK_AGAIN)
        } else {
            Pause::UntilCredentialsChange
        };
        Self { error, pause }
    }

    /// Where a store holds no pair, the error names it. A store's own words are asked for only then, and outside all locks.
    pub(super) fn naming(self, store: Option<&SourceStore>) -> Self {
        match store {
            Some(store) if self.error.kind() == ErrorKind::NoCredentials => Self {
                error: store.holds_nothing(),
                ..self
            },
            _ => self,
        }
    }
}
