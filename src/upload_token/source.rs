//! What is uploaded.

use std::{
    fmt,
    io::{self, SeekFrom},
    path::Path,
};

use futures::future::BoxFuture;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncSeek, AsyncSeekExt},
};

use crate::error::{Error, ErrorKind};

/// Moves a reader on by so many bytes.
type Skip<A> = for<'a> fn(&'a mut A, i64) -> BoxFuture<'a, io::Result<()>>;

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
/// It is read once, from where it stands. To resume an upload, open it anew: a [file](Self::open), or what else
/// [can seek](Self::seekable), is then read only where something is missing.
pub struct Source<A> {
    pub(super) reader: A,
    pub(super) length: Option<u64>,
    pub(super) file_name: String,
    /// Where the reader can do that. A function rather than a bound: most readers can't.
    pub(super) skip: Option<Skip<A>>,
}

impl<A: AsyncRead + Unpin> Source<A> {
    /// Of unknown length, as far as the reader goes. Chunks are then numbered by parts, and the
    /// total is told with the last one.
    pub fn new(reader: A) -> Self {
        Self {
            reader,
            length: None,
            file_name: "video".to_owned(),
            skip: None,
        }
    }

    /// Of what can seek, from where it stands to its end, which is looked for.
    ///
    /// # Errors
    ///
    /// The reader's own.
    ///
    /// # Cancel safety
    ///
    /// The reader is lost with the future.
    pub async fn seekable(mut reader: A) -> io::Result<Self>
    where
        A: AsyncSeek + Send,
    {
        let start = reader.stream_position().await?;
        let end = reader.seek(SeekFrom::End(0)).await?;
        reader.seek(SeekFrom::Start(start)).await?;
        let mut source = Self::new(reader).length(end.saturating_sub(start));
        source.skip = Some(|reader, bytes| {
            Box::pin(async move { reader.seek(SeekFrom::Current(bytes)).await.map(drop) })
        });
        Ok(source)
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
        // Of pipes and devices, the length is not known.
        let source = if metadata.is_file() {
            Self::seekable(file).await.map_err(named)?
        } else {
            Self::new(file)
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

pub(super) const TOO_LONG: &str =
    "the source is longer than the 52,428,800,000 bytes that the API takes";

/// The source is at fault, and no request of ours would mend it.
pub(super) fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::UploadSource, message)
}

/// The reader's own error is kept as the source.
pub(super) fn unread(error: io::Error) -> Error {
    Error::with_source(ErrorKind::UploadSource, "the source can't be read", error)
}
