//! An upload that stopped in the middle, and what is needed to go on.

use std::{error::Error as StdError, fmt, sync::Arc, time::SystemTime};

use super::{limits::is_id, record::Record};
use crate::error::{Error, ErrorKind};

/// What is left to do of an upload: to go on with it, in another process too, or to look for the video that it may have
/// made.
///
/// It is found in the error of [`upload`](super::upload()), and handed to
/// [`on_checkpoint`](super::UploadOptions::on_checkpoint) while the upload goes on. [`to_json`](Self::to_json) writes it
/// down, [`UploadOptions::resume`](super::UploadOptions::resume) takes it up. There is no token in it: who resumes gives a
/// service with a token of its own.
///
/// ```
/// use apivideo_auth::{Error, upload_token::Unfinished};
///
/// fn report(error: &Error) -> String {
///     match Unfinished::of(error).map(|left| (left, left.video_id())) {
///         Some((left, Some(id))) => format!("video {id} has {} bytes so far: resume", left.bytes()),
///         Some((left, None)) => format!("look for a video called {} before you try again", left.file_name()),
///         None => format!("nothing was left behind: {error}"),
///     }
/// }
/// # assert!(report(&Error::store(apivideo_auth::ErrorKind::StoreLocked, "x", None)).starts_with("nothing"));
/// ```
#[derive(Clone)]
pub struct Unfinished {
    pub(super) record: Arc<Record>,
    /// Why it stopped.
    cause: Option<Error>,
}

impl Unfinished {
    pub(super) fn new(record: Record, cause: Option<Error>) -> Self {
        Self {
            record: Arc::new(record),
            cause,
        }
    }

    /// The upload behind an error, if it left something behind. `None` where surely no video was made.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        error.source()?.downcast_ref()
    }

    /// The id of the video. It may be incomplete: delete it if the upload is given up.
    ///
    /// `None` where nobody knows whether a video was made, which is an error of kind
    /// [`VideoMayExist`](ErrorKind::VideoMayExist). If you find it in the list of videos, by the
    /// [file's name](Self::file_name) as its title and by [when the upload began](Self::started_at), go on
    /// [with its id](Self::with_video_id).
    #[must_use]
    pub fn video_id(&self) -> Option<&str> {
        self.record.video_id.as_deref()
    }

    /// How many bytes were accepted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }

    /// Whether anything of it may have arrived at the API. If not, a source that the video has by now is another's.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !(self.record.accepted.is_empty() && self.record.sent.is_empty())
    }

    /// The name that the source had: the title of a video that was made with an upload token.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.record.file_name
    }

    /// When the upload began, by this machine's clock, in whole seconds if it was stored since.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        self.record.started_at
    }

    /// The same for a video that was found later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if it has an id already, or this is no id.
    pub fn with_video_id(self, id: impl Into<String>) -> Result<Self, Error> {
        let (id, mut record) = (id.into(), Record::clone(&self.record));
        if record.video_id.is_some() || !is_id(&id) {
            let message = "the upload has a video already, or this is no id of one";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        record.video_id = Some(id);
        Ok(Self::new(record, self.cause))
    }

    /// As text, to be kept in a file or a database. It has the name of the file in it, and no secret.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.record.to_json()
    }

    /// Reads what [`to_json`](Self::to_json) has written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if it is something else, was damaged, or comes from a newer version.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Ok(Self::new(Record::from_json(text)?, None))
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished")
            .field("video_id", &self.record.video_id)
            .field("bytes", &self.record.bytes)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, chunks) = (self.record.bytes, self.record.accepted.len());
        write!(f, "{bytes} bytes in {chunks} chunks were accepted")
    }
}

/// Its source is what lies behind the error that stopped the upload, whose own text is in the error around this.
impl StdError for Unfinished {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_ref()?.source()
    }
}
