//! One token call of a flight, and the answers that come too late.

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
    endpoint::{Answer, BeforeSend, Purchase},
    error::{Error, ErrorKind},
    store::Version,
};

/// How long the answer to a refresh is read after it was sent, whoever has stopped waiting.
const LATE_ANSWER: Duration = Duration::from_secs(60);

/// A timer that fires this late says that we were asleep, not that the server was slow.
pub(super) const OVERSLEPT: Duration = Duration::from_millis(100);

/// What an answer gets on top in that case: it may lie in a socket that nobody has polled.
pub(super) const OVERSLEPT_GRACE: Duration = Duration::from_secs(1);

/// How long a call waits for readiness before the calls given up earlier are dropped: theirs may be the only slot.
const SLOT_WAIT: Duration = Duration::from_secs(1);

/// An answer, and what it answers.
pub(super) struct Reply {
    pub(super) purchase: Purchase,
    pub(super) sent: Now,
    pub(super) answer: Answer,
    /// The stored pair that the purchase was made with.
    pub(super) version: Option<Version>,
}

pub(super) type LateReply = BoxFuture<'static, Option<Reply>>;

impl Renewal {
    pub(super) async fn call(&mut self, purchase: Purchase) -> Reply {
        let begun = Instant::now();
        let sent = Arc::new(OnceLock::new());
        let context = &self.manager.settings.context;
        let has_slot = Arc::new(AtomicBool::new(false));
        let before_send = self.before_send(&purchase, &sent, &has_slot);
        let call = self.endpoint.call(context, &purchase, before_send);
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
            tokio::select! {
                biased;
                answer = &mut call => {
                    let sent = sent.get().copied();
                    let answer = answer.unwrap_or_else(|_payload| {
                        given_up(&purchase, sent, Error::new(ErrorKind::Panicked, "the token service panicked"))
                    });
                    return self.reply(purchase, sent, answer);
                }
                Some(late) = self.late.next() => match late {
                    Some(reply) if matches!(reply.answer, Answer::Granted(_)) => return reply,
                    Some(reply) => self.doubt(&reply.purchase, reply.answer).await,
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
                    let message = format!("no answer from the token endpoint within {waited:.1?}");
                    let answer = given_up(&purchase, sent_at, Error::new(ErrorKind::Ambiguous, message));
                    let reply = self.reply(purchase, sent_at, answer);
                    if let (Some(sent), Purchase::Refresh(_)) = (sent_at, &reply.purchase) {
                        let (purchase, version) = (reply.purchase.clone(), reply.version);
                        self.late.push(Box::pin(async move {
                            let answer = time::timeout_at(begun + LATE_ANSWER, call).await.ok()?.ok()?;
                            Some(Reply { purchase, sent, answer, version })
                        }));
                    }
                    return reply;
                }
            }
        }
    }

    fn reply(&self, purchase: Purchase, sent: Option<Now>, answer: Answer) -> Reply {
        let version = self.manager.held().version;
        Reply {
            purchase,
            sent: sent.unwrap_or_else(|| self.manager.now()),
            answer,
            version,
        }
    }

    /// Notes, in the store first, that the refresh token may be spent from now on.
    fn before_send(
        &self,
        purchase: &Purchase,
        sent: &Arc<OnceLock<Now>>,
        has_slot: &Arc<AtomicBool>,
    ) -> BeforeSend {
        let has_slot = has_slot.clone();
        let (manager, sent, session) = (self.manager.clone(), sent.clone(), self.session.clone());
        let (purchase, call_timeout) = (purchase.clone(), self.call_timeout());
        Box::pin(async move {
            has_slot.store(true, Ordering::Release);
            if let Purchase::Refresh(token) = &purchase {
                if let Some(session) = session.lock().await.as_mut() {
                    let is_seed = manager.held().is_seed(token);
                    session.mark(token, call_timeout, is_seed).await?;
                    let mut held = manager.held();
                    held.version = session.version();
                    held.marks = session.marks();
                }
                let mut held = manager.held();
                if held.has(&purchase) {
                    held.presented = true;
                }
            }
            let _ = sent.set(manager.now());
            Ok(())
        })
    }

    fn waits_for_late_answer(&self, purchase: &Purchase) -> bool {
        let has_key = self.usable_key(self.manager.now()).is_some();
        matches!(purchase, Purchase::Refresh(_)) && !has_key && !self.insisted && !self.is_probe
    }

    /// The answer to a call that was given up may hold the only living refresh token.
    pub(super) async fn read_late(&mut self) {
        let mut news = self.manager.subscribe();
        while !self.late.is_empty() {
            tokio::select! {
                biased;
                Some(reply) = self.late.next() => {
                    let Some(reply) = reply else { continue };
                    if matches!(reply.answer, Answer::Granted(_)) {
                        self.keep_late(reply).await;
                    } else {
                        self.doubt(&reply.purchase, reply.answer).await;
                    }
                }
                // Whatever pair is newer, the answer can't be worth more.
                news = news.next() => if news.is_some() { return },
            }
        }
    }
}

/// The class of a call without an answer: without effect if it never went out.
fn given_up(purchase: &Purchase, sent: Option<Now>, error: Error) -> Answer {
    match (purchase, sent) {
        (Purchase::Refresh(_), Some(_)) => Answer::Ambiguous {
            error,
            refresh_token: None,
        },
        _ => Answer::Transient { error, wait: None },
    }
}
