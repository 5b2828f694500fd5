//! The videos and upload tokens of the fake account, kept in memory.
//!
//! Just as much of the API as uploads and lists of tokens need
//! (<https://docs.api.video/reference/api/Videos>,
//! <https://docs.api.video/vod/delegated-upload-tokens>). Nothing is encoded, nothing is played.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use http::{Method, Response, StatusCode, request};
use serde_json::{Map, Value, json};

use super::{
    responses,
    route::Resource,
    tokens::padded,
    uploads::{Received, Upload, UploadForm},
};
use crate::Now;

/// The longest lifetime of an upload token, in seconds.
const MAX_TTL: u64 = 2_147_483_647;

/// All that the account has. JSON values as the API shows them, so that what is stored is what is
/// sent.
#[derive(Default)]
pub(super) struct Resources {
    // Both in order of creation.
    videos: Vec<Value>,
    upload_tokens: Vec<Value>,
    /// By the monotonic clock, as for access tokens; the dates in the JSON are for reading.
    upload_token_expiry: HashMap<String, Duration>,
    uploads: HashMap<String, Upload>,
    keep_uploads: bool,
}

impl Resources {
    /// An empty account.
    pub(super) fn new(keep_uploads: bool) -> Self {
        Self {
            keep_uploads,
            ..Self::default()
        }
    }

    /// What came of a video; `None` before its first chunk.
    pub(super) fn received(&self, video_id: &str) -> Option<Received> {
        self.uploads.get(video_id).map(Upload::received)
    }

    /// In order of creation.
    pub(super) fn video_ids(&self) -> Vec<String> {
        self.videos
            .iter()
            .filter_map(|video| video["videoId"].as_str().map(str::to_owned))
            .collect()
    }

    /// The response to a request that may pass. Expired upload tokens are gone before it is carried
    /// out.
    pub(super) fn response(
        &mut self,
        resource: Resource<'_>,
        parts: &request::Parts,
        body: &Bytes,
        now: Now,
    ) -> Response<Bytes> {
        self.forget_expired(now);
        let query = parts.uri.query().unwrap_or_default();
        let path = parts.uri.path();
        let method = &parts.method;
        match resource {
            Resource::Videos if method == Method::GET => list(
                &self.videos,
                path,
                query,
                &["createdAt", "publishedAt", "updatedAt", "title"],
            ),
            Resource::Videos if method == Method::POST => self.create_video(body, now),
            Resource::UploadTokens if method == Method::GET => {
                list(&self.upload_tokens, path, query, &["createdAt", "ttl"])
            }
            Resource::UploadTokens if method == Method::POST => self.create_upload_token(body, now),
            Resource::Videos | Resource::UploadTokens => responses::method_not_allowed("GET, POST"),
            Resource::Video(id) => one(&mut self.videos, "videoId", id, method),
            Resource::Source(id) if method == Method::POST => self.source(id, parts, body),
            Resource::Source(_) => responses::method_not_allowed("POST"),
            Resource::Status(id) if method == Method::GET => self.status(id),
            Resource::Status(_) => responses::method_not_allowed("GET"),
            Resource::UploadToken(token) => one(&mut self.upload_tokens, "token", token, method),
            Resource::Upload if method == Method::POST => self.upload(parts, body, now),
            Resource::Upload => responses::method_not_allowed("POST"),
        }
    }

    /// `POST /videos`. A title is all that has to be there; unknown fields are left out.
    fn create_video(&mut self, body: &Bytes, now: Now) -> Response<Bytes> {
        let Ok(Value::Object(wanted)) = serde_json::from_slice(body) else {
            return responses::problem("invalid-payload");
        };
        if !wanted.get("title").is_some_and(Value::is_string) {
            return responses::named_problem("attribute-required", "title");
        }
        responses::json(StatusCode::CREATED, &self.add_video(wanted, now))
    }

