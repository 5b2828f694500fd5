//! Requests about the account's videos and upload tokens.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, request};
use serde_json::Value;

use super::{
    attributes, list, payload,
    responses::{self, Refusal},
    route::Resource,
    state::Shared,
    uploads::UploadForm,
};
use crate::Now;

/// The response to a request that may pass. What takes time, such as reading forms and making lists, is done without
/// the lock: other requests don't wait for it.
pub(super) fn response(
    shared: &Shared,
    resource: Resource<'_>,
    parts: &request::Parts,
    body: &Bytes,
    now: Now,
) -> Response<Bytes> {
    let allowed = match resource {
        Resource::Videos | Resource::UploadTokens => "GET, POST",
        Resource::Video(_) => "GET, PATCH, DELETE",
        Resource::UploadToken(_) => "GET, DELETE",
        Resource::Source(_) | Resource::Upload => "POST",
        Resource::Status(_) => "GET",
    };
    if !allowed.split(", ").any(|allowed| parts.method == allowed) {
        return responses::method_not_allowed(allowed);
    }
    carry_out(shared, resource, parts, body, now)
        .unwrap_or_else(|(kind, name)| responses::named_problem(kind, name))
}

fn carry_out(
    shared: &Shared,
    resource: Resource<'_>,
    parts: &request::Parts,
    body: &Bytes,
    now: Now,
) -> Result<Response<Bytes>, Refusal> {
    let account = || {
        let mut state = shared.lock();
        state.resources.forget_expired(now);
        state
    };
    let form = || UploadForm::read(&parts.headers, body);
    let wanted = || payload::object(parts, body);
    let ok = |value: Arc<Value>| responses::json(StatusCode::OK, &value);
    let created = |value: Arc<Value>| responses::json(StatusCode::CREATED, &value);
    let deleted = |()| responses::empty(StatusCode::NO_CONTENT);
    // A statement each, so that the lock is let go before the response is made.
    match (resource, parts.method.as_str()) {
        (Resource::Videos, "GET") => {
            let videos = account().resources.videos();
            Ok(list::page(videos, parts, &list::VIDEOS))
        }
        (Resource::Videos, _) => {
            let wanted = wanted()?;
            if let Some(refused) = attributes::refused(&wanted, attributes::new_video) {
                return Ok(refused);
            }
            let (status, video) = account().resources.create_video(wanted, now)?;
            Ok(responses::json(status, &video))
        }
        (Resource::Video(id), "GET") => {
            let video = account().resources.video(id);
            video.map(ok)
        }
        (Resource::Video(id), "PATCH") => {
            let wanted = wanted()?;
            if let Some(refused) = attributes::refused(&wanted, attributes::video) {
                return Ok(refused);
            }
            let video = account().resources.change_video(id, wanted, now);
            video.map(ok)
        }
        (Resource::Video(id), _) => account().resources.delete_video(id).map(deleted),
        (Resource::Status(id), _) => {
            let status = account().resources.status(id, now);
            status.map(|status| responses::json(StatusCode::OK, &status))
        }
        (Resource::Source(id), _) => {
            let form = form()?;
            let video = account().resources.add_chunk(id, form, now);
            video.map(created)
        }
        (Resource::Upload, _) => {
            let form = form()?;
            let video = account().resources.upload(form, now);
            video.map(created)
        }
        (Resource::UploadTokens, "GET") => {
            let tokens = account().resources.upload_tokens();
            Ok(list::page(tokens, parts, &list::UPLOAD_TOKENS))
        }
        (Resource::UploadTokens, _) => {
            let wanted = wanted()?;
            if let Some(refused) = attributes::refused(&wanted, attributes::upload_token) {
                return Ok(refused);
            }
            let token = account().resources.create_upload_token(&wanted, now);
            Ok(ok(token))
        }
        (Resource::UploadToken(token), "GET") => {
            let token = account().resources.upload_token(token);
            token.map(ok)
        }
        (Resource::UploadToken(token), _) => {
            account().resources.delete_upload_token(token).map(deleted)
        }
    }
}
