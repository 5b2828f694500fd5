//! Upload tokens (the API's *delegated uploads*): made with a bearer, used without one.
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
//!     upload_token::{Source, UploadBody, UploadOptions, upload},
//! };
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::Layer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = FakeApi::start().await?;
//! let client = Client::builder(TokioExecutor::new()).build_http::<UploadBody>();
//!
//! // Here is the account:
//! let auth = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let tokens = UploadTokens::new(auth.layer(client.clone()));
//! let token = tokens.create(Some(Duration::from_secs(600))).await?;
//!
//! // Somewhere else, with the token alone:
//! let with_token = UploadTokenLayer::builder(token.secret().clone()).base_url(api.url()).build()?;
//! let video = upload(with_token.layer(client), Source::new(&b"a film"[..]), UploadOptions::new()).await?;
//! assert!(api.received(video.video_id()).is_some_and(|video| video.finished));
//!
//! tokens.delete(token.secret()).await?;
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
//! The [guide](crate::guide::uploads) tells how a video goes, what is sent again and what is not, and how to go on in
//! another process. In short:
//!
//! - A chunk of a known video is sent again freely; a request that would make a video only if it surely has made none.
//! - What is left is in the [error](Unfinished::of), and in each [checkpoint](UploadOptions::on_checkpoint); it can be
//!   stored, holds no secret, and is taken up by [`resume`](UploadOptions::resume).
//! - In memory are as many chunks as are [on their way](UploadOptions::concurrency), whatever the size of the video.
//!
//! ```
//! # use apivideo_auth::upload_token::{Source, Unfinished, UploadBody, UploadOptions, upload};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use tower::{BoxError, Service};
//! # async fn resume<S>(service: S, with_new_token: S) -> Result<(), Box<dyn std::error::Error>>
//! # where S: Service<Request<UploadBody>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone {
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
//! - [`Refused`](ErrorKind::Refused) (401, or a 400 that says the same), [`Suspended`](ErrorKind::Suspended) (403),
//!   [`NotFound`](ErrorKind::NotFound) (404), [`Rejected`](ErrorKind::Rejected) (any other 4xx). [`Problem::of`] tells what
//!   the API said.
//! - [`Unavailable`](ErrorKind::Unavailable) if the API was not reached or can't serve now; after a 429,
//!   [`retry_after`](crate::Error::retry_after) is the wait. [`Ambiguous`](ErrorKind::Ambiguous) if the call may have
//!   been carried out, but no usable response came; [`VideoMayExist`](ErrorKind::VideoMayExist) if it may have made a video
//!   whose id nobody knows.
//! - An error of the layers below, if it is an [`Error`](crate::Error) itself, stays as it is: no token could be had,
//!   for example.
//!

mod attempts;
mod body;
mod chunks;
mod client;
mod layer;
mod limits;
mod multipart;
mod options;
mod pass;
mod progress;
mod record;
mod request;
mod response;
mod service;
mod source;
mod state;
mod token;
mod transfer;
mod unfinished;
mod upload;
mod uploaded;
mod video_status;

pub use self::{
    body::UploadBody,
    client::{ListOptions, SortBy, UploadTokens},
    layer::{UploadTokenLayer, UploadTokenLayerBuilder},
    options::UploadOptions,
    progress::Progress,
    service::{ResponseFuture, WithUploadToken},
    source::Source,
    token::{UploadToken, UploadTokenSecret},
    unfinished::Unfinished,
    upload::upload,
    uploaded::Uploaded,
};
#[cfg(doc)]
use crate::ErrorKind;
pub use crate::problem::Problem;
