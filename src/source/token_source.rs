//! The source itself, for those that want its tokens rather than authenticated requests.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    acquire::Tokens,
    events::{Events, RenewalReason},
    keeper::{self, KeepFresh},
    ledger::Ledger,
};
use crate::{
    credentials::Credentials,
    endpoint::TokenEndpoint,
    error::{Error, ErrorKind},
    token::{Bearer, TokenPair},
};

/// The token source that layers, clients and adaptors share: the current pair, the credentials and the rules, together
/// with a way to make token calls.
///
/// It comes from a client ([`ApiVideoAuth::source`](crate::ApiVideoAuth::source)), from the reqwest adaptor, or from a layer
/// whose token calls have a service of their own. It is of use where no request passes the layer: for the first message
/// on a WebSocket, or for the environment of a child process. Clones share everything.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), apivideo_auth::Error> {
/// # let api = apivideo_auth::testing::FakeApi::in_process();
/// # let layer = apivideo_auth::ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
/// # use tower::Layer;
/// let client = layer.layer(api.service());
/// let source = client.source::<http_body_util::Full<bytes::Bytes>>();
/// let token = source.token().await?;
/// let mut child = std::process::Command::new("upload-tool");
/// child.env("APIVIDEO_ACCESS_TOKEN", token.expose());
/// // If the child says that the token was refused:
/// source.invalidate(&token);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// Its methods that wait, and `keep_fresh`, need a Tokio runtime with timers, as `#[tokio::main]` makes one. Without a runtime
/// they return an error; in a runtime without timers they panic.
#[derive(Clone)]
pub struct TokenSource {
    tokens: Arc<Tokens>,
    /// An endpoint need not be `Sync`.
    endpoint: Arc<Mutex<Box<dyn TokenEndpoint>>>,
}

/// What a [`TokenSource`] can say of itself, without any secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceStatus {
    /// The number of the newest token; `None` if there was none yet.
    pub generation: Option<u64>,
    /// When the newest token expires, by this machine's clock.
    pub expires_at: Option<SystemTime>,
    /// Whether requests can use it now.
    pub is_usable: bool,
    /// Whether an API key is held.
    pub has_api_key: bool,
    /// Whether a refresh token is held, or was given.
    pub has_refresh_token: bool,
    /// For how long renewals have been failing; `None` if the last one succeeded.
    pub failing_for: Option<Duration>,
    /// In what time the token endpoint is asked again; `None` if that is not known.
    pub retry_in: Option<Duration>,
    /// Where the pair is kept.
    pub store: StoreStatus,
    /// Whether the source was shut down.
    pub is_closed: bool,
}

/// Whether a pair outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreStatus {
    /// No store was given.
    None,
    /// The store has the newest pair, or there was none yet.
    Saved,
    /// The newest pair could not be saved yet. If the process ends now, it is lost.
    Unsaved,
}

impl TokenSource {
    pub(crate) fn new(tokens: Arc<Tokens>, endpoint: Box<dyn TokenEndpoint>) -> Self {
        Self {
            tokens,
            endpoint: Arc::new(Mutex::new(endpoint)),
        }
    }

    fn endpoint(&self) -> Box<dyn TokenEndpoint> {
        self.endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .boxed_clone()
    }

    /// The current access token, renewed first if there is no usable one.
    ///
    /// # Errors
    ///
    /// An [`Error`] if there is none to be had, or outside a Tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting, not the renewal.
    pub fn token(&self) -> impl Future<Output = Result<Bearer, Error>> + Send + use<> {
        let source = self.clone();
        async move { source.tokens.for_request(None, || source.endpoint()).await }
    }

    /// Replaces the token that is current at the call, or joins the renewal that does, and returns the new one. In the
    /// cool-down after a failure it fails at once with that failure.
    ///
    /// # Errors
    ///
    /// An [`Error`] if the renewal fails, whether or not the old token is still usable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting, not the renewal.
    pub fn renew(&self) -> impl Future<Output = Result<Bearer, Error>> + Send + use<> {
        let source = self.clone();
        let older = self.tokens.state().current.generation();
        let reason = Some(RenewalReason::Requested);
        async move {
            source
                .tokens
                .acquire(older, reason, || source.endpoint())
                .await
        }
    }

