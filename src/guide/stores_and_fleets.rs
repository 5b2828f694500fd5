//! Stores and fleets: pairs that outlive their process, and many processes that share one.
//!
//! A refresh token is good for one presentation. So a program that is restarted must know the newest pair, and of many
//! programs that share an account only one may renew at a time. A [store](crate::store) sees to both. Here are two
//! processes, played by two layers; the second one has no credential of its own:
//!
//! ```
//! use apivideo_auth::{ApiVideoAuthLayer, store::MemoryStore, testing::FakeApi};
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let api = FakeApi::in_process();
//! let store = MemoryStore::new();
//! let builder = || ApiVideoAuthLayer::builder().base_url(api.url()).store(store.clone());
//! let (one, two) = (builder().api_key(api.api_key()).build()?, builder().build()?);
//!
//! for layer in [&one, &two] {
//!     let request = http::Request::get("/echo").body(Full::<Bytes>::default())?;
//!     let response = layer.layer(api.service()).oneshot(request).await?;
//!     assert_eq!(response.status(), 200);
//! }
//! // The second process has adopted what the first one saved.
//! assert_eq!(api.counts().token_calls, 1);
//! # for layer in [&one, &two] {
//! #     layer.shutdown(std::time::Duration::from_secs(5)).await;
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! # Which store
//!
//! | you have | store | what protects the pair |
//! | --- | --- | --- |
//! | several layers in one program, or a test | [`MemoryStore`] | the process |
//! | one machine, one or many processes | [`FileStore`] on a local disk | the file's owner and mode |
//! | a person's computer | [`KeyringStore`] | encrypted files; the key lies in the keyring of the system |
//! | several machines | [`RedisStore`] | who may use that Redis, and TLS on the way |
//! | a disk or a Redis that others read | [`EncryptedStore`] in front of it | a key of 32 bytes, which you keep elsewhere |
//! | a database of your own, a Redis that a URL can't describe | [a store of your own](#a-store-of-your-own) | you |
//!
//! A network file system is none of these: it promises too little about locks and renaming. All who share a store give
//! the same [`account`], and the same API key if they give one.
//!
//! # What a fleet does
//!
//! - **One renews, the others adopt.** A process that needs a token looks at the store first. If a newer pair is there it
//!   takes that, without a lock and without a call. Else it takes the lock, looks again, and renews.
//! - **A lock is no token.** That somebody holds the lock for long is an error ([`StoreLocked`]) and never leave to present
//!   the refresh token. A process that holds the API key logs in beside it instead, once the mark (below) has settled.
//! - **The mark.** Before a refresh token is presented, the store says so. A process that is killed in the call leaves the
//!   mark, and the next one knows that the token may be spent: with an API key it logs in, without one it waits until no
//!   response can come any more, and only then presents the token once more.
//! - **Saved before it is shared.** A new pair is stored before any request uses it.
//! - **Who wins.** Pairs of one login, or one seed, are numbered; the later one wins, and a process that holds it writes it
//!   back. So a store that was restored from a backup is put right by any process that still runs. Between two logins the
//!   store decides.
//! - **Cool-downs are shared** where the API asked for them. Any other failure may be a trouble of one process only, so
//!   each finds out by one call of its own before it believes in it.
//! - **No clock is shared.** Redis counts by its own clock. Files keep the time of their machine.
//!
//! The lock ends with its process: that of a file and a keyring at once, that of Redis 5 s later. A process that was
//! stopped for longer than that (a debugger, a suspended machine) has lost it without noticing: its next save is refused,
//! and it looks at the store again before it presents anything.
//!
//! # What goes wrong
//!
//! What is wrong with one process is no other one's trouble. Below, three processes make requests of their own for 110
//! minutes, with tokens that live an hour. One of them is sick for 80 minutes, or, *after the call*, from the moment at
//! which it has spent the refresh token and not saved the new pair; then it is mended, and is well within half a minute.
//! A process that is *stopped* (SIGSTOP) goes on when another one has tried to renew. The crate's tests play all that, and
//! write this table. `key` are fleets that hold the API key, `no key` those that don't.
//!
#![doc = include_str!("sick_members.md")]
//!
//! So a fleet that holds the API key goes on whatever happens. One without depends on the process that has spent the
//! refresh token: until that has saved the new pair, there is nothing to go on with. A lock in a file lasts as long as its
//! process, and the others wait for it. A lock in Redis ends 5 s after its process was last heard of. Then the refresh
//! token is presented once more, since its process may be dead; an API that takes this for theft revokes the family, and
//! it takes a new login.
//!
//! In words:
//!
//! - **The store can't be reached.** A usable token is used. Then a process with an API key logs in by itself, and saves when
//!   the store is back. One without a key has an error that says so ([`StoreUnavailable`]): to present a refresh token that
//!   siblings may present as well would end the pair for all.
//! - **The new pair can't be saved.** It is used, and saving goes on. Until it is saved, nobody presents the old refresh token,
//!   which is spent. A process without an API key keeps the lock for that.
//! - **The record is damaged, or open to others.** It goes into *quarantine*: renamed, for a person to look at. A file's
//!   is called `NAME.json.rejected-TIME`, a key's in Redis `…:rejected-TIME`; in Redis it is deleted after a week. Only
//!   a process that can replace the pair does that, one with an API key or with the newest pair. Others have the error
//!   [`StoreCorrupt`].
//! - **The record can't be read here**: it is encrypted with another key, or was written by a newer version of this crate. It
//!   is left alone ([`StoreUnreadable`]). Update all processes of a fleet, or give all of them the key.
//! - **The record is of another API key** ([`StoreForeign`]): two programs share a store and an account's name. Name one of
//!   them anew, or see [`replace_foreign_pair`].
//!
//! # Seeds, and what nobody can know
//!
//! A refresh token that is given to the builder, together with a store, is a *seed*: it is presented once, if nothing is
//! stored and no API key can log in. The store remembers the last eight seeds in a record of their own, which outlives
//! the pair. So a program that is restarted with its old seed presents nothing twice.
//!
//! One case is beyond that: a store that lost *everything*, and a program that is started with the old seed and without an
//! API key. To the program the seed looks new. It is presented, the API sees a spent token come back, and may revoke all
//! that came of it. So **take the seed out of the environment after the first start**.
//!
//! A Redis without `appendonly yes` is such a store whenever it restarts; see [`RedisStore`] for what makes it last.
//!
//! # Files
//!
//! [`FileStore::in_user_folder`] puts them where the system keeps the state of a user's programs: below
//! `~/.local/state/apivideo-auth` on Linux. An account has four of them, named after [`StoreKey::name`]: `NAME.json` and
//! `NAME.lock`, and the same for `ACCOUNT@seeds`. In the names small letters stand for themselves, capital ones are a
//! `+` and the small letter, and all else of the API's origin is `_` and two digits:
//!
//! ```
//! use apivideo_auth::store::StoreKey;
//!
//! let key = StoreKey::new("https://ws.api.video", "Main")?;
//! assert_eq!(key.name(), "+main@https_3a_2f_2fws.api.video_3a443");
//! # Ok::<(), apivideo_auth::Error>(())
//! ```
//!
//! A folder that others may write to is refused, and so is a file that others may read.
//!
//! # Redis
//!
//! The keys of an account are `{apivideo-auth:NAME}:record`, `…:lock` and `…:rejected-TIME`, the first two also for
//! `ACCOUNT@seeds`. [`RedisStore`] has a line for `ACL SETUSER` with all the rights that its user needs, and no more.
//!
//! It keeps one connection for each runtime that uses it, and holds 3 s to be too long for a response. A replica, a node of
//! a cluster and a Redis that misses its replicas are errors that say so.
//!
//! # A store of your own
//!
//! What a URL and a certificate can't say is a matter of your own connection: a client certificate, a password that
//! changes, a cluster, Sentinel. [`TokenStore`] has two methods, and [`StoreLock`] three. This is a whole store over any
//! connection of the [redis](https://docs.rs/redis) crate, with one script for each step that must not be torn:
//!
//! ```
#![doc = include_str!("own_redis_store.rs")]
//! ```
//!
//! What such a store has to see to, whatever it is made of:
//!
//! - **A save is a comparison and a write in one step**, and proves in that step that the lock is still its own. It writes
//!   all or nothing: whatever is refused half-way, the old record stands.
//! - **A save that was given up never lands over a later one.** It may arrive late, since a network keeps what was sent. Here
//!   saves are counted.
//! - **A lock ends with its process**, at once or after a few seconds, and lives as long as its process keeps it.
//! - **Spans, not times**: [`Header::counted_down`] does the sum.
//! - **No wait is long.** Give your connection a time limit for responses; the source gives a store 10 s for each step.
//!
//! With the feature `test-util`, [`contract_suite`] plays all of it, two runtimes included. A test of this store is one line:
//! `contract_suite(|| OwnRedisStore(connection.clone())).await`. This crate runs it on the lines above.
//!
//! [`account`]: crate::ApiVideoAuthLayerBuilder::account
//! [`replace_foreign_pair`]: crate::ApiVideoAuthLayerBuilder::replace_foreign_pair
//! [`StoreLocked`]: crate::ErrorKind::StoreLocked
//! [`StoreUnavailable`]: crate::ErrorKind::StoreUnavailable
//! [`StoreCorrupt`]: crate::ErrorKind::StoreCorrupt
//! [`StoreUnreadable`]: crate::ErrorKind::StoreUnreadable
//! [`StoreForeign`]: crate::ErrorKind::StoreForeign
//! [`MemoryStore`]: crate::store::MemoryStore
//! [`FileStore`]: crate::store::FileStore
//! [`FileStore::in_user_folder`]: crate::store::FileStore::in_user_folder
//! [`KeyringStore`]: crate::store::KeyringStore
//! [`EncryptedStore`]: crate::store::EncryptedStore
//! [`RedisStore`]: crate::store::RedisStore
//! [`StoreKey::name`]: crate::store::StoreKey::name
//! [`TokenStore`]: crate::store::TokenStore
//! [`StoreLock`]: crate::store::StoreLock
//! [`Header::counted_down`]: crate::store::Header::counted_down
//! [`contract_suite`]: crate::store::contract_suite