    /// `POST /upload`: a new video for the first chunk, and for each further one that does not name
    /// it. That is what the API does, and what a client must not fall for.
    fn upload(&mut self, parts: &request::Parts, body: &Bytes, now: Now) -> Response<Bytes> {
        let Some(token) = parameter(parts.uri.query().unwrap_or_default(), "token") else {
            return responses::problem("authentication-missing-upload-token");
        };
        if !self
            .upload_tokens
            .iter()
            .any(|present| present["token"] == token)
        {
            return responses::problem("authentication-invalid-upload-token");
        }
        let form = match UploadForm::read(&parts.headers, body) {
            Ok(form) => form,
            Err((kind, name)) => return responses::named_problem(kind, name),
        };
        match form.video_id.clone() {
            Some(id) => self.add_chunk(&id, form),
            None => {
                // Its first chunk may still be refused: then there is no video.
                let mut upload = Upload::new(self.keep_uploads);
                let title = form
                    .file_name
                    .clone()
                    .unwrap_or_else(|| "upload".to_owned());
                if let Err((kind, name)) = upload.add(form) {
                    return responses::named_problem(kind, name);
                }
                let video =
                    self.add_video(Map::from_iter([("title".to_owned(), json!(title))]), now);
                self.uploads.insert(
                    video["videoId"].as_str().unwrap_or_default().to_owned(),
                    upload,
                );
                responses::json(StatusCode::CREATED, &video)
            }
        }
    }

    /// `POST /videos/{videoId}/source`.
    fn source(&mut self, id: &str, parts: &request::Parts, body: &Bytes) -> Response<Bytes> {
        match UploadForm::read(&parts.headers, body) {
            Ok(form) => self.add_chunk(id, form),
            Err((kind, name)) => responses::named_problem(kind, name),
        }
    }

    /// A chunk for a video that exists.
    fn add_chunk(&mut self, id: &str, form: UploadForm) -> Response<Bytes> {
        let Some(video) = self.videos.iter().find(|video| video["videoId"] == id) else {
            return responses::named_problem("resource-not-found", "videoId");
        };
        let keep = self.keep_uploads;
        let upload = self
            .uploads
            .entry(id.to_owned())
            .or_insert_with(|| Upload::new(keep));
        match upload.add(form) {
            Ok(()) => responses::json(StatusCode::CREATED, video),
            Err((kind, name)) => responses::named_problem(kind, name),
        }
    }

    /// `GET /videos/{videoId}/status`: what has come, and whether that is all.
    fn status(&self, id: &str) -> Response<Bytes> {
        if !self.videos.iter().any(|video| video["videoId"] == id) {
            return responses::named_problem("resource-not-found", "videoId");
        }
        let nothing = Upload::default();
        responses::json(
            StatusCode::OK,
            &self.uploads.get(id).unwrap_or(&nothing).status(),
        )
    }

