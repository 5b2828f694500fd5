use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{ApiVideoAuth, ApiVideoAuthLayerBuilder, Replay, token_cache::Shared};
use crate::{
    credentials::Credentials,
    endpoint::{SameService, SeparateService},
    error::Error,
    source::{Events, TokenSource},
    token::Bearer,
};

/// Keeps a service authenticated against api.video. See the [module docs](crate::middleware).
///
/// Clones of a layer, and all services they make, share one token. `T` says where token calls go, `P` whether
/// requests are kept for a replay; the builder chooses both.
pub struct ApiVideoAuthLayer<T = SameService, P = Replay> {
    pub(crate) shared: Arc<Shared<T>>,
    replay: PhantomData<fn() -> P>,
}

impl ApiVideoAuthLayer {
    /// Starts with the default settings: production, no credentials. No I/O is done and no runtime is needed
    /// before the first request.
    pub fn builder() -> ApiVideoAuthLayerBuilder<SameService, Replay> {
        ApiVideoAuthLayerBuilder::new()
    }
}

impl<P> ApiVideoAuthLayer<SeparateService, P> {
    /// The token source of this layer, which makes its token calls through the
    /// [token service](ApiVideoAuthLayerBuilder::token_service). Without one, a client has it:
    /// [`ApiVideoAuth::source`].
    pub fn source(&self) -> TokenSource {
        TokenSource::new(self.shared.tokens.clone(), self.shared.transport.endpoint())
    }
}

impl<T, P> ApiVideoAuthLayer<T, P> {
    pub(super) fn new(shared: Shared<T>) -> Self {
        Self::sharing(Arc::new(shared))
    }

    pub(super) fn sharing(shared: Arc<Shared<T>>) -> Self {
        Self {
            shared,
            replay: PhantomData,
        }
    }

    /// Takes this token out of use, so that the next request waits for a new one. Does nothing unless it is the current
    /// one. It neither starts nor stops a renewal.
    pub fn invalidate(&self, token: &Bearer) {
        self.shared.tokens.invalidate(token);
    }

    /// Replaces both credentials: what `credentials` leaves out is no longer held. Ends a pause after failures and
    /// permanent errors. The token in use stays in use. With a [store](ApiVideoAuthLayerBuilder::store) the stored refresh
    /// token stays too, and a given one is a seed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if a credential is empty or has white space in
    /// it; then nothing is replaced.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        self.shared.tokens.set_credentials(credentials)
    }

    /// What happens in the source from now on: renewals, replays, failures. See [`Event`](crate::Event).
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.shared.tokens.subscribe()
    }

    /// Ends the source in good order: its keepers ([`KeepFresh`](crate::KeepFresh)) end, no renewal starts any more, and the one
    /// under way is waited for, for as long as `deadline` at most. Returns whether nothing was left under way.
    ///
    /// A program that ends without it may lose a pair that the server has already granted. Requests go on while the
    /// token is usable and fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed) afterwards.
    ///
    /// # Cancel safety
    ///
    /// The source is closed by the first poll; dropping the future only ends the waiting.
    pub fn shutdown(&self, deadline: Duration) -> impl Future<Output = bool> + Send + use<T, P> {
        self.shared.tokens.shutdown(deadline)
    }
}

impl<S, T, P> Layer<S> for ApiVideoAuthLayer<T, P> {
    type Service = ApiVideoAuth<S, T, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ApiVideoAuth::new(inner, self.shared.clone())
    }
}

impl<T, P> Clone for ApiVideoAuthLayer<T, P> {
    fn clone(&self) -> Self {
        Self::sharing(self.shared.clone())
    }
}

impl<T, P> fmt::Debug for ApiVideoAuthLayer<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuthLayer")
            .field("source", &self.shared.tokens)
            .finish_non_exhaustive()
    }
}
