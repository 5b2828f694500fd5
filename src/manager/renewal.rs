//! A flight: the task that gets the next pair. What follows on which response stands in guarantee G11.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

use super::{
    call::{LateReply, Reply},
    policy,
    renewed::{GrantType, RenewalReason},
    session::{Seen, Session},
    single_flight::{Pause, Pilot},
    token_manager::{NewPair, TokenManager},
};
use crate::{
    clock::{Deadline, Now},
    credentials::ApiKey,
    endpoint::{Grant, Outcome, TokenEndpoint, TokenResponse},
    error::{Error, ErrorKind},
    store::Version,
    token::TokenPair,
};

/// Calls of one flight at the most, whatever the responses are.
const MAX_CALLS: u32 = 5;

/// Refused API keys and suspended accounts are asked again after this, should someone have mended them.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// How long refreshing is given up when others keep killing our refresh tokens.
const SKIP_REFRESH: Duration = Duration::from_secs(3600);

/// How often a store is looked at for another pair when there is nothing left to try.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Renewal {
    pub(super) manager: Arc<TokenManager>,
    pub(super) endpoint: Box<dyn TokenEndpoint>,
    pub(super) cause: RenewalReason,
    pub(super) is_probe: bool,
    /// Of the credentials at the start: a failure with older ones is not held against newer ones.
    edition: u64,
    pub(super) deadline: Instant,
    calls: u32,
    /// The refresh token might have been spent before the call under way.
    was_doubtful: bool,
    /// A refresh token that may be spent was presented again; this is done once in a flight.
    pub(super) insisted: bool,
    fell_back: bool,
    /// The store under its lock, shared with the call that marks a refresh token in it.
    pub(super) session: Arc<Mutex<Option<Session>>>,
    /// Under which version the pair that is about to be published was saved.
    pub(super) saved: Option<Version>,
    /// A granted pair that could not be saved.
    pub(super) unsaved: Option<Seen>,
    /// Refreshes that were given up but may still be answered.
    pub(super) late: FuturesUnordered<LateReply>,
}

/// Why a flight ends without a pair.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) pause: Pause,
}

impl Failure {
    pub(super) fn outage(error: Error) -> Self {
        Self {
            error,
            pause: Pause::Outage { asked: None },
        }
    }
}

impl Renewal {
    pub(super) fn new(
        manager: Arc<TokenManager>,
        endpoint: Box<dyn TokenEndpoint>,
        cause: RenewalReason,
        is_probe: bool,
    ) -> Self {
        let edition = manager.held().edition;
        Self {
            manager,
            endpoint,
            cause,
            is_probe,
            edition,
            deadline: Instant::now(),
            calls: 0,
            was_doubtful: false,
            insisted: false,
            fell_back: false,
            session: Arc::default(),
            saved: None,
            unsaved: None,
            late: FuturesUnordered::new(),
        }
    }

