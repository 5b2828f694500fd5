//! One token call of a flight, and the responses that come too late.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio::time::{self, Instant};

use super::renewal::Renewal;
use crate::{
    clock::Now,
    endpoint::{BeforeSend, Grant, Outcome},
    error::{Error, ErrorKind},
    store::Version,
};

/// How long the response to a refresh is read after it was sent, whoever has stopped waiting.
const LATE_RESPONSE: Duration = Duration::from_secs(60);

/// A timer that fires this late says that we were asleep, not that the server was slow.
pub(super) const OVERSLEPT: Duration = Duration::from_millis(100);

/// What a response gets on top in that case: it may lie in a socket that nobody has polled.
pub(super) const OVERSLEPT_GRACE: Duration = Duration::from_secs(1);

/// How long a call waits for readiness before the calls given up earlier are dropped: theirs may be the only slot.
const SLOT_WAIT: Duration = Duration::from_secs(1);

/// A outcome, and what it answers.
pub(super) struct Reply {
    pub(super) grant: Grant,
    pub(super) sent: Now,
    pub(super) outcome: Outcome,
    /// The stored pair that the grant was made with.
    pub(super) version: Option<Version>,
}

pub(super) type LateReply = BoxFuture<'static, Option<Reply>>;

impl Renewal {
    pub(super) async fn call(&mut self, grant: Grant) -> Reply {
        let begun = Instant::now();
        let sent = Arc::new(OnceLock::new());
        let context = &self.manager.settings.context;
        let has_slot = Arc::new(AtomicBool::new(false));
        let before_send = self.before_send(&grant, &sent, &has_slot);
        let call = self.endpoint.call(context, &grant, before_send);
        let mut call = AssertUnwindSafe(call).catch_unwind().boxed();
        let mut limit = self.deadline.min(begun + self.call_timeout());
        if self.waits_for_late_response(&grant) {
            // Next would come presenting the same token again, which kills the pair that a slow response brings. So
            // this response gets all the time that leaves room for that.
            limit = limit.max(self.deadline - self.call_timeout());
        }
        let full_limit = limit;
        if !self.late.is_empty() {
            limit = limit.min(begun + SLOT_WAIT);
        }
        let mut overslept = false;
        loop {
            tokio::select! {
                biased;
                outcome = &mut call => {
                    let sent = sent.get().copied();
                    let outcome = outcome.unwrap_or_else(|_payload| {
                        given_up(&grant, sent, Error::new(ErrorKind::Panicked, "the token service panicked"))
                    });
                    return self.reply(grant, sent, outcome);
                }
                Some(late) = self.late.next() => match late {
                    Some(reply) if matches!(reply.outcome, Outcome::Granted(_)) => return reply,
                    Some(reply) => self.doubt(&reply.grant, reply.outcome).await,
                    None => {}
                },
                () = time::sleep_until(limit) => {
                    if limit < full_limit {
                        if !has_slot.load(Ordering::Acquire) {
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
                    let message = format!("no response from the token endpoint within {waited:.1?}");
                    let outcome = given_up(&grant, sent_at, Error::new(ErrorKind::Ambiguous, message));
                    let reply = self.reply(grant, sent_at, outcome);
                    if let (Some(sent), Grant::RefreshToken(_)) = (sent_at, &reply.grant) {
                        let (grant, version) = (reply.grant.clone(), reply.version);
                        self.late.push(Box::pin(async move {
                            let outcome = time::timeout_at(begun + LATE_RESPONSE, call).await.ok()?.ok()?;
                            Some(Reply { grant, sent, outcome, version })
                        }));
                    }
                    return reply;
                }
            }
        }
    }

    fn reply(&self, grant: Grant, sent: Option<Now>, outcome: Outcome) -> Reply {
        let version = self.manager.held().version;
        Reply {
            grant,
            sent: sent.unwrap_or_else(|| self.manager.now()),
            outcome,
            version,
        }
    }

    /// Notes, in the store first, that the refresh token may be spent from now on.
    fn before_send(
        &self,
        grant: &Grant,
        sent: &Arc<OnceLock<Now>>,
        has_slot: &Arc<AtomicBool>,
    ) -> BeforeSend {
        let has_slot = has_slot.clone();
        let (manager, sent, session) = (self.manager.clone(), sent.clone(), self.session.clone());
        let (grant, call_timeout) = (grant.clone(), self.call_timeout());
        Box::pin(async move {
            has_slot.store(true, Ordering::Release);
            if let Grant::RefreshToken(token) = &grant {
                if let Some(session) = session.lock().await.as_mut() {
                    let is_seed = manager.held().is_seed(token);
                    session.mark(token, call_timeout, is_seed).await?;
                    let mut held = manager.held();
                    held.version = session.version();
                    held.marks = session.marks();
                }
                let mut held = manager.held();
                if held.has(&grant) {
                    held.presented = true;
                }
            }
            let _ = sent.set(manager.now());
            Ok(())
        })
    }

    fn waits_for_late_response(&self, grant: &Grant) -> bool {
        let has_key = self.usable_key(self.manager.now()).is_some();
        matches!(grant, Grant::RefreshToken(_)) && !has_key && !self.insisted && !self.is_probe
    }

    /// The response to a call that was given up may hold the only living refresh token.
    pub(super) async fn read_late(&mut self) {
        let mut news = self.manager.subscribe();
        while !self.late.is_empty() {
            tokio::select! {
                biased;
                Some(reply) = self.late.next() => {
                    let Some(reply) = reply else { continue };
                    if matches!(reply.outcome, Outcome::Granted(_)) {
                        self.keep_late(reply).await;
                    } else {
                        self.doubt(&reply.grant, reply.outcome).await;
                    }
                }
                // Whatever pair is newer, the response can't be worth more.
                news = news.next() => if news.is_some() { return },
            }
        }
    }
}

/// The class of a call without a response: without effect if it never went out.
fn given_up(grant: &Grant, sent: Option<Now>, error: Error) -> Outcome {
    match (grant, sent) {
        (Grant::RefreshToken(_), Some(_)) => Outcome::Ambiguous {
            error,
            refresh_token: None,
        },
        _ => Outcome::Transient { error, wait: None },
    }
}
