//! What is uploaded, read once and cut into chunks.

use std::{collections::BTreeSet, fmt, io, path::Path};

use bytes::BufMut;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, copy, sink},
};

use super::multipart::Boundary;
use crate::error::{Error, ErrorKind};

/// The most that the API takes for one video.
///
/// In bytes; a source of known length is refused at once, another when it gets there.
pub(super) const MAX_LENGTH: u64 = 52_428_800_000;

/// What is read of a source to see whether it has ended: whether a chunk is the last has to be
/// known before it is sent.
const PEEK: usize = 8 * 1024;

/// What is to be uploaded: anything that can be read.
///
/// ```
/// use apivideo_auth::upload_token::Source;
///
/// // From memory, a pipe or a socket: the length may be told, or be found out at the end.
/// let film: &[u8] = b"a film";
/// let source = Source::new(film).length(film.len() as u64).file_name("film.mp4");
/// ```
///
/// It is read once, from its beginning. To resume an upload, open it anew.
pub struct Source<A> {
    pub(super) reader: A,
    pub(super) length: Option<u64>,
    pub(super) file_name: String,
}

impl<A: AsyncRead + Unpin> Source<A> {
    /// Of unknown length, as far as the reader goes. Chunks are then numbered by parts, and the
    /// total is told with the last one.
    pub fn new(reader: A) -> Self {
        Self {
            reader,
            length: None,
            file_name: "video".to_owned(),
        }
    }

    /// Tells the length in bytes, so that the API and [`Progress`](super::Progress) know the total from the beginning.
    /// If it is another in the end, the upload fails.
    #[must_use]
    pub fn length(mut self, bytes: u64) -> Self {
        self.length = Some(bytes);
        self
    }

    /// The name of the file, which becomes the title of a new video. Default: `video`.
    ///
    /// Quotes, line ends and other control characters are replaced, and what is longer than 1 KiB
    /// is cut.
    #[must_use]
    pub fn file_name(mut self, name: impl Into<String>) -> Self {
        self.file_name = name.into();
        self
    }
}

impl Source<File> {
    /// A file, with its length and its name.
    ///
    /// # Errors
    ///
    /// If the file can't be opened, or is a folder. The error names the file.
    ///
    /// Of a pipe or a device, the length is not known and is found out.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::open(path).await.map_err(named)?;
        let metadata = file.metadata().await.map_err(named)?;
        if metadata.is_dir() {
            return Err(named(io::ErrorKind::IsADirectory.into()));
        }
        let source = Self::new(file);
        // Of pipes and devices, the length is not known.
        let source = if metadata.is_file() {
            source.length(metadata.len())
        } else {
            source
        };
        Ok(match path.file_name() {
            Some(name) => source.file_name(name.to_string_lossy()),
            None => source,
        })
    }
}

impl<A> fmt::Debug for Source<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("length", &self.length)
            .field("file_name", &self.file_name)
            .finish_non_exhaustive()
    }
}

/// A part of the source, and where it belongs.
#[derive(Debug)]
pub(super) struct Chunk {
    /// From 0 on.
    pub(super) number: u64,
    pub(super) from: u64,
    /// Without the form around it.
    pub(super) length: u64,
    pub(super) is_last: bool,
    /// The whole form with the chunk in it.
    pub(super) form: Vec<u8>,
}

/// A source being read in chunks, one at a time: a lock around it is the order of the bytes.
pub(super) struct Chunks<A> {
    source: Source<A>,
    chunk_size: usize,
    number: u64,
    offset: u64,
    /// What was read ahead.
    ahead: Vec<u8>,
    /// Nothing more is to come.
    ended: bool,
}

impl<A: AsyncRead + Unpin> Chunks<A> {
    /// At the beginning of the source.
    pub(super) fn new(source: Source<A>, chunk_size: usize) -> Self {
        Self {
            source,
            chunk_size,
            number: 0,
            offset: 0,
            ahead: Vec::new(),
            ended: false,
        }
    }

