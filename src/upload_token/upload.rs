//! The upload itself: which chunk goes next, what is sent again, and what an error leaves behind.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join_all;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use serde::Deserialize;
use tokio::{io::AsyncRead, time};
use tower::{BoxError, Service};

use super::{
    multipart::Boundary,
    options::{OnProgress, UploadOptions, is_id},
    progress::{Progress, Stopped, Unfinished},
    request::request,
    response,
    source::{Chunk, Chunks, Source, wrong},
};
use crate::{
    error::{Error, ErrorKind},
    problem::Problem,
};

/// The most chunks that the API takes for one video.
const MAX_CHUNKS: u64 = 10_000;

/// The wait before a chunk is sent a second time. It doubles from one time to the next, and a
/// random half of it is left out.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait that is not asked for by the API.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A video that is with the API in full. Encoding it takes a while yet.
///
/// Whether it can be played yet is told by the API's `/videos/{videoId}/status`.
#[derive(Clone)]
pub struct Uploaded {
    video_id: String,
    video: Bytes,
}

impl Uploaded {
    /// The id of the video: what to keep.
    #[must_use]
    pub fn video_id(&self) -> &str {
        &self.video_id
    }

    /// The video as the API describes it, in JSON: the last description that came.
    #[must_use]
    pub fn video(&self) -> &Bytes {
        &self.video
    }
}

impl fmt::Debug for Uploaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploaded")
            .field("video_id", &self.video_id)
            .finish_non_exhaustive()
    }
}

/// Uploads a video, in chunks if it is large. See the [module docs](super#uploads).
///
/// `service` is made by an [`UploadTokenLayer`](super::UploadTokenLayer), or adds a bearer where the options name a
/// [video](UploadOptions::to_video). It is cloned for each request; one attempt takes as long as the service lets it.
///
/// # Errors
///
/// - [`ErrorKind::Configuration`] if an option can't work, and [`ErrorKind::UploadSource`] if the source can't be read or is
///   not as long as was said.
/// - [`ErrorKind::Refused`] if the token is unknown, deleted or expired. Else see [the module](super#errors).
///
/// If the video exists already, the message names it, and [`Unfinished`] is the source of the error.
///
/// # Cancel safety
///
/// Dropping the future ends the upload. What was accepted stays with the API, as a video that is never finished.
///
/// # What is sent again
///
/// A chunk of a known video is, freely: the API takes the same bytes at the same place twice. A
/// request that would make a video is not, once it may have been carried out. Between two attempts
/// lies half a second at first and 10 s at most, or what the API asks for.
pub async fn upload<B, S, R>(
    service: S,
    source: Source<impl AsyncRead + Unpin>,
    options: UploadOptions,
) -> Result<Uploaded, Error>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: From<Bytes>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let plan = Plan::new(&source, &options)?;
    let mut progress = UploadProgress::new(&plan, options);
    let mut chunks = Chunks::new(source, plan.chunk_size);

    // Without the id of the video, each further chunk would become a video of its own.
    let id = match progress.video_id.take() {
        Some(id) => id,
        None => {
            let chunk = chunks.next(&BTreeSet::new(), &plan.boundary, None).await?;
            let chunk = chunk.ok_or_else(|| wrong("the source is empty"))?;
            let (sent, video) = plan.send::<B, S, R>(&service, None, chunk).await?;
            let id = video_id(&video)?;
            progress.accept(&plan, &sent, video);
            id
        }
    };

    let done = progress.done.clone();
    let (chunks, progress) = (tokio::sync::Mutex::new(chunks), Mutex::new(progress));
    let lock = || progress.lock().unwrap_or_else(PoisonError::into_inner);
    let field = plan.target.is_none().then_some(&*id);
    // Each of these holds one chunk at most.
    let workers = (0..plan.concurrency).map(|_| async {
        loop {
            let chunk = chunks
                .lock()
                .await
                .next(&done, &plan.boundary, field)
                .await?;
            let Some(chunk) = chunk else { return Ok(()) };
            let (sent, video) = plan.send::<B, S, R>(&service, Some(&id), chunk).await?;
            lock().accept(&plan, &sent, video);
        }
    });
    let result = try_join_all(workers).await;
    let progress = progress
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match (result, progress.video) {
        (Ok(_), Some(video)) => Ok(Uploaded {
            video_id: id,
            video,
        }),
        (Ok(_), None) => Err(wrong("nothing was left to be sent")),
        (Err(error), _) => Err(plan.stopped(id, progress.done, progress.bytes, error)),
    }
}

