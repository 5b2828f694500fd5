//! The one error type.
//!
//! A caller needs to know three things of a failure: what to do about it ([`kind`](Error::kind)),
//! whether to try again ([`is_transient`](Error::is_transient)), and when
//! ([`retry_after`](Error::retry_after)). The text is for people. It holds no secret, no URL query
//! and nothing of a response's body.

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
///
/// The wrapped service's error type is hidden in the box, so look for ours first:
///
/// ```
/// use apivideo_auth::{Error, ErrorKind};
/// use tower::BoxError;
///
/// fn explain(error: &BoxError) -> &'static str {
///     match error.downcast_ref::<Error>() {
///         Some(error) if error.is_transient() => "no token now; try again later",
///         Some(error) if error.kind() == ErrorKind::Refused => "log in again",
///         Some(_) => "no token; see the message",
///         None => "the request itself failed",
///     }
/// }
/// # let refused = Error::store(ErrorKind::StoreLocked, "busy", None);
/// # assert_eq!(explain(&refused.into()), "no token now; try again later");
/// ```
///
/// [`source`](std::error::Error::source) gives what lies behind it. The text ends with the root of that, such as `No space left
/// on device`, where a person has to act: so print the error itself, or the whole chain with its one repetition.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
    retry_after: Option<Duration>,
}

/// What clones share. The wait is not here: each caller is told what is left of it when it asks.
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What sort of failure an [`Error`] is.
///
/// *Transient* kinds end by themselves, see [`Error::is_transient`]. The others wait for a person
/// or for [`set_credentials`](crate::ApiVideoAuthLayer::set_credentials).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting can't work. The message says which and what to do. It comes from a `build`, a
    /// setter or a constructor, from [`TokenSource::pair`](crate::TokenSource::pair) where a store
    /// owns the pair, and from a store whose place can never work.
    Configuration,
    /// A token is needed and there is nothing to get one with: give the builder an API key, a
    /// refresh token or a store that holds a pair, or call `set_credentials`.
    NoCredentials,
    /// The API refused the credential, and no other is left. A refused refresh token is forgotten:
    /// someone has to log in again. A refused API key is asked again after five minutes, should
    /// someone have mended it.
    Refused,
    /// The account is suspended. Nothing is forgotten, and the API is asked again every five
    /// minutes at most.
    Suspended,
    /// The token endpoint could not be reached, or said that it can't serve now. Transient; the
    /// credential is as good as before.
    Unavailable,
    /// A token call was sent and no usable response came: it may or may not have been carried out,
    /// and the refresh token may be spent. Transient. Of uploads: the call may have been carried
    /// out.
    Ambiguous,
    /// The renewal took longer than this caller may wait. It goes on without the caller. Transient.
    TimedOut,
    /// The API did not understand our token call: a bug of this crate, please report it.
    Protocol,
    /// The token service, a store or a callback panicked. Nothing is poisoned; the next renewal
    /// starts anew.
    Panicked,
    /// A renewal, or a keeper, was needed outside a Tokio runtime.
    NoRuntime,
    /// The token source was shut down, and its token has expired since, or it never had a pair.
    Closed,
    /// The request's body can't be sent as it announced itself: it has trailers that it did not
    /// announce, and the copy that is kept for a replay would lose them.
    RequestBody,
    /// The store can't be reached, or did not answer in time. Transient.
    StoreUnavailable,
    /// The store's lock could not be had in time: another process renews, or hangs. Transient.
    StoreLocked,
    /// Another pair was stored in the meantime, or the store's lock was lost. Transient.
    StoreConflict,
    /// What is stored is damaged, or open to others. A source that holds an API key, or a pair that
    /// is not stored yet, moves it aside.
    StoreCorrupt,
    /// What is stored is sound but can't be read here: it was written by a newer version, or
    /// encrypted with another key. It is left alone.
    StoreUnreadable,
    /// What is stored belongs to another API key. After a change of keys, see
    /// [`replace_foreign_pair`](crate::ApiVideoAuthLayerBuilder::replace_foreign_pair).
    StoreForeign,
    /// The API understood a call about upload tokens, or an upload, and declined it for a reason of
    /// its own.
    Rejected,
    /// The API knows no such upload token or video: it was deleted, has expired, or is of another
    /// account.
    NotFound,
    /// The request is not one that an upload token is for: nothing was sent.
    WrongTarget,
    /// What is to be uploaded can't be read, is empty, or is not as long as was said.
    UploadSource,
    /// An upload that makes a video was sent, and its outcome is not known: look for the video before the upload is
    /// repeated, which would make a second one. `upload_token::Unfinished` has what to look for.
    VideoMayExist,
}

