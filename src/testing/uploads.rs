//! What was uploaded: chunks put together in any order.
//!
//! The limits are the API's: parts of 5 to 200 MiB, the last one shorter, 10 000 parts and 52 428
//! 800 000 bytes at most (<https://docs.api.video/reference/api/Videos>).

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{multipart, responses::Refusal, route::MAX_CHUNK};

/// The shortest chunk, the last one apart.
const MIN_CHUNK: u64 = 5 * 1024 * 1024;
/// The longest video, in bytes.
const MAX_TOTAL: u64 = 52_428_800_000;
/// The most chunks of a video.
const MAX_PARTS: u64 = 10_000;

/// What the fake server has of a video. See [`FakeApi::received`](super::FakeApi::received).
///
/// Compare [`sha256`](Self::sha256) with that of the source: it is made of the bytes in their order, whatever the
/// order in which they came.
#[derive(Clone)]
#[non_exhaustive]
pub struct Received {
    /// Whether the video is there in full.
    pub finished: bool,
    /// How many bytes are there without a gap from the beginning.
    pub length: u64,
    /// How many chunks have come, those beyond a gap included and repeated ones not.
    pub chunks: usize,
    /// The `filename` of the first chunk that had one.
    pub file_name: Option<String>,
    /// The bytes, if [`FakeApiBuilder::keep_uploads`](super::FakeApiBuilder::keep_uploads) asked for them.
    pub bytes: Option<Bytes>,
    hash: Sha256,
    unhashed: Vec<Bytes>,
}

impl Received {
    /// The SHA-256 of the bytes that are there without a gap. It is made here, for it takes its time in a debug build.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = self.hash.clone();
        self.unhashed.iter().for_each(|chunk| hash.update(chunk));
        hash.finalize().into()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("finished", &self.finished)
            .field("length", &self.length)
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// What an upload does beside what the API says.
#[derive(Clone, Copy, Default)]
pub(super) struct UploadRules {
    /// Whether the bytes stay in memory.
    pub(super) keep: bool,
    /// From the last byte, or from the order to fetch it, until a video is stored.
    pub(super) ingest_time: Duration,
}

/// The form of an upload.
pub(super) struct UploadForm {
    /// Of chunks after the first, with an upload token.
    pub(super) video_id: Option<String>,
    pub(super) file_name: Option<String>,
    file: Bytes,
    range: Range,
}

impl UploadForm {
    /// Reads a form with exactly one file. Other fields are left alone.
    pub(super) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Self, Refusal> {
        let text =
            |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let range = text(header::CONTENT_RANGE).map_or(Some(Range::Whole), Range::parse);
        let Some(range) = range else {
            return Err(("invalid-attribute", "Content-Range"));
        };
        let fields = multipart::parse(text(header::CONTENT_TYPE).unwrap_or_default(), body);
        let Some(fields) = fields else {
            return Err(("invalid-payload", ""));
        };
        let (mut files, mut video_id) = (Vec::new(), None);
        for field in fields {
            match &*field.name {
                "file" => files.push(field),
                "videoId" => video_id = Some(String::from_utf8_lossy(&field.data).into_owned()),
                _ => {}
            }
        }
        let one = files.pop();
        match one {
            Some(one) if files.is_empty() => Ok(Self {
                video_id,
                file_name: one.file_name,
                file: one.data,
                range,
            }),
            Some(_) => Err(("uploaded-file-multiple-files", "file")),
            None => Err(("uploaded-file-no-file", "file")),
        }
    }
}

/// What `Content-Range` says.
enum Range {
    /// No header: the video in one piece.
    Whole,
    /// `bytes FROM-TO/TOTAL`, both ends included.
    Bytes {
        from: u64,
        to: u64,
        total: Option<u64>,
    },
    /// `part N/PARTS`, from 1 on.
    Part { part: u64, parts: Option<u64> },
}

impl Range {
    /// `None` if it is not well formed or beyond a limit. `*` is a total that is not known yet.
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (unit, rest) = text.split_once(' ')?;
        let (place, total) = rest.split_once('/')?;
        let total = if total == "*" {
            None
        } else {
            Some(number(total)?)
        };
        match unit {
            "bytes" => {
                let (from, to) = place.split_once('-')?;
                let (from, to) = (number(from)?, number(to)?);
                let fits = from <= to && to < total.unwrap_or(MAX_TOTAL).min(MAX_TOTAL);
                (fits && total.is_none_or(|total| total <= MAX_TOTAL)).then_some(Self::Bytes {
                    from,
                    to,
                    total,
                })
            }
            "part" => {
                let part = number(place)?;
                let fits = part >= 1 && part <= total.unwrap_or(MAX_PARTS).min(MAX_PARTS);
                (fits && total.is_none_or(|total| total <= MAX_PARTS))
                    .then_some(Self::Part { part, parts: total })
            }
            _ => None,
        }
    }
}

/// One video's source on its way. Chunks that came in order are kept until they are too many together, then they are hashed
/// and let go; those beyond a gap are kept.
#[derive(Default)]
pub(super) struct Upload {
    /// Whether its chunks are numbered by bytes or by parts: not both.
    by_bytes: Option<bool>,
    /// In bytes or in parts.
    total: Option<u64>,
    /// Where each chunk that has come begins, and where the one after it does.
    chunks: BTreeMap<u64, (u64, usize)>,
    /// Those that wait for one before them.
    waiting: BTreeMap<u64, Bytes>,
    /// What comes next, counted as the chunks are.
    next: u64,
    length: u64,
    /// Of what came before the chunks that are not hashed yet.
    hash: Sha256,
    unhashed: Vec<Bytes>,
    /// Whether they stay.
    keep: bool,
    file_name: Option<String>,
    finished: bool,
    /// Whether the API fetches it from elsewhere.
    fetched: bool,
    /// Once it is finished or fetched: when it is stored, by the monotonic clock.
    stored: Duration,
    ingest_time: Duration,
}

