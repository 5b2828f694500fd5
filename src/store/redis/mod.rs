//! One Redis for a fleet of processes.
//!
//! All that has to be done in one step is a script, since between two commands another process may
//! act. All times are Redis's own, for the same reason: the processes' clocks need not agree.

mod address;
mod connection;
mod lease;
mod script;
mod stream;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use redis::{Cmd, Value};
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::{connection::Redis, lease::Lease};
use super::{
    Header, InUseMark, Record, StoreKey, Stored, TokenStore, TryLock, Version, form::refuse_newer,
    lock_owner,
};
use crate::{
    error::{Error, ErrorKind},
    random,
};

/// A store in Redis (5 or later) or Valkey, for processes on several machines.
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, store::RedisStore};
///
/// let store = RedisStore::builder("rediss://fleet:secret@redis.example:6379/0").build()?;
/// let layer = ApiVideoAuthLayer::builder().store(store).build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// Nothing is connected before the first use. A connection is kept and replaced by itself; each call to Redis
/// gets its response within 3 s, or fails with [`ErrorKind::StoreUnavailable`].
///
/// The renewal lock is a lease of 5 s, extended while it is held. All times are read from Redis's clock, so those of
/// the machines need not agree. For the account `main` of the production API there are these keys, in one hash slot:
///
/// ```text
/// {apivideo-auth:main@https_3a_2f_2fws.api.video_3a443}:record         the pair
/// {apivideo-auth:main@https_3a_2f_2fws.api.video_3a443}:lock           while it is renewed
/// {apivideo-auth:main@https_3a_2f_2fws.api.video_3a443}:rejected-TIME  quarantined at that time (ms), kept for 7 days
/// ```
///
/// The user of Redis needs these rights, `SELECT` only for another database than 0:
///
/// ```text
/// ACL SETUSER fleet on >PASSWORD ~{apivideo-auth:* +select +eval +del +exists +get +hmget +hset +pexpire +rename +set +time
/// ```
///
/// Cluster and Sentinel are not spoken: neither redirections nor a new primary are followed, so name one Redis, or a
/// proxy or a host name that stands for the primary of the moment. For them, for client certificates and for passwords that
/// change, see [a store of your own](crate::guide::stores_and_fleets#a-store-of-your-own).
///
/// # What protects what
///
/// `rediss://` encrypts the way to Redis and proves that it is the right one. Without it, anyone on the
/// way can read the tokens, so it is refused beyond this machine (see [`RedisStoreBuilder::allow_plaintext`]). In Redis
/// the tokens lie in the clear: anyone who may read the keys, the snapshots or the replicas has them. Wrap the store in an
/// [`EncryptedStore`](super::EncryptedStore) to keep them from all that. Anyone who may write to Redis can remove pairs
/// and hold the lock.
///
/// A pair is as durable as Redis:
///
/// - without `appendonly yes` a restart loses what was saved since the last snapshot; with `appendfsync everysec` a
///   crash of its machine loses a second. If that was the save of a pair, the stored refresh token is a spent one. A
///   process that still holds the newer pair writes it back; else it takes a login with the API key.
/// - `maxmemory-policy` has to be `noeviction`, or Redis may drop a pair or a lock to make room for something else.
/// - a failover loses what the new primary had not received yet: a pair as above, or a lock, so that two
///   processes renew at once. An older pair is never saved over a newer one all the same.
#[derive(Clone)]
pub struct RedisStore {
    redis: Arc<Redis>,
}

/// Builds a [`RedisStore`].
///
/// ```
/// use apivideo_auth::store::RedisStore;
///
/// // Inside a private network whose other members are trusted with the tokens.
/// let store = RedisStore::builder("redis://10.0.0.7:6379/0").allow_plaintext().build()?;
///
/// // Without leave, a way that anyone could read is refused.
/// assert!(RedisStore::builder("redis://10.0.0.7:6379/0").build().is_err());
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
pub struct RedisStoreBuilder {
    url: Zeroizing<String>,
    allow_plaintext: bool,
    root_certificates: Option<Vec<u8>>,
}

impl RedisStore {
    /// A store at `redis://`, `rediss://` or `unix://`, such as `rediss://user:password@host:6379/0`.
    ///
    /// The URL is checked by [`build`](RedisStoreBuilder::build). It is wiped when the builder is
    /// dropped, and never printed: it may hold a password.
    #[must_use]
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder {
            url: Zeroizing::new(url.into()),
            allow_plaintext: false,
            root_certificates: None,
        }
    }
}

impl RedisStoreBuilder {
    /// Allows `redis://` beyond this machine: anyone on the way can then read the tokens.
    ///
    /// This machine needs no leave: a literal loopback address, `localhost` or a Unix socket.
    /// Default: not allowed.
    #[must_use]
    pub fn allow_plaintext(self) -> Self {
        Self {
            allow_plaintext: true,
            ..self
        }
    }

    /// Trusts these certificates, in PEM, instead of those that the operating system trusts.
    ///
    /// For a Redis with a certificate of the company's own. Default: the system's.
    #[must_use]
    pub fn root_certificates(self, pem: impl Into<Vec<u8>>) -> Self {
        Self {
            root_certificates: Some(pem.into()),
            ..self
        }
    }

    /// Builds the store, without connecting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL or a certificate can't be used.
    pub fn build(self) -> Result<RedisStore, Error> {
        let redis = Redis::new(
            &self.url,
            self.allow_plaintext,
            self.root_certificates.as_deref(),
        )?;
        Ok(RedisStore {
            redis: Arc::new(redis),
        })
    }
}