impl Error {
    /// Without a cause behind it. The message begins in lower case, has no full stop, and says what
    /// to do where there is something to do.
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

    /// With a cause, which is kept as it is. The text ends with the root of it where a person has to act, see
    /// `tells_root`; the message itself never quotes one.
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

    /// Whether the text ends with what lies at the root. What the API said never enters a text.
    fn tells_root(&self) -> bool {
        use ErrorKind::{
            Ambiguous, Configuration, StoreConflict, StoreCorrupt, StoreLocked, StoreUnavailable,
            Unavailable, UploadSource,
        };
        matches!(
            self.kind(),
            Ambiguous
                | Configuration
                | StoreConflict
                | StoreCorrupt
                | StoreLocked
                | StoreUnavailable
                | Unavailable
                | UploadSource
        )
    }

    /// The same error with what is left of a wait. Cheap: the rest is shared.
    pub(crate) fn after(self, wait: Option<Duration>) -> Self {
        Self {
            retry_after: wait,
            ..self
        }
    }

    /// An error for a [`TokenStore`](crate::store::TokenStore) of your own. `kind` is one of the
    /// `Store…` kinds; it decides what the source does next (log in around a store that is
    /// unavailable, leave one alone that can't be read). Any other kind becomes
    /// [`ErrorKind::StoreUnavailable`]: what the API says is not for a store to say. No secret may
    /// stand in `message`.
    ///
    /// ```
    /// use apivideo_auth::{Error, ErrorKind};
    ///
    /// let cause = std::io::Error::other("connection refused");
    /// let error = Error::store(ErrorKind::StoreUnavailable, "etcd is away", Some(cause.into()));
    /// assert!(error.is_transient());
    /// ```
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

    /// What sort of failure this is: what a program decides by.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the same request may well succeed later, with nothing changed by anyone on this
    /// side: true of `Unavailable`, `Ambiguous`, `TimedOut`, `StoreUnavailable`, `StoreLocked` and
    /// `StoreConflict`.
    ///
    /// A retry layer above this crate can go by it. It need not wait longer than
    /// [`retry_after`](Self::retry_after), and calls in the meantime cost nothing: they get the
    /// same error at once, without a token call.
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

    /// Each error of the chain once, for a log line: `the token store can't be used: the file can't be written: No space left on
    /// device`.
    pub(crate) fn chain(&self) -> String {
        let mut chain = self.inner.message.clone();
        let mut next = StdError::source(self);
        while let Some(error) = next {
            let text = match error.downcast_ref::<Self>() {
                Some(ours) => ours.inner.message.clone(),
                None => error.to_string(),
            };
            // Some errors of others end with their source's text.
            if !chain.ends_with(&text) {
                chain = format!("{chain}: {text}");
            }
            next = error.source();
        }
        chain
    }

    /// How long to wait, from the moment the error was returned, before the source tries again.
    /// `None` if that is not known, or if it never will by itself.
    ///
    /// Each caller is told what is left, so callers of one outage hear different numbers. It is the
    /// source's own cool-down (from about a second up to half a minute, as the outage goes on), the
    /// five minutes after a refused API key or for a suspended account, or the wait that the API
    /// asked for (up to 120 s).
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

/// The message and, where a person has to act, what it all began with: "no space left" helps more than "can't be used".
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        let mut root = match StdError::source(self) {
            Some(source) if self.tells_root() => source,
            _ => return Ok(()),
        };
        loop {
            // One of ours says what lies behind it.
            let next = root.source().filter(|_| !root.is::<Self>());
            let Some(next) = next else { break };
            root = next;
        }
        write!(f, ": {root}")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}
