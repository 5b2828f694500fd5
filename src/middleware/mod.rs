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
//! - It gets a token if it goes to the API's origin, or to one that was allowed, has no `Authorization` of its own
//!   and no [`NoAuth`](crate::NoAuth) extension, and is not for `/auth/…` or `/upload`. Others pass as they are.
//! - A URI that is only a path goes to the API: scheme and authority are set.
//! - While the token is usable, the request is passed on at once; when it is about to expire, a renewal runs at the
//!   side. Only without a usable token does a request wait for a renewal, and then it holds no slot of the wrapped
//!   service.
//! - A 401 is answered with one renewal and one more try, if the request could be kept: its body is empty or of known
//!   size within the [limit](crate::ApiVideoAuthLayerBuilder::replay_limit), and it has no `Trailer` header. (A body of known size
//!   that has trailers without announcing them is an error: the copy would lose them.) If the renewal
//!   fails, or the second try gets a 401 too, the caller gets the 401. Requests that can't be kept get their 401 at
//!   once, and the next request gets a new token.
//!
//! Clones of the layer and of its services share one token.

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
pub use crate::endpoint::{SameService, SeparateService, Transport};