/// How chunks are sent.
///
/// It does not change while the upload runs.
struct Plan {
    /// The video to upload to, by its path; none with a delegated token, whose requests carry the
    /// id as a field.
    target: Option<String>,
    boundary: Boundary,
    chunk_size: usize,
    length: Option<u64>,
    attempts: u32,
    concurrency: u64,
}

/// What has come of it so far. Shared by the workers, and locked for a few instructions.
struct UploadProgress {
    video_id: Option<String>,
    /// The numbers of the chunks that were accepted: with several on their way, they need not come
    /// in order.
    done: BTreeSet<u64>,
    bytes: u64,
    chunks: Option<u64>,
    video: Option<Bytes>,
    on_progress: Option<OnProgress>,
}

/// A chunk that was accepted.
struct Accepted {
    number: u64,
    length: u64,
    is_last: bool,
}

impl UploadProgress {
    fn new(plan: &Plan, options: UploadOptions) -> Self {
        let before = options.unfinished.as_ref().map(|unfinished| &*unfinished.0);
        Self {
            done: before.map(|before| before.done.clone()).unwrap_or_default(),
            bytes: before.map_or(0, |before| before.bytes),
            chunks: plan.chunks(),
            video: None,
            video_id: plan
                .target
                .clone()
                .or_else(|| Some(before?.video_id.clone())),
            on_progress: options.on_progress,
        }
    }

    /// Counts a chunk, and tells the caller.
    fn accept(&mut self, plan: &Plan, sent: &Accepted, video: Bytes) {
        self.done.insert(sent.number);
        self.bytes += sent.length;
        if sent.is_last {
            self.chunks = Some(sent.number + 1);
        }
        self.video = Some(video)
            .filter(|video| !video.is_empty())
            .or(self.video.take());
        if let Some(call) = &mut self.on_progress {
            let (bytes, total, chunk, chunks) =
                (self.bytes, plan.length, sent.number + 1, self.chunks);
            call(Progress {
                bytes,
                total,
                chunk,
                chunks,
            });
        }
    }
}

impl Plan {
    /// Checks everything that can be checked before the first request.
    fn new<A>(source: &Source<A>, options: &UploadOptions) -> Result<Self, Error> {
        let chunk_size = options.check(source.length)?;
        let mut plan = Self {
            target: options.video_id.clone(),
            boundary: Boundary::new(),
            chunk_size,
            length: source.length,
            attempts: options.attempts,
            concurrency: options.concurrency as u64,
        };
        plan.concurrency = plan.concurrency.min(plan.chunks().unwrap_or(MAX_CHUNKS));
        Ok(plan)
    }

    /// How many chunks there will be, if the length is known.
    fn chunks(&self) -> Option<u64> {
        self.length
            .map(|length| length.div_ceil(self.chunk_size as u64))
    }

    /// The error of an upload that leaves a video behind: the cause's kind and wait, with what is
    /// needed to go on.
    fn stopped(&self, video_id: String, done: BTreeSet<u64>, bytes: u64, cause: Error) -> Error {
        let (kind, wait) = (cause.kind(), cause.retry_after());
        let message = format!("the upload of video {video_id} has stopped");
        let (chunk_size, length) = (self.chunk_size, self.length);
        let stopped = Stopped {
            video_id,
            chunk_size,
            length,
            done,
            bytes,
            cause,
        };
        Error::with_source(kind, message, Unfinished(Arc::new(stopped))).after(wait)
    }

