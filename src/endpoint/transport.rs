//! Where token calls go: through the wrapped service, or through one of their own.
//!
//! A type parameter rather than an option, because the two ask for different things: through the
//! wrapped service, its body type has to be made of bytes; with a service of their own, token calls
//! ask nothing of it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::{HttpEndpoint, TokenEndpoint};
use crate::http_service::{HttpService, ResponseBody};

/// Token calls go through a clone of the wrapped service: the default. Its body type has to be
/// `From<Bytes>`, as `Full<Bytes>` and `axum::body::Body` are; for others there is [`BodyFrom`].
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

/// Bodies `B` are made by a function given with [`body_from`](crate::ApiVideoAuthLayerBuilder::body_from). Token calls go
/// where `T` says.
pub struct BodyFrom<B, T = SameService> {
    make: fn(Bytes) -> B,
    transport: T,
}

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

impl<B, T> BodyFrom<B, T> {
    pub(crate) fn new(make: fn(Bytes) -> B, transport: T) -> Self {
        Self { make, transport }
    }
}

impl fmt::Debug for SeparateService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeparateService")
    }
}

impl<B, T: fmt::Debug> fmt::Debug for BodyFrom<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BodyFrom").field(&self.transport).finish()
    }
}

/// How a client over the service `S` with request bodies `B` makes token calls. Sealed.
///
/// It is a bound on [`ApiVideoAuth`](crate::ApiVideoAuth), for those that name its type in generic
/// code.
#[diagnostic::on_unimplemented(
    message = "token calls can't be sent through `{S}` with request bodies `{B}`",
    label = "no token call can be made of `{B}`",
    note = "a body that is not `From<Bytes>` needs `.body_from(..)` on the layer's builder, such as \
            `.body_from(|bytes: Bytes| Full::new(bytes).boxed())`",
    note = "`Empty<Bytes>` can carry no token call: write `Full::<Bytes>::default()` in its place, which is as empty, or give \
            `.token_service(..)` and then `.body_from(|_| Empty::new())`",
    note = "the service has to be a `Clone + Send + 'static` `Service<http::Request<{B}>>` with a `Send` future, an error \
            that is `Into<BoxError>` and a response body that is `Body + Send`"
)]
pub trait Transport<S, B>: sealed::Transport<S, B> {}

#[diagnostic::do_not_recommend]
impl<S, B, T: sealed::Transport<S, B>> Transport<S, B> for T {}

/// How a request body is made of bytes. It can't be named outside, and so is sealed.
#[diagnostic::on_unimplemented(
    message = "a request with a body `{B}` can't be kept to be sent again after a 401",
    label = "`{B}` is not `From<Bytes>`",
    note = "such a body needs `.body_from(..)` on the layer's builder"
)]
#[expect(
    unnameable_types,
    reason = "a bound of the sealed trait `ReplayPolicy`"
)]
pub trait MakeBody<B> {
    #[doc(hidden)]
    fn make(&self, bytes: Bytes) -> B;
}

impl<B: From<Bytes>> MakeBody<B> for SameService {
    fn make(&self, bytes: Bytes) -> B {
        B::from(bytes)
    }
}

impl<B: From<Bytes>> MakeBody<B> for SeparateService {
    fn make(&self, bytes: Bytes) -> B {
        B::from(bytes)
    }
}

impl<B, T> MakeBody<B> for BodyFrom<B, T> {
    fn make(&self, bytes: Bytes) -> B {
        (self.make)(bytes)
    }
}

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

    impl<S, B> Transport<S, B> for BodyFrom<B>
    where
        S: HttpService<B, ResponseBody: ResponseBody>,
        B: Send + 'static,
    {
        const SHARES_SLOTS: bool = true;

        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn endpoint(&self, inner: &S) -> Box<dyn TokenEndpoint> {
            Box::new(HttpEndpoint::with(inner.clone(), self.make))
        }
    }

    impl<S, B> Transport<S, B> for SeparateService {
        const SHARES_SLOTS: bool = false;

        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn endpoint(&self, _: &S) -> Box<dyn TokenEndpoint> {
            self.endpoint()
        }
    }

    impl<S, B: 'static> Transport<S, B> for BodyFrom<B, SeparateService> {
        const SHARES_SLOTS: bool = false;

        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn endpoint(&self, _: &S) -> Box<dyn TokenEndpoint> {
            self.transport.endpoint()
        }
    }
}
