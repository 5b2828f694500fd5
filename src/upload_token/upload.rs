//! The face of an upload; how it goes is told in [`super::transfer`].

use http::{Request, Response};
use http_body::Body;
use tokio::io::AsyncRead;
use tower::{BoxError, Service};

#[cfg(doc)]
use super::Unfinished;
use super::{
    body::UploadBody, options::UploadOptions, progress::reported, source::Source,
    transfer::Transfer, uploaded::Uploaded,
};
use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;

/// Uploads a video, in chunks if it is large. See the [guide](crate::guide::uploads).
///
/// `service` is made by an [`UploadTokenLayer`](super::UploadTokenLayer), or adds a bearer where the options name a
/// [video](UploadOptions::to_video). It is cloned for each request; one attempt takes as long as the service lets it.
/// Below all layers is a client that is made for [`UploadBody`].
///
/// # Errors
///
/// - [`ErrorKind::Configuration`] if an option can't work, and [`ErrorKind::UploadSource`] if the source can't be read or is
///   not as long as was said.
/// - [`ErrorKind::VideoMayExist`] if the request that makes the video may have been carried out, and nobody knows the
///   video's id. Look for it before you upload again.
/// - [`ErrorKind::Refused`] if the token is unknown, deleted or expired. Else see [the module](super#errors).
///
/// The message says what the API said. Where a video exists or may exist, [`Unfinished::of`] has what is left to do.
///
/// # Cancel safety
///
/// Dropping the future ends the upload. What was accepted stays with the API, as a video that is incomplete until the
/// upload is resumed: see [`UploadOptions::on_checkpoint`].
///
/// # What is sent again
///
/// A chunk of a known video is, freely: the API takes the same bytes at the same place twice. A request that would make
/// a video is sent again only if it surely has made none: the API was not reached, or asked for a pause. Between two
/// attempts lies half a second at first and 10 s at most, or what the API asks for.
pub async fn upload<S, R>(
    service: S,
    source: Source<impl AsyncRead + Unpin>,
    mut options: UploadOptions,
) -> Result<Uploaded, Error>
where
    S: Service<Request<UploadBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let on_progress = options.on_progress.take();
    let transfer = Transfer::new(&source, options)?;
    let work = transfer.run(service, source);
    match on_progress {
        Some(call) => reported(work, || transfer.state.progress(), call).await,
        None => work.await,
    }
}