    /// Expired tokens are not told from deleted ones.
    fn forget_expired(&mut self, now: Now) {
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
    fn add_video(&mut self, wanted: Map<String, Value>, now: Now) -> Value {
        let id = padded("vi".to_owned(), 24);
        let now = responses::date(now.wall);
        let cdn = format!("https://cdn.api.video/vod/{id}");
        let player = format!("https://embed.api.video/vod/{id}");
        let mut video = json!({
            "videoId": id, "title": "", "description": "", "public": true, "panoramic": false,
            "mp4Support": true, "tags": [], "metadata": [], "language": null, "languageOrigin": null,
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
        const SETTABLE: [&str; 9] = [
            "title",
            "description",
            "public",
            "panoramic",
            "mp4Support",
            "tags",
            "metadata",
            "language",
            "playerId",
        ];
        for (name, value) in wanted
            .into_iter()
            .filter(|(name, _)| SETTABLE.contains(&name.as_str()))
        {
            video[name] = value;
        }
        self.videos.push(video.clone());
        video
    }

    /// `POST /upload-tokens`. A `ttl` of 0, or none, is for ever, and then there is no `expiresAt`.
    fn create_upload_token(&mut self, body: &Bytes, now: Now) -> Response<Bytes> {
        let wanted = if body.is_empty() {
            Ok(json!({}))
        } else {
            serde_json::from_slice(body)
        };
        let Ok(Value::Object(wanted)) = wanted else {
            return responses::problem("invalid-payload");
        };
        let ttl = match wanted.get("ttl") {
            None => 0,
            Some(ttl) => match ttl.as_u64().filter(|ttl| *ttl <= MAX_TTL) {
                Some(ttl) => ttl,
                None => return responses::named_problem("invalid-attribute", "ttl"),
            },
        };
        let token = padded("to".to_owned(), 24);
        let mut created =
            json!({ "token": token, "ttl": ttl, "createdAt": responses::date(now.wall) });
        if ttl > 0 {
            let ttl = Duration::from_secs(ttl);
            created["expiresAt"] = responses::date(now.wall + ttl).into();
            self.upload_token_expiry
                .insert(token, now.monotonic.saturating_add(ttl));
        }
        let response = responses::json(StatusCode::OK, &created);
        self.upload_tokens.push(created);
        response
    }
}

/// `GET` or `DELETE` of a single thing.
fn one(items: &mut Vec<Value>, key: &str, id: &str, method: &Method) -> Response<Bytes> {
    let Some(index) = items.iter().position(|item| item[key] == id) else {
        return responses::named_problem("resource-not-found", key);
    };
    match *method {
        Method::GET => responses::json(StatusCode::OK, &items[index]),
        Method::DELETE => {
            items.remove(index);
            responses::empty(StatusCode::NO_CONTENT)
        }
        _ => responses::method_not_allowed("GET, DELETE"),
    }
}

/// One page, sorted by the first of `sortable` and the newest first if nothing else is asked for.
///
/// Pages, links and totals are as the API gives them, so that a client which follows them is tested
/// too.
fn list(items: &[Value], path: &str, query: &str, sortable: &[&str]) -> Response<Bytes> {
    let number = |name, default, max| match parameter(query, name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .ok()
            .filter(|number| (1..=max).contains(number))
            .ok_or(name),
    };
    let sort_by = parameter(query, "sortBy").unwrap_or(sortable[0]);
    let sort_order = parameter(query, "sortOrder").unwrap_or("desc");
    if !sortable.contains(&sort_by) {
        return responses::named_problem("invalid-attribute", "sortBy");
    }
    if !["asc", "desc"].contains(&sort_order) {
        return responses::named_problem("invalid-attribute", "sortOrder");
    }
    let (page, size) = match (
        number("currentPage", 1, usize::MAX),
        number("pageSize", 25, 100),
    ) {
        (Ok(page), Ok(size)) => (page, size),
        (Err(name), _) | (_, Err(name)) => {
            return responses::named_problem("invalid-attribute", name);
        }
    };

    let mut sorted: Vec<&Value> = items.iter().collect();
    sorted.sort_by_key(|item| (item[sort_by].as_u64(), item[sort_by].as_str()));
    if sort_order == "desc" {
        sorted.reverse();
    }
    let shown: Vec<&Value> = sorted
        .iter()
        .skip((page - 1).saturating_mul(size))
        .take(size)
        .copied()
        .collect();
    let pages = items.len().div_ceil(size).max(1);
    let mut links = vec![("self", page), ("first", 1)];
    links.extend((page > 1).then(|| ("previous", page - 1)));
    links.extend((page < pages).then(|| ("next", page + 1)));
    links.push(("last", pages));
    let links: Vec<Value> = links
        .into_iter()
        .map(|(rel, page)| json!({ "rel": rel, "uri": format!("{path}?currentPage={page}&pageSize={size}") }))
        .collect();
    let pagination = json!({
        "currentPage": page, "currentPageItems": shown.len(), "pageSize": size, "pagesTotal": pages,
        "itemsTotal": items.len(), "links": links,
    });
    responses::json(
        StatusCode::OK,
        &json!({ "data": shown, "pagination": pagination }),
    )
}

/// Of the query, as it stands there: nothing that is asked for here needs escaping.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}