impl TokenStore for RedisStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async move {
            let response = self
                .redis
                .run(&Keys::of(key).call(script::LOAD, &["record"]))
                .await?;
            parse(key, response)
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            let (keys, asked) = (Keys::of(key), Instant::now());
            let owner = format!(
                "{:016x}{:016x} {}",
                random::number(),
                random::number(),
                lock_owner::this_process()
            );
            let mut call = keys.call(script::LOCK, &["lock"]);
            call.arg(&owner).arg(LEASE.as_millis());
            Ok(match self.redis.run(&call).await? {
                Value::Int(1) => {
                    let lease = Lease::new(self.redis.clone(), keys, owner, asked);
                    TryLock::Locked(Box::new(lease))
                }
                Value::BulkString(holder) => {
                    let holder = String::from_utf8_lossy(&holder);
                    TryLock::Busy(holder.split_once(' ').map(|(_, name)| name.to_owned()))
                }
                _ => TryLock::Busy(None),
            })
        })
    }

    fn place(&self) -> String {
        format!("the Redis store at {:?}", self.redis.address())
    }
}

/// How long a lock lives without being extended. A dead process blocks the others this long. A live
/// one may be held up this long without losing the lock.
const LEASE: Duration = Duration::from_secs(5);

/// The form written here. The first one left out the fields that are absent; this one has them empty.
const FORM: u8 = 2;

/// The keys of one account, all in one hash slot: that of the name in the braces.
struct Keys(String);

impl Keys {
    /// The prefix of all keys of an account.
    fn of(key: &StoreKey) -> Self {
        Self(format!("{{apivideo-auth:{}}}", key.name()))
    }

    /// A script with its keys, ready for its arguments. `EVAL` each time, not `EVALSHA`: the
    /// scripts are short, and Redis forgets what it cached when it restarts.
    fn call(&self, script: &str, keys: &[&str]) -> Cmd {
        let mut call = redis::cmd("EVAL");
        call.arg(script).arg(keys.len());
        for key in keys {
            call.arg(format!("{}:{key}", self.0));
        }
        call
    }
}

/// Reads what [`script::LOAD`] returns. Redis keeps numbers as text, and its own are too coarse for a version.
fn parse(key: &StoreKey, response: Value) -> Result<Option<Stored>, Error> {
    let corrupt = || {
        let message = format!(
            "what Redis holds at {}:record is damaged; restore it, or remove it and log in again",
            Keys::of(key).0
        );
        Error::new(ErrorKind::StoreCorrupt, message)
    };
    let Value::Array(fields) = response else {
        return Err(corrupt());
    };
    let Ok(
        [
            now,
            exists,
            form,
            family,
            revision,
            mark_count,
            mark_settles,
            not_before,
            expires,
            cleared,
            record,
        ],
    ) = <[Value; 11]>::try_from(fields)
    else {
        return Err(corrupt());
    };
    if exists == Value::Int(0) {
        return Ok(None);
    }
    let number = |value: &Value| match value {
        Value::Nil => Ok(None),
        Value::BulkString(text) if text.is_empty() => Ok(None),
        Value::BulkString(text) => {
            let number = std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse::<u64>().ok());
            number.map(Some).ok_or_else(corrupt)
        }
        _ => Err(corrupt()),
    };
    refuse_newer(
        "what Redis holds",
        number(&form)?.ok_or_else(corrupt)?,
        FORM,
    )?;
    let now = Duration::from_millis(number(&now)?.ok_or_else(corrupt)?);
    let time = |value| Ok(number(value)?.map(Duration::from_millis));
    let version = Version {
        family: number(&family)?.ok_or_else(corrupt)?,
        revision: number(&revision)?.ok_or_else(corrupt)?,
    };
    let mark = match number(&mark_count)? {
        Some(count) => Some(InUseMark {
            count: count.try_into().map_err(|_| corrupt())?,
            settles_in: time(&mark_settles)?.unwrap_or_default(),
        }),
        None => None,
    };
    let since_1970 = Header {
        version,
        mark,
        not_before: time(&not_before)?,
        expires_in: time(&expires)?,
    };
    let record = match record {
        Value::Nil => None,
        Value::BulkString(_) if number(&cleared)?.is_some() => None,
        Value::BulkString(bytes) => Some(Record::new(bytes)),
        _ => return Err(corrupt()),
    };
    Ok(Some(Stored {
        header: since_1970.counted_down(now),
        record,
    }))
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisStore")
            .field(&self.redis.address())
            .finish()
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("allow_plaintext", &self.allow_plaintext)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g23_spans_are_counted_by_the_clock_of_redis() {
        let key = StoreKey::new("https://ws.example", "main").expect("a good key");
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let loaded = |now: &str| {
            let fields = ["1", "7", "2", "3", "1500000", "1000000", "4000000"].map(text);
            let response = [text(now), Value::Int(1)].into_iter().chain(fields);
            let response = response.chain([text(""), text("record")]);
            let response = Value::Array(response.collect());
            let stored = parse(&key, response).expect("readable").expect("stored");
            let Header {
                mark,
                not_before,
                expires_in,
                ..
            } = stored.header;
            let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
            let settles_in = mark.map(|mark| mark.settles_in);
            (
                seconds(settles_in),
                seconds(not_before),
                seconds(expires_in),
            )
        };
        assert_eq!(loaded("900000"), (Some(600), Some(100), Some(3100)));
        assert_eq!(loaded("2000000"), (Some(0), Some(0), Some(2000)));
    }
}
