use std::time::Duration;

use apivideo_auth::{
    Error, ErrorKind,
    store::{Header, InUseMark, Record, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
};
use futures::future::BoxFuture;
use redis::{Cmd, FromRedisValue, aio::ConnectionLike};
use tokio::{task::AbortHandle, time::sleep};

/// Over a `MultiplexedConnection`, `ConnectionManager` or `ClusterConnection` of your own.
#[derive(Clone)]
pub struct OwnRedisStore<C>(pub C);

/// Version, mark, cool-down and expiry (spans in ms), and whether there is a record.
type Form = (u64, u64, Option<(u32, u64)>, Option<u64>, Option<u64>, bool);

impl<C: ConnectionLike + Clone + Send + Sync + 'static> TokenStore for OwnRedisStore<C> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async move {
            let found = run(&self.0, &script(LOAD, key)).await?;
            let Some((elapsed, form, record)): Option<(u64, String, Vec<u8>)> = found else {
                return Ok(None);
            };
            let form = serde_json::from_str::<Form>(&form).map_err(|_| {
                Error::store(ErrorKind::StoreCorrupt, "what is stored is not ours", None)
            })?;
            let (family, revision, mark, not_before, expires_in, has_record) = form;
            let mut header = Header::new(Version { family, revision });
            header.mark = mark.map(|(count, span)| InUseMark {
                count,
                settles_in: Duration::from_millis(span),
            });
            header.not_before = not_before.map(Duration::from_millis);
            header.expires_in = expires_in.map(Duration::from_millis);
            let header = header.counted_down(Duration::from_millis(elapsed));
            Ok(Some(Stored::new(
                header,
                has_record.then(|| Record::new(record)),
            )))
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            let owner = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            let extend = script(EXTEND, key).arg(&owner).arg(LEASE).take();
            if !run::<bool>(&self.0, script(LOCK, key).arg(&owner).arg(LEASE)).await? {
                return Ok(TryLock::Busy(None));
            }
            let redis = self.0.clone();
            let extending = tokio::spawn(async move {
                // Until Redis says that the lock is lost. Two may fail.
                while !matches!(run(&redis, &extend).await, Ok(false)) {
                    sleep(Duration::from_millis(LEASE / 3)).await;
                }
            });
            Ok(TryLock::Locked(Box::new(Lock {
                redis: self.0.clone(),
                key: key.clone(),
                owner,
                saves: 0,
                extending: extending.abort_handle(),
            })))
        })
    }
}

struct Lock<C> {
    redis: C,
    key: StoreKey,
    /// Proves in each save that the lock is still this one's.
    owner: String,
    /// Counted when a save is asked for, so that one that was given up is told from a later one.
    saves: u64,
    extending: AbortHandle,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> StoreLock for Lock<C> {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let version = |version: Version| format!("{} {}", version.family, version.revision);
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let header = stored.header;
        let form: Form = (
            header.version.family,
            header.version.revision,
            header.mark.map(|mark| (mark.count, ms(mark.settles_in))),
            header.not_before.map(ms),
            header.expires_in.map(ms),
            stored.record.is_some(),
        );
        self.saves += 1;
        let mut save = script(SAVE, &self.key);
        save.arg(&self.owner)
            .arg(LEASE)
            .arg(self.saves)
            .arg(expected.map(version).unwrap_or_default())
            .arg(version(header.version))
            .arg(serde_json::to_string(&form).expect("numbers can be written"))
            .arg(stored.record.as_ref().map_or(&b""[..], Record::expose));
        Box::pin(async move { settled(run(&self.redis, &save).await?) })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        let quarantine = script(QUARANTINE, &self.key).arg(&self.owner).take();
        Box::pin(async move { settled(run(&self.redis, &quarantine).await?) })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        let unlock = script(UNLOCK, &self.key).arg(&self.owner).take();
        let redis = self.redis.clone();
        // A lock that can't be freed ends by itself.
        Box::pin(async move { drop(run::<bool>(&redis, &unlock).await) })
    }
}

impl<C> Drop for Lock<C> {
    fn drop(&mut self) {
        self.extending.abort();
    }
}

async fn run<T: FromRedisValue>(
    redis: &(impl ConnectionLike + Clone),
    call: &Cmd,
) -> Result<T, Error> {
    let result = call.query_async(&mut redis.clone()).await;
    result.map_err(|error| {
        Error::store(
            ErrorKind::StoreUnavailable,
            "Redis can't be used",
            Some(error.into()),
        )
    })
}

fn settled(said: String) -> Result<(), Error> {
    match &*said {
        "saved" => Ok(()),
        _ => Err(Error::store(ErrorKind::StoreConflict, said, None)),
    }
}

/// A script runs in one step. Its two keys are in one hash slot: that of the name in braces.
fn script(script: &str, key: &StoreKey) -> Cmd {
    let name = format!("{{{}}}", key.name());
    let (lock, record) = (format!("{name}:lock"), format!("{name}:record"));
    redis::cmd("EVAL")
        .arg(script)
        .arg(2)
        .arg(lock)
        .arg(record)
        .take()
}

/// In ms. The lock of a process that died is free after this time.
const LEASE: u64 = 3000;

const LOCK: &str = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0";
const EXTEND: &str = "
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0";
const UNLOCK: &str = "
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0";
const LOAD: &str = "
local found, time = redis.call('HMGET', KEYS[2], 'at', 'form', 'record'), redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return found[1] and {string.format('%.0f', math.max(now - found[1], 0)), found[2], found[3]}";
const SAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'the lock was lost' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local found, time = redis.call('HMGET', KEYS[2], 'by', 'saves', 'version'), redis.call('TIME')
local ours = found[1] == ARGV[1]
if ours and tonumber(found[2]) > tonumber(ARGV[3]) then return 'a later save has come' end
if (found[3] or '') ~= ARGV[4] and not (ours and found[3] == ARGV[5]) then return 'another pair is stored' end
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[2], 'by', ARGV[1], 'saves', ARGV[3], 'version', ARGV[5], 'form', ARGV[6], 'record', ARGV[7],
    'at', now)
return 'saved'";
const QUARANTINE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'the lock was lost' end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[2] .. ':rejected') end
return 'saved'";