    pub(super) async fn fly(mut self, mut pilot: Pilot) {
        self.deadline = Instant::now() + self.manager.settings.renewal_timeout;
        let result = AssertUnwindSafe(self.run())
            .catch_unwind()
            .await
            .unwrap_or_else(|_payload| {
                Err(Failure::outage(Error::new(
                    ErrorKind::Panicked,
                    "the renewal of the token panicked",
                )))
            });
        let (outcome, pause) = match result {
            Ok(pair) => (Ok(pair), Pause::None),
            Err(Failure { error, pause }) => {
                tracing::warn!(cause = ?self.cause, kind = ?error.kind(), %error, "access token not renewed");
                (Err(error), pause)
            }
        };
        let is_over = outcome.is_ok();
        // What is wrong with this process alone is no reason for others to wait.
        let concerns_all = outcome.as_ref().is_err_and(|error| {
            self.calls > 0
                && matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Ambiguous | ErrorKind::Suspended
                )
        });
        let is_outdated = || self.manager.held().edition != self.edition;
        let judged = || if is_outdated() { Pause::None } else { pause };
        let cool_down = pilot
            .land(outcome, judged, self.manager.now())
            .filter(|_| concerns_all);
        // A store may panic like anything of the user's; nobody waits for it any more.
        let _ = AssertUnwindSafe(self.leave_store(cool_down))
            .catch_unwind()
            .await;
        // A newer pair makes late responses worthless, and a shutdown would wait for them.
        if !is_over {
            let _ = AssertUnwindSafe(self.read_late()).catch_unwind().await;
        }
    }

    async fn run(&mut self) -> Result<TokenPair, Failure> {
        if let Some(pair) = self.enter_store().await? {
            return Ok(pair);
        }
        let begun = Instant::now();
        let mut last = None;
        loop {
            let Some(grant) = self.next_grant(last.as_ref())? else {
                let error = last.unwrap_or_else(|| {
                    Error::new(ErrorKind::TimedOut, "no time was left for a token call")
                });
                return Err(Failure::outage(error));
            };
            self.calls += 1;
            let Reply {
                grant,
                sent,
                outcome,
                ..
            } = self.call(grant).await;
            let error = match outcome {
                Outcome::Granted(tokens) => return self.granted(tokens, sent, &grant).await,
                Outcome::Transient { error, wait } => {
                    self.clear_mark(&grant).await;
                    let Some(pause) = self.pause_before_retry(begun, wait) else {
                        return Err(Failure {
                            error,
                            pause: Pause::Outage { asked: wait },
                        });
                    };
                    time::sleep(pause).await;
                    error
                }
                Outcome::Ambiguous { ref error, .. } => {
                    let error = error.clone();
                    self.doubt(&grant, outcome).await;
                    if self.store_has_changed().await
                        && let Some(pair) = self.enter_store().await?
                    {
                        return Ok(pair);
                    }
                    if self.is_probe {
                        return Err(Failure::outage(error));
                    }
                    error
                }
                Outcome::Refused(error) => {
                    if let Some(pair) = self.refused(&grant).await? {
                        return Ok(pair);
                    }
                    error
                }
                Outcome::Suspended(error) => {
                    self.clear_mark(&grant).await;
                    return Err(Failure {
                        error,
                        pause: Pause::For(ASK_AGAIN),
                    });
                }
                Outcome::Misunderstood(error) => {
                    self.clear_mark(&grant).await;
                    return Err(Failure::outage(error));
                }
                Outcome::HeldBack(error) if error.kind() == ErrorKind::StoreConflict => {
                    if let Some(pair) = self.enter_store_again().await? {
                        return Ok(pair);
                    }
                    self.insisted = false;
                    error
                }
                Outcome::HeldBack(error) => {
                    self.clear_mark(&grant).await;
                    return Err(Failure::outage(error));
                }
            };
            last = Some(error);
        }
    }

    /// What to buy the next pair with. `None` when this flight may try nothing more, an error when nothing is left.
    fn next_grant(&mut self, last: Option<&Error>) -> Result<Option<Grant>, Failure> {
        let now = self.manager.now();
        let spends = self.manager.settings.spends_refresh_tokens();
        let key = self.usable_key(now);
        let mut held = self.manager.held();
        let is_ahead = |time: Option<Deadline>| time.filter(|time| !time.has_passed(now));
        let skip = key.is_some() && is_ahead(held.skip_refresh_until).is_some();
        let refresh = held
            .credentials
            .refresh_token
            .clone()
            .filter(|_| spends && !skip);
        self.was_doubtful = held.presented;
        let grant = match (refresh, key) {
            (Some(token), _) if !self.was_doubtful => Grant::RefreshToken(token),
            (_, Some(key)) => Grant::ApiKey(key),
            (Some(_), None) if self.insisted => return Ok(None),
            (Some(token), None) => {
                self.insisted = true;
                Grant::RefreshToken(token)
            }
            (None, None) => {
                let asked_again = is_ahead(held.key_refused_until).map(|until| until.left(now));
                // The store had a pair, and has none now: somebody's refusal is as good as ours.
                let was_cleared = held.credentials.refresh_token.is_none()
                    && held.version.is_some_and(|version| version.revision > 0);
                let has_store = self.manager.settings.store.is_some();
                return Err(out_of_credentials(
                    last,
                    was_cleared,
                    asked_again,
                    has_store,
                ));
            }
        };
        if self.calls > 0 && (self.calls >= MAX_CALLS || !self.has_room_after(Duration::ZERO)) {
            return Ok(None);
        }
        let had_refresh_token =
            held.credentials.refresh_token.is_some() || last.is_some_and(is_refusal);
        let falls_back =
            matches!(grant, Grant::ApiKey(_)) && spends && had_refresh_token && !self.fell_back;
        held.fallbacks += u64::from(falls_back);
        let fallbacks = held.fallbacks;
        // A subscriber of events is the user's code: none runs under a lock.
        drop(held);
        if falls_back {
            self.fell_back = true;
            tracing::warn!(
                fallbacks,
                "logging in with the API key: the refresh token did not do"
            );
        }
        Ok(Some(grant))
    }

    /// The API key, if it was not refused a short while ago.
    pub(super) fn usable_key(&self, now: Now) -> Option<ApiKey> {
        let held = self.manager.held();
        let refused = held
            .key_refused_until
            .is_some_and(|until| !until.has_passed(now));
        held.credentials.api_key.clone().filter(|_| !refused)
    }

    async fn granted(
        &mut self,
        tokens: TokenResponse,
        sent: Now,
        grant: &Grant,
    ) -> Result<TokenPair, Failure> {
        {
            let mut held = self.manager.held();
            match grant {
                Grant::RefreshToken(_) => held.refused_in_a_row = 0,
                Grant::ApiKey(_) => held.key_refused_until = None,
            }
        }
        // Saved before it is shared: what a sibling sees in use can be found in the store.
        if let Some(adopted) = self.save(&tokens, sent, grant).await {
            return Ok(adopted);
        }
        self.publish(tokens, sent, grant, false)
            .await
            .ok_or_else(|| {
                Failure::outage(Error::new(
                    ErrorKind::Ambiguous,
                    "the access token can't stand in a header",
                ))
            })
    }

    /// Puts a granted pair to use. If the credential it was bought with is no longer the one held, something newer came
    /// in the meantime: then its refresh token is not kept, and of a `late` response nothing is.
    pub(super) async fn publish(
        &mut self,
        tokens: TokenResponse,
        sent: Now,
        grant: &Grant,
        late: bool,
    ) -> Option<TokenPair> {
        let way = match grant {
            Grant::RefreshToken(_) => GrantType::RefreshToken,
            Grant::ApiKey(_) => GrantType::ApiKey,
        };
        let (edition, version) = (self.edition, self.saved.take());
        let refresh_token = tokens.refresh_token.clone();
        let new = NewPair {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            lifetime: tokens.lifetime,
            expires: Deadline::after(sent, tokens.lifetime),
            way,
        };
        let pair = self.manager.publish(new, self.cause, |held| {
            // Forgotten after a refusal is not replaced: the refusal was of a second presentation.
            let was_forgotten =
                late && held.credentials.refresh_token.is_none() && held.edition == edition;
            let is_current = held.has(grant) || was_forgotten;
            if let Grant::RefreshToken(token) = grant {
                held.seed.take_if(|seed| seed == token);
            }
            match (refresh_token, way) {
                _ if !is_current => {}
                // The one sent counts as spent. With an API key held it is not presented again.
                (None, GrantType::RefreshToken) => held.presented = true,
                (token, _) => held.put_refresh_token(token, way == GrantType::ApiKey),
            }
            if version.is_some() && (is_current || !late) {
                held.version = version;
                held.marks = 0;
            }
            is_current || !late
        });
        pair.await
    }

    /// The call had no effect. A doubt from before it stays.
    async fn clear_mark(&mut self, grant: &Grant) {
        if self.was_doubtful || !matches!(grant, Grant::RefreshToken(_)) {
            return;
        }
        {
            let mut held = self.manager.held();
            if held.has(grant) {
                held.presented = false;
            }
        }
        if let Some(session) = self.session.lock().await.as_mut()
            && let Some(mut seen) = session.seen.clone()
        {
            seen.header.mark = None;
            match session.save(seen).await {
                Ok(()) => self.manager.held().marks = 0,
                Err(error) => {
                    tracing::warn!(%error, "the mark on the stored refresh token was not cleared")
                }
            }
        }
    }

    /// A response that brought no access token may have brought a refresh token all the same.
    pub(super) async fn doubt(&mut self, grant: &Grant, outcome: Outcome) {
        let Outcome::Ambiguous {
            refresh_token: Some(token),
            ..
        } = outcome
        else {
            return;
        };
        {
            let mut held = self.manager.held();
            if !held.has(grant) {
                return;
            }
            held.put_refresh_token(Some(token.clone()), matches!(grant, Grant::ApiKey(_)));
        }
        self.store_refresh_token(token, grant).await;
    }

    /// Forgets exactly the credential that was refused, unless the store has another pair by now.
    async fn refused(&mut self, grant: &Grant) -> Result<Option<TokenPair>, Failure> {
        if matches!(grant, Grant::RefreshToken(_)) && self.store_has_changed().await {
            return self.enter_store().await;
        }
        let mut gives_up = false;
        {
            let now = self.manager.now();
            let mut held = self.manager.held();
            if !held.has(grant) {
                return Ok(None);
            }
            match grant {
                Grant::ApiKey(_) => held.key_refused_until = Some(Deadline::after(now, ASK_AGAIN)),
                Grant::RefreshToken(_) => {
                    held.refused_in_a_row = if held.from_login {
                        held.refused_in_a_row + 1
                    } else {
                        0
                    };
                    if held.refused_in_a_row >= 2 && held.credentials.api_key.is_some() {
                        held.refused_in_a_row = 0;
                        held.skip_refresh_until = Some(Deadline::after(now, SKIP_REFRESH));
                        gives_up = true;
                    }
                    held.put_refresh_token(None, false);
                }
            }
        }
        if gives_up {
            tracing::warn!(
                "two new refresh tokens in a row were refused: another process seems to log in with the same API \
                 key; not refreshing for an hour"
            );
        }
        if matches!(grant, Grant::RefreshToken(_)) {
            self.forget_stored_tokens().await;
        }
        Ok(None)
    }

    /// How long to wait before another call in this flight; `None` if there is to be none.
    fn pause_before_retry(&self, begun: Instant, asked: Option<Duration>) -> Option<Duration> {
        let (pause, fits) = match asked.filter(|asked| !asked.is_zero()) {
            Some(asked) => (asked, true),
            None => {
                let pause = policy::backoff(self.calls);
                (
                    pause,
                    begun.elapsed() + pause <= self.manager.settings.patience,
                )
            }
        };
        let room = self.has_room_after(pause);
        (fits && room && !self.is_probe && self.calls < MAX_CALLS).then_some(pause)
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.manager.settings.call_timeout
    }

    /// Whether enough of the flight is left for a call. Nine tenths of its time are enough: timers fire late, and the
    /// step that a hang has left room for is to start all the same.
    pub(super) fn has_room_after(&self, pause: Duration) -> bool {
        self.deadline.saturating_duration_since(Instant::now())
            >= pause + self.call_timeout() * 9 / 10
    }
}

