//! Where token calls go: through the wrapped service, or through one of their own.
//!
//! A type parameter rather than an option, because the two ask for different things: through the
//! wrapped service, its body type has to be `From<Bytes>`; with a service of their own, token calls
//! ask nothing of it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::{HttpEndpoint, TokenEndpoint};
use crate::http_service::{HttpService, ResponseBody};

/// Token calls go through a clone of the wrapped service: the default. Its body type has to be
/// `From<Bytes>`, as `Full<Bytes>` and `axum::body::Body` are.
///
/// They share its connections, proxies and TLS settings, and also its limits: behind
/// `ConcurrencyLimit(1)`, a token call and a request wait for each other.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SameService {}

/// Token calls go through a service given with
/// [`token_service`](crate::ApiVideoAuthLayerBuilder::token_service).
///
/// They wait for no slot of the wrapped service, and no layer above it sees them. The mutex is
/// there because a Tower service need not be `Sync`; it is held for the time of a clone.
pub struct SeparateService(Mutex<Box<dyn TokenEndpoint>>);

impl SameService {
    pub(crate) fn new() -> Self {
        Self {}
    }
}

impl SeparateService {
    pub(crate) fn new<S, B>(service: S) -> Self
    where
        S: HttpService<B, ResponseBody: ResponseBody>,
        B: From<Bytes> + Send + 'static,
    {
        Self(Mutex::new(Box::new(HttpEndpoint::new(service))))
    }

    /// An endpoint for one renewal.
    pub(crate) fn endpoint(&self) -> Box<dyn TokenEndpoint> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .boxed_clone()
    }
}

impl fmt::Debug for SeparateService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeparateService")
    }
}

/// How a client over the service `S` with request bodies `B` makes token calls. Sealed.
///
/// It is a bound on [`ApiVideoAuth`](crate::ApiVideoAuth), for those that name its type in generic
/// code.
pub trait Transport<S, B>: sealed::Transport<S, B> {}

impl<S, B, T: sealed::Transport<S, B>> Transport<S, B> for T {}

pub(crate) mod sealed {
    use super::*;

    #[expect(unnameable_types, reason = "this is what seals the trait")]
    pub trait Transport<S, B>: Send + Sync + 'static {
        /// Whether token calls need readiness of the wrapped service, as requests do. Only then may
        /// a request that finds no slot take that of a response which nobody waits for.
        #[doc(hidden)]
        const SHARES_SLOTS: bool;

        /// An endpoint for one renewal, over a clone of `inner` if need be.
        #[doc(hidden)]
        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn endpoint(&self, inner: &S) -> Box<dyn TokenEndpoint>;
    }

    impl<S, B> Transport<S, B> for SameService
    where
        S: HttpService<B, ResponseBody: ResponseBody>,
        B: From<Bytes> + Send + 'static,
    {
        const SHARES_SLOTS: bool = true;

        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn endpoint(&self, inner: &S) -> Box<dyn TokenEndpoint> {
            Box::new(HttpEndpoint::new(inner.clone()))
        }
    }

    impl<S, B> Transport<S, B> for SeparateService {
        const SHARES_SLOTS: bool = false;

        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn endpoint(&self, _: &S) -> Box<dyn TokenEndpoint> {
            self.endpoint()
        }
    }
}
