//! A flight: the task that gets the next pair. What follows on which answer stands in guarantee G11.

use std::{
    future::pending,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{self, Instant};

use super::{
    policy,
    single_flight::{Pause, Pilot},
    token_manager::{Cause, TokenManager},
};
use crate::{
    clock::{Deadline, Now},
    endpoint::{Answer, Grant, OnSend, Purchase, TokenEndpoint},
    error::{Error, ErrorKind},
    token::TokenPair,
};

/// How long the answer to a refresh is read after it was sent, whoever has stopped waiting.
const LATE_ANSWER: Duration = Duration::from_secs(60);

/// A timer that fires this late says that we were asleep, not that the server was slow.
const OVERSLEPT: Duration = Duration::from_millis(100);

/// What an answer gets on top in that case: it may lie in a socket that nobody has polled.
const OVERSLEPT_GRACE: Duration = Duration::from_secs(1);

/// How long a call waits for readiness before the calls given up earlier are dropped: theirs may be the only slot.
const SLOT_WAIT: Duration = Duration::from_secs(1);

/// Calls of one flight at the most, whatever the answers are.
const MAX_CALLS: u32 = 5;

/// Refused API keys and suspended accounts are asked again after this, should someone have mended them.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// How long refreshing is given up when others keep killing our refresh tokens.
const SKIP_REFRESH: Duration = Duration::from_secs(3600);

pub(super) struct Renewal {
    manager: Arc<TokenManager>,
    endpoint: Box<dyn TokenEndpoint>,
    cause: Cause,
    is_probe: bool,
    /// Of the credentials at the start: a failure with older ones is not held against newer ones.
    edition: u64,
    deadline: Instant,
    calls: u32,
    /// The refresh token might have been spent before the call under way.
    was_doubtful: bool,
    /// A refresh token that may be spent was presented again; this is done once in a flight.
    insisted: bool,
    fell_back: bool,
    /// Refreshes that were given up but may still be answered.
    late: FuturesUnordered<BoxFuture<'static, Option<Reply>>>,
}

struct Reply {
    purchase: Purchase,
    sent: Now,
    answer: Answer,
}

/// Why a flight ends without a pair.
struct Failure {
    error: Error,
    pause: Pause,
}

impl Failure {
    fn outage(error: Error) -> Self {
        Self { error, pause: Pause::Outage { asked: None } }
    }
}

impl Renewal {
    pub(super) fn new(
        manager: Arc<TokenManager>,
        endpoint: Box<dyn TokenEndpoint>,
        cause: Cause,
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
            late: FuturesUnordered::new(),
        }
    }

    pub(super) async fn fly(mut self, mut pilot: Pilot) {
        self.deadline = Instant::now() + self.manager.settings.flight_timeout;
        let result = AssertUnwindSafe(self.run()).catch_unwind().await.unwrap_or_else(|_payload| {
            Err(Failure::outage(Error::new(ErrorKind::Panicked, "the renewal of the token panicked")))
        });
        let (outcome, pause) = match result {
            Ok(pair) => (Ok(pair), Pause::None),
            Err(Failure { error, pause }) => {
                tracing::warn!(cause = ?self.cause, kind = ?error.kind(), %error, "access token not renewed");
                let outdated = self.manager.held().edition != self.edition;
                (Err(error), if outdated { Pause::None } else { pause })
            }
        };
        let is_over = outcome.is_ok();
        pilot.land(outcome, pause, self.manager.now());
        // A newer pair makes late answers worthless, and a shutdown would wait for them.
        if !is_over {
            self.read_late().await;
        }
    }

    /// The answer to a call that was given up may hold the only living refresh token.
    async fn read_late(mut self) {
        let mut news = self.manager.subscribe();
        while !self.late.is_empty() {
            tokio::select! {
                biased;
                Some(reply) = self.late.next() => {
                    let Some(Reply { purchase, sent, answer }) = reply else { continue };
                    if let Answer::Granted(grant) = answer {
                        self.manager.publish(grant, sent, &purchase, self.cause, true).await;
                    } else {
                        self.doubt(&purchase, answer);
                    }
                }
                // Whatever pair is newer, the answer can't be worth more.
                news = news.next() => if news.is_some() { return },
            }
        }
    }

    async fn run(&mut self) -> Result<TokenPair, Failure> {
        let begun = Instant::now();
        let mut last = None;
        loop {
            let Some(purchase) = self.next_purchase(last.as_ref())? else {
                let error = last
                    .unwrap_or_else(|| Error::new(ErrorKind::TimedOut, "no time was left for a token call"));
                return Err(Failure::outage(error));
            };
            self.calls += 1;
            let Reply { purchase, sent, answer } = self.call(purchase).await;
            let error = match answer {
                Answer::Granted(grant) => return self.granted(grant, sent, &purchase).await,
                Answer::Transient { error, wait } => {
                    self.clear_mark(&purchase);
                    let Some(pause) = self.pause_before_retry(begun, wait) else {
                        return Err(Failure { error, pause: Pause::Outage { asked: wait } });
                    };
                    time::sleep(pause).await;
                    error
                }
                Answer::Ambiguous { ref error, .. } => {
                    let error = error.clone();
                    self.doubt(&purchase, answer);
                    if self.is_probe {
                        return Err(Failure::outage(error));
                    }
                    error
                }
                Answer::Refused(error) => {
                    self.refused(&purchase);
                    error
                }
                Answer::Suspended(error) => {
                    self.clear_mark(&purchase);
                    return Err(Failure { error, pause: Pause::For(ASK_AGAIN) });
                }
                Answer::Misunderstood(error) => {
                    self.clear_mark(&purchase);
                    return Err(Failure::outage(error));
                }
            };
            last = Some(error);
        }
    }

    /// What to buy the next pair with. `None` when this flight may try nothing more, an error when nothing is left.
    fn next_purchase(&mut self, last: Option<&Error>) -> Result<Option<Purchase>, Failure> {
        let now = self.manager.now();
        let spends = self.manager.settings.spends_refresh_tokens();
        let mut held = self.manager.held();
        let is_ahead = |time: Option<Deadline>| time.filter(|time| !time.has_passed(now));
        let refused_until = is_ahead(held.key_refused_until);
        let key = held.credentials.api_key.clone().filter(|_| refused_until.is_none());
        let skip = key.is_some() && is_ahead(held.skip_refresh_until).is_some();
        let refresh = held.credentials.refresh_token.clone().filter(|_| spends && !skip);
        self.was_doubtful = held.presented.load(Ordering::Acquire);
        let purchase = match (refresh, key) {
            (Some(token), _) if !self.was_doubtful => Purchase::Refresh(token),
            (_, Some(key)) => Purchase::Login(key),
            (Some(_), None) if self.insisted => return Ok(None),
            (Some(token), None) => {
                self.insisted = true;
                Purchase::Refresh(token)
            }
            (None, None) => return Err(out_of_credentials(last, refused_until.map(|until| until.left(now)))),
        };
        if self.calls > 0 && (self.calls >= MAX_CALLS || !self.has_room_after(Duration::ZERO)) {
            return Ok(None);
        }
        let had_refresh_token = held.credentials.refresh_token.is_some() || last.is_some_and(is_refusal);
        if matches!(purchase, Purchase::Login(_)) && spends && had_refresh_token && !self.fell_back {
            self.fell_back = true;
            held.fallbacks += 1;
            tracing::warn!(
                fallbacks = held.fallbacks,
                "logging in with the API key: the refresh token did not do"
            );
        }
        Ok(Some(purchase))
    }

    async fn call(&mut self, purchase: Purchase) -> Reply {
        let begun = Instant::now();
        let sent = Arc::new(OnceLock::new());
        let context = &self.manager.settings.context;
        let call = self.endpoint.call(context, &purchase, self.on_send(&purchase, &sent));
        let mut call = AssertUnwindSafe(call).catch_unwind().boxed();
        let mut limit = self.deadline.min(begun + self.call_timeout());
        if self.waits_for_late_answer(&purchase) {
            // Next would come presenting the same token again, which kills the pair that a slow answer brings. So
            // this answer gets all the time that leaves room for that.
            limit = limit.max(self.deadline - self.call_timeout());
        }
        let full_limit = limit;
        if !self.late.is_empty() {
            limit = limit.min(begun + SLOT_WAIT);
        }
        let mut overslept = false;
        loop {
            let late = async {
                match self.late.next().await {
                    Some(Some(reply)) if matches!(reply.answer, Answer::Granted(_)) => reply,
                    _ => pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = &mut call => {
                    let sent = sent.get().copied();
                    let answer = answer.unwrap_or_else(|_payload| {
                        given_up(&purchase, sent, Error::new(ErrorKind::Panicked, "the token service panicked"))
                    });
                    return self.reply(purchase, sent, answer);
                }
                reply = late => return reply,
                () = time::sleep_until(limit) => {
                    if limit < full_limit {
                        if sent.get().is_none() {
                            self.late.clear();
                        }
                        limit = full_limit;
                        continue;
                    }
                    if !overslept && Instant::now() > limit + OVERSLEPT {
                        overslept = true;
                        limit = Instant::now() + OVERSLEPT_GRACE.min(self.call_timeout());
                        continue;
                    }
                    let waited = begun.elapsed();
                    let sent_at = sent.get().copied();
                    let message = format!("no answer from the token endpoint within {waited:.1?}");
                    let answer = given_up(&purchase, sent_at, Error::new(ErrorKind::Ambiguous, message));
                    if let (Some(sent), Purchase::Refresh(_)) = (sent_at, &purchase) {
                        let purchase = purchase.clone();
                        self.late.push(Box::pin(async move {
                            let answer = time::timeout_at(begun + LATE_ANSWER, call).await.ok()?.ok()?;
                            Some(Reply { purchase, sent, answer })
                        }));
                    }
                    return self.reply(purchase, sent_at, answer);
                }
            }
        }
    }

    fn reply(&self, purchase: Purchase, sent: Option<Now>, answer: Answer) -> Reply {
        Reply { purchase, sent: sent.unwrap_or_else(|| self.manager.now()), answer }
    }

    /// Notes the moment from which the server may have seen the request, and that the refresh token may be spent.
    fn on_send(&self, purchase: &Purchase, sent: &Arc<OnceLock<Now>>) -> OnSend {
        let (manager, sent) = (self.manager.clone(), sent.clone());
        let mark = matches!(purchase, Purchase::Refresh(_)).then(|| self.manager.held().presented.clone());
        Box::new(move || {
            let _ = sent.set(manager.now());
            if let Some(mark) = mark {
                mark.store(true, Ordering::Release);
            }
        })
    }

    fn waits_for_late_answer(&self, purchase: &Purchase) -> bool {
        let held = self.manager.held();
        let has_key = held.credentials.api_key.is_some()
            && held.key_refused_until.is_none_or(|until| until.has_passed(self.manager.now()));
        matches!(purchase, Purchase::Refresh(_)) && !has_key && !self.insisted && !self.is_probe
    }

    async fn granted(&mut self, grant: Grant, sent: Now, purchase: &Purchase) -> Result<TokenPair, Failure> {
        {
            let mut held = self.manager.held();
            match purchase {
                Purchase::Refresh(_) => held.refused_in_a_row = 0,
                Purchase::Login(_) => held.key_refused_until = None,
            }
        }
        let pair = self.manager.publish(grant, sent, purchase, self.cause, false).await;
        pair.ok_or_else(|| {
            Failure::outage(Error::new(ErrorKind::Ambiguous, "the access token can't stand in a header"))
        })
    }

    /// The call had no effect. A doubt from before it stays.
    fn clear_mark(&self, purchase: &Purchase) {
        let held = self.manager.held();
        if !self.was_doubtful && matches!(purchase, Purchase::Refresh(_)) && held.has(purchase) {
            held.presented.store(false, Ordering::Release);
        }
    }

    fn doubt(&self, purchase: &Purchase, answer: Answer) {
        let mut held = self.manager.held();
        if let Answer::Ambiguous { refresh_token: Some(token), .. } = answer
            && held.has(purchase)
        {
            held.put_refresh_token(Some(token), matches!(purchase, Purchase::Login(_)));
        }
    }

    /// Forgets exactly the credential that was refused.
    fn refused(&self, purchase: &Purchase) {
        let now = self.manager.now();
        let mut held = self.manager.held();
        if !held.has(purchase) {
            return;
        }
        match purchase {
            Purchase::Login(_) => held.key_refused_until = Some(Deadline::after(now, ASK_AGAIN)),
            Purchase::Refresh(_) => {
                held.refused_in_a_row = if held.from_login { held.refused_in_a_row + 1 } else { 0 };
                if held.refused_in_a_row >= 2 && held.credentials.api_key.is_some() {
                    held.refused_in_a_row = 0;
                    held.skip_refresh_until = Some(Deadline::after(now, SKIP_REFRESH));
                    tracing::warn!(
                        "two new refresh tokens in a row were refused: another process seems to log in with the same \
                         API key; not refreshing for an hour"
                    );
                }
                held.put_refresh_token(None, false);
            }
        }
    }

    /// How long to wait before another call in this flight; `None` if there is to be none.
    fn pause_before_retry(&self, begun: Instant, asked: Option<Duration>) -> Option<Duration> {
        let (pause, fits) = match asked.filter(|asked| !asked.is_zero()) {
            Some(asked) => (asked, true),
            None => {
                let pause = policy::backoff(self.calls);
                (pause, begun.elapsed() + pause <= self.manager.settings.patience)
            }
        };
        let room = self.has_room_after(pause);
        (fits && room && !self.is_probe && self.calls < MAX_CALLS).then_some(pause)
    }

    fn call_timeout(&self) -> Duration {
        self.manager.settings.call_timeout.min(self.manager.settings.flight_timeout)
    }

    /// Whether enough of the flight is left for a call. Nine tenths of its time are enough: timers fire late, and the
    /// step that a hang has left room for is to start all the same.
    fn has_room_after(&self, pause: Duration) -> bool {
        self.deadline.saturating_duration_since(Instant::now()) >= pause + self.call_timeout() * 9 / 10
    }
}

/// The class of a call without an answer: without effect if it never went out.
fn given_up(purchase: &Purchase, sent: Option<Now>, error: Error) -> Answer {
    match (purchase, sent) {
        (Purchase::Refresh(_), Some(_)) => Answer::Ambiguous { error, refresh_token: None },
        _ => Answer::Transient { error, wait: None },
    }
}

fn is_refusal(error: &Error) -> bool {
    error.kind() == ErrorKind::Refused
}

fn out_of_credentials(last: Option<&Error>, key_asked_again: Option<Duration>) -> Failure {
    let refused = last.cloned().filter(is_refusal);
    let (error, pause) = match (refused, key_asked_again) {
        (refused, Some(wait)) => {
            let error = refused.unwrap_or_else(|| Error::new(ErrorKind::Refused, "the API key was refused"));
            (error, Pause::For(wait))
        }
        (Some(_), None) => (
            Error::new(
                ErrorKind::Refused,
                "the refresh token was refused and no API key is held; log in again and call `set_credentials`",
            ),
            Pause::UntilCredentialsChange,
        ),
        (None, None) => (
            Error::new(
                ErrorKind::NoCredentials,
                "there is nothing to get a token with; give the builder an API key or a refresh token (renewal by API \
                 key needs the key), or call `set_credentials`",
            ),
            Pause::UntilCredentialsChange,
        ),
    };
    Failure { error, pause }
}
