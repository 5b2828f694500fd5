//! A fake api.video and clocks, for tests of this crate and of programs that use it.
//!
//! [`FakeApi`] plays the token calls in memory, as strictly as the documentation can be read: refresh tokens are single
//! use, and one that is presented twice revokes all that came from the same login. With the feature `upload-tokens` it
//! plays `/videos`, `/upload-tokens` and uploads too. It is a Tower service without a socket, or an HTTP server on
//! `127.0.0.1`, for one program or, as the repository's example `fake_api` runs it, for any number of them and `curl`:
//!
//! ```
//! use apivideo_auth::testing::FakeApi;
//! use bytes::Bytes;
//! use http::{Request, StatusCode};
//! use http_body_util::Full;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = FakeApi::in_process();
//! let (access_token, _) = api.mint_pair();
//! let request = || {
//!     Request::get(format!("{}/echo", api.url()))
//!         .header("authorization", format!("Bearer {access_token}"))
//!         .body(Full::<Bytes>::default())
//! };
//! assert_eq!(api.service().oneshot(request()?).await?.status(), StatusCode::OK);
//!
//! api.revoke_access_tokens();
//! assert_eq!(api.service().oneshot(request()?).await?.status(), StatusCode::UNAUTHORIZED);
//! assert_eq!(api.counts().unauthorized, 1);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Fault`] makes a call go wrong, before or after the server has carried it out: the next token call, or any others.
//! A [`Gate`] stops calls at a chosen point until the test has seen what it wanted to see:
//!
//! ```
//! use apivideo_auth::testing::{FakeApi, Fault, GatePoint};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let api = FakeApi::start().await?;
//! api.fault(Fault::status(503));
//! let gate = api.gate(GatePoint::AfterCommit);
//! // Start a client of `api.url()` here, then `gate.reached(1).await`.
//! gate.open();
//! # Ok(())
//! # }
//! ```
//!
//! Any path below `/echo` asks for a bearer and answers with the request's body; what the server does not know a test
//! can play with [`FakeApi::on_api_request`]. `Basic` authorization with the API key is accepted, as by the API.
//! Responses of the API carry the rate-limit headers; those of a fault only what the fault says.
//!
//! With the feature `upload-tokens` there are `/videos`, `/upload-tokens` and `/upload`, as the API's
//! [OpenAPI file](https://github.com/apivideo/api.video-api-client-generator) has them: a test of this crate compares the
//! two. What is not known, such as a filter of a list, is refused and never ignored. Uploads, by `POST /upload?token=...`
//! or `POST /videos/{videoId}/source`, may come in chunks in any order; [`FakeApi::received`] tells what has come, and its
//! SHA-256. Without the feature all of this answers 501, or 401 where the bearer is missing.
//!
//! What is uploaded is hashed when a test asks for its SHA-256, or when it is more than 64 MiB. That is slow in a debug build:
//! 30 MB take seconds, and the upload alone less than one. Cargo optimises what takes the time if your manifest says so:
//!
//! ```toml
//! [profile.dev.package]
//! sha2.opt-level = 3
//! memchr.opt-level = 3
//! ```
//!
//! A call is processed inside the request's own future: a client that drops it, or closes the connection,
//! before the point of commitment leaves everything as it was. One that does so later has lost its pair.
//!
//! # Paused time
//!
//! With Tokio's paused time (`#[tokio::test(start_paused = true)]`, with Tokio's feature `test-util`) the clock jumps to the
//! next timer whenever every task waits. A shut gate makes every task wait, so time-outs fire at once. [`hold_time`] prevents that: as long as its [`TimeHold`]
//! lives, time moves only by `tokio::time::advance`. (Tokio's timers fire at whole milliseconds, rounded up:
//! pause time from the start, or advance by one more.)
//!
//! ```
//! use std::time::Duration;
//!
//! use apivideo_auth::testing::hold_time;
//! use tokio::time::{Instant, advance, sleep};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let hold = hold_time();
//! let timer = tokio::spawn(sleep(Duration::from_secs(10)));
//! tokio::task::yield_now().await;
//! assert!(!timer.is_finished());
//!
//! advance(Duration::from_secs(10)).await;
//! timer.await.unwrap();
//! drop(hold);
//! # }
//! ```
//!
//! Do not pause time with a server on another thread or behind a socket: while the response is on its way, this
//! runtime seems idle and time-outs fire at random. Use [`FakeApi::service`] on the same runtime.
//!
//! A [`ManualClock`] given to both the layer and [`FakeApiBuilder::clock`] lets tokens age without waiting;
//! [`ManualClock::with_tokio`] follows paused time. The server judges lifetimes by the monotonic reading
//! alone: to it a [suspended](ManualClock::suspend) machine is the client's. Give it a clock of its own and
//! advance that, if its tokens are to expire meanwhile.

#[cfg(feature = "upload-tokens")]
mod account;
#[cfg(feature = "upload-tokens")]
mod attributes;
mod body;
mod builder;
mod clock;
mod fault;
mod gate;
mod handle;
mod judge;
#[cfg(feature = "upload-tokens")]
mod list;
#[cfg(feature = "upload-tokens")]
mod multipart;
mod payload;
mod recorded_request;
#[cfg(feature = "upload-tokens")]
mod resources;
mod responses;
mod route;
mod server;
mod service;
mod state;
mod strike;
#[cfg(test)]
mod tests;
mod token_call;
mod tokens;
#[cfg(feature = "upload-tokens")]
mod uploads;

pub use body::FakeBody;
pub use builder::FakeApiBuilder;
pub use clock::{ManualClock, TimeHold, hold_time};
pub use fault::Fault;
pub use gate::{Gate, GatePoint};
pub use handle::FakeApi;
pub use recorded_request::RecordedRequest;
pub use service::FakeService;
pub use state::Counts;
#[cfg(feature = "upload-tokens")]
pub use uploads::Received;
