//! All that the fake server knows, behind one lock that is never held across an await. Gates have a lock of their own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};

#[cfg(feature = "upload-tokens")]
use super::resources::Resources;
use super::{
    fault::Faults,
    gate::Gates,
    payload::bearer,
    recorded_request::{Entry, Journal},
    responses,
    route::Route,
    tokens::{Pair, Tokens},
};
use crate::{Clock, Now};

/// What the fake server counted. See [`FakeApi::counts`](super::FakeApi::counts).
///
/// `grants` counts pairs that exist, `refreshes` and `logins` calls that came: a call that was
/// dropped or refused makes the difference. The preflights of [`cors`](super::FakeApiBuilder::cors) are in the journal alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests below `/auth/`, whatever became of them.
    pub token_calls: usize,
    /// Token calls to `/auth/api-key`, whatever became of them.
    pub logins: usize,
    /// Token calls to `/auth/refresh`, whatever became of them.
    pub refreshes: usize,
    /// Pairs that token calls made, whether or not the client saw them.
    pub grants: usize,
    /// Token calls whose API key or refresh token was refused.
    pub refused: usize,
    /// Token calls from their arrival until their response is complete or dropped: now.
    pub in_flight: usize,
    /// The most token calls that were ever in flight at once.
    pub max_in_flight: usize,
    /// Spent refresh tokens that were presented again and processed.
    pub reuse_violations: usize,
    /// Token calls that had an `Authorization` header.
    pub authorization_on_token_calls: usize,
    /// Requests that are no token calls.
    pub api_calls: usize,
    /// Of these, those that were answered 401.
    pub unauthorized: usize,
}

/// What a test plays in the server's place.
pub(super) type Playing = Arc<dyn Fn(&request::Parts) -> Option<Response<Bytes>> + Send + Sync>;

/// What never changes, beside what does. `state` has the only lock, and no method of a caller runs
/// under it.
pub(super) struct Shared {
    pub(super) api_key: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) refusals_as_400: bool,
    /// The origin whose pages may read responses.
    pub(super) cors: Option<HeaderValue>,
    /// What else responses carry.
    pub(super) headers: HeaderMap,
    pub(super) gates: Gates,
    pub(super) state: Mutex<State>,
}

/// What changes. Switches are read once for each request.
pub(super) struct State {
    pub(super) tokens: Tokens,
    pub(super) token_lifetime: Duration,
    pub(super) reported_lifetime: Option<Duration>,
    pub(super) refuse_api_key: bool,
    pub(super) refuse_all_bearers: bool,
    pub(super) suspended: bool,
    pub(super) faults: Faults,
    pub(super) on_api_request: Option<Playing>,
    pub(super) counts: Counts,
    /// How often each refresh token was presented.
    pub(super) presentations: HashMap<String, usize>,
    /// How many API requests came with each bearer.
    pub(super) bearers: HashMap<String, usize>,
    pub(super) journal: Journal,
    #[cfg(feature = "upload-tokens")]
    pub(super) resources: Resources,
}

impl Shared {
    /// A test that panicked elsewhere must not hide its failure behind a poisoned lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a request goes.
    pub(super) fn route<'a>(&self, parts: &'a request::Parts) -> Route<'a> {
        if self.cors.is_some() && parts.method == Method::OPTIONS {
            Route::Preflight
        } else {
            Route::of(parts.uri.path())
        }
    }

    /// Gives a response of the API the headers that all of them carry.
    pub(super) fn dress(&self, headers: &mut HeaderMap) {
        responses::add_rate_limit(headers, 499, 60);
        if let Some(origin) = &self.cors {
            responses::allow_origin(headers, origin);
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
    }
}

impl State {
    pub(super) fn new(tokens: Tokens, token_lifetime: Duration, journal: Journal) -> Self {
        Self {
            tokens,
            token_lifetime,
            reported_lifetime: None,
            refuse_api_key: false,
            refuse_all_bearers: false,
            suspended: false,
            faults: Faults::default(),
            on_api_request: None,
            counts: Counts::default(),
            presentations: HashMap::new(),
            bearers: HashMap::new(),
            journal,
            #[cfg(feature = "upload-tokens")]
            resources: Resources::default(),
        }
    }

    /// Counts a request that has come.
    pub(super) fn count(&mut self, parts: &request::Parts, is_token_call: bool) {
        let counts = &mut self.counts;
        if is_token_call {
            counts.token_calls += 1;
            counts.logins += usize::from(parts.uri.path() == "/auth/api-key");
            counts.refreshes += usize::from(parts.uri.path() == "/auth/refresh");
            let authorized = parts.headers.contains_key(header::AUTHORIZATION);
            counts.authorization_on_token_calls += usize::from(authorized);
        } else {
            counts.api_calls += 1;
            if let Some(token) = bearer(parts) {
                *self.bearers.entry(token.to_owned()).or_default() += 1;
            }
        }
    }

    /// Notes that a response is on its way.
    pub(super) fn answered(&mut self, entry: Entry, is_api_call: bool, status: StatusCode) {
        let unauthorized = is_api_call && status == StatusCode::UNAUTHORIZED;
        self.counts.unauthorized += usize::from(unauthorized);
        self.journal.answered(entry, status);
    }

    /// A new family, as after a login.
    pub(super) fn login(&mut self, now: Now) -> Pair {
        self.tokens.login(now.monotonic, self.token_lifetime)
    }
}

/// Counts a token call as in flight while it lives. It moves into the response's body, so a
/// response that nobody reads is in flight until it is dropped.
pub(super) struct InFlight(Arc<Shared>);

impl InFlight {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let counts = &mut shared.lock().counts;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().counts.in_flight -= 1;
    }
}
