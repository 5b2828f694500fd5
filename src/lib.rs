//! Keeps a program logged in to the [api.video](https://api.video) API: a [Tower](https://docs.rs/tower) layer that puts a
//! fresh access token on every request, however many tasks and clones send requests.
//!
//! An access token of api.video lives for one hour. [`ApiVideoAuthLayer`] wraps any
//! `Service<http::Request<B>>`, gets a new token in time, and sees to it that only one call is made for it. The API key
//! can stay out of the process: a refresh token is enough.
//!
//! ```
//! use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! // A fake api.video in this process; leave `base_url` out for the real one.
//! let api = FakeApi::in_process();
//! let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let client = layer.layer(api.service()); // or a hyper client, with your own layers above and below
//!
//! let request = http::Request::get("/videos").body(Full::<Bytes>::default())?;
//! assert_eq!(client.oneshot(request).await?.status(), 200);
//!
//! // Waits for a renewal under way, so that its new refresh token is not lost.
//! layer.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! A community crate, not an official one: api.video neither makes nor supports it.
//!
//! # Where to look
//!
//! | you want to | look at |
//! | --- | --- |
//! | wrap a Tower service, such as a hyper client or the upstream of an axum gateway | [`middleware`] |
#![cfg_attr(
    feature = "reqwest-middleware",
    doc = "| use reqwest | [`reqwest_adaptor`] |"
)]
//! | have a token without a request: for a WebSocket, or for a child process | [`TokenSource`] |
//! | keep the pair beyond the process, and share it with a fleet | [`store`] |
#![cfg_attr(
    feature = "upload-tokens",
    doc = "| let others upload without an account, and upload in chunks | [`upload_token`] |"
)]
#![cfg_attr(feature = "test-util", doc = "| test your own program | [`testing`] |")]
//! | understand when a token is renewed, and with what | [`guide::expiry_and_renewal`] |
//! | use `BoxBody`, `Empty` or another type of request bodies | [`guide::bodies`] |
#![cfg_attr(
    feature = "upload-tokens",
    doc = "| know what of an upload is sent again, and resume one | [`guide::uploads`] |"
)]
//! | choose a store, run a fleet, or write a store | [`guide::stores_and_fleets`] |
//! | decide what to do about a failure | [`Error`], [`ErrorKind`] |
//! | see what happens, alert on it, know what a warning means | [`guide::observing`] |
//! | log in with the command line, so that no program sees the API key | [`guide::login`] |
//!
//! # Words
//!
//! - The *access token* ([`AccessToken`]) is on every request, as `Authorization: Bearer …` ([`Bearer`]).
//! - The *refresh token* ([`RefreshToken`]) buys the next *pair* of both ([`TokenPair`]), once: spending it ends it.
//! - The *API key* ([`ApiKey`]) logs in, which brings a first pair, and can do everything that the account can.
//! - A *renewal* is getting a new pair, by a refresh or a login. Each new token has a *generation*, a number that grows
//!   ([`Bearer::generation`]).
//! - The *source* ([`TokenSource`]) is what all layers and clients made from one builder share: the pair and the rules.
//! - A *replay* is sending a request a second time, after a 401, with a newer token.
//! - A *keeper* ([`KeepFresh`]) renews without requests, in the background.
//! - A [`store`] keeps the pair beyond the process. A refresh token that is given to the builder is a *seed* then: for the first
//!   start only. An *in-use mark* ([`InUseMark`](store::InUseMark)) says in the store that the refresh token is being
//!   presented just now.
//!
//! # What you can rely on
//!
//! - One renewal at a time, whatever the number of clones and tasks. All that wait share its outcome.
//! - A renewal is a task of its own: dropping the callers neither stops it nor loses the new refresh token. A response
//!   that comes late is still kept, for up to 60 s. A timeout *below* the layer cuts that short, and so does a limit
//!   below that has no slot left: put timeouts above it, or use [`token_service`](ApiVideoAuthLayerBuilder::token_service).
//! - While a token is usable no request waits. A failed early renewal changes nothing until the token expires.
//! - A 401 is followed by one renewal and one more try, never two.
//! - Tokens go to the API's origin only, over TLS, and are never printed.
//! - While the token endpoint is down, callers get an [`Error`] at once that says when to try again.
//!
//! # Features
//!
//! None is on by default. Turning one on never changes what existing code does.
//!
//! | feature | what it adds |
//! | --- | --- |
#![cfg_attr(
    feature = "file-store",
    doc = "| `file-store` | [`FileStore`](store::FileStore): one private file for each account |"
)]
#![cfg_attr(
    not(feature = "file-store"),
    doc = "| `file-store` | `FileStore`: one private file for each account |"
)]
#![cfg_attr(
    feature = "encrypted-store",
    doc = "| `encrypted-store` | [`EncryptedStore`](store::EncryptedStore): encryption in front of any other store |"
)]
#![cfg_attr(
    not(feature = "encrypted-store"),
    doc = "| `encrypted-store` | `EncryptedStore`: encryption in front of any other store |"
)]
#![cfg_attr(
    feature = "keyring-store",
    doc = "| `keyring-store` | [`KeyringStore`](store::KeyringStore): encrypted files, their keys in the keyring of the operating system |"
)]
#![cfg_attr(
    not(feature = "keyring-store"),
    doc = "| `keyring-store` | `KeyringStore`: encrypted files, their keys in the keyring of the operating system |"
)]
#![cfg_attr(
    feature = "redis-store",
    doc = "| `redis-store` | [`RedisStore`](store::RedisStore): one Redis for a fleet of processes |"
)]
#![cfg_attr(
    not(feature = "redis-store"),
    doc = "| `redis-store` | `RedisStore`: one Redis for a fleet of processes |"
)]
#![cfg_attr(
    feature = "reqwest-middleware",
    doc = "| `reqwest-middleware` | [`ApiVideoAuthMiddleware`], for reqwest |"
)]
#![cfg_attr(
    not(feature = "reqwest-middleware"),
    doc = "| `reqwest-middleware` | `ApiVideoAuthMiddleware`, for reqwest |"
)]
#![cfg_attr(
    feature = "upload-tokens",
    doc = "| `upload-tokens` | [`UploadTokens`], [`UploadTokenLayer`] and [`upload`](upload_token::upload()): upload tokens, and uploads in chunks |"
)]
#![cfg_attr(
    not(feature = "upload-tokens"),
    doc = "| `upload-tokens` | `UploadTokens`, `UploadTokenLayer` and `upload`: upload tokens, and uploads in chunks |"
)]
#![cfg_attr(
    feature = "test-util",
    doc = "| `test-util` | [`FakeApi`](testing::FakeApi) and [`ManualClock`](testing::ManualClock), for your own tests |"
)]
#![cfg_attr(
    not(feature = "test-util"),
    doc = "| `test-util` | `FakeApi` and `ManualClock`, for your own tests |"
)]
//! | `metrics` | the events of a source as metrics of the `metrics` facade; see [`guide::observing`] |
//! | `full` | all of them |
//! | `cli` | the command line `apivideo-auth`, for `cargo install`; see [`guide::login`]. It is no part of `full` |

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod clock;
mod credentials;
mod endpoint;
mod error;
mod extensions;
pub mod guide;
mod http_service;
pub mod middleware;
mod origin;
mod origin_headers;
#[cfg_attr(
    not(feature = "upload-tokens"),
    expect(
        dead_code,
        unreachable_pub,
        reason = "only uploads show a problem to their caller"
    )
)]
mod problem;
mod random;
#[cfg(feature = "reqwest-middleware")]
pub mod reqwest_adaptor;
mod response;
mod source;
pub mod store;
#[cfg(feature = "test-util")]
pub mod testing;
mod token;
#[cfg(feature = "upload-tokens")]
pub mod upload_token;

/// The examples of the README are tested with those of the docs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "reqwest-middleware")]
#[doc(inline)]
pub use crate::reqwest_adaptor::ApiVideoAuthMiddleware;
#[cfg(feature = "upload-tokens")]
#[doc(inline)]
pub use crate::upload_token::{UploadToken, UploadTokenLayer, UploadTokens};
#[doc(inline)]
pub use crate::{
    clock::{Clock, Now},
    credentials::{ApiKey, Credentials, Environment, GrantPreference, RefreshToken},
    endpoint::TokenCall,
    error::{Error, ErrorKind},
    extensions::{MinLifetime, NoAuth},
    middleware::{ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthLayerBuilder, ResponseFuture},
    source::{
        AttemptOutcome, Event, Events, GrantType, KeepFresh, Notice, RenewalEvent, RenewalReason,
        SourceStatus, StoreStatus, TokenSource,
    },
    token::{AccessToken, Bearer, TokenPair},
};
