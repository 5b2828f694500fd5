//! The fake server, as its builder makes it. Its methods are in `server`, which knows the builder as well.

use std::{fmt, sync::Arc};

use tokio::task::AbortHandle;

use super::state::Shared;

/// A strict stand-in for the parts of api.video that matter to authentication.
///
/// Clones are handles to one server, which stops when the last is dropped. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct FakeApi(pub(super) Arc<Handle>);

pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
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
