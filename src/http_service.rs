//! What the services of this crate ask of those that they wrap, said once.

use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, Service};

/// A Tower service that carries HTTP requests with bodies `B`, and can be cloned and sent to another thread. Sealed: it is
/// implemented for every service that fits.
///
/// All of `hyper_util`'s legacy clients, and tower-http's layers over them, do.
#[expect(unnameable_types, reason = "it is an alias: users name the service")]
pub trait HttpService<B>:
    Service<
        Request<B>,
        Response = Response<<Self as HttpService<B>>::ResponseBody>,
        Future: Send,
        Error: Into<BoxError>,
    >
    + Clone
    + Send
    + 'static
    + sealed::Sealed<B>
{
    /// The body of its responses.
    type ResponseBody: Send + 'static;
}

impl<S, B, R> HttpService<B> for S
where
    S: Service<Request<B>, Response = Response<R>, Future: Send, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
    R: Send + 'static,
{
    type ResponseBody = R;
}

/// A response body that can be read to its end. Sealed: it is implemented for every body that fits.
#[expect(unnameable_types, reason = "it is an alias: users name the body")]
pub trait ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}

impl<R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static> ResponseBody for R {}

mod sealed {
    use super::*;

    #[expect(unnameable_types, reason = "this is what seals the trait")]
    pub trait Sealed<B> {}

    impl<S, B, R> Sealed<B> for S where S: Service<Request<B>, Response = Response<R>> {}
}
