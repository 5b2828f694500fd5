//! What all requests of this module have in common.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};

use crate::{
    error::{Error, ErrorKind},
    origin_headers,
};

/// A request to the API whose URI is only a path; a layer below completes it, and names the program.
///
/// # Errors
///
/// [`ErrorKind::Configuration`]; the path is not quoted, for it may hold a token.
pub(super) fn request(method: Method, path: &str) -> Result<Request<Bytes>, Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, HeaderValue::from_static("application/json"))
        .body(Bytes::new())
        .map_err(|_| {
            Error::new(
                ErrorKind::Configuration,
                "a token, a video id or a path is not valid in a URI",
            )
        })?;
    origin_headers::add_client(request.headers_mut());
    Ok(request)
}