    /// Sends a chunk until it is accepted or hope is lost. The response is empty where it was lost.
    ///
    /// What may have been carried out is remembered over all attempts: "already uploaded" is a
    /// success only after one of them, else the video had another source before.
    async fn send<B, S, R>(
        &self,
        service: &S,
        video_id: Option<&str>,
        chunk: Chunk,
    ) -> Result<(Accepted, Bytes), Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        B: From<Bytes>,
        R: Body,
        R::Error: Into<BoxError>,
    {
        let sent = Accepted {
            number: chunk.number,
            length: chunk.length,
            is_last: chunk.is_last,
        };
        let is_whole = chunk.is_last && chunk.number == 0;
        let request = self.request(&chunk)?;
        let form = Bytes::from(chunk.form);
        let (mut may_have_come, mut refused) = (false, false);
        for attempt in 1.. {
            let mut again = request.clone();
            *again.body_mut() = form.clone();
            let error = match response::send::<S, B, R>(service.clone(), again).await {
                Ok(video) => return Ok((sent, Bytes::copy_from_slice(&video))),
                Err(error) => error,
            };
            let complete =
                Problem::of(&error).is_some_and(|it| it.kind() == "video-source-already-uploaded");
            if complete && may_have_come {
                return Ok((sent, Bytes::new()));
            }
            let is_lost = error.kind() == ErrorKind::Ambiguous;
            may_have_come |= is_lost;
            // A layer that has seen a 401 gets a new token for the next request.
            let is_stale = error.kind() == ErrorKind::Refused && self.target.is_some() && !refused;
            refused |= is_stale;
            // What may be a whole video already would become a second one.
            let would_double = is_lost && is_whole && video_id.is_none();
            if attempt >= self.attempts || would_double || !(is_stale || error.is_transient()) {
                return Err(error);
            }
            if !is_stale {
                time::sleep(backoff(attempt).max(error.retry_after().unwrap_or_default())).await;
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The request for a chunk, without its body, which is added for each attempt without a copy.
    fn request(&self, chunk: &Chunk) -> Result<Request<Bytes>, Error> {
        let path = self
            .target
            .as_ref()
            .map(|id| format!("/videos/{id}/source"));
        let mut request = request(Method::POST, path.as_deref().unwrap_or("/upload"))?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.boundary.content_type());
        if let Some(range) = self.range(chunk) {
            let range =
                HeaderValue::try_from(range).expect("letters and digits are a valid header value");
            headers.insert(header::CONTENT_RANGE, range);
        }
        Ok(request)
    }

    /// `bytes` is what all of the API's documents know, but it can't be told without the length.
    /// `None`, and no header, for a video in one piece.
    fn range(&self, chunk: &Chunk) -> Option<String> {
        let part = chunk.number + 1;
        match self.length {
            _ if chunk.is_last && chunk.number == 0 => None,
            Some(total) => Some(format!(
                "bytes {}-{}/{total}",
                chunk.from,
                chunk.from + chunk.length - 1
            )),
            None if chunk.is_last => Some(format!("part {part}/{part}")),
            None => Some(format!("part {part}/*")),
        }
    }
}

/// The id in the API's response. It goes into paths from here on, so it has to look like one.
fn video_id(video: &[u8]) -> Result<String, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Video {
        video_id: String,
    }
    let Video { video_id } = response::parse(video)?;
    if is_id(&video_id) {
        Ok(video_id)
    } else {
        Err(response::unreadable())
    }
}

/// The wait before the next attempt. Half of it is random, so that chunks which failed together do
/// not come together again.
fn backoff(attempt: u32) -> Duration {
    let wait = FIRST_WAIT
        .saturating_mul(1 << attempt.min(10).saturating_sub(1))
        .min(LONGEST_WAIT);
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
