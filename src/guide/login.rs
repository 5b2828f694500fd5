//! Five minutes from an API key to a program that never sees it.
//!
//! A program that holds the API key can do all that the account can, for ever. One that holds a pair of tokens can be logged out.
//! So a person logs in once with the command line, the pair goes into a store, and programs take it from there, and renew it.
//!
//! # The commands
//!
//! Install the command line, with Rust's own tool:
//!
//! ```sh
//! cargo install apivideo-auth --features cli
//! ```
//!
//! Log in. It asks for the API key and does not show it; it reads standard input where that is no terminal, or a file
//! (`--api-key-file`). The key is never given on the command line, which every user of a machine can read.
//!
//! ```sh
//! apivideo-auth login
//! ```
//!
//! The key may now be forgotten: take it out of the environment, of `.env` files and of secrets of the deployment. Who is logged in?
//!
//! ```sh
//! apivideo-auth status
//! ```
//!
//! Any program can use a token. It is renewed first if it has expired, under the store's lock, so it disturbs no other program:
//!
//! ```sh
//! printf 'Authorization: Bearer %s' "$(apivideo-auth token)" | curl -sS -H @- https://ws.api.video/videos
//! ```
//!
//! For the sandbox add `--environment sandbox` to each.
//!
//! # The program
//!
//! It needs the feature `file-store`, and no credential:
//!
//! ```no_run
//! # #[cfg(feature = "file-store")] {
//! use apivideo_auth::{ApiVideoAuthLayer, store::FileStore};
//!
//! let layer = ApiVideoAuthLayer::builder().store(FileStore::in_user_folder()?).build()?;
//! # }
//! # Ok::<(), apivideo_auth::Error>(())
//! ```
//!
//! It may be started before the login: until then its requests fail with
//! [`ErrorKind::NoCredentials`](crate::ErrorKind::NoCredentials), and it looks into the store every 5 s. A program that was logged out
//! finds a new login in the same way.
//!
//! # The end
//!
//! ```sh
//! apivideo-auth logout
//! ```
//!
//! Programs use the access token that they have until it ends, within the hour: the API has no way to revoke one. A program that
//! holds the API key logs in again by itself.
//!
//! # Other stores
//!
//! | `--store` | the program's store | for |
//! | --- | --- | --- |
//! | `file`, the default | `FileStore::in_user_folder()` | one user on one machine |
//! | `keyring` | `KeyringStore::in_user_folder()` | the same, encrypted at rest |
//! | `redis://…`, `rediss://…` | `RedisStore::builder(url)` | a fleet; put a URL with a password into `APIVIDEO_AUTH_STORE` |
//!
//! `--account NAME` goes with [`account`](crate::ApiVideoAuthLayerBuilder::account), and `--base-url` with
//! [`base_url`](crate::ApiVideoAuthLayerBuilder::base_url). What the exit codes mean stands in `apivideo-auth --help`.
