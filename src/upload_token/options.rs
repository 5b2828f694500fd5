//! How a video is cut, sent and repeated.

use std::{collections::BTreeSet, fmt};

use super::{
    limits::{CHUNK_SIZES, MAX_LENGTH, MIB, is_id},
    progress::Progress,
    record::Record,
    source::{Source, TOO_LONG, wrong},
    unfinished::Unfinished,
};
use crate::{
    clock::system_now,
    error::{Error, ErrorKind},
};

/// As in api.video's own clients: few requests, and little is lost when one fails.
const CHUNK_SIZE: usize = 50 * MIB;

/// As in api.video's own clients: the first attempt and six more. With the waits between them, they bridge an outage
/// of half a minute.
const ATTEMPTS: u32 = 7;

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
/// Nothing is checked here: [`upload`](super::upload()) refuses what can't work before it sends anything. Memory:
/// [`concurrency`](Self::concurrency) times [`chunk_size`](Self::chunk_size), and one chunk more at the most.
#[must_use]
pub struct UploadOptions {
    video_id: Option<String>,
    unfinished: Option<Unfinished>,
    chunk_size: usize,
    pub(super) concurrency: usize,
    pub(super) attempts: u32,
    pub(super) on_progress: Option<OnProgress>,
    pub(super) on_checkpoint: Option<OnCheckpoint>,
}

/// `FnMut`, since a progress bar has state.
pub(super) type OnProgress = Box<dyn FnMut(Progress) + Send>;

/// `FnMut` as well: it may hold a file. Called one at a time.
pub(super) type OnCheckpoint = Box<dyn FnMut(&Unfinished) + Send>;

impl UploadOptions {
    /// Makes a new video by `POST /upload`, over an [`UploadTokenLayer`](super::UploadTokenLayer).
    pub fn new() -> Self {
        Self {
            video_id: None,
            unfinished: None,
            chunk_size: CHUNK_SIZE,
            concurrency: 1,
            attempts: ATTEMPTS,
            on_progress: None,
            on_checkpoint: None,
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

    /// Goes on with an upload that has stopped, and sends only what is missing. `new().resume(..)` goes the way of the first
    /// try, by a video id or with an upload token; [`to_video`](Self::to_video) with the same id goes on with a bearer. The
    /// chunk size is that of the first try.
    ///
    /// It may be another token, another process, another network; it has to be the same source, which is judged by its
    /// length alone. A source that [can seek](Source::seekable), as a file can, is read only where something is missing; any
    /// other is read from its beginning. An upload that was finished after all is a success.
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

    /// Is called ten times a second at the most, while bytes are taken or chunks accepted, and at the end.
    ///
    /// It is called from the task of the upload, which waits for it, so it should not block. A panic in it ends the upload.
    /// It needs a Tokio runtime with its timer on.
    pub fn on_progress(mut self, call: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }

    /// Is called before each chunk goes out, and when it was accepted or given up, with what is left to do. What was written
    /// down last is enough to go on after a `kill -9`, or to know that a video may exist.
    ///
    /// ```
    /// use apivideo_auth::upload_token::UploadOptions;
    ///
    /// let options = UploadOptions::new().on_checkpoint(|unfinished| {
    ///     // A new file in the place of the old one: it is whole at any moment.
    ///     std::fs::write("upload.json.new", unfinished.to_json()).expect("a disk that is not full");
    ///     std::fs::rename("upload.json.new", "upload.json").expect("a disk that is not full");
    /// });
    /// ```
    ///
    /// The upload waits for it: a quick write is fine. A panic in it ends the upload.
    pub fn on_checkpoint(mut self, call: impl FnMut(&Unfinished) + Send + 'static) -> Self {
        self.on_checkpoint = Some(Box::new(call));
        self
    }

    /// Checks the settings together with the source, and gives what is known before the first request. A resumed upload keeps
    /// its chunk size: the chunks that are with the API are counted by it.
    pub(super) fn record<A>(&self, source: &Source<A>) -> Result<Record, Error> {
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
        if source.length.is_some_and(|length| length > MAX_LENGTH) {
            return Err(wrong(TOO_LONG));
        }
        let Some(unfinished) = &self.unfinished else {
            return Ok(Record {
                video_id: self.video_id.clone(),
                has_upload_token: self.video_id.is_none(),
                file_name: source.file_name.clone(),
                started_at: system_now().wall,
                chunk_size: self.chunk_size,
                length: source.length,
                accepted: BTreeSet::new(),
                bytes: 0,
                sent: BTreeSet::new(),
            });
        };
        let mut record = Record::clone(&unfinished.record);
        if record.length != source.length {
            return refuse("the upload to go on with was of a source of another length");
        }
        match (&self.video_id, &record.video_id) {
            (Some(id), Some(before)) if id != before => {
                return refuse("the upload to go on with was of another video");
            }
            (None, None) if unfinished.has_begun() => {
                let message = "a video may exist, look for it: go on with its id, or begin anew if there is none";
                let kind = ErrorKind::VideoMayExist;
                return Err(Error::with_source(kind, message, unfinished.clone()));
            }
            (Some(id), _) => {
                record.video_id = Some(id.clone());
                record.has_upload_token = false;
            }
            (None, _) => {}
        }
        Ok(record)
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
