//! How far an upload is: on its way, and when it has stopped.

use std::{collections::BTreeSet, error::Error as StdError, fmt, sync::Arc};

use crate::error::Error;

/// How far an upload is: told after each chunk that was accepted, through
/// [`on_progress`](super::UploadOptions::on_progress).
///
/// After a [resume](super::UploadOptions::resume) it counts what was accepted before as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many bytes of the source are with the API. Forms and headers are not counted.
    pub bytes: u64,
    /// How many there are, if that is known.
    pub total: Option<u64>,
    /// Which chunk was accepted just now, counted from 1. They need not come in order.
    pub chunk: u64,
    /// How many chunks there are, if that is known.
    pub chunks: Option<u64>,
}

/// An upload that stopped in the middle: the video exists, but parts of it are missing.
///
/// It is found in the error of [`upload`](super::upload()). The upload can be [resumed](super::UploadOptions::resume), with
/// another token if need be; or the video can be deleted by its id.
///
/// ```
/// use apivideo_auth::{Error, upload_token::Unfinished};
///
/// fn report(error: &Error) -> String {
///     match Unfinished::of(error) {
///         Some(left) => format!("video {} has {} bytes so far", left.video_id(), left.bytes()),
///         None => format!("nothing was left behind: {error}"),
///     }
/// }
/// # assert!(report(&Error::store(apivideo_auth::ErrorKind::StoreLocked, "x", None)).starts_with("nothing"));
/// ```
///
/// It is kept in memory only, and holds no token. Its own source is the error that stopped the
/// upload.
#[derive(Clone)]
pub struct Unfinished(pub(super) Arc<Stopped>);

/// What is needed to go on. The chunk size is part of it: by another, the chunks would have other
/// borders.
pub(super) struct Stopped {
    pub(super) video_id: String,
    pub(super) chunk_size: usize,
    pub(super) length: Option<u64>,
    /// The numbers of the chunks that were accepted.
    pub(super) done: BTreeSet<u64>,
    pub(super) bytes: u64,
    /// Why it stopped.
    pub(super) cause: Error,
}

impl Unfinished {
    /// The upload behind an error, if it left a video behind.
    ///
    /// `None` where no video was made, or where nobody can know whether one was.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        error.source()?.downcast_ref()
    }

    /// The id of the video. It exists, without being playable; delete it if the upload is given up.
    #[must_use]
    pub fn video_id(&self) -> &str {
        &self.0.video_id
    }

    /// How many bytes of it are with the API.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished")
            .field("video_id", &self.0.video_id)
            .field("bytes", &self.0.bytes)
            .field("cause", &self.0.cause)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes in {} chunks were accepted",
            self.0.bytes,
            self.0.done.len()
        )
    }
}

impl StdError for Unfinished {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0.cause)
    }
}
