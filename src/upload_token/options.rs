//! How a video is cut, sent and repeated.

use std::fmt;

use super::{
    progress::{Progress, Unfinished},
    source::{MAX_LENGTH, TOO_LONG, wrong},
};
use crate::error::{Error, ErrorKind};

/// How large chunks may be, in bytes: the API asks for 5 MiB at least and takes 200 MiB
/// (<https://docs.api.video/reference/api/Videos>); its own clients stop at 128 MiB.
const CHUNK_SIZES: std::ops::RangeInclusive<usize> = 5 * MIB..=128 * MIB;

/// As in api.video's own clients: few requests, and little is lost when one fails.
const CHUNK_SIZE: usize = 50 * MIB;

/// As in api.video's own clients: the first attempt and six more. With the waits between them, they bridge an outage
/// of half a minute.
const ATTEMPTS: u32 = 7;

const MIB: usize = 1024 * 1024;

/// How to upload. See [`upload`](super::upload()).
///
/// ```
/// use apivideo_auth::upload_token::UploadOptions;
///
/// let options = UploadOptions::new()
///     .chunk_size(16 * 1024 * 1024)
///     .concurrency(4)
///     .on_progress(|progress| println!("{} bytes of {:?}", progress.bytes, progress.total));
/// ```
///
/// Nothing is checked here: [`upload`](super::upload()) refuses what can't work before it sends
/// anything. Memory: [`concurrency`](Self::concurrency) times [`chunk_size`](Self::chunk_size).
#[must_use]
pub struct UploadOptions {
    pub(super) video_id: Option<String>,
    pub(super) unfinished: Option<Unfinished>,
    chunk_size: usize,
    pub(super) concurrency: usize,
    pub(super) attempts: u32,
    pub(super) on_progress: Option<OnProgress>,
}

/// `FnMut`, since a progress bar has state; called under the upload's lock, one at a time.
pub(super) type OnProgress = Box<dyn FnMut(Progress) + Send>;

impl UploadOptions {
    /// Makes a new video by `POST /upload`, over an [`UploadTokenLayer`](super::UploadTokenLayer).
    ///
    /// To resume such an upload, [`resume`](Self::resume) names the video.
    pub fn new() -> Self {
        Self {
            video_id: None,
            unfinished: None,
            chunk_size: CHUNK_SIZE,
            concurrency: 1,
            attempts: ATTEMPTS,
            on_progress: None,
        }
    }

    /// Uploads the source of a video that was created before, by `POST /videos/{videoId}/source`, over a service whose
    /// requests get a bearer.
    pub fn to_video(video_id: impl Into<String>) -> Self {
        Self {
            video_id: Some(video_id.into()),
            ..Self::new()
        }
    }

    /// Goes on with an upload that has stopped. The source is read from its beginning again, but only what is missing
    /// is sent. The chunk size is that of the first try.
    ///
    /// It may be another token, another process's network, or another file handle; it has to be the
    /// same source, which is judged by its length alone.
    pub fn resume(mut self, unfinished: &Unfinished) -> Self {
        self.unfinished = Some(unfinished.clone());
        self
    }

    /// The size of a chunk in bytes, 5 MiB to 128 MiB. Default: 50 MiB, as in api.video's own
    /// clients. A source that is not larger goes in one piece. Smaller chunks lose less when one
    /// fails, and are more requests: the API takes 10 000 for one video.
    pub fn chunk_size(mut self, bytes: usize) -> Self {
        self.chunk_size = bytes;
        self
    }

    /// How many chunks may be on their way, and in memory, at once. Default: 1. The first chunk of
    /// a new video goes alone: the others need the id that its response brings.
    pub fn concurrency(mut self, chunks: usize) -> Self {
        self.concurrency = chunks;
        self
    }

    /// How often a chunk is sent before the upload fails, the first time included. Default: 7,
    /// which with the waits in between bridges an outage of half a minute. 1 repeats nothing.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Is called after each chunk that was accepted.
    ///
    /// It should not block: the upload waits for it. A panic in it ends the upload.
    pub fn on_progress(mut self, call: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }

    /// Checks the settings, together with the length of the source, and gives the chunk size. A
    /// resumed upload keeps its own: the chunks that are with the API are counted by it.
    pub(super) fn check(&self, length: Option<u64>) -> Result<usize, Error> {
        let refuse = |message: &str| Err(Error::new(ErrorKind::Configuration, message));
        if !CHUNK_SIZES.contains(&self.chunk_size) {
            return refuse("the chunk size is not between 5 MiB and 128 MiB");
        }
        if self.concurrency == 0 || self.attempts == 0 {
            return refuse("concurrency or attempts are zero");
        }
        if self.video_id.as_deref().is_some_and(|id| !is_id(id)) {
            return refuse(
                "the video id is empty or contains something other than letters, digits, `-` and `_`",
            );
        }
        if length.is_some_and(|length| length > MAX_LENGTH) {
            return Err(wrong(TOO_LONG));
        }
        let Some(Unfinished(before)) = &self.unfinished else {
            return Ok(self.chunk_size);
        };
        if self
            .video_id
            .as_ref()
            .is_some_and(|id| *id != before.video_id)
            || before.length != length
        {
            return refuse(
                "the upload to go on with was of another video, or of a source of another length",
            );
        }
        Ok(before.chunk_size)
    }
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for UploadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadOptions")
            .field("video_id", &self.video_id)
            .field("chunk_size", &self.chunk_size)
            .field("concurrency", &self.concurrency)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Whether a text has the form of a video id: it is put into URIs and messages as it is.
///
/// An id comes from the user or from the API, and neither may change where a request goes.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
