use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{ApiVideoAuth, NoReplay, Replay};
use crate::{
    credentials::Credentials,
    endpoint::SameService,
    error::Error,
    manager::{ApiVideoAuthLayerBuilder, RenewalEvents, Source},
};

/// Keeps a service authenticated against api.video. See the [module docs](crate::middleware).
///
/// Clones of a layer, and all services they make, share one token. `T` says where token calls go, `P` whether
/// requests are kept for a replay; the builder chooses both.
pub struct ApiVideoAuthLayer<T = SameService, P = Replay> {
    pub(crate) source: Arc<Source<T>>,
    pub(super) replay: PhantomData<fn() -> P>,
}

impl ApiVideoAuthLayer {
    /// Starts with the default settings: production, no credentials. No I/O is done and no runtime is needed
    /// before the first request.
    pub fn builder() -> ApiVideoAuthLayerBuilder<SameService, Replay> {
        ApiVideoAuthLayerBuilder::new()
    }
}

impl<T, P> ApiVideoAuthLayerBuilder<T, P> {
    /// Checks the settings and makes the layer. A layer without credentials can be built; requests that need a token
    /// then fail until [`set_credentials`](ApiVideoAuthLayer::set_credentials) is called.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration), with what to do, if a setting can't work.
    pub fn build(self) -> Result<ApiVideoAuthLayer<T, P>, Error> {
        Ok(ApiVideoAuthLayer {
            source: Arc::new(self.build_source()?),
            replay: PhantomData,
        })
    }

    /// No request is kept or read ahead: a 401 passes through, and its token is replaced for the next request. With a
    /// [token service](ApiVideoAuthLayerBuilder::token_service) the request's body may then be of any type that is
    /// `Send + 'static`.
    pub fn no_replay(self) -> ApiVideoAuthLayerBuilder<T, NoReplay> {
        self.with(|transport| transport)
    }
}

impl<T, P> ApiVideoAuthLayer<T, P> {
    /// Takes a token out of use by its [generation](crate::Bearer::generation), so that the next request waits for a
    /// new one. Does nothing unless it is the current one. It neither starts nor stops a renewal.
    pub fn invalidate(&self, generation: u64) {
        self.source.manager().invalidate(generation);
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
        self.source.manager().set_credentials(credentials)
    }

    /// Tells of renewals from now on: which generation, why and how.
    #[must_use]
    pub fn subscribe(&self) -> RenewalEvents {
        self.source.manager().subscribe()
    }

    /// Ends the source in good order: its keepers end, no renewal starts any more, and the one under way is waited
    /// for, at most for the time `deadline`. Says whether nothing was left under way.
    ///
    /// A program that ends without it may lose a pair that the server has already granted. Requests go on while the
    /// token is usable and fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed) afterwards.
    ///
    /// # Cancel safety
    ///
    /// The source is closed by the first poll; dropping the future only ends the waiting.
    pub fn shutdown(&self, deadline: Duration) -> impl Future<Output = bool> + Send + use<T, P> {
        self.source.manager().shutdown(deadline)
    }
}

impl<S, T, P> Layer<S> for ApiVideoAuthLayer<T, P> {
    type Service = ApiVideoAuth<S, T, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ApiVideoAuth::new(inner, self)
    }
}

impl<T, P> Clone for ApiVideoAuthLayer<T, P> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            replay: PhantomData,
        }
    }
}

impl<T, P> fmt::Debug for ApiVideoAuthLayer<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuthLayer")
            .field("source", self.source.manager())
            .finish_non_exhaustive()
    }
}