    /// A copy of the current pair, which the next renewal of this source ends. To take the pair elsewhere, shut the
    /// source down first:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run(source: apivideo_auth::TokenSource) -> Result<(), apivideo_auth::Error> {
    /// source.token().await?;
    /// source.shutdown(Duration::from_secs(30)).await;
    /// let pair = source.pair().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// On an open source the pair is renewed first if there is no usable one. A source that was shut down gives its last
    /// pair, also if the access token in it has expired: the refresh token may well be good.
    ///
    /// # Errors
    ///
    /// An [`Error`] if there is no pair to be had. Of a source that was shut down:
    ///
    /// - [`ErrorKind::Configuration`] if it has a store: the pair belongs to all that share it.
    /// - [`ErrorKind::Ambiguous`] if the refresh token was presented and nothing came back: it may be spent.
    /// - [`ErrorKind::TimedOut`] if a renewal is still under way, as `shutdown` has said.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn pair(&self) -> impl Future<Output = Result<TokenPair, Error>> + Send + use<> {
        let source = self.clone();
        async move {
            match source.tokens.state().renewals.is_closed() {
                true => source.last_pair(),
                false => {
                    source.tokens.acquire(0, None, || source.endpoint()).await?;
                    source.read_pair(|_| Ok(()))
                }
            }
        }
    }

    /// The pair of a source that was shut down.
    fn last_pair(&self) -> Result<TokenPair, Error> {
        let state = self.tokens.state();
        if state.store.is_some() {
            let message =
                "a stored pair belongs to all that share the store; other processes find it there";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        if !state.renewals.is_idle() {
            let message = "a renewal is still under way, so the pair may change; wait for `shutdown` to return true";
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        self.read_pair(|ledger| {
            let message =
                "the refresh token was presented and nothing came back, so it may be spent";
            if ledger.is_in_doubt() {
                Err(Error::new(ErrorKind::Ambiguous, message))
            } else {
                Ok(())
            }
        })
    }

    /// Reads token and ledger while nobody can replace either.
    fn read_pair(
        &self,
        check: impl FnOnce(&Ledger) -> Result<(), Error>,
    ) -> Result<TokenPair, Error> {
        let state = self.tokens.state();
        state.current.read(|bearer| {
            let ledger = state.ledger();
            check(&ledger)?;
            let none = || {
                Error::new(
                    ErrorKind::Closed,
                    "the token source was shut down before it had a pair",
                )
            };
            let bearer = bearer.cloned().ok_or_else(none)?;
            // A token that may be spent, or that came with other credentials, is no part of this pair.
            let refresh_token = ledger.refresh_token_of(bearer.generation());
            Ok(TokenPair::new(bearer, refresh_token))
        })
    }

    /// Starts a task that renews the token before it expires, with or without requests, through outages, until the
    /// guard is dropped, the source is shut down, or all its layers, clients and sources are gone. It looks at the
    /// clock every 30 s at least, since timers stand still while a machine sleeps.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoRuntime`] outside a Tokio runtime.
    pub fn keep_fresh(&self) -> Result<KeepFresh, Error> {
        keeper::start(self.tokens.state().clone(), self.endpoint())
    }

    /// Takes this token out of use, so that the next request waits for a new one. Does nothing unless it is the
    /// current one. It neither starts nor stops a renewal.
    pub fn invalidate(&self, token: &Bearer) {
        self.tokens.invalidate(token);
    }

    /// Replaces both credentials; see [`ApiVideoAuthLayer::set_credentials`](crate::ApiVideoAuthLayer::set_credentials).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if a credential is empty or has white space in it; then nothing is replaced.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        self.tokens.set_credentials(credentials)
    }

    /// What happens in this source from now on: renewals, replays, failures. See [`Event`](crate::Event).
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.tokens.subscribe()
    }

    /// Ends the source in good order; see [`ApiVideoAuthLayer::shutdown`](crate::ApiVideoAuthLayer::shutdown).
    ///
    /// # Cancel safety
    ///
    /// The source is closed by the first poll; dropping the future only ends the waiting.
    pub fn shutdown(&self, deadline: Duration) -> impl Future<Output = bool> + Send + use<> {
        self.tokens.shutdown(deadline)
    }

    /// How the source fares, for a health check or a log line.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let state = self.tokens.state();
        let now = state.now();
        let is_closed = state.renewals.is_closed();
        let (failing_for, retry_in) = state.renewals.outage(now);
        let newest = state
            .current
            .read(|bearer| bearer.map(|bearer| (bearer.generation(), bearer.expires_at())));
        let is_usable = state.current.usable(now).is_some();
        let ledger = state.ledger();
        SourceStatus {
            generation: newest.map(|(generation, _)| generation),
            expires_at: newest.map(|(_, expires_at)| expires_at),
            is_usable,
            has_api_key: ledger.api_key().is_some(),
            has_refresh_token: ledger.holds_refresh_token(),
            failing_for,
            retry_in,
            store: match &state.store {
                None => StoreStatus::None,
                Some(_) if ledger.is_unsaved() => StoreStatus::Unsaved,
                Some(_) => StoreStatus::Saved,
            },
            is_closed,
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}