    /// The next chunk that is not in `done`. `None` after the last.
    ///
    /// The form is written here, around the bytes as they are read, in a buffer that never grows: written later, it would
    /// cost a copy of each chunk.
    pub(super) async fn next(
        &mut self,
        done: &BTreeSet<u64>,
        boundary: &Boundary,
        video_id: Option<&str>,
    ) -> Result<Option<Chunk>, Error> {
        while !self.ended && done.contains(&self.number) {
            let length = self.skip().await?;
            self.finish(length).await?;
        }
        if self.ended {
            return Ok(None);
        }
        let (head, tail) = (
            boundary.head(video_id, &self.source.file_name),
            boundary.tail(),
        );
        let size = self.size();
        let mut form = Vec::with_capacity(head.len() + size + tail.len());
        form.extend_from_slice(head.as_bytes());
        self.fill(&mut form, size).await.map_err(unread)?;
        let (number, from) = (self.number, self.offset);
        let length = (form.len() - head.len()) as u64;
        form.extend_from_slice(tail.as_bytes());
        self.finish(length).await?;
        Ok(Some(Chunk {
            number,
            from,
            length,
            is_last: self.ended,
            form,
        }))
    }

    /// How long the next chunk is, if the source is as long as was said.
    fn size(&self) -> usize {
        let left = self
            .source
            .length
            .map(|length| length.saturating_sub(self.offset));
        left.and_then(|left| usize::try_from(left).ok())
            .map_or(self.chunk_size, |left| left.min(self.chunk_size))
    }

    /// Reads past a chunk that is with the API already. The reader may not be able to seek.
    async fn skip(&mut self) -> Result<u64, Error> {
        let size = self.size();
        let ahead = self.ahead.len().min(size);
        self.ahead.drain(..ahead);
        let mut rest = (&mut self.source.reader).take((size - ahead) as u64);
        Ok(ahead as u64 + copy(&mut rest, &mut sink()).await.map_err(unread)?)
    }

    /// Reads a chunk behind what is in the buffer, which is large enough: it must not grow.
    async fn fill(&mut self, form: &mut Vec<u8>, size: usize) -> io::Result<()> {
        let ahead = self.ahead.len().min(size);
        form.extend(self.ahead.drain(..ahead));
        let mut left = size - ahead;
        while left > 0 {
            let read = self
                .source
                .reader
                .read_buf(&mut (&mut *form).limit(left))
                .await?;
            if read == 0 {
                break;
            }
            left -= read;
        }
        Ok(())
    }

    /// Counts a chunk that was read, and finds out whether it was the last.
    ///
    /// A source of known length is checked on the way, so that an upload of a file that is still
    /// being written fails rather than making half a video.
    async fn finish(&mut self, length: u64) -> Result<(), Error> {
        self.number += 1;
        self.offset += length;
        if self.ahead.is_empty() && length == self.chunk_size as u64
            || self.source.length == Some(self.offset)
        {
            self.ahead.reserve(PEEK);
            self.source
                .reader
                .read_buf(&mut self.ahead)
                .await
                .map_err(unread)?;
        }
        self.ended = self.ahead.is_empty();
        match self.source.length {
            _ if self.offset == 0 => Err(wrong("the source is empty")),
            Some(said) if self.offset > said || self.offset == said && !self.ended => {
                Err(wrong("the source is longer than was said"))
            }
            Some(said) if self.offset < said && self.ended => {
                Err(wrong("the source is shorter than was said"))
            }
            _ if self.offset > MAX_LENGTH => Err(wrong(TOO_LONG)),
            _ => Ok(()),
        }
    }
}

pub(super) const TOO_LONG: &str =
    "the source is longer than the 52,428,800,000 bytes that the API takes";

/// The source is at fault, and no request of ours would mend it.
pub(super) fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::UploadSource, message)
}

/// The reader's own error is kept as the source.
fn unread(error: io::Error) -> Error {
    Error::with_source(ErrorKind::UploadSource, "the source can't be read", error)
}
