//! What the services of this crate ask of those that they wrap, said once.
//!
//! Each trait here is a list of bounds with a name. Without them, the same eight lines would stand
//! at a dozen places, and differ one day. They are sealed, so that a bound can be added without
//! breaking anybody.

use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, Service};

/// A Tower service that carries HTTP requests with bodies `B`, and can be cloned and sent to another thread. Sealed: it is
/// implemented for every service that fits.
///
/// All of `hyper_util`'s legacy clients, and tower-http's layers over them, do.
///
/// `Clone` is asked for because a request that has to wait gives its readied service away and goes
/// on with a clone; `Send + 'static` because a token call is a task of its own.
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
    /// The body of its responses. It is passed through untouched, so it need not be a `Body`.
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
///
/// Token calls ask for it, and so does the middleware where it drains a 401; plain requests do not.
#[expect(unnameable_types, reason = "it is an alias: users name the body")]
pub trait ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}

impl<R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static> ResponseBody for R {}

/// A public trait in a private module: nobody outside can implement what depends on it.
mod sealed {
    use super::*;

    #[expect(unnameable_types, reason = "this is what seals the trait")]
    pub trait Sealed<B> {}

    impl<S, B, R> Sealed<B> for S where S: Service<Request<B>, Response = Response<R>> {}
}
