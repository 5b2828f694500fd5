use std::time::Duration;

use apivideo_auth::{
    Error, ErrorKind,
    store::{Header, InUseMark, Record, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
};
use futures::future::BoxFuture;
use redis::{FromRedisValue, ToRedisArgs, aio::ConnectionLike};
use tokio::{task::JoinSet, time::sleep};

/// Over a `MultiplexedConnection`, `ConnectionManager` or `ClusterConnection` of your own.
#[derive(Clone)]
pub struct OwnRedisStore<C>(pub C);

/// Family and revision, mark, cool-down and expiry, and the record.
type Form = ([u64; 2], Option<(u32, Duration)>, Spans, Option<Vec<u8>>);
type Spans = [Option<Duration>; 2];

impl<C: ConnectionLike + Clone + Send + Sync + 'static> TokenStore for OwnRedisStore<C> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async move {
            let found = run(&self.0, LOAD, key, "").await?;
            let Some((elapsed, form)): Option<(u64, Vec<u8>)> = found else {
                return Ok(None);
            };
            let form: Form = serde_json::from_slice(&form)
                .map_err(|_| Error::store(ErrorKind::StoreCorrupt, "that is not ours", None))?;
            let ([family, revision], mark, [not_before, expires_in], record) = form;
            let mut header = Header::new(Version { family, revision });
            header.mark = mark.map(|(count, settles_in)| InUseMark { count, settles_in });
            (header.not_before, header.expires_in) = (not_before, expires_in);
            let header = header.counted_down(Duration::from_millis(elapsed));
            Ok(Some(Stored::new(header, record.map(Record::new))))
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            let (redis, key, mut owner) = (self.0.clone(), key.clone(), [0; 16]);
            getrandom::fill(&mut owner).map_err(|error| unavailable(error.to_string()))?;
            if !run::<bool>(&redis, LOCK, &key, (&owner, LEASE)).await? {
                return Ok(TryLock::Busy(None));
            }
            let (extending, saves) = (JoinSet::new(), 0);
            let mut lock = Box::new(Lock {
                redis,
                key,
                owner,
                saves,
                extending,
            });
            let (redis, key) = (lock.redis.clone(), lock.key.clone());
            lock.extending.spawn(async move {
                // Until Redis says that the lock is lost. Two may fail.
                while !matches!(run(&redis, EXTEND, &key, (&owner, LEASE)).await, Ok(false)) {
                    sleep(Duration::from_millis(LEASE / 3)).await;
                }
            });
            Ok(TryLock::Locked(lock))
        })
    }
}

struct Lock<C> {
    redis: C,
    key: StoreKey,
    /// Proves in each save that the lock is still this one's.
    owner: [u8; 16],
    /// Counted, so that a save that was given up is told from a later one.
    saves: u64,
    /// Ends with the lock.
    extending: JoinSet<()>,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> StoreLock for Lock<C> {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let Stored { header, record, .. } = stored;
            let text = |version: Version| format!("{} {}", version.family, version.revision);
            let (expected, new) = (expected.map(text).unwrap_or_default(), text(header.version));
            let form: Form = (
                [header.version.family, header.version.revision],
                header.mark.map(|mark| (mark.count, mark.settles_in)),
                [header.not_before, header.expires_in],
                record.map(|record| record.expose().to_vec()),
            );
            let form = serde_json::to_vec(&form).expect("numbers can be written");
            self.saves += 1;
            let args = (&self.owner, LEASE, self.saves, expected, new, form);
            settled(run(&self.redis, SAVE, &self.key, args).await?)
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { settled(run(&self.redis, QUARANTINE, &self.key, &self.owner).await?) })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // A lock that can't be freed ends by itself.
            let _: Result<bool, _> = run(&self.redis, UNLOCK, &self.key, &self.owner).await;
        })
    }
}

/// A script runs in one step. Its two keys are in one hash slot: that of the name in braces.
async fn run<T: FromRedisValue>(
    redis: &(impl ConnectionLike + Clone),
    script: &str,
    key: &StoreKey,
    args: impl ToRedisArgs,
) -> Result<T, Error> {
    let keys = ["lock", "record"].map(|of| format!("{{{}}}:{of}", key.name()));
    let mut call = redis::cmd("EVAL");
    call.arg(script).arg(2).arg(&keys).arg(args);
    let said = call.query_async(&mut redis.clone()).await;
    said.map_err(unavailable)
}

fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let kind = ErrorKind::StoreUnavailable;
    Error::store(kind, "Redis can't be used", Some(source.into()))
}

fn settled(said: String) -> Result<(), Error> {
    match &*said {
        "saved" => Ok(()),
        _ => Err(Error::store(ErrorKind::StoreConflict, said, None)),
    }
}

/// In ms. The lock of a process that died is free after this time.
const LEASE: u64 = 3000;

const LOCK: &str = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0";
const EXTEND: &str = "
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0";
const UNLOCK: &str = "
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0";
const LOAD: &str = "
local found, time = redis.call('HMGET', KEYS[2], 'at', 'form'), redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return found[1] and {string.format('%.0f', math.max(now - found[1], 0)), found[2]}";
const SAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'the lock was lost' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local found, time = redis.call('HMGET', KEYS[2], 'by', 'saves', 'version'), redis.call('TIME')
local ours = found[1] == ARGV[1]
if ours and tonumber(found[2]) > tonumber(ARGV[3]) then return 'a later save has come' end
if (found[3] or '') ~= ARGV[4] and not (ours and found[3] == ARGV[5]) then return 'another pair is stored' end
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[2], 'by', ARGV[1], 'saves', ARGV[3], 'version', ARGV[5], 'form', ARGV[6], 'at', now)
return 'saved'";
const QUARANTINE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'the lock was lost' end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[2] .. ':rejected') end
return 'saved'";
