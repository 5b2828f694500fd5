//! Expiry and renewal: the life of a token, and what a caller sees of it.
//!
//! An access token of api.video is good for an hour
//! (<https://docs.api.video/reference/api/Authentication>). This page follows one from its arrival to the
//! next, in good times and in bad ones. In good times there is nothing to see:
//!
//! ```
//! use std::time::Duration;
//!
//! use apivideo_auth::{
//!     ApiVideoAuthLayer, Event, Events, RenewalReason,
//!     testing::{FakeApi, ManualClock},
//! };
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt};
//!
//! /// Why the next token comes into use.
//! async fn reason(events: &mut Events) -> RenewalReason {
//!     loop {
//!         if let Event::Renewed(token) = events.next().await.expect("a live source") {
//!             return token.reason;
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let clock = ManualClock::new();
//! let api = FakeApi::builder().clock(clock.clone()).build();
//! let layer = ApiVideoAuthLayer::builder()
//!     .base_url(api.url())
//!     .api_key(api.api_key())
//!     .clock(clock.clone())
//!     .build()?;
//! let client = layer.layer(api.service());
//! let mut events = layer.subscribe();
//! let get = || http::Request::get("/echo").body(Full::<Bytes>::default());
//!
//! // No token yet: this request waits for the login.
//! client.clone().oneshot(get()?).await?;
//! assert_eq!(reason(&mut events).await, RenewalReason::First);
//!
//! // Almost an hour later the token is stale: the request goes out with it, and a renewal begins.
//! clock.advance(Duration::from_secs(3400));
//! client.clone().oneshot(get()?).await?;
//! assert_eq!(reason(&mut events).await, RenewalReason::Early);
//!
//! // Two hours without traffic: the token has expired, so the request waits for the next one.
//! clock.advance(Duration::from_secs(7200));
//! assert_eq!(client.clone().oneshot(get()?).await?.status(), 200);
//! assert_eq!(reason(&mut events).await, RenewalReason::Expired);
//! assert_eq!((api.counts().logins, api.counts().refreshes), (1, 2));
//! # layer.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # The life of a token
//!
//! | state | when | a request |
//! | --- | --- | --- |
//! | fresh | until the early window begins | uses it |
//! | stale | in the early window | uses it, and starts a renewal in the background if none runs |
//! | expired | from the safety margin on | waits for a renewal |
//!
//! - The **early window** is 300 s before the expiry ([`early_window`]), at most half of the lifetime.
//!   Each token shortens it by a random part of up to a quarter, so that a fleet does not renew in step.
//!   Zero turns early renewal off.
//! - The **safety margin** is 10 s before the expiry, at most a tenth of the lifetime. It covers the way of
//!   the request, and clocks that differ a little. It can't be set.
//! - The lifetime is what the API states (`expires_in`), counted from the moment the call was *sent*, and
//!   at most 24 h. Where nothing readable is stated it is 300 s.
//!
//! A request never waits while the token is usable. An early renewal that fails changes nothing until the
//! token expires. The one exception is a request that asks for more, by [`MinLifetime`].
//!
//! Tokens are numbered in each source, from 1: see [`Bearer::generation`].
//!
//! # Two credentials
//!
//! A source holds an API key, a refresh token, or both. The *refresh token* comes with each access token
//! and buys the next pair. It is good for one presentation. The *API key* logs in, as often as you like,
//! and can do everything that the account can.
//!
//! | situation | what is presented |
//! | --- | --- |
//! | a refresh token that is surely unspent | the refresh token |
//! | no refresh token | the API key |
//! | the refresh token may be spent, an API key is held | the API key |
//! | the refresh token may be spent, no API key is held | the refresh token, once more in this renewal, then once per probe |
//! | the refresh token was refused | it is forgotten; the API key, or else the error [`Refused`](ErrorKind::Refused) |
//! | two new refresh tokens in a row were refused, each fresh from a login | the API key, for an hour: somebody else logs in with it |
//! | the API key was refused less than 5 minutes ago | the refresh token, if there is one |
//! | [`GrantPreference::ApiKey`] | the API key, always |
//!
//! A refresh token *may be spent* when it was sent and no usable response came. Only a refusal by the API
//! itself ends a credential; silence, a 5xx or a proxy's page never does.
//!
//! With a [store](crate::store), another process may have renewed already. The store is looked at first,
//! and again after a refusal or an unclear response: a newer pair there is adopted, without a call. A
//! refresh token that was given to the builder is then a *seed*, used once, only if the store has no pair
//! that works and no API key can log in.
//!
//! # One renewal at a time
//!
//! All clones of a layer, all its clients and its [`TokenSource`] share one renewal. The first caller
//! without a token starts it, the others join, and all get the same result. It runs in a task of its own:
//! if every caller is dropped, it still goes on to its end, and the pair is kept, as long as the runtime
//! runs. A request that waits for it holds no slot (permit, place in a queue) of the wrapped service.
//!
//! # While a renewal runs, fails or hangs
//!
//! Every wait has a bound: [`call_timeout`] (10 s) for one token call, [`renewal_timeout`] (30 s) for the
//! renewal with all its calls. This is what a request without a usable token gets:
//!
//! | what happens | the caller |
//! | --- | --- |
//! | the renewal succeeds | goes on with the new token |
//! | the endpoint can't be reached, or can't serve (429, 5xx, a proxy's page) | [`Unavailable`](ErrorKind::Unavailable), after about a second of further attempts |
//! | the API asks for a wait of up to 3 s | waits for it, then goes on |
//! | the API asks for a longer wait | `Unavailable` at once, with that wait |
//! | a refresh hangs, an API key is held | waits 10 s, then for the login |
//! | a refresh hangs, no API key is held | [`Ambiguous`](ErrorKind::Ambiguous) after 10 s; the renewal goes on, see below |
//! | the renewal is not done after 30 s | [`TimedOut`](ErrorKind::TimedOut); the renewal goes on |
//! | the last credential is refused | [`Refused`](ErrorKind::Refused), at once from then on |
//!
//! ## Cool-down and probe
//!
//! After a failure comes a **cool-down**: callers get the same error at once, and no call is made. It lasts
//! about a fifth of the outage so far, from a second to half a minute, or as long as the API asked for. Where
//! calls hang, one that began before the end of the outage is given up `call_timeout` later at the most.
//! [`Error::retry_after`](crate::Error::retry_after) tells what is left of it.
//!
//! The next caller after that starts a **probe**, a renewal of a single call. Callers wait for it one second
//! at most, then they get the error of before. A token ends the outage.
//!
//! ```
//! # use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
//! use apivideo_auth::{Error, ErrorKind, testing::Fault};
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use tower::{Layer, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), tower::BoxError> {
//! # let api = FakeApi::in_process();
//! # let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! # let client = layer.layer(api.service());
//! # let get = || http::Request::get("/echo").body(Full::<Bytes>::default());
//! api.fault(Fault::status(503).always());
//! let error = client.clone().oneshot(get()?).await.unwrap_err();
//! let error = error.downcast_ref::<Error>().expect("an error of this crate");
//! assert_eq!(error.kind(), ErrorKind::Unavailable);
//! assert!(error.is_transient() && error.retry_after().is_some());
//!
//! // In the cool-down nobody is asked.
//! let calls = api.counts().token_calls;
//! client.clone().oneshot(get()?).await.unwrap_err();
//! assert_eq!(api.counts().token_calls, calls);
//! # layer.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! Some failures have a pause of their own. A suspended account, and a refused API key, are asked about
//! again after 5 minutes. Where nothing is left to present, a store is looked at every 5 s when somebody
//! asks; without one, only [`set_credentials`] helps, and it takes effect at once.
//!
//! ## Late responses
//!
//! A response that comes too late for its callers may hold the only refresh token that still lives. So a
//! refresh that was sent is read for up to 60 s, and the pair in it is saved and used like any other.
//!
//! Where no API key is held, nothing could follow but the same token once more, and that would end the pair
//! that a slow response brings. So the renewal itself reads on, with the default times for 20 s, and only
//! then presents the token again. Its callers are let go after 10 s. Those that come later wait one second.
//!
//! A response that is still read occupies a slot of the wrapped service: behind `ConcurrencyLimit(1)`, the
//! only one. Once `call_timeout` has passed it gives that slot up to the first request or token call of this
//! source that has found none for 0.9 s, and is lost then. To lose nothing and wait for nothing, give token calls a
//! service of their own with [`token_service`]. It is also the way where a layer below the authentication
//! repeats requests, follows redirects or has a timeout shorter than `call_timeout`.
//!
//! # A 401
//!
//! A token can die before its time. A 401 then takes it out of use, starts one renewal for all, and the
//! request is sent once more, if its body could be kept. There is no third time. If the renewal fails, the
//! caller gets the 401, and the token is put back in use for all others: one path that always answers 401
//! must not stop everybody. After a renewal that did not help, further 401s cause none for 30 s. And the
//! token calls for 401s have a budget: five in a row, then one more each 15 s. What another process has saved is free.
//!
//! # Without traffic
//!
//! A source does nothing by itself. [`keep_fresh`] starts a task that renews in the early window whether or
//! not there are requests, so that the first request after a quiet night does not wait:
//!
//! ```
//! # use tower::Layer;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), apivideo_auth::Error> {
//! # let api = apivideo_auth::testing::FakeApi::in_process();
//! # let builder = apivideo_auth::ApiVideoAuthLayer::builder();
//! # let layer = builder.base_url(api.url()).api_key(api.api_key()).build()?;
//! # let source = layer.layer(api.service()).source::<http_body_util::Full<bytes::Bytes>>();
//! let keeper = source.keep_fresh()?;
//! // … the program runs …
//! drop(keeper);
//! # Ok(())
//! # }
//! ```
//!
//! # Many accounts
//!
//! A source is for one account. A program that works for many keeps a plain map of their clients. A source costs a
//! few kilobytes and nothing while it rests, and the clients may share one HTTP client with its connections:
//!
//! ```
//! use std::collections::HashMap;
//!
//! # use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use tower::{Layer, ServiceExt};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! # let api = FakeApi::in_process();
//! # let http = api.service();
//! let mut clients = HashMap::new();
//! for (customer, api_key) in [("anna", api.api_key()), ("ben", api.api_key())] {
//!     let layer = ApiVideoAuthLayer::builder()
//!         .base_url(api.url())
//!         .account(customer) // its place in a store, if there is one
//!         .api_key(api_key)
//!         .build()?;
//!     clients.insert(customer, layer.layer(http.clone()));
//! }
//! let request = http::Request::get("/videos").body(Full::<Bytes>::default())?;
//! let response = clients["anna"].clone().oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! Where accounts come and go, put the map behind a `Mutex`, and hold it for the time of a clone.
//!
//! # Clocks and sleep
//!
//! Two clocks judge a token, the wall clock and the monotonic one, and it has expired as soon as either says
//! so. A wall clock that is set back lengthens no life; one that is set forward costs a renewal. While a
//! laptop sleeps the monotonic clock of most systems stands still, and the wall clock knows. A keeper looks
//! at the clocks every 30 s at least. A timer that fires late because the machine slept is no proof that the
//! server was slow: what came meanwhile is still taken.
//!
//! # The end
//!
//! A program that just ends may lose a pair that the API has granted already. So end with [`shutdown`]: no
//! renewal starts any more, keepers end, and what is under way is waited for. It says whether that was all
//! done in time. Requests go on while the token is usable; afterwards they get
//! [`Closed`](ErrorKind::Closed).
//!
//! To take the pair elsewhere, shut the source down, then ask for it. On a source that is open,
//! [`pair`](TokenSource::pair) gives a copy, which ends with the next renewal.
//!
//! ```
//! # use std::time::Duration;
//! # use tower::Layer;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), apivideo_auth::Error> {
//! # let api = apivideo_auth::testing::FakeApi::in_process();
//! # let builder = apivideo_auth::ApiVideoAuthLayer::builder();
//! # let layer = builder.base_url(api.url()).api_key(api.api_key()).build()?;
//! # let source = layer.layer(api.service()).source::<http_body_util::Full<bytes::Bytes>>();
//! source.token().await?;
//! if source.shutdown(Duration::from_secs(30)).await {
//!     let pair = source.pair().await?;
//!     assert!(pair.refresh_token().is_some());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`early_window`]: crate::ApiVideoAuthLayerBuilder::early_window
//! [`call_timeout`]: crate::ApiVideoAuthLayerBuilder::call_timeout
//! [`renewal_timeout`]: crate::ApiVideoAuthLayerBuilder::renewal_timeout
//! [`token_service`]: crate::ApiVideoAuthLayerBuilder::token_service
//! [`set_credentials`]: crate::ApiVideoAuthLayer::set_credentials
//! [`shutdown`]: crate::ApiVideoAuthLayer::shutdown
//! [`keep_fresh`]: TokenSource::keep_fresh
//! [`Bearer::generation`]: crate::Bearer::generation
//! [`GrantPreference::ApiKey`]: crate::GrantPreference::ApiKey
//! [`MinLifetime`]: crate::MinLifetime

#[cfg(doc)]
use crate::{ErrorKind, TokenSource};
