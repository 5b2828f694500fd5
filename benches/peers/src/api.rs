//! The API that all are measured against: in this process, with strict rotation. A refresh token works once; one that
//! is presented again is refused and counted.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, StatusCode, header};
use tokio::{sync::watch, time::sleep};

/// api.video's are JSON Web Tokens of 700 to 1100 characters.
const ACCESS_TOKEN_LENGTH: usize = 800;
const REFRESH_TOKEN_LENGTH: usize = 700;

/// Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Api(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How many pairs were granted to token calls. Changes when the endpoint has committed itself, and before it answers.
    commitments: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    down: bool,
    counts: Counts,
    serial: u64,
    /// Access tokens that were not revoked, and when they expire.
    access_tokens: Vec<(String, Instant)>,
    refresh_tokens: HashSet<String>,
    spent: HashSet<String>,
    granted_at: Vec<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Half of it before the commitment, half after.
    pub(crate) latency: Duration,
    /// How long an access token lives, as reported and as judged: whole seconds.
    pub(crate) lifetime: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) expires_in: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The refresh token was spent before, or never issued: for good.
    Spent,
    /// The endpoint is down (503).
    Down,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Token calls that reached the endpoint, whatever the response.
    pub(crate) calls: u64,
    pub(crate) granted: u64,
    /// Refresh tokens that were presented a second time.
    pub(crate) reused: u64,
    /// Other requests answered 401.
    pub(crate) unauthorized: u64,
}

impl Api {
    pub(crate) fn new(rules: Rules) -> Self {
        let state = State {
            rules,
            down: false,
            counts: Counts::default(),
            serial: 0,
            access_tokens: Vec::new(),
            refresh_tokens: HashSet::new(),
            spent: HashSet::new(),
            granted_at: Vec::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            commitments: watch::Sender::new(0),
        }))
    }

    /// For tokens that are minted from now on.
    pub(crate) fn set_lifetime(&self, lifetime: Duration) {
        self.state().rules.lifetime = lifetime;
    }

    /// A first pair. No call is counted.
    pub(crate) fn mint(&self) -> Grant {
        self.state().mint()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Changes with each pair that is granted, at the moment of the commitment.
    pub(crate) fn commitments(&self) -> watch::Receiver<u64> {
        self.0.commitments.subscribe()
    }

    /// The moments of these commitments.
    pub(crate) fn granted_at(&self) -> Vec<Instant> {
        self.state().granted_at.clone()
    }

    /// Every access token issued so far gets a 401.
    pub(crate) fn revoke_access_tokens(&self) {
        self.state().access_tokens.clear();
    }

    /// Token calls get a 503, after the latency.
    pub(crate) fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// A token call. Who drops it after the commitment has lost the pair, as with a real server.
    pub(crate) async fn refresh(&self, refresh_token: &str) -> Result<Grant, Denied> {
        self.call(|state| state.spend(refresh_token)).await
    }

    /// A token call with the API key, or with the credentials of an OAuth client.
    pub(crate) async fn login(&self) -> Result<Grant, Denied> {
        self.call(|_| Ok(())).await
    }

    async fn call(
        &self,
        check: impl FnOnce(&mut State) -> Result<(), Denied>,
    ) -> Result<Grant, Denied> {
        let half = {
            let mut state = self.state();
            state.counts.calls += 1;
            state.rules.latency / 2
        };
        sleep(half).await;
        let response = self.commit(check);
        sleep(half).await;
        response
    }

    fn commit(
        &self,
        check: impl FnOnce(&mut State) -> Result<(), Denied>,
    ) -> Result<Grant, Denied> {
        let mut state = self.state();
        if state.down {
            return Err(Denied::Down);
        }
        check(&mut state)?;
        let grant = state.mint();
        state.counts.granted += 1;
        state.granted_at.push(Instant::now());
        drop(state);
        self.0.commitments.send_modify(|granted| *granted += 1);
        Ok(grant)
    }

    /// What a request gets by its bearer: 200 or 401.
    pub(crate) fn authorize<B>(&self, request: &Request<B>) -> StatusCode {
        let token = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let mut state = self.state();
        // The newest first, which it nearly always is: hashing it would cost more than some of the peers do.
        let known = token.and_then(|token| {
            state
                .access_tokens
                .iter()
                .rev()
                .find(|(known, _)| known == token)
        });
        if known.is_some_and(|(_, expires)| Instant::now() < *expires) {
            return StatusCode::OK;
        }
        state.counts.unauthorized += 1;
        StatusCode::UNAUTHORIZED
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mint(&mut self) -> Grant {
        self.serial += 1;
        let (serial, lifetime) = (self.serial, self.rules.lifetime);
        let access_token = format!(
            "{:x<ACCESS_TOKEN_LENGTH$}",
            format!("test-only-access-{serial}-")
        );
        let refresh_token = format!(
            "{:x<REFRESH_TOKEN_LENGTH$}",
            format!("test-only-refresh-{serial}-")
        );
        self.access_tokens
            .push((access_token.clone(), Instant::now() + lifetime));
        self.refresh_tokens.insert(refresh_token.clone());
        Grant {
            access_token,
            refresh_token,
            expires_in: lifetime,
        }
    }

    fn spend(&mut self, refresh_token: &str) -> Result<(), Denied> {
        match self.refresh_tokens.take(refresh_token) {
            Some(token) => {
                self.spent.insert(token);
                Ok(())
            }
            None => {
                self.counts.reused += u64::from(self.spent.contains(refresh_token));
                Err(Denied::Spent)
            }
        }
    }
}
