//! The log: each event as one line of `tracing`, and one span for each renewal.
//!
//! Targets and names are public, and stand in the table of the guide; no module's path is among them.

use std::fmt;

use tracing::{Level, Span, field};

use super::events::{Event, Labels, Notice, RenewalReason};
use crate::error::Error;

const RENEWAL: &str = "apivideo_auth::renewal";
const STORE: &str = "apivideo_auth::store";
const REQUEST: &str = "apivideo_auth::request";

/// One line. The macros of `tracing` want a level that is a constant.
macro_rules! line {
    ($level:expr, $target:expr, $labels:expr, { $($fields:tt)* }, $($message:tt)+) => {{
        let (account, origin) = (&*$labels.account, &*$labels.origin);
        match $level {
            Level::ERROR => tracing::error!(target: $target, account, origin, $($fields)* $($message)+),
            Level::WARN => tracing::warn!(target: $target, account, origin, $($fields)* $($message)+),
            Level::INFO => tracing::info!(target: $target, account, origin, $($fields)* $($message)+),
            _ => tracing::debug!(target: $target, account, origin, $($fields)* $($message)+),
        }
    }};
}

pub(super) fn log(labels: &Labels, event: &Event) {
    match event {
        Event::RenewalStarted { reason } => {
            line!(Level::DEBUG, RENEWAL, labels, { ?reason, }, "renewal begins");
        }
        Event::Attempt {
            number,
            grant,
            outcome,
            status,
            duration,
            error,
        } => {
            let (retry_after, error) = parts(error.as_ref());
            line!(
                Level::DEBUG, RENEWAL, labels,
                { number, ?grant, ?outcome, status, ?duration, retry_after, error, },
                "token call ended"
            );
        }
        Event::Renewed(token) => {
            let (generation, grant) = (token.generation, token.grant);
            line!(Level::DEBUG, RENEWAL, labels, { generation, ?grant, }, "access token in use");
        }
        Event::RenewalEnded {
            reason,
            grant,
            attempts,
            generation,
            family,
            duration,
            error,
        } => {
            let outcome = Outcome(error.as_ref());
            let level = error.as_ref().map_or(Level::INFO, level);
            let (retry_after, error) = parts(error.as_ref());
            let grant = grant.as_ref().map(field::debug);
            let family = family.map(hex);
            line!(
                level, RENEWAL, labels,
                { ?reason, grant, %outcome, attempts, generation, family, ?duration, retry_after, error, },
                "{}", if level == Level::INFO { "access token renewed" } else { "access token not renewed" }
            );
        }
        Event::Replayed { generation, status } => {
            line!(Level::DEBUG, REQUEST, labels, { generation, status, }, "request sent again after a 401");
        }
        Event::KeyFallback { fallbacks } => {
            line!(
                Level::WARN, RENEWAL, labels, { fallbacks, },
                "logging in with the API key: the refresh token did not work"
            );
        }
        Event::CoolDownBegan { error } => {
            let (retry_after, error) = parts(Some(error));
            line!(Level::DEBUG, RENEWAL, labels, { retry_after, error, }, "no token call for a while");
        }
        Event::CoolDownEnded {
            failing_for,
            is_recovered: true,
        } => {
            let seconds = failing_for.as_secs_f64().round().max(1.0);
            line!(Level::INFO, RENEWAL, labels, { duration = ?failing_for, }, "recovered after {seconds} s");
        }
        Event::CoolDownEnded { failing_for, .. } => {
            line!(Level::DEBUG, RENEWAL, labels, { duration = ?failing_for, }, "new credentials end the pause");
        }
        Event::StoreFailed { what, error } => {
            let level = level(error);
            let (retry_after, error) = parts(Some(error));
            line!(level, STORE, labels, { retry_after, error, }, "{what}");
        }
        Event::PairUnsaved { error } => {
            let (retry_after, error) = parts(Some(error));
            line!(
                Level::ERROR, STORE, labels, { retry_after, error, },
                "the new pair of tokens is in use but could not be saved; trying again"
            );
        }
        Event::PairSaved => line!(
            Level::INFO,
            STORE,
            labels,
            {},
            "the pair of tokens is saved now"
        ),
        Event::PairLost => line!(
            Level::ERROR,
            STORE,
            labels,
            {},
            "a pair of tokens expired, or its source ended, before it could be saved"
        ),
        Event::Notice(notice) => {
            let level = match notice {
                Notice::SeedNotNeeded => Level::INFO,
                _ => Level::WARN,
            };
            line!(level, RENEWAL, labels, {}, "{notice}");
        }
        Event::Missed(_) => {}
    }
}

/// The span of one renewal. It is no child of a request's: the renewal is for all callers, and outlives them.
pub(super) fn span(labels: &Labels, reason: RenewalReason, caller: &Span) -> Span {
    let span = tracing::info_span!(
        target: RENEWAL,
        parent: None,
        "renewal",
        account = &*labels.account,
        origin = &*labels.origin,
        ?reason,
        grant = field::Empty,
        outcome = field::Empty,
        attempts = field::Empty,
        generation = field::Empty,
        family = field::Empty,
        duration = field::Empty,
    );
    span.follows_from(caller);
    span
}

/// What is known at its end.
pub(super) fn record(span: &Span, event: &Event) {
    if let Event::RenewalEnded {
        grant,
        attempts,
        generation,
        family,
        duration,
        error,
        ..
    } = event
    {
        span.record("grant", grant.as_ref().map(field::debug));
        span.record("outcome", field::display(Outcome(error.as_ref())));
        span.record("attempts", attempts);
        span.record("generation", generation);
        span.record("family", family.map(hex));
        span.record("duration", field::debug(duration));
    }
}

/// Whether [`passed_without_token`] would reach anybody.
pub(super) fn tells_of_requests() -> bool {
    tracing::enabled!(target: REQUEST, Level::DEBUG)
}

pub(super) fn passed_without_token(labels: &Labels, to: &str) {
    line!(
        Level::DEBUG, REQUEST, labels, { to, },
        "requests to this origin pass without a token; is it meant to have one, see `allow_origin`"
    );
}

/// Somebody has to act on a failure that does not pass by itself. A renewal that another has replaced is nobody's trouble.
fn level(error: &Error) -> Level {
    match error.is_transient() {
        _ if is_replaced(error) => Level::DEBUG,
        true => Level::WARN,
        false => Level::ERROR,
    }
}

fn is_replaced(error: &Error) -> bool {
    error.kind() == crate::ErrorKind::NoRuntime
}

/// `retry_after` and the whole chain of causes.
fn parts(
    error: Option<&Error>,
) -> (
    Option<field::DebugValue<std::time::Duration>>,
    Option<String>,
) {
    let retry_after = error.and_then(Error::retry_after).map(field::debug);
    (retry_after, error.map(Error::chain))
}

fn hex(family: u32) -> String {
    format!("{family:08x}")
}

/// `ok`, or the kind of the failure.
#[derive(Clone, Copy)]
pub(super) struct Outcome<'e>(pub(super) Option<&'e Error>);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ok"),
            Some(error) => f.write_str(&word(error.kind())),
        }
    }
}

/// The name of a variant as metrics and logs write it: `StoreLocked` is `store_locked`.
pub(super) fn word(variant: impl fmt::Debug) -> String {
    let mut word = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_lowercase());
    }
    word
}
