//! A source being read in chunks.

use std::{collections::BTreeSet, io};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, copy, sink};

use super::{
    limits::MAX_LENGTH,
    multipart::Boundary,
    source::{Source, TOO_LONG, unread, wrong},
};
use crate::error::Error;

/// What is read of a source to see whether it has ended: whether a chunk is the last has to be
/// known before it is sent.
const PEEK: usize = 8 * 1024;

/// What a form needs around its chunk: a name of 1 KiB, an id and three boundaries are less.
const FORM: usize = 2 * 1024;

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
    pub(super) form: BytesMut,
    /// How long the part of the form before the chunk is.
    pub(super) head: u64,
}

/// A source being read in chunks, one at a time: a lock around it is the order of the bytes.
pub(super) struct Chunks<A> {
    source: Source<A>,
    chunk_size: usize,
    /// Those that are with the API from before.
    done: BTreeSet<u64>,
    number: u64,
    offset: u64,
    /// What was read ahead.
    ahead: Vec<u8>,
    /// Nothing more is to come.
    ended: bool,
}

impl<A: AsyncRead + Unpin> Chunks<A> {
    /// At the beginning of the source.
    pub(super) fn new(source: Source<A>, chunk_size: usize, done: BTreeSet<u64>) -> Self {
        Self {
            source,
            chunk_size,
            done,
            number: 0,
            offset: 0,
            ahead: Vec::new(),
            ended: false,
        }
    }

    /// How much of the source is behind, read or skipped.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next chunk that is missing, in the memory of the one before. `None` after the last.
    ///
    /// The form is written here, around the bytes as they are read, in a buffer that never grows: written later, it would
    /// cost a copy of each chunk.
    pub(super) async fn next(
        &mut self,
        boundary: &Boundary,
        video_id: Option<&str>,
        mut form: BytesMut,
    ) -> Result<Option<Chunk>, Error> {
        while !self.ended && self.done.contains(&self.number) {
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
        form.clear();
        if form.capacity() < head.len() + size + tail.len() {
            // Two of them need never be there at once.
            drop(form);
            form = BytesMut::with_capacity(size + FORM);
        }
        form.extend_from_slice(head.as_bytes());
        self.fill(&mut form, size).await.map_err(unread)?;
        let (number, from) = (self.number, self.offset);
        let length = (form.len() - head.len()) as u64;
        if length == 0 && number == 0 {
            return Err(wrong("the source is empty"));
        }
        form.extend_from_slice(tail.as_bytes());
        self.finish(length).await?;
        Ok(Some(Chunk {
            number,
            from,
            length,
            is_last: self.ended,
            head: head.len() as u64,
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

    /// Goes past a chunk that is with the API already: unread, where the reader can seek.
    async fn skip(&mut self) -> Result<u64, Error> {
        let size = self.size();
        let ahead = self.ahead.len().min(size);
        self.ahead.drain(..ahead);
        let (rest, reader) = (size - ahead, &mut self.source.reader);
        let skipped = match self.source.skip {
            Some(skip) => skip(reader, rest as i64).await.map(|()| rest as u64),
            None => copy(&mut reader.take(rest as u64), &mut sink()).await,
        };
        Ok(ahead as u64 + skipped.map_err(unread)?)
    }

    /// Reads a chunk behind what is in the buffer, which is large enough: it must not grow.
    async fn fill(&mut self, form: &mut BytesMut, size: usize) -> io::Result<()> {
        let ahead = self.ahead.len().min(size);
        form.extend_from_slice(&self.ahead[..ahead]);
        self.ahead.drain(..ahead);
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
