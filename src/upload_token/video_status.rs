//! `/videos/{videoId}/status`: the API's last word on an upload.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use serde::Deserialize;
use tower::{BoxError, Service};

use super::{request::request, response};
use crate::error::ErrorKind;

/// Whether the API has a video in full, and as long as it should be. `None` if it does not say.
pub(super) async fn is_uploaded<S, B, R>(
    service: S,
    video_id: &str,
    length: Option<u64>,
) -> Option<bool>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: From<Bytes>,
    R: Body,
    R::Error: Into<BoxError>,
{
    #[derive(Deserialize)]
    struct Status {
        ingest: Ingest,
    }
    #[derive(Deserialize)]
    struct Ingest {
        status: String,
        filesize: Option<u64>,
    }
    let request = request(Method::GET, &format!("/videos/{video_id}/status")).ok()?;
    let body = match response::send(service, request.map(B::from)).await {
        Ok((_, body)) => body,
        Err(failed) if failed.error.kind() == ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    let Status { ingest } = response::parse(&body).ok()?;
    let fits = length.is_none() || ingest.filesize.is_none() || ingest.filesize == length;
    match &*ingest.status {
        "uploaded" | "ingested" => Some(fits),
        // Still incomplete, or fetched from an address: not by this upload.
        "uploading" | "ingesting" => Some(false),
        _ => None,
    }
}
