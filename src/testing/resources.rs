//! The videos and upload tokens of the fake account, kept in memory.
//!
//! Just as much of the API as uploads and lists of tokens need
//! (<https://docs.api.video/reference/api/Videos>,
//! <https://docs.api.video/vod/delegated-upload-tokens>). Nothing is encoded, nothing is played.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{StatusCode, request};
use serde_json::{Map, Value, json};

use super::{
    responses::{self, Refusal},
    tokens::padded,
    uploads::{Received, Upload, UploadForm, UploadRules},
};
use crate::Now;

/// How many bytes of uploads are kept at the most until they are hashed.
const UNHASHED: usize = 64 * 1024 * 1024;

/// All that the account has. JSON values as the API shows them, so that what is stored is what is
/// sent; shared, so that a list is made of them without the lock.
#[derive(Default)]
pub(super) struct Resources {
    // Both in order of creation.
    videos: Vec<Arc<Value>>,
    upload_tokens: Vec<Arc<Value>>,
    /// By the monotonic clock, as for access tokens; the dates in the JSON are for reading.
    upload_token_expiry: HashMap<String, Duration>,
    uploads: HashMap<String, Upload>,
    rules: UploadRules,
}

impl Resources {
    /// An empty account.
    pub(super) fn new(rules: UploadRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// What came of a video; `None` before its first chunk.
    pub(super) fn received(&self, video_id: &str) -> Option<Received> {
        self.uploads.get(video_id)?.received()
    }

    /// In order of creation.
    pub(super) fn video_ids(&self) -> Vec<String> {
        self.videos
            .iter()
            .filter_map(|video| video["videoId"].as_str().map(str::to_owned))
            .collect()
    }

    /// All videos, to make a list of.
    pub(super) fn videos(&self) -> Vec<Arc<Value>> {
        self.videos.clone()
    }

    pub(super) fn video(&self, id: &str) -> Result<Arc<Value>, Refusal> {
        find(&self.videos, "videoId", id)
    }

    pub(super) fn delete_video(&mut self, id: &str) -> Result<(), Refusal> {
        delete(&mut self.videos, "videoId", id)
    }

    pub(super) fn upload_tokens(&self) -> Vec<Arc<Value>> {
        self.upload_tokens.clone()
    }

    pub(super) fn upload_token(&self, token: &str) -> Result<Arc<Value>, Refusal> {
        find(&self.upload_tokens, "token", token)
    }

    pub(super) fn delete_upload_token(&mut self, token: &str) -> Result<(), Refusal> {
        delete(&mut self.upload_tokens, "token", token)
    }

    /// `GET /videos/{videoId}/status`
    pub(super) fn status(&mut self, id: &str, now: Now) -> Result<Value, Refusal> {
        let video = self.video(id)?;
        Ok(self.upload_of(&video).status(now.monotonic))
    }

    /// `POST /videos`. From a `source`, such as a URL, it is fetched, which takes a while.
    pub(super) fn create_video(
        &mut self,
        wanted: Map<String, Value>,
        now: Now,
    ) -> Result<(StatusCode, Arc<Value>), Refusal> {
        if !wanted.contains_key("title") {
            return Err(("attribute-required", "title"));
        }
        let is_fetched = wanted.contains_key("source");
        let video = self.add_video(wanted, now);
        if !is_fetched {
            return Ok((StatusCode::CREATED, video));
        }
        self.upload_of(&video).fetch(now.monotonic);
        Ok((StatusCode::ACCEPTED, video))
    }

    /// Whether a request to `/upload` has a token that is good.
    pub(super) fn admit(&mut self, parts: &request::Parts, now: Now) -> Result<(), Refusal> {
        self.forget_expired(now);
        let query = parts.uri.query().unwrap_or_default();
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        match parameters.find(|(name, _)| name == "token") {
            None => Err(("authentication-missing-upload-token", "")),
            Some((_, token)) if self.upload_token(&token).is_err() => {
                Err(("authentication-invalid-upload-token", ""))
            }
            Some(_) => Ok(()),
        }
    }

    /// `POST /upload`: a new video for the first chunk, and for each further one that does not name
    /// it. That is what the API does, and what a client must not fall for.
    pub(super) fn upload(&mut self, form: UploadForm, now: Now) -> Result<Arc<Value>, Refusal> {
        match form.video_id.clone() {
            Some(id) => self.add_chunk(&id, form, now),
            None => self.first_chunk(form, now),
        }
    }

    /// A chunk that makes a video; one that is refused makes none.
    fn first_chunk(&mut self, form: UploadForm, now: Now) -> Result<Arc<Value>, Refusal> {
        let mut upload = Upload::new(self.rules);
        let title = form
            .file_name
            .clone()
            .unwrap_or_else(|| "upload".to_owned());
        upload.add(form, now.monotonic)?;
        let video = self.add_video(Map::from_iter([("title".to_owned(), json!(title))]), now);
        *self.upload_of(&video) = upload;
        self.bound_memory();
        Ok(video)
    }

    /// A chunk for a video that exists.
    pub(super) fn add_chunk(
        &mut self,
        id: &str,
        form: UploadForm,
        now: Now,
    ) -> Result<Arc<Value>, Refusal> {
        let video = self.video(id)?;
        self.upload_of(&video).add(form, now.monotonic)?;
        self.bound_memory();
        Ok(video)
    }

    /// Few tests ask for a hash, and an unoptimised one takes seconds. So it is made when somebody asks, or when so much
    /// was uploaded that it can't stay in memory.
    fn bound_memory(&mut self) {
        let unhashed: usize = self.uploads.values().map(Upload::unhashed).sum();
        if unhashed > UNHASHED {
            self.uploads.values_mut().for_each(Upload::hash);
        }
    }

    /// What has come of this video.
    fn upload_of(&mut self, video: &Value) -> &mut Upload {
        let id = video["videoId"].as_str().unwrap_or_default();
        let rules = self.rules;
        self.uploads
            .entry(id.to_owned())
            .or_insert_with(|| Upload::new(rules))
    }

    /// Expired tokens are not told from deleted ones.
    pub(super) fn forget_expired(&mut self, now: Now) {
        let expired = |expiry: &Duration| *expiry <= now.monotonic;
        if self.upload_token_expiry.values().any(expired) {
            let expiries = &mut self.upload_token_expiry;
            self.upload_tokens.retain(|token| {
                !token["token"]
                    .as_str()
                    .and_then(|token| expiries.get(token))
                    .is_some_and(expired)
            });
            expiries.retain(|_, expiry| !expired(expiry));
        }
    }

    /// A video as the API shows a new one, with the fields that may be set.
    fn add_video(&mut self, wanted: Map<String, Value>, now: Now) -> Arc<Value> {
        let id = padded("vi".to_owned(), 24);
        let now = responses::date(now.wall);
        let cdn = format!("https://cdn.api.video/vod/{id}");
        let player = format!("https://embed.api.video/vod/{id}");
        let mut video = json!({
            "videoId": id, "title": "", "description": "", "public": true, "panoramic": false,
            "mp4Support": true, "tags": [], "metadata": [], "languageOrigin": null,
            "createdAt": now, "publishedAt": now, "updatedAt": now,
            "discarded": false, "discardedAt": null, "deletesAt": null,
            "source": { "uri": format!("/videos/{id}/source") },
            "assets": {
                "iframe": format!("<iframe src=\"{player}\" allowfullscreen=\"\"></iframe>"),
                "player": player,
                "hls": format!("{cdn}/hls/manifest.m3u8"),
                "thumbnail": format!("{cdn}/thumbnail.jpg"),
                "mp4": format!("{cdn}/mp4/source.mp4"),
            },
        });
        set(&mut video, wanted);
        let video = Arc::new(video);
        self.videos.push(Arc::clone(&video));
        video
    }

    /// `PATCH /videos/{videoId}`
    pub(super) fn change_video(
        &mut self,
        id: &str,
        wanted: Map<String, Value>,
        now: Now,
    ) -> Result<Arc<Value>, Refusal> {
        let mut video = (*self.video(id)?).clone();
        set(&mut video, wanted);
        video["updatedAt"] = responses::date(now.wall).into();
        let video = Arc::new(video);
        for present in self
            .videos
            .iter_mut()
            .filter(|present| present["videoId"] == id)
        {
            *present = Arc::clone(&video);
        }
        Ok(video)
    }

    /// `POST /upload-tokens`. A `ttl` of 0, or none, is for ever, and then there is no `expiresAt`.
    pub(super) fn create_upload_token(
        &mut self,
        wanted: &Map<String, Value>,
        now: Now,
    ) -> Arc<Value> {
        let ttl = wanted.get("ttl").and_then(Value::as_u64).unwrap_or(0);
        let token = padded("to".to_owned(), 24);
        let mut created =
            json!({ "token": token, "ttl": ttl, "createdAt": responses::date(now.wall) });
        if ttl > 0 {
            let ttl = Duration::from_secs(ttl);
            created["expiresAt"] = responses::date(now.wall + ttl).into();
            self.upload_token_expiry
                .insert(token, now.monotonic.saturating_add(ttl));
        }
        let created = Arc::new(created);
        self.upload_tokens.push(Arc::clone(&created));
        created
    }
}

/// What may be set of a video and is shown again.
const SHOWN: [&str; 9] = [
    "title",
    "description",
    "playerId",
    "language",
    "public",
    "panoramic",
    "mp4Support",
    "tags",
    "metadata",
];

/// Sets what is shown again. The rest is not played.
fn set(video: &mut Value, mut wanted: Map<String, Value>) {
    for name in SHOWN {
        if let Some(value) = wanted.remove(name) {
            video[name] = value;
        }
    }
}

/// The item with this id.
fn find(items: &[Arc<Value>], key: &'static str, id: &str) -> Result<Arc<Value>, Refusal> {
    let found = items.iter().find(|item| item[key] == id).cloned();
    found.ok_or(("resource-not-found", key))
}

fn delete(items: &mut Vec<Arc<Value>>, key: &'static str, id: &str) -> Result<(), Refusal> {
    find(items, key, id)?;
    items.retain(|item| item[key] != id);
    Ok(())
}