fn is_refusal(error: &Error) -> bool {
    error.kind() == ErrorKind::Refused
}

fn out_of_credentials(
    last: Option<&Error>,
    was_cleared: bool,
    key_asked_again: Option<Duration>,
    has_store: bool,
) -> Failure {
    let refused = last.cloned().filter(is_refusal);
    // A store may show another pair one day.
    let forever = if has_store {
        Pause::For(LOOK_AGAIN)
    } else {
        Pause::UntilCredentialsChange
    };
    let (error, pause) = match (refused, key_asked_again) {
        (refused, Some(wait)) => {
            let error = refused
                .unwrap_or_else(|| Error::new(ErrorKind::Refused, "the API key was refused"));
            (
                error,
                if has_store {
                    Pause::For(wait.min(LOOK_AGAIN))
                } else {
                    Pause::For(wait)
                },
            )
        }
        (refused, None) if refused.is_some() || was_cleared => (
            Error::new(
                ErrorKind::Refused,
                "the refresh token was refused and no API key is held; log in again and call `set_credentials`",
            ),
            forever,
        ),
        (_, None) => (
            Error::new(
                ErrorKind::NoCredentials,
                "there is nothing to get a token with; give the builder an API key or a refresh token (renewal by API \
                 key needs the key), or call `set_credentials`",
            ),
            forever,
        ),
    };
    Failure { error, pause }
}