impl Upload {
    /// Nothing has come yet.
    pub(super) fn new(rules: UploadRules) -> Self {
        Self {
            keep: rules.keep,
            ingest_time: rules.ingest_time,
            ..Self::default()
        }
    }

    /// The API gets it from elsewhere, so that nothing can be uploaded.
    pub(super) fn fetch(&mut self, now: Duration) {
        self.fetched = true;
        self.finish(now);
    }

    fn finish(&mut self, now: Duration) {
        self.finished = true;
        self.stored = now.saturating_add(self.ingest_time);
    }

    /// Takes a chunk in, unless the API would refuse it.
    ///
    /// The same chunk again is taken as it is: a client whose response was lost can't know better.
    /// It must not overlap another, nor contradict what is known of the total.
    pub(super) fn add(&mut self, form: UploadForm, now: Duration) -> Result<(), Refusal> {
        if self.finished {
            return Err(("video-source-already-uploaded", "file"));
        }
        let length = form.file.len() as u64;
        let invalid = |name| Err(("invalid-attribute", name));
        let (by_bytes, start, end, total, is_last) = match form.range {
            Range::Whole => (true, 0, length, Some(length), true),
            Range::Bytes { from, to, total } => (true, from, to + 1, total, Some(to + 1) == total),
            Range::Part { part, parts } => (false, part, part + 1, parts, Some(part) == parts),
        };
        if by_bytes && end - start != length
            || self.by_bytes.is_some_and(|present| present != by_bytes)
        {
            return invalid("Content-Range");
        }
        if length > MAX_CHUNK as u64 || length < MIN_CHUNK && !is_last {
            return invalid("file");
        }
        let past_total = |total| if by_bytes { end > total } else { start > total };
        let furthest = self
            .chunks
            .last_key_value()
            .map_or(0, |(start, (end, _))| if by_bytes { *end } else { *start });
        if self.total.is_some_and(|present| {
            total.is_some_and(|total| total != present) || past_total(present)
        }) || total.is_some_and(|total| furthest > total)
        {
            return invalid("Content-Range");
        }
        match self.chunks.get(&start) {
            // Sent again, because its response was lost.
            Some((_, present)) if *present as u64 == length => return Ok(()),
            Some(_) => return invalid("Content-Range"),
            None => {}
        }
        let before = self
            .chunks
            .range(..start)
            .next_back()
            .is_none_or(|(_, (end, _))| *end <= start);
        let after = self
            .chunks
            .range(start..)
            .next()
            .is_none_or(|(start, _)| *start >= end);
        if !(before && after) {
            return invalid("Content-Range");
        }
        if self.chunks.is_empty() {
            self.next = u64::from(!by_bytes);
        }
        self.by_bytes = Some(by_bytes);
        self.total = self.total.or(total);
        self.file_name = self.file_name.take().or(form.file_name);
        self.chunks.insert(start, (end, form.file.len()));
        self.waiting.insert(start, form.file);
        self.put_together(now);
        Ok(())
    }

    /// Takes up what has no gap before it any more.
    fn put_together(&mut self, now: Duration) {
        while let Some(chunk) = self.waiting.remove(&self.next) {
            self.length += chunk.len() as u64;
            self.unhashed.push(chunk);
            self.next = self.chunks[&self.next].0;
        }
        let end = self.total.map(|total| {
            if self.by_bytes == Some(true) {
                total
            } else {
                total + 1
            }
        });
        if end == Some(self.next) {
            self.finish(now);
        }
    }

    /// How many bytes are kept to be hashed when somebody asks.
    pub(super) fn unhashed(&self) -> usize {
        match self.keep {
            true => 0,
            false => self.unhashed.iter().map(Bytes::len).sum(),
        }
    }

    /// Hashes them now, and lets them go.
    pub(super) fn hash(&mut self) {
        if !self.keep {
            let chunks = self.unhashed.drain(..);
            chunks.for_each(|chunk| self.hash.update(&chunk));
        }
    }

    /// What is there. `None` if nothing was uploaded.
    pub(super) fn received(&self) -> Option<Received> {
        (!self.chunks.is_empty()).then(|| Received {
            finished: self.finished,
            length: self.length,
            chunks: self.chunks.len(),
            file_name: self.file_name.clone(),
            bytes: self.keep.then(|| self.unhashed.concat().into()),
            hash: self.hash.clone(),
            unhashed: self.unhashed.clone(),
        })
    }

    /// The response of `/videos/{videoId}/status`.
    pub(super) fn status(&self, now: Duration) -> Value {
        let stored = self.finished && now >= self.stored;
        let status = match (self.finished, self.fetched) {
            (false, _) => "uploading",
            _ if stored => "ingested",
            (true, true) => "ingesting",
            (true, false) => "uploaded",
        };
        let uploaded = self.finished && !self.fetched;
        let mut ingest = json!({ "status": status, "filesize": uploaded.then_some(self.length) });
        if self.by_bytes == Some(false) {
            let parts: Vec<_> = self.chunks.keys().collect();
            ingest["receivedParts"] = json!({ "parts": parts, "total": self.total });
        } else {
            let range = |(from, (end, _)): (&u64, &(u64, usize))| {
                let mut range = json!({ "from": from, "to": end.saturating_sub(1) });
                // The OpenAPI file allows no `null` here.
                if let Some(total) = self.total {
                    range["total"] = total.into();
                }
                range
            };
            ingest["receivedBytes"] = self.chunks.iter().map(range).collect();
        }
        json!({ "ingest": ingest, "encoding": { "playable": stored, "qualities": [] } })
    }
}
