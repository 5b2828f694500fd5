//! Delegated tokens, which api.video calls *upload tokens*: made with a bearer, used without one.
//!
//! Anyone who holds such a token can upload videos into the account and do nothing else: it is what to give to a browser,
//! a camera or a customer. [`UploadTokens`] makes, lists and deletes them through an authenticated service.
//! [`UploadTokenLayer`] is for the other side, which holds nothing but the token. [`upload`](upload()) sends a video of
//! any size over either.
//!
//! ```
//! use std::time::Duration;
//!
//! use apivideo_auth::{
//!     ApiVideoAuthLayer, UploadTokenLayer, UploadTokens,
//!     testing::FakeApi,
//!     upload_token::{Source, UploadOptions, upload},
//! };
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::Layer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = FakeApi::start().await?;
//! let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//!
//! // Here is the account:
//! let auth = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let tokens = UploadTokens::new(auth.layer(client.clone()));
//! let token = tokens.create(Some(Duration::from_secs(600))).await?;
//!
//! // Somewhere else, with the token alone:
//! let delegated = UploadTokenLayer::builder(token.token().clone()).base_url(api.url()).build()?;
//! let video = upload(delegated.layer(client), Source::new(&b"a film"[..]), UploadOptions::new()).await?;
//! assert!(api.received(video.video_id()).is_some_and(|video| video.finished));
//!
//! tokens.delete(token.token()).await?;
//! # auth.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What the layer does
//!
//! - To a `POST` for `/upload` at the API's origin, or for `/upload` as a mere path, the token is added as the query
//!   parameter `token`. Other parameters stay. `Authorization` is removed.
//! - Every other request is an error before anything is sent: [`ErrorKind::WrongTarget`].
//! - An error of the wrapped service that quotes the token is replaced by one that does not.
//!
//! It may stand under or over an [`ApiVideoAuthLayer`](crate::ApiVideoAuthLayer); neither adds a bearer to an upload.
//! The token is a part of the URI: layers below see it, and one that logs URIs logs the token.
//!
//! # Uploads
//!
//! A source that is not larger than a chunk goes in one request. A larger one goes in chunks with a `Content-Range`,
//! in bytes if the length is known and in parts if not. The id in the first response is carried into all later chunks,
//! of which several may be [on their way](UploadOptions::concurrency) at once. In memory are as many chunks as that,
//! each once; a chunk of a service's own making, such as a TLS buffer, comes on top.
//!
//! A chunk is sent again after an error that may pass: a failed connection, a 5xx, or a 429, whose wait is kept. The
//! one exception is a whole video with a delegated token, if the request may have been carried out: it would become a
//! second video. With a bearer, a chunk that got a 401 is sent once more: by then, the layer has a new token.
//!
//! An upload that has stopped can go on where it was, with another token too:
//!
//! ```no_run
//! # use apivideo_auth::{Error, upload_token::{Source, Unfinished, UploadOptions, upload}};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use tower::{BoxError, Service};
//! # async fn resume<S>(service: S, with_new_token: S) -> Result<(), Box<dyn std::error::Error>>
//! # where S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone {
//! let film = || Source::open("film.mp4");
//! if let Err(error) = upload(service, film().await?, UploadOptions::new()).await {
//!     let unfinished = Unfinished::of(&error).ok_or(error.clone())?;
//!     upload(with_new_token, film().await?, UploadOptions::new().resume(unfinished)).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! The calls of this module fail with an [`Error`](crate::Error) whose kind says what happened:
//!
//! - [`Refused`](ErrorKind::Refused) (401), [`Suspended`](ErrorKind::Suspended) (403), [`NotFound`](ErrorKind::NotFound)
//!   (404), [`Rejected`](ErrorKind::Rejected) (any other 4xx). [`Problem::of`] tells what the API said.
//! - [`Unavailable`](ErrorKind::Unavailable) if the API was not reached or can't serve now; after a 429,
//!   [`retry_after`](crate::Error::retry_after) is the wait. [`Ambiguous`](ErrorKind::Ambiguous) if the call may have
//!   been carried out, but no usable response came.
//! - An error of the layers below, if it is an [`Error`](crate::Error) itself, stays as it is: no token could be had,
//!   for example.
//!

mod client;
mod layer;
mod multipart;
mod options;
mod pass;
mod progress;
mod request;
mod response;
mod service;
mod source;
mod token;
mod upload;

pub use self::{
    client::{ListOptions, SortBy, UploadTokens},
    layer::{UploadTokenLayer, UploadTokenLayerBuilder},
    options::UploadOptions,
    progress::{Progress, Unfinished},
    service::{DelegatedUpload, ResponseFuture},
    source::Source,
    token::{DelegatedToken, UploadToken},
    upload::{Uploaded, upload},
};
#[cfg(doc)]
use crate::ErrorKind;
pub use crate::problem::Problem;
