//! Metrics, made from the events of a source with the `metrics` facade. They cost a request nothing: no event is told on its
//! way, as long as its token is fresh.

use std::{sync::Once, time::UNIX_EPOCH};

use metrics::{Unit, counter, gauge, histogram};

use super::{
    events::{Event, GrantType, Labels},
    log::{Outcome, word},
};

// The names are those of the table in the guide.
const RENEWALS: &str = "apivideo_auth.renewals";
const RENEWAL_DURATION: &str = "apivideo_auth.renewal.duration";
const TOKEN_CALLS: &str = "apivideo_auth.token_calls";
const REPLAYS: &str = "apivideo_auth.replays";
const KEY_FALLBACKS: &str = "apivideo_auth.key_fallbacks";
const TOKEN_EXPIRY: &str = "apivideo_auth.token.expiry";
const STORE_ERRORS: &str = "apivideo_auth.store.errors";
const STORE_UNSAVED: &str = "apivideo_auth.store.unsaved";
const COOL_DOWN: &str = "apivideo_auth.cool_down";

pub(super) fn record(labels: &Labels, event: &Event) {
    static DESCRIBED: Once = Once::new();
    DESCRIBED.call_once(describe);
    let source = [
        ("account", labels.account.clone()),
        ("origin", labels.origin.clone()),
    ];
    let with = |more: &[(&'static str, String)]| [&source, more].concat();
    match event {
        Event::RenewalEnded {
            reason,
            duration,
            error,
            ..
        } => {
            let outcome = Outcome(error.as_ref()).to_string();
            let labels = with(&[("reason", word(reason)), ("outcome", outcome)]);
            counter!(RENEWALS, &labels).increment(1);
            histogram!(RENEWAL_DURATION, &labels).record(duration.as_secs_f64());
        }
        Event::Attempt { grant, status, .. } => {
            let endpoint = match grant {
                GrantType::RefreshToken => "/auth/refresh",
                GrantType::ApiKey => "/auth/api-key",
                GrantType::Store => return,
            };
            let class =
                status.map_or_else(|| "none".to_owned(), |code| format!("{}xx", code / 100));
            let labels = with(&[("endpoint", endpoint.to_owned()), ("status_class", class)]);
            counter!(TOKEN_CALLS, &labels).increment(1);
        }
        Event::Renewed(token) => {
            let expiry = token.expires_at.duration_since(UNIX_EPOCH);
            let expiry = expiry.unwrap_or_default().as_secs_f64();
            gauge!(TOKEN_EXPIRY, &source).set(expiry);
        }
        Event::Replayed { status, .. } => {
            let class = format!("{}xx", status / 100);
            counter!(REPLAYS, &with(&[("status_class", class)])).increment(1);
        }
        Event::KeyFallback { .. } => counter!(KEY_FALLBACKS, &source).increment(1),
        Event::StoreFailed { error, .. } => {
            let kind = ("error.type", word(error.kind()));
            counter!(STORE_ERRORS, &with(&[kind])).increment(1);
        }
        Event::PairUnsaved { error } => {
            let kind = ("error.type", word(error.kind()));
            counter!(STORE_ERRORS, &with(&[kind])).increment(1);
            gauge!(STORE_UNSAVED, &source).set(1);
        }
        Event::PairSaved | Event::PairLost => gauge!(STORE_UNSAVED, &source).set(0),
        Event::CoolDownBegan { .. } => gauge!(COOL_DOWN, &source).set(1),
        Event::CoolDownEnded { .. } => gauge!(COOL_DOWN, &source).set(0),
        Event::RenewalStarted { .. } | Event::Notice(_) | Event::Missed(_) => {}
    }
}

fn describe() {
    metrics::describe_counter!(RENEWALS, Unit::Count, "Renewals, by reason and outcome.");
    metrics::describe_histogram!(RENEWAL_DURATION, Unit::Seconds, "How long renewals took.");
    metrics::describe_counter!(
        TOKEN_CALLS,
        Unit::Count,
        "Token calls, by endpoint and status class."
    );
    metrics::describe_counter!(REPLAYS, Unit::Count, "Requests sent again after a 401.");
    metrics::describe_counter!(
        KEY_FALLBACKS,
        Unit::Count,
        "Logins since the refresh token did not work."
    );
    metrics::describe_gauge!(
        TOKEN_EXPIRY,
        Unit::Seconds,
        "When the token expires, in Unix time."
    );
    metrics::describe_counter!(STORE_ERRORS, Unit::Count, "Failures of the store, by kind.");
    metrics::describe_gauge!(
        STORE_UNSAVED,
        Unit::Count,
        "1 while the newest pair is not in the store."
    );
    metrics::describe_gauge!(
        COOL_DOWN,
        Unit::Count,
        "1 from a failed renewal until there is a new token."
    );
}
