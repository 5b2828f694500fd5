//! `POST /auth/api-key` and `POST /auth/refresh`.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header, request};
use serde_json::{Value, json};

use super::{
    payload, responses,
    state::{Shared, State},
    tokens::{Pair, Refused},
};

/// What a call asks for.
enum Call {
    /// With this API key.
    Login(String),
    /// With this refresh token.
    Refresh(String),
    /// One that cannot be processed, and the response to it.
    Bad(Response<Bytes>),
}

/// The refresh token that a call presents.
pub(super) fn presented(parts: &request::Parts, body: &Bytes) -> Option<String> {
    match parse(parts, body) {
        Call::Refresh(token) => Some(token),
        Call::Login(_) | Call::Bad(_) => None,
    }
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
    if parts.headers.contains_key(header::AUTHORIZATION) {
        return Call::Bad(responses::problem("invalid-payload"));
    }
    let mut payload = match payload::object(parts, body) {
        Ok(payload) => payload,
        Err((kind, name)) => return Call::Bad(responses::named_problem(kind, name)),
    };
    match payload.remove(field) {
        Some(Value::String(value)) if !value.is_empty() => match payload.keys().next() {
            Some(unknown) => Call::Bad(responses::named_problem("invalid-attribute", unknown)),
            None => call(value),
        },
        None | Some(Value::Null | Value::String(_)) => {
            Call::Bad(responses::named_problem("attribute-required", field))
        }
        Some(_) => Call::Bad(responses::named_problem("invalid-payload", field)),
    }
}

/// The point of commitment: under one lock, the credential is judged and spent, and the new pair
/// exists.
pub(super) fn commit(shared: &Shared, parts: &request::Parts, body: &Bytes) -> Response<Bytes> {
    let call = parse(parts, body);
    let now = shared.clock.now();
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
        let kind = "authentication-invalid-user-credentials";
        responses::problem_as(StatusCode::BAD_REQUEST, kind, "")
    } else {
        responses::problem(kind)
    }
}
