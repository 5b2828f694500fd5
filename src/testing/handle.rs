//! The fake server, as its builder makes it. Its methods are in `server`, which knows the builder as well.

use std::{fmt, sync::Arc};

use tokio::task::AbortHandle;

use super::state::Shared;

/// A strict stand-in for the parts of api.video that matter to authentication.
///
/// Clones are handles to one server, which stops when the last is dropped. See the [module docs](super).
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let api = FakeApi::in_process();
/// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
/// let client = layer.layer(api.service());
///
/// for _ in 0..3 {
///     let request = http::Request::get("/echo").body(Full::<Bytes>::default())?;
///     assert_eq!(client.clone().oneshot(request).await?.status(), 200);
/// }
/// let counts = api.counts();
/// assert_eq!((counts.logins, counts.refreshes, counts.api_calls), (1, 0, 3));
/// # layer.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FakeApi(pub(super) Arc<Handle>);

/// What all handles share. Dropping the last one ends the server, so that a test leaves nothing
/// behind.
pub(super) struct Handle {
    /// Also held by services and connections, which may outlive the handles.
    pub(super) shared: Arc<Shared>,
    /// The base URL; without a socket, one of a port that nobody listens on.
    pub(super) url: String,
    /// The task that serves; none without a socket.
    pub(super) server: Option<AbortHandle>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
