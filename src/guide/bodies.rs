//! Bodies: which request bodies this crate can carry, and what of them is sent again after a 401.
//!
//! Two things need a body that is made of bytes: a token call (`{"refreshToken": …}`), which goes through your own
//! client unless it has a service of its own, and a request that is sent again. So the type of your request bodies decides
//! what the builder has to be told:
//!
//! | body type | what to do | sent again after a 401 |
//! | --- | --- | --- |
//! | `Full<Bytes>`, `axum::body::Body`, others that are `From<Bytes>` | nothing | yes |
//! | `BoxBody`, `UnsyncBoxBody`, `Either`, a type of your own | [`body_from`] with a line that makes one | yes |
//! | `Empty<Bytes>` | write `Full::default()` in its place, which is [as empty](#empty) | yes |
//! | `Incoming`, which a server got and passes on | box it, or wrap it in an `axum::body::Body` | if its size is known |
//! | a body that can't be boxed, or none that bytes can make | a [`token_service`] and [`no_replay`] | no |
//!
//! "Yes" is for bodies whose exact size is known and within the [limit](crate::ApiVideoAuthLayerBuilder::replay_limit) of
//! 1 MiB, and without a `Trailer` header. They are read in full before they are sent; one that is in memory already is not
//! copied. Any other body is sent once, as it comes: its caller gets the 401, and the next request a new token. For a large
//! upload see [`MinLifetime`](crate::MinLifetime).
//!
//! If the compiler says that the "trait bounds were not satisfied" for `call` or `oneshot`, it is most often the body.
//!
//! # Boxes
//!
//! The function captures nothing, so that a clone of the client stays as cheap as it is. It changes a type parameter: such a
//! client is an [`ApiVideoAuth<S, BodyFrom<B>>`](crate::ApiVideoAuth).
//!
//! ```
//! use std::convert::Infallible;
//!
//! use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
//! use tower::{Layer, ServiceExt};
//!
//! type Body = UnsyncBoxBody<Bytes, Infallible>;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let api = FakeApi::in_process();
//! let layer = ApiVideoAuthLayer::builder()
//!     .base_url(api.url())
//!     .api_key(api.api_key())
//!     .body_from(|bytes: Bytes| -> Body { Full::new(bytes).boxed_unsync() })
//!     .build()?;
//! let request = http::Request::get("/videos").body(Full::default().boxed_unsync())?;
//! assert_eq!(layer.layer(api.service()).oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # Empty
//!
//! An `Empty<Bytes>` has no room for a token call, and a client whose bodies are all of that type can send none. So give the
//! client `Full<Bytes>`, and let requests have `Full::default()`, which sends the same. Where a request comes from
//! elsewhere with its `Empty`, change it above this layer:
//!
//! ```
//! use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::{Empty, Full};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! # let api = FakeApi::in_process();
//! let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let client = ServiceBuilder::new()
//!     .map_request(|request: Request<Empty<Bytes>>| request.map(|_| Full::<Bytes>::default()))
//!     .layer(layer)
//!     .service(api.service());
//!
//! let request = Request::get("/videos").body(Empty::<Bytes>::new())?;
//! assert_eq!(client.oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! Where the client itself can't be changed, token calls need another: `.token_service(..).body_from(|_| Empty::new())`.
//!
//! [`body_from`]: crate::ApiVideoAuthLayerBuilder::body_from
//! [`no_replay`]: crate::ApiVideoAuthLayerBuilder::no_replay
//! [`token_service`]: crate::ApiVideoAuthLayerBuilder::token_service
