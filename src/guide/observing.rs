//! What a source tells, where it is seen, and what to do about it.
//!
//! - [Where it is seen](#where-it-is-seen): events, log, spans, metrics, status.
//! - [The table](#the-table): all of their names.
//! - [What to alert on](#what-to-alert-on).
//! - [What each warning means](#what-each-warning-means), and what to do.
//! - [A health route, and SIGTERM](#a-health-route-and-sigterm).
//!
//! # Where it is seen
//!
//! All that happens in a source passes one place. From there it goes three ways, and none of them costs a request anything
//! while its token is fresh:
//!
//! - **Events**: [`TokenSource::subscribe`](crate::TokenSource::subscribe) yields each as an [`Event`](crate::Event).
//! - **Log**: each event is a line of `tracing`; each renewal is a span, which belongs to no request (it follows from the one that
//!   started it). Set `RUST_LOG=apivideo_auth=info`, or `=debug` for each attempt.
//! - **Metrics**, with the feature `metrics`: through the [`metrics`](https://docs.rs/metrics) facade. Install any exporter of
//!   it; the example `observe` has one for Prometheus, which writes `_` for each dot.
//!
//! Besides, [`TokenSource::status`](crate::TokenSource::status) says how the source fares at this moment.
//!
//! No secret is in any of them. Each line and each metric carries the `account` (the builder's) and the `origin` of the API.
//! Errors stand in a line with the whole chain of their causes, and with `retry_after` where the source knows when it tries
//! again.
//!
//! # The table
//!
//! | event | log line (target, level) | metric |
//! | --- | --- | --- |
//! | `RenewalStarted` | `apivideo_auth::renewal` DEBUG; opens the span `renewal` | |
//! | `Attempt` | `apivideo_auth::renewal` DEBUG | counter `apivideo_auth.token_calls` by `endpoint`, `status_class` (`none`: no response) |
//! | `Renewed` | `apivideo_auth::renewal` DEBUG | gauge `apivideo_auth.token.expiry`: Unix time in seconds |
//! | `RenewalEnded` | `apivideo_auth::renewal` INFO; WARN if it failed for now, ERROR if somebody has to act | counter `apivideo_auth.renewals` and histogram `apivideo_auth.renewal.duration` (seconds), by `reason`, `outcome` |
//! | `Replayed` | `apivideo_auth::request` DEBUG | counter `apivideo_auth.replays` by `status_class` |
//! | `KeyFallback` | `apivideo_auth::renewal` WARN | counter `apivideo_auth.key_fallbacks` |
//! | `CoolDownBegan` | `apivideo_auth::renewal` DEBUG | gauge `apivideo_auth.cool_down`: 1 |
//! | `CoolDownEnded` | `apivideo_auth::renewal` INFO "recovered after … s", DEBUG if new credentials ended it | gauge `apivideo_auth.cool_down`: 0 |
//! | `StoreFailed` | `apivideo_auth::store` WARN, ERROR if somebody has to act | counter `apivideo_auth.store.errors` by `error.type` |
//! | `PairUnsaved` | `apivideo_auth::store` ERROR | gauge `apivideo_auth.store.unsaved`: 1, and `apivideo_auth.store.errors` |
//! | `PairSaved` | `apivideo_auth::store` INFO | gauge `apivideo_auth.store.unsaved`: 0 |
//! | `PairLost` | `apivideo_auth::store` ERROR | gauge `apivideo_auth.store.unsaved`: 0 |
//! | `Notice` | `apivideo_auth::renewal` WARN, INFO for `SeedNotNeeded` | |
//! | `Missed` | | |
//!
//! The span `renewal` has the fields `account`, `origin`, `reason`, `grant`, `outcome`, `attempts`, `generation`, `family` (a hash: the
//! same in all processes that share a store) and `duration`. `outcome` is `ok` or the [`ErrorKind`](crate::ErrorKind) in lower case.
//! A request that passes without a token, since its origin is not on the list, is one DEBUG line of `apivideo_auth::request` for
//! each origin.
//!
//! The expiry is a time and not a rest of seconds, so that it is right whenever it is read, also of a program that hangs. The
//! seconds to expiry are `apivideo_auth_token_expiry - time()` in Prometheus.
//!
//! # What to alert on
//!
//! Four conditions are worth a person's time. All others pass by themselves, or come with one of these.
//!
//! | condition | in Prometheus | why |
//! | --- | --- | --- |
//! | the API key was needed | `increase(apivideo_auth_key_fallbacks[1h]) > 0` | somebody else spends or ends your refresh tokens |
//! | a pair is not saved | `apivideo_auth_store_unsaved == 1` for 1 min | if the process ends now, its pair is lost |
//! | no recovery | `apivideo_auth_cool_down == 1` for 5 min | the token endpoint, or the way to it, is down |
//! | the token ends | `apivideo_auth_token_expiry - time() < 60` | requests are about to wait or fail; of a process without traffic that is normal, unless it has a keeper |
//!
//! # What each warning means
//!
//! | line | level | what happened | what to do |
//! | --- | --- | --- | --- |
//! | `access token not renewed`, `outcome` `unavailable`, `ambiguous` or `timed_out` | WARN | the token endpoint could not be reached or could not serve | look at the causes in `error`; the source goes on by itself and says "recovered" |
//! | the same, `store_unavailable`, `store_locked` or `store_conflict` | WARN | the store could not be used, and there was no safe way around it | mend the store: disk, rights, Redis |
//! | the same, `refused` | ERROR | the API does not take the credential any more | `apivideo-auth login`, or `set_credentials` |
//! | the same, `no_credentials` | ERROR | neither key nor refresh token, and none in the store | log in; check `account`, `environment` and the store's place |
//! | the same, `suspended` | ERROR | api.video has suspended the account | ask api.video; nothing is forgotten here |
//! | the same, `configuration`, `store_corrupt`, `store_unreadable` or `store_foreign` | ERROR | what the text says | what the text says |
//! | the same, `protocol` or `panicked` | ERROR | a bug, of this crate or of your store or token service | report it, with the line |
//! | `logging in with the API key: the refresh token did not work` | WARN | a refresh token was refused or may be spent | once after a crash is normal; else find out who uses the same tokens |
//! | `the token store can't be used` | WARN or ERROR | the source goes around the store | mend the store |
//! | `the stored record is quarantined, and replaced` | WARN or ERROR | the record was damaged, or open to others | look at the `.rejected-…` file, and at the rights of its folder |
//! | `the mark on …`, `a refused refresh token stays in the store`, `the cool-down after a failure is not shared`, `the given refresh token is not presented` | WARN or ERROR | one write to the store failed | mend the store if it repeats |
//! | `the new pair of tokens is in use but could not be saved; trying again` | ERROR | the process must not end now | make room, or bring the store back; "saved now" follows |
//! | `a pair of tokens expired, or its source ended, before it could be saved` | ERROR | without an API key the login is lost | log in again |
//! | `two new refresh tokens in a row were refused …` | WARN | another program logs in with the same API key | give each program its own key, or share one store |
//! | `a timeout below the layer ended a token call …` | WARN | a response was thrown away with the only new refresh token in it | put the timeout above the layer |
//! | `the given refresh token is not presented: it was taken up before` | WARN | an old seed stands in the environment | take it out |
//! | `the stored pair does not say whose it is …` | WARN | the pair came from a seed | nothing, if the API key is of the same account |
//! | `others may write to a folder above that of the tokens …` | WARN | another user could put a folder of their own in place of yours | `chmod go-w` on the folder that is named |
//!
//! # A health route, and SIGTERM
//!
//! A process that is asked whether it is well says what `status()` says. It makes no call, so it can be asked as often as you like.
//! Be careful with what follows from a no: to restart a process does not mend the API, and loses a pair that is not saved.
//!
//! ```
//! use apivideo_auth::{StoreStatus, TokenSource};
//!
//! fn health(source: &TokenSource) -> (u16, &'static str) {
//!     let status = source.status();
//!     match (status.is_usable || status.failing_for.is_none(), status.store) {
//!         (_, StoreStatus::Unsaved) => (200, "well; do not stop me now: the newest pair is not saved"),
//!         (true, _) => (200, "well"),
//!         (false, _) => (503, "no token"),
//!     }
//! }
//! ```
//!
//! The example `axum_gateway` has such a route, in two lines. On SIGTERM, let the requests end and then the source, so that a pair which is on its
//! way is saved:
//!
//! ```no_run
//! # async fn run(layer: apivideo_auth::ApiVideoAuthLayer) -> std::io::Result<()> {
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! signal(SignalKind::terminate())?.recv().await;
//! // … your server's graceful shutdown, and then:
//! if !layer.shutdown(std::time::Duration::from_secs(10)).await {
//!     eprintln!("a renewal was still under way, or a pair is not saved");
//! }
//! # Ok(())
//! # }
//! ```
