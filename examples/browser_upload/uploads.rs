//! An upload from its first token to its last. The server makes the video and the tokens, and deletes the tokens: again
//! until it works, before it forgets them. What a page says of an upload is a hint; what became of it is asked of the API.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ErrorKind, UploadTokens, testing::FakeService, upload_token::UploadTokenSecret,
};
use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex as AsyncMutex, oneshot, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tower::{BoxError, ServiceExt};

use super::{
    limits::Place,
    upload::{State, Token, Upload},
};

pub(crate) type Account = ApiVideoAuth<FakeService>;

/// A page asks for a new token when half of this is left, so that any of its chunks of 10 MiB has five minutes. Who steals
/// a token has it for ten.
pub(crate) const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// When the API is asked again about an upload that is over but not complete: it may not know at once.
const SECOND_LOOK: Duration = Duration::from_secs(60);

/// How long one call to the API may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest pause between two tries of the same call.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// All uploads that are not over and done with, each in a task of its own.
pub(crate) struct Uploads {
    account: Account,
    tokens: UploadTokens<Account, Body>,
    lifetime: Duration,
    tasks: Mutex<JoinSet<()>>,
    closing: watch::Sender<bool>,
}

impl Uploads {
    pub(crate) fn new(account: Account, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self {
            tokens: UploadTokens::new(account.clone()),
            account,
            lifetime,
            tasks: Mutex::default(),
            closing: watch::Sender::new(false),
        })
    }

    /// Makes a video without a source, and its first token. Dropped, what was made is deleted.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        title: String,
        place: Place,
    ) -> Result<(Arc<Upload>, Token), BoxError> {
        let (tell, told) = oneshot::channel();
        {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(Arc::clone(self).look_after(title, place, tell));
        }
        told.await?
    }

    async fn look_after(
        self: Arc<Self>,
        title: String,
        place: Place,
        tell: oneshot::Sender<Result<(Arc<Upload>, Token), BoxError>>,
    ) {
        let upload = match self.make(title).await {
            Ok(upload) => Arc::new(upload),
            Err(error) => return drop(tell.send(Err(error))),
        };
        let first = self.token(&upload).await;
        if first.is_err() {
            upload.end(true);
        }
        if tell
            .send(first.map(|token| (upload.clone(), token)))
            .is_err()
        {
            // Nobody waits for it: the browser has gone away.
            upload.end(true);
        }
        let mut closing = self.closing.subscribe();
        let cancelled = tokio::select! {
            cancelled = upload.over() => cancelled,
            _ = closing.wait_for(|closing| *closing) => {
                upload.end(false);
                false
            }
        };
        let tokens = upload.tokens.lock().await.take().unwrap_or_default();
        let delete_tokens = async {
            for Token { token, .. } in &tokens {
                again(|| self.delete_token(token)).await;
            }
            drop(place);
        };
        tokio::join!(delete_tokens, self.settle(&upload, cancelled));
    }

    async fn make(&self, title: String) -> Result<Upload, BoxError> {
        let body = Some(json!({ "title": title }));
        let video = self.call(Method::POST, "/videos", body).await?;
        let video = video.unwrap_or_default();
        let video_id = video["videoId"].as_str().ok_or("a video without an id")?;
        Ok(Upload {
            video_id: video_id.to_owned(),
            title,
            state: watch::Sender::new(State::Open(Instant::now() + self.lifetime)),
            tokens: AsyncMutex::new(Some(Vec::new())),
        })
    }

    /// The newest token if it is young, or else a new one. The older ones are good for what is on its way.
    async fn token(&self, upload: &Upload) -> Result<Token, BoxError> {
        let mut tokens = upload.tokens.lock().await;
        let tokens = tokens.as_mut().ok_or("the upload is over")?;
        if let Some(newest) = tokens.last()
            && newest.time_left() > self.lifetime / 2
        {
            return Ok(newest.clone());
        }
        let until = Instant::now() + self.lifetime;
        let made = time::timeout(CALL_TIMEOUT, self.tokens.create(Some(self.lifetime))).await??;
        let token = Token {
            token: made.secret().clone(),
            until,
        };
        tokens.push(token.clone());
        upload.state.send_if_modified(|state| {
            let is_open = matches!(state, State::Open(_));
            if is_open {
                *state = State::Open(until);
            }
            is_open
        });
        Ok(token)
    }

    /// A token for the next chunks. In a task of its own: a browser that goes away must not leave a token that nobody
    /// knows of.
    pub(crate) async fn renew(self: &Arc<Self>, upload: Arc<Upload>) -> Result<Token, BoxError> {
        let uploads = Arc::clone(self);
        tokio::spawn(async move { uploads.token(&upload).await }).await?
    }

    async fn delete_token(&self, token: &UploadTokenSecret) -> Result<(), BoxError> {
        match time::timeout(CALL_TIMEOUT, self.tokens.delete(token)).await? {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether there is a video is the API's to say, and what is not complete is deleted.
    async fn settle(&self, upload: &Upload, cancelled: bool) {
        let path = format!("/videos/{}", upload.video_id);
        let status = format!("{path}/status");
        let looks: &[_] = if cancelled {
            &[]
        } else {
            &[Duration::ZERO, SECOND_LOOK]
        };
        for wait in looks {
            let mut closing = self.closing.subscribe();
            tokio::select! {
                () = time::sleep(*wait) => {}
                // It may be complete: it is left where it is.
                _ = closing.wait_for(|closing| *closing && !wait.is_zero()) => return,
            }
            let ingest = again(|| self.call(Method::GET, &status, None)).await;
            let ingest = ingest.map(|it| it["ingest"].clone()).unwrap_or_default();
            if ingest["status"] == "uploaded" || ingest["status"] == "ingested" {
                let size = ingest["filesize"].as_u64();
                upload.state.send_replace(State::Complete(size));
                return;
            }
        }
        again(|| self.call(Method::DELETE, &path, None)).await;
        upload.state.send_replace(State::Gone);
    }

    /// One call with the account's token. None if there is no such thing.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Option<Value>, BoxError> {
        let body = body.map_or_else(String::new, |body| body.to_string());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))?;
        let exchange = async {
            let (head, body) = self.account.clone().oneshot(request).await?.into_parts();
            Ok::<_, BoxError>((head.status, body.collect().await?.to_bytes()))
        };
        match time::timeout(CALL_TIMEOUT, exchange).await?? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) if status.is_success() => {
                Ok(Some(serde_json::from_slice(&body).unwrap_or_default()))
            }
            (status, _) => Err(format!("status {status}").into()),
        }
    }

    /// Ends all uploads and waits until their tokens are deleted, at most for this time.
    pub(crate) async fn shutdown(&self, deadline: Duration) {
        self.closing.send_replace(true);
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if time::timeout(deadline, all).await.is_err() {
            eprintln!("some upload tokens were not deleted; they expire by themselves");
        }
    }
}

/// Until it works.
async fn again<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, BoxError>>,
{
    let mut pause = Duration::from_secs(1);
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => eprintln!("will be tried again: {error}"),
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
