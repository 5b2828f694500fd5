//! `POST /auth/api-key` and `POST /auth/refresh`, and what can go wrong with them.
//!
//! A call goes through the same steps whatever its fault: counted, read, delayed, stopped at a
//! gate, processed, stopped again, answered. A fault says at which step it goes wrong, so that a
//! test knows what the server has done by then.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header, request};
use http_body::Body;
use serde_json::{Value, json};
use tower::BoxError;

use super::{
    body::{self, FakeBody},
    fault::{Fault, Point},
    gate::GatePoint,
    recorded_request::Entry,
    responses,
    route::BODY_LIMIT,
    state::{InFlight, Shared, State},
    strike::{send, strike},
    tokens::{Pair, Refused},
};
use crate::Now;

/// What a call asks for.
enum Call {
    /// With this API key.
    Login(String),
    /// With this refresh token.
    Refresh(String),
    /// One that cannot be processed, and the response to it.
    Bad(Response<Bytes>),
}

/// Answers one token call. It runs in the request's own future: a client that drops it before
/// `commit` has changed nothing.
pub(super) async fn respond<B>(
    shared: Arc<Shared>,
    parts: request::Parts,
    body: B,
) -> io::Result<Response<FakeBody>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let in_flight = InFlight::new(&shared);
    let (entry, faults) = {
        let mut state = shared.lock();
        state.counts.token_calls += 1;
        state.counts.logins += usize::from(parts.uri.path() == "/auth/api-key");
        state.counts.refreshes += usize::from(parts.uri.path() == "/auth/refresh");
        let authorized = parts.headers.contains_key(header::AUTHORIZATION);
        state.counts.authorization_on_token_calls += usize::from(authorized);
        (state.journal.arrived(&parts, true), state.faults.clone())
    };
    let fault = faults.take(&parts);
    let response = steps(&shared, &parts, body, entry, fault).await?;
    shared.lock().journal.answered(entry, response.status());
    Ok(response.map(|body| body.holding(in_flight)))
}

/// All that happens to a call, with its fault at one of the points.
async fn steps<B>(
    shared: &Shared,
    parts: &request::Parts,
    body: B,
    entry: Entry,
    fault: Option<Fault>,
) -> io::Result<Response<FakeBody>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    if let Some(struck) = strike(fault.as_ref(), Point::BeforeRead).await {
        return struck;
    }
    let call = match body::read(body, BODY_LIMIT).await? {
        Ok(body) => {
            shared.lock().journal.read(entry, &body);
            parse(parts, &body)
        }
        Err(too_large) => Call::Bad(too_large),
    };
    if let Call::Refresh(token) = &call {
        *shared
            .lock()
            .presentations
            .entry(token.clone())
            .or_default() += 1;
    }
    shared.gates.pass(GatePoint::BeforeCommit).await;
    if let Some(struck) = strike(fault.as_ref(), Point::BeforeCommit).await {
        return struck;
    }
    let mut response = commit(shared, call, shared.clock.now());
    shared.gates.pass(GatePoint::AfterCommit).await;
    if let Some(struck) = strike(fault.as_ref(), Point::AfterCommit).await {
        return struck;
    }
    responses::add_rate_limit(response.headers_mut(), 499, 60);
    // Asked for after the other gate: a test may have shut this one while the call was stopped
    // there.
    send(fault, response, shared.gates.at(GatePoint::MidBody))
}

/// Reads a call as strictly as the documentation allows: `POST`, JSON, no `Authorization`, the one
/// field as text that is not empty. A client that is sloppy finds out here.
fn parse(parts: &request::Parts, body: &Bytes) -> Call {
    type MakeCall = fn(String) -> Call;
    let (field, call): (&str, MakeCall) = match parts.uri.path() {
        "/auth/api-key" => ("apiKey", Call::Login),
        "/auth/refresh" => ("refreshToken", Call::Refresh),
        _ => return Call::Bad(responses::problem("resource-not-found")),
    };
    if parts.method != Method::POST {
        return Call::Bad(responses::method_not_allowed("POST"));
    }
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    let is_json = essence.eq_ignore_ascii_case("application/json");
    if !is_json || parts.headers.contains_key(header::AUTHORIZATION) {
        return Call::Bad(responses::problem("invalid-payload"));
    }
    let Ok(Value::Object(mut payload)) = serde_json::from_slice(body) else {
        return Call::Bad(responses::problem("invalid-payload"));
    };
    match payload.remove(field) {
        Some(Value::String(value)) if !value.is_empty() => call(value),
        None | Some(Value::Null | Value::String(_)) => {
            Call::Bad(responses::named_problem("attribute-required", field))
        }
        Some(_) => Call::Bad(responses::named_problem("invalid-payload", field)),
    }
}

/// The point of commitment: under one lock, the credential is judged and spent, and the new pair
/// exists.
fn commit(shared: &Shared, call: Call, now: Now) -> Response<Bytes> {
    let mut state = shared.lock();
    let pair = match call {
        Call::Bad(response) => return response,
        _ if state.suspended => return responses::problem("authorization-suspended-account"),
        Call::Login(key) if state.refuse_api_key || key != shared.api_key => {
            Err("authentication-invalid-api-key")
        }
        Call::Login(_) => Ok(state.login(now)),
        Call::Refresh(token) => {
            let lifetime = state.token_lifetime;
            state
                .tokens
                .refresh(&token, now.monotonic, lifetime)
                .map_err(|refused| {
                    state.counts.reuse_violations +=
                        usize::from(matches!(refused, Refused::Reused));
                    "authentication-invalid-refresh-token"
                })
        }
    };
    match pair {
        Ok(pair) => {
            state.counts.grants += 1;
            granted(&state, &pair)
        }
        Err(kind) => {
            state.counts.refused += 1;
            refusal(shared.refusals_as_400, kind)
        }
    }
}

/// The response of a login or refresh. `expires_in` is a whole number where it can be, as the API
/// sends it.
fn granted(state: &State, pair: &Pair) -> Response<Bytes> {
    let reported = state.reported_lifetime.unwrap_or(state.token_lifetime);
    let expires_in = if reported.subsec_nanos() == 0 {
        json!(reported.as_secs())
    } else {
        json!(reported.as_secs_f64())
    };
    let pair = json!({
        "token_type": "Bearer", "expires_in": expires_in,
        "access_token": pair.access, "refresh_token": pair.refresh,
    });
    responses::json(StatusCode::OK, &pair)
}

/// A refused credential: 401 by the docs, 400 by the OpenAPI file.
fn refusal(as_400: bool, kind: &str) -> Response<Bytes> {
    if as_400 {
        let document =
            responses::problem_document(400, "authentication-invalid-user-credentials", "");
        responses::with_type(StatusCode::BAD_REQUEST, "application/json", document)
    } else {
        responses::problem(kind)
    }
}
