//! The body of an upload's requests.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// How much of a chunk is handed out at once. A client takes the next piece when it has room for it, so this is how
/// finely progress is counted. Ten times smaller ones cost time, larger ones are coarse on a slow line.
const PIECE: usize = 64 * 1024;

/// The body of the requests of [`upload`](super::upload()), which counts what the client takes of it.
///
/// Make the client for it: `Client::builder(TokioExecutor::new()).build::<_, UploadBody>(connector)`. It is made of any
/// [`Bytes`], so the same client serves all other requests too.
#[derive(Default)]
pub struct UploadBody {
    left: Bytes,
    /// Counts what was taken.
    taken: Option<Arc<AtomicU64>>,
}

impl UploadBody {
    /// Hands out these bytes in pieces, and counts them.
    pub(super) fn counted(bytes: Bytes, taken: Arc<AtomicU64>) -> Self {
        Self {
            left: bytes,
            taken: Some(taken),
        }
    }
}

impl From<Bytes> for UploadBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            left: bytes,
            taken: None,
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = match &self.taken {
            Some(_) => self.left.len().min(PIECE),
            None => self.left.len(),
        };
        if size == 0 {
            return Poll::Ready(None);
        }
        if let Some(taken) = &self.taken {
            taken.fetch_add(size as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

impl fmt::Debug for UploadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadBody")
            .field("left", &self.left.len())
            .finish_non_exhaustive()
    }
}

/// A chunk goes out in pieces, and what has no progress to count can be sent again by a middleware.
#[cfg(feature = "reqwest-middleware")]
impl From<UploadBody> for reqwest::Body {
    fn from(body: UploadBody) -> Self {
        match body.taken {
            Some(_) => Self::wrap(body),
            None => body.left.into(),
        }
    }
}
