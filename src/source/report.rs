//! What one renewal tells of itself: its span, its start, its attempts and its end, whichever way it ends.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::Span;

use super::{
    attempt::Reply,
    events::{AttemptOutcome, Event, GrantType, RenewalReason},
    log,
    state::State,
    teller::Teller,
};
use crate::{
    endpoint::{Grant, HeldBack, Outcome},
    error::{Error, ErrorKind},
    store::Version,
};

pub(super) struct Report {
    teller: Arc<Teller>,
    reason: RenewalReason,
    span: Span,
    begun: Instant,
    attempts: u32,
    has_ended: bool,
}

impl Report {
    pub(super) fn start(teller: Arc<Teller>, reason: RenewalReason, caller: &Span) -> Self {
        let span = log::span(teller.labels(), reason, caller);
        span.in_scope(|| teller.tell(Event::RenewalStarted { reason }));
        Self {
            teller,
            reason,
            span,
            begun: Instant::now(),
            attempts: 0,
            has_ended: false,
        }
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// A token call has ended, as far as the renewal is concerned.
    pub(super) fn attempt(
        &mut self,
        grant: &Grant,
        reply: &Reply,
        status: Option<u16>,
        duration: Duration,
    ) {
        self.attempts += 1;
        let (outcome, error) = outcome_of(reply);
        self.teller.tell(Event::Attempt {
            number: self.attempts,
            grant: GrantType::of(grant),
            outcome,
            status,
            duration,
            error,
        });
    }

    pub(super) fn end(mut self, state: &State, error: Option<Error>) {
        let latest = *state.current.latest().borrow();
        let family = state.ledger().version().map(family_hash);
        let grant = latest
            .filter(|_| error.is_none())
            .map(|latest| latest.grant);
        let generation = latest.map_or(0, |latest| latest.generation);
        self.tell_end(grant, generation, family, error);
    }

    fn tell_end(
        &mut self,
        grant: Option<GrantType>,
        generation: u64,
        family: Option<u32>,
        error: Option<Error>,
    ) {
        self.has_ended = true;
        let event = Event::RenewalEnded {
            reason: self.reason,
            grant,
            attempts: self.attempts,
            generation,
            family,
            duration: self.begun.elapsed(),
            error,
        };
        log::record(&self.span, &event);
        self.span.in_scope(|| self.teller.tell(event));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.has_ended {
            self.tell_end(None, 0, None, Some(replaced()));
        }
    }
}

/// The end of a renewal whose runtime was shut down, or not polled in time. It is nobody's trouble: callers start another.
pub(super) fn replaced() -> Error {
    let message =
        "the runtime of this renewal ended, or was not polled in time; another takes over";
    Error::new(ErrorKind::NoRuntime, message)
}

/// Enough to see whether two processes are of one family, and not the number itself.
fn family_hash(version: Version) -> u32 {
    let hash = Sha256::digest(version.family.to_be_bytes());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn outcome_of(reply: &Reply) -> (AttemptOutcome, Option<Error>) {
    let outcome = match reply {
        Reply::Token(_) => return (AttemptOutcome::Granted, None),
        Reply::Superseded => return (AttemptOutcome::Superseded, None),
        Reply::Outcome(outcome) => outcome,
    };
    let (outcome, error) = match outcome {
        Outcome::Granted(_) => return (AttemptOutcome::Granted, None),
        Outcome::HeldBack(HeldBack::Replaced | HeldBack::Changed) => {
            return (AttemptOutcome::HeldBack, None);
        }
        Outcome::HeldBack(HeldBack::Store(error)) => (AttemptOutcome::HeldBack, error.clone()),
        Outcome::NotSent(error) => (AttemptOutcome::NotSent, error.clone()),
        Outcome::Transient { error, wait } => {
            (AttemptOutcome::Transient, error.clone().after(*wait))
        }
        Outcome::Ambiguous { error, .. } => (AttemptOutcome::Ambiguous, error.clone()),
        Outcome::Refused(error) => (AttemptOutcome::Refused, error.clone()),
        Outcome::Suspended(error) => (AttemptOutcome::Suspended, error.clone()),
        Outcome::Misunderstood(error) => (AttemptOutcome::Misunderstood, error.clone()),
    };
    (outcome, Some(error))
}
