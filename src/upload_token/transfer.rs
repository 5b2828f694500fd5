//! How an upload goes: which chunk is next, and what an error leaves behind.

use std::{
    mem,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use serde::Deserialize;
use tokio::{io::AsyncRead, time};
use tower::{BoxError, Service};

use super::{
    attempts::{Attempts, Next},
    body::UploadBody,
    chunks::{Chunk, Chunks},
    limits::{MAX_CHUNKS, is_id},
    multipart::Boundary,
    options::UploadOptions,
    request::request,
    response::{self, Effect, Failed},
    source::{Source, wrong},
    state::{self, InFlight, State},
    uploaded::Uploaded,
    video_status,
};
use crate::{
    error::{Error, ErrorKind},
    extensions::SentOnce,
};

/// One run of an upload, from the chunk that is missing first to the end.
pub(super) struct Transfer {
    pub(super) state: State,
    has_upload_token: bool,
    boundary: Boundary,
    chunk_size: usize,
    length: Option<u64>,
    attempts: u32,
    concurrency: u64,
}

impl Transfer {
    /// Checks everything that can be checked before the first request.
    pub(super) fn new<A>(source: &Source<A>, mut options: UploadOptions) -> Result<Self, Error> {
        let record = options.record(source)?;
        let (has_upload_token, chunk_size, length) =
            (record.has_upload_token, record.chunk_size, record.length);
        let most = record.chunks().unwrap_or(MAX_CHUNKS);
        Ok(Self {
            state: State::new(record, options.on_checkpoint.take()),
            has_upload_token,
            boundary: Boundary::new(),
            chunk_size,
            length,
            attempts: options.attempts,
            concurrency: (options.concurrency as u64).min(most.max(1)),
        })
    }

    /// Sends all that is missing. The service is cloned for each request.
    pub(super) async fn run<S, R>(
        &self,
        mut service: S,
        source: Source<impl AsyncRead + Unpin>,
    ) -> Result<Uploaded, Error>
    where
        S: Service<Request<UploadBody>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        R: Body,
        R::Error: Into<BoxError>,
    {
        let before = self.state.record();
        let accepted_before = before.accepted.len() as u64;
        let mut chunks = Chunks::new(source, self.chunk_size, before.accepted);
        let mut buffer = BytesMut::new();

        // Without the id of the video, each further chunk would become a video of its own.
        let id = match before.video_id {
            Some(id) => id,
            None => {
                let chunk = chunks.next(&self.boundary, None, buffer).await?;
                let chunk = chunk.ok_or_else(|| wrong("the source is empty"))?;
                let (id, used) = self.send(&mut service, None, chunk).await?;
                buffer = used;
                id
            }
        };

        let chunks = tokio::sync::Mutex::new(chunks);
        let (chunks, id) = (&chunks, &*id);
        let field = self.has_upload_token.then_some(id);
        // Each of these holds one chunk at most, and fills its one buffer again and again.
        let workers = (0..self.concurrency).map(|_| {
            let (mut service, mut buffer) = (service.clone(), mem::take(&mut buffer));
            async move {
                loop {
                    let next = {
                        let mut chunks = chunks.lock().await;
                        chunks.next(&self.boundary, field, buffer).await?
                    };
                    let Some(chunk) = next else { return Ok(()) };
                    buffer = self.send(&mut service, Some(id), chunk).await?.1;
                }
            }
        });
        let sent: Result<Vec<()>, Error> = try_join_all(workers).await;
        sent.map_err(|error| self.stopped(id, error))?;
        let done = self.state.uploaded(id.to_owned());
        let total = chunks.lock().await.offset();
        if done.bytes() != total {
            let message = format!(
                "the source has {total} bytes, and {} were sent of it: it is not the one that was begun with",
                done.bytes()
            );
            return Err(self.stopped(id, wrong(&message)));
        }
        // Nothing was left to be sent. The record says that all was accepted; the API has the last word.
        let is_old = done.chunks() == accepted_before;
        if is_old && self.is_with_api(&mut service, id, Some(total)).await == Some(false) {
            let error = Error::new(ErrorKind::Rejected, "the API has not got all of it");
            return Err(self.stopped(id, error));
        }
        Ok(done)
    }

    /// Sends a chunk until it is accepted or hope is lost. Gives the id of the video, and the chunk's memory back.
    async fn send<S, R>(
        &self,
        service: &mut S,
        video_id: Option<&str>,
        chunk: Chunk,
    ) -> Result<(String, BytesMut), Error>
    where
        S: Service<Request<UploadBody>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        R: Body,
        R::Error: Into<BoxError>,
    {
        let request = self.request(video_id, &chunk)?;
        let (number, head, length) = (chunk.number, chunk.head, chunk.length);
        let total = chunk.is_last.then_some(chunk.from + length);
        let total = self.length.or(total);
        let form = chunk.form.freeze();
        let mut attempts = Attempts::new(self.attempts, self.state.begin(number));
        let (id, response) = loop {
            let taken = Arc::new(AtomicU64::new(0));
            let body = UploadBody::counted(form.clone(), taken.clone());
            let in_flight = InFlight {
                taken,
                head,
                length,
            };
            self.state.attempt(number, in_flight);
            let sent = response::send(service.clone(), request.clone().map(|_| body)).await;
            let failed = match sent.and_then(|(status, video)| accepted(video_id, status, &video)) {
                Ok((id, response)) => break (id, Some(response)),
                Err(failed) => failed,
            };
            let next = match video_id {
                Some(_) => attempts.after_chunk(failed, !self.has_upload_token),
                None => attempts.after_creation(failed),
            };
            let (error, is_there) = match next {
                Next::Again(wait) => {
                    self.state.rest(number);
                    time::sleep(wait).await;
                    continue;
                }
                Next::AlreadyUploaded(error) => (error, true),
                Next::Failed(error) => (error, false),
            };
            // It may be with the API all the same. What the API has is ours only if something of ours can have arrived.
            if let Some(id) = video_id.filter(|_| attempts.may_have_arrived) {
                let is_ours = self.is_with_api(service, id, total).await;
                if is_ours.unwrap_or(is_there) {
                    break (id.to_owned(), None);
                }
            }
            self.state.give_up(number, attempts.may_have_arrived);
            return Err(self.failed(error, is_there));
        };
        self.state.accept(number, length, &id, response);
        // Where a client still holds a piece of it, the next chunk gets memory of its own.
        Ok((id, form.try_into_mut().unwrap_or_default()))
    }

    /// The error of a chunk that is given up.
    fn failed(&self, error: Error, is_there: bool) -> Error {
        let (kind, wait) = (error.kind(), error.retry_after());
        if is_there {
            let message = "the video had a source before";
            return response::quoting(Error::with_source(kind, message, error));
        }
        if kind == ErrorKind::VideoMayExist {
            let text = error.to_string();
            return Error::with_source(kind, text, self.state.unfinished(error)).after(wait);
        }
        error
    }

    /// Whether the API has the video in full; `None` if that can't be told, as without a bearer.
    async fn is_with_api<S, R>(
        &self,
        service: &mut S,
        video_id: &str,
        total: Option<u64>,
    ) -> Option<bool>
    where
        S: Service<Request<UploadBody>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        R: Body,
        R::Error: Into<BoxError>,
    {
        if self.has_upload_token {
            return None;
        }
        video_status::is_uploaded(service.clone(), video_id, total).await
    }

    /// The error of an upload whose video is known: the kind, the wait and the words of its cause, with what is needed to
    /// go on.
    fn stopped(&self, video_id: &str, cause: Error) -> Error {
        let (kind, wait) = (cause.kind(), cause.retry_after());
        let message = format!("the upload of video {video_id} has stopped: {cause}");
        Error::with_source(kind, message, self.state.unfinished(cause)).after(wait)
    }

    /// The request for a chunk, without its body, which is added for each attempt without a copy.
    fn request(&self, video_id: Option<&str>, chunk: &Chunk) -> Result<Request<Bytes>, Error> {
        let path = video_id
            .filter(|_| !self.has_upload_token)
            .map(|id| format!("/videos/{id}/source"));
        let mut request = request(Method::POST, path.as_deref().unwrap_or("/upload"))?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.boundary.content_type());
        if let Some(range) = self.range(chunk) {
            let range =
                HeaderValue::try_from(range).expect("letters and digits are a valid header value");
            headers.insert(header::CONTENT_RANGE, range);
        }
        request.extensions_mut().insert(SentOnce);
        Ok(request)
    }

    /// `bytes` is what all of the API's documents know, but it can't be told without the length. `part n/*`, for a total
    /// that is not known yet, is against the pattern that the OpenAPI file has for `/upload`; the API's guide describes it
    /// (<https://docs.api.video/vod/progressive-upload>), and its own clients send it.
    ///
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

/// Reads the response that accepts a chunk: it names the video. Anybody on the way can answer 200.
fn accepted(
    expected: Option<&str>,
    status: StatusCode,
    video: &[u8],
) -> Result<(String, state::Response), Failed> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Video {
        video_id: String,
    }
    let read = response::parse(video).and_then(|Video { video_id }| match expected {
        Some(expected) if video_id != expected => Err(Error::new(
            ErrorKind::Rejected,
            "the API has put a chunk into another video",
        )),
        // It goes into paths from here on, so it has to look like an id.
        _ if !is_id(&video_id) => Err(response::unreadable()),
        _ => Ok(video_id),
    });
    match read {
        Ok(id) => Ok((id, (status, Bytes::copy_from_slice(video)))),
        Err(error) => Err(Failed {
            error,
            effect: Effect::Unknown,
        }),
    }
}
