//! `POST /auth/api-key` and `POST /auth/refresh`, and what can go wrong with them.
//!
//! A call goes through the same steps whatever its fault: counted, read, delayed, stopped at a
//! gate, processed, stopped again, answered. A fault says at which step it goes wrong, so that a
//! test knows what the server has done by then.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use http_body::Body;
use serde_json::{Value, json};
use tower::BoxError;

use super::{
    body::{self, FakeBody},
    fault::Fault,
    gate::{GatePoint, GateState},
    responses,
    route::BODY_LIMIT,
    state::{InFlight, Shared, State},
    tokens::{Pair, Refused},
};
use crate::Now;

/// Between two bytes of [`Fault::Drip`].
const DRIP_INTERVAL: Duration = Duration::from_millis(100);
/// A piece of [`Fault::Huge`], in bytes.
const HUGE_CHUNK: usize = 64 * 1024;
/// How many pieces there are: 8 MiB in all.
const HUGE_CHUNKS: usize = 128;

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
    let (entry, fault) = {
        let mut state = shared.lock();
        state.counts.token_calls += 1;
        state.counts.logins += usize::from(parts.uri.path() == "/auth/api-key");
        state.counts.refreshes += usize::from(parts.uri.path() == "/auth/refresh");
        let authorized = parts.headers.contains_key(header::AUTHORIZATION);
        state.counts.authorization_on_token_calls += usize::from(authorized);
        let fault = state
            .faults
            .pop_front()
            .or_else(|| state.default_fault.clone());
        (state.journal.arrived(&parts, true), fault)
    };

    let call = match body::read(body, BODY_LIMIT).await? {
        Ok(body) => {
            shared.lock().journal.read(entry, &body);
            parse(&parts, &body)
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
    if let Some(Fault::Latency(latency)) = fault {
        tokio::time::sleep(latency).await;
    }
    shared.gates.pass(GatePoint::BeforeCommit).await;

    let response = match before(fault.as_ref()) {
        Some(response) => response?.map(FakeBody::whole),
        None => {
            let now = shared.clock.now();
            let response = commit(&shared, call, now);
            shared.gates.pass(GatePoint::AfterCommit).await;
            // Asked for after the other gate: a test may have shut this one while the call was
            // stopped there.
            let gate = shared.gates.at(GatePoint::MidBody);
            after(fault, response, gate)?
        }
    };
    shared.lock().journal.answered(entry, response.status());
    Ok(response.map(|body| body.holding(in_flight)))
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

/// The response of a fault that comes before the call is processed.
///
/// `None`: this fault comes later, or there is none.
fn before(fault: Option<&Fault>) -> Option<io::Result<Response<Bytes>>> {
    let response = match fault? {
        Fault::Status {
            status,
            headers,
            body,
        } => responses::status(*status).map(|status| {
            let mut response = responses::empty(status);
            *response.headers_mut() = headers.clone();
            response.map(|_| body.clone())
        }),
        Fault::Redirect(status, location) => responses::status(*status).and_then(|status| {
            let location = HeaderValue::from_str(location).map_err(io::Error::other)?;
            let mut response = responses::empty(status);
            response.headers_mut().insert(header::LOCATION, location);
            Ok(response)
        }),
        Fault::Malformed => Ok(responses::with_type(
            StatusCode::OK,
            "text/html",
            responses::html(200),
        )),
        Fault::DropBefore => Err(closed()),
        _ => return None,
    };
    Some(response)
}

/// What becomes of the response to a call that was processed.
///
/// A fault that edits the JSON leaves a refusal as it is.
fn after(
    fault: Option<Fault>,
    mut response: Response<Bytes>,
    gate: Option<Arc<GateState>>,
) -> io::Result<Response<FakeBody>> {
    if !matches!(fault, Some(Fault::StatusAfter(_))) {
        responses::add_rate_limit(response.headers_mut(), 499, 60);
    }
    Ok(match fault {
        Some(Fault::DropAfter) => return Err(closed()),
        Some(Fault::StatusAfter(status)) => {
            let page = responses::html(status);
            responses::with_type(responses::status(status)?, "text/html", page).map(FakeBody::whole)
        }
        Some(Fault::Truncated) => truncated(response),
        Some(Fault::Empty) => response.map(|_| FakeBody::whole(Bytes::new())),
        Some(Fault::Huge) => response.map(|_| huge()),
        Some(Fault::Drip) => response.map(|_| drip()),
        Some(Fault::Json(edit)) if response.status() == StatusCode::OK => {
            let mut value = serde_json::from_slice(response.body()).map_err(io::Error::other)?;
            edit(&mut value);
            response.map(|_| gated(value.to_string().into(), gate))
        }
        _ => response.map(|body| gated(body, gate)),
    })
}

/// The body in two halves with the gate in between, if there is one.
fn gated(body: Bytes, gate: Option<Arc<GateState>>) -> FakeBody {
    let Some(gate) = gate else {
        return FakeBody::whole(body);
    };
    let half = body.len() / 2;
    let (first, rest) = (body.slice(..half), body.slice(half..));
    let rest = async move {
        gate.pass().await;
        Ok(rest)
    };
    let halves = stream::iter([Ok(first)]).chain(stream::once(rest));
    FakeBody::stream(Some(body.len() as u64), halves)
}

/// Announces the whole length and breaks off after half of it.
fn truncated(mut response: Response<Bytes>) -> Response<FakeBody> {
    let length = HeaderValue::from(response.body().len());
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length);
    response.map(|body| {
        let first = body.slice(..body.len() / 2);
        let end = async {
            // Lets the HTTP server write out the first half before it closes the connection.
            tokio::task::yield_now().await;
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the fake server cut the response short",
            ))
        };
        FakeBody::stream(None, stream::iter([Ok(first)]).chain(stream::once(end)))
    })
}

/// Begins like a pair, so that a client which reads on has something to wait for.
fn huge() -> FakeBody {
    let chunk = Bytes::from(vec![b'a'; HUGE_CHUNK]);
    let start = stream::iter([Ok(Bytes::from_static(
        br#"{"token_type":"Bearer","access_token":""#,
    ))]);
    FakeBody::stream(
        None,
        start.chain(stream::iter(
            (0..HUGE_CHUNKS).map(move |_| Ok(chunk.clone())),
        )),
    )
}

/// White space without end: valid JSON so far, at every moment.
fn drip() -> FakeBody {
    FakeBody::stream(
        None,
        stream::repeat(()).then(|()| async {
            tokio::time::sleep(DRIP_INTERVAL).await;
            Ok(Bytes::from_static(b" "))
        }),
    )
}

/// What a client sees of a connection that was closed.
fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the fake server closed the connection",
    )
}
