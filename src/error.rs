//! The one error type.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use tower::BoxError;

/// Why no token could be had, or why a builder refused its settings.
///
/// The services of this crate answer with [`tower::BoxError`]; an error of ours in it downcasts to this type, and
/// an error of the wrapped service passes through as it is. An error is cheap to clone: callers that waited for the
/// same renewal share one.
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, ErrorKind};
///
/// let error = ApiVideoAuthLayer::builder().base_url("ftp://example.com").build().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Configuration);
/// assert!(!error.is_transient());
/// ```
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
    retry_after: Option<Duration>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting can't work. The message says which and what to do.
    Configuration,
    /// A token is needed and there is nothing to get one with.
    NoCredentials,
    /// The API refused the credential, and no other is left.
    Refused,
    /// The account is suspended. It is asked again every five minutes at most.
    Suspended,
    /// The token endpoint could not be reached, or said that it can't serve now.
    Unavailable,
    /// A token call was sent and no usable response came: it may or may not have been carried out.
    Ambiguous,
    /// The renewal took longer than this caller may wait.
    TimedOut,
    /// The API did not understand our token call: a bug of this crate.
    Protocol,
    /// The token service, or a callback, panicked.
    Panicked,
    /// A renewal was needed outside a Tokio runtime.
    NoRuntime,
    /// The token source was shut down or handed over.
    Closed,
    /// The request's body can't be sent as it announced itself.
    RequestBody,
    /// The store can't be reached, or did not answer in time.
    StoreUnavailable,
    /// The store's lock could not be had in time.
    StoreLocked,
    /// Another pair was stored in the meantime, or the store's lock was lost.
    StoreConflict,
    /// What is stored is damaged, or open to others.
    StoreCorrupt,
    /// What is stored is sound but can't be read here: it was written by a newer version, or encrypted with another key.
    StoreUnreadable,
    /// What is stored belongs to another API key.
    StoreForeign,
    /// The API understood a call about upload tokens, or an upload, and declined it.
    Rejected,
    /// The API knows no such upload token or video.
    NotFound,
    /// The request is not one that a delegated token is for: nothing was sent.
    WrongTarget,
    /// What is to be uploaded can't be read, is empty, or is not as long as was said.
    UploadSource,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                message: message.into(),
                source: None,
            }),
            retry_after: None,
        }
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<BoxError>,
    ) -> Self {
        let source = Some(Arc::from(source.into()));
        Self {
            inner: Arc::new(Inner {
                kind,
                message: message.into(),
                source,
            }),
            retry_after: None,
        }
    }

    pub(crate) fn after(self, wait: Option<Duration>) -> Self {
        Self {
            retry_after: wait,
            ..self
        }
    }

    /// An error for a [`TokenStore`](crate::store::TokenStore) of your own. `kind` is one of the `Store…` kinds; any
    /// other becomes [`ErrorKind::StoreUnavailable`]: what the API says is not for a store to say. No secret may stand
    /// in `message`.
    pub fn store(kind: ErrorKind, message: impl Into<String>, source: Option<BoxError>) -> Self {
        use ErrorKind::{
            StoreConflict, StoreCorrupt, StoreForeign, StoreLocked, StoreUnavailable,
            StoreUnreadable,
        };
        let kind = match kind {
            StoreConflict | StoreCorrupt | StoreForeign | StoreLocked | StoreUnreadable => kind,
            _ => StoreUnavailable,
        };
        match source {
            Some(source) => Self::with_source(kind, message, source),
            None => Self::new(kind, message),
        }
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the same request may well succeed later, with nothing changed by anyone on this side.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use ErrorKind::{
            Ambiguous, StoreConflict, StoreLocked, StoreUnavailable, TimedOut, Unavailable,
        };
        matches!(
            self.kind(),
            Unavailable | Ambiguous | TimedOut | StoreUnavailable | StoreLocked | StoreConflict
        )
    }

    /// How long to wait, from the moment the error was returned, before the source tries again. `None` if that is
    /// not known, or if it never will by itself.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message);
        if let Some(wait) = self.retry_after {
            debug.field("retry_after", &wait);
        }
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}
