//! The Tower side: [`ApiVideoAuthLayer`] and the service it makes.
//!
//! ```
//! use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let api = FakeApi::in_process();
//! let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let client = ServiceBuilder::new().layer(layer.clone()).service(api.service());
//!
//! let request = http::Request::get("/videos").body(Full::<Bytes>::default())?;
//! let response = client.clone().oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! layer.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What happens to a request
//!
//! - **Which get a token.** A request that goes to the API's origin, or to one that was
//!   [allowed](crate::ApiVideoAuthLayerBuilder::allow_origin), has no `Authorization` of its own and no
//!   [`NoAuth`](crate::NoAuth) extension, and is not for `/auth/…` or `/upload`. Others pass as they are.
//! - **Paths.** A URI that is only a path goes to the API: scheme and authority are set. A path begins with a slash: `videos`
//!   is a host to HTTP. It passes as it is, and hyper refuses it (`UserAbsoluteUriRequired`).
//! - **Waiting.** While the token is usable, the request is passed on at once. When it is about to expire, a renewal runs
//!   in the background. Only without a usable token does a request wait for a renewal, and then it holds no slot of the
//!   wrapped service.
//! - **401.** It is followed by one renewal and one more try, if the request could be kept: its body is empty or of known
//!   size within the [limit](crate::ApiVideoAuthLayerBuilder::replay_limit), and it has no `Trailer` header. A body of
//!   known size that has trailers without announcing them is an error, since the copy would lose them. If the renewal
//!   fails, or the second try gets a 401 too, the caller gets the 401. A request that can't be kept gets its 401 at once,
//!   and the next request gets a new token.
//! - **A renewal that fails after a 401** puts the old token back in use, and 401s renew nothing for 30 s. So a path that
//!   answers 401 for reasons of its own takes the API from nobody. The first caller and all after it see the same: the API's
//!   401 for as long as the token would have lived, and an [`Error`](crate::Error) once it has expired.
//!
//! Clones of the layer and of its services share one token.
//!
//! # Bodies
//!
//! Token calls and requests that are sent again need a way from bytes to the body type of the wrapped service. `Full<Bytes>`
//! and `axum::body::Body` have one. `BoxBody` needs [`body_from`](crate::ApiVideoAuthLayerBuilder::body_from), and for
//! `Empty<Bytes>` write `Full::default()`. The guide has the [table of bodies](crate::guide::bodies). If the compiler says that
//! the "trait bounds were not satisfied" for `call` or `oneshot`, it is most often this.
//!
//! # Layers below and above
//!
//! Token calls go through a clone of the wrapped service, and so through every layer below. They carry the extension
//! [`TokenCall`](crate::TokenCall). Three kinds of layers do harm there, because a refresh token can be presented only
//! once:
//!
//! - a layer that *repeats* requests presents a spent token again;
//! - a layer that *follows redirects* takes the token elsewhere;
//! - a layer that *times out* throws a response away that may hold the only living refresh token. A WARN event says so.
//!
//! Put them above this layer, where token calls do not pass, let their policy decline requests with [`TokenCall`](crate::TokenCall), or give token calls a
//! service of their own with [`token_service`](crate::ApiVideoAuthLayerBuilder::token_service).
//!
//! `poll_ready` asks the wrapped service and nothing else. A service that is ready may still have to wait for a token: a
//! `LoadShed` above sheds nothing then, and a `Balance` does not see it.
//!
//! With a limit of slots below, a token call takes part in it. A response that is still awaited after `call_timeout`
//! gives its slot up to a request that has found none for 0.9 s, and is lost then. A `Buffer` or a `LoadShed` between this
//! layer and a limit of one hides that requests wait: behind a `Buffer` a hung call keeps the slot for up to a minute, and
//! a `LoadShed` refuses requests meanwhile. A slot that is only free when the *response body* has ended (a rare
//! thing) is held by a first 401 while the new token is fetched: with such a limit, use a token service.
//!
//! # Panics
//!
//! A renewal needs a Tokio runtime with timers, as `#[tokio::main]` makes one. Without a runtime, a request that has to wait
//! for one gets an error ([`NoRuntime`](crate::ErrorKind::NoRuntime)); in a runtime without timers it panics.
//!
//! # Neighbours
//!
//! tower-http's `SetRequestHeader` adds a header that never changes; its `AsyncRequireAuthorization` checks tokens that
//! others send. This layer is for the tokens that *you* send, and that expire.

mod builder;
mod future;
mod layer;
mod replay;
mod service;
mod token_cache;

pub use self::{
    builder::ApiVideoAuthLayerBuilder,
    future::ResponseFuture,
    layer::ApiVideoAuthLayer,
    replay::{NoReplay, Replay, ReplayPolicy},
    service::ApiVideoAuth,
};
#[doc(no_inline)]
pub use crate::endpoint::{BodyFrom, SameService, SeparateService, Transport};
