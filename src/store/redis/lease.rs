//! A lock that ends by itself.
//!
//! A process that dies can't unlock, so the lock is a key that expires. A process that lives
//! extends it. One that was held up for longer than the lease has lost it without noticing: so each
//! save proves, in the same step, that the lock is still its own.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use redis::Value;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{self, Instant},
};

use super::{FORM, Keys, LEASE, connection::Redis, script};
use crate::{
    clock::system_now,
    error::{Error, ErrorKind},
    store::{Header, StoreLock, Stored, Version},
};

/// How often a held lease is extended, from sending to sending.
const EXTEND_EVERY: Duration = Duration::from_millis(1500);

/// An extension that hangs is given up after this time, and sent again at once over a new connection. So two may be
/// lost before the lease is: 1.5 s, and twice this, leave more than a second of its 5 s for a third.
const EXTEND_WITHIN: Duration = Duration::from_millis(1100);

/// Extensions that fail at once are sent again no sooner.
const EXTEND_AGAIN: Duration = Duration::from_millis(250);

/// A record that was quarantined is kept for a week: time enough for a person to look at it, and no pair lies about for
/// ever.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Far beyond any honest time, and small enough for Lua to add up exactly.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A held lock, and the task that keeps it.
pub(super) struct Lease {
    redis: Arc<Redis>,
    keys: Arc<Keys>,
    /// A random value, and who we are. Nobody else's lock is touched, nor is this one after it was lost.
    owner: String,
    /// Counts the saves under this lock. Redis remembers the last number, so that a save that was
    /// given up and arrives late is told from a newer one.
    saves: u64,
    /// Ended before the lock is freed, so that no call is made for a lock that is gone.
    extension: AbortHandle,
    /// Whether `unlock` has been carried out, so that `Drop` need not.
    released: bool,
}

impl Lease {
    /// Starts to extend a lock that was asked for at `asked`: it lives from then on.
    pub(super) fn new(redis: Arc<Redis>, keys: Keys, owner: String, asked: Instant) -> Self {
        let extension = extension(redis.clone(), &keys, &owner, asked);
        Self {
            redis,
            keys: Arc::new(keys),
            owner,
            saves: 0,
            extension,
            released: false,
        }
    }

    /// Frees the lock if it is still this one's.
    fn release(&self) -> impl Future<Output = ()> + Send + use<> {
        self.extension.abort();
        let mut call = self.keys.call(script::UNLOCK, &["lock"]);
        call.arg(&self.owner);
        let redis = self.redis.clone();
        async move {
            // If it fails, the lease ends by itself.
            let _ = redis.run(&call).await;
        }
    }
}

impl StoreLock for Lease {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        // Counted when it is asked for, not when it is sent: a save that was given up has the lower
        // number, whenever it gets to Redis.
        self.saves += 1;
        let Header {
            version,
            mark,
            not_before,
            expires_in,
        } = stored.header;
        let Version { family, revision } = expected.unwrap_or(Version {
            family: 0,
            revision: 0,
        });
        let span = |span: Option<Duration>| text(span.map(|span| span.min(LONGEST).as_millis()));
        let mut call = self.keys.call(script::SAVE, &["lock", "record"]);
        call.arg(&self.owner)
            .arg(LEASE.as_millis())
            .arg(self.saves)
            .arg(u8::from(expected.is_some()))
            .arg(family)
            .arg(revision)
            .arg(FORM)
            .arg(version.family)
            .arg(version.revision)
            .arg(text(mark.map(|mark| mark.count)))
            .arg(span(mark.map(|mark| mark.settles_in)))
            .arg(span(not_before))
            .arg(span(expires_in));
        // An empty record is a record: that there is none needs a field of its own.
        match &stored.record {
            Some(record) => call.arg("").arg(record.expose()),
            None => call.arg(1).arg(""),
        };
        Box::pin(async move {
            let asked = Instant::now();
            settled(self.redis.run(&call).await?)?;
            // The runtime on which the lock was taken has ended: whoever goes on keeps it.
            if self.extension.is_finished() {
                self.extension = extension(self.redis.clone(), &self.keys, &self.owner, asked);
            }
            Ok(())
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        let since = system_now()
            .wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let aside = format!("rejected-{}", since.as_millis());
        let mut call = self
            .keys
            .call(script::QUARANTINE, &["lock", "record", &aside]);
        call.arg(&self.owner).arg(QUARANTINE.as_millis());
        Box::pin(async move { settled(self.redis.run(&call).await?) })
    }

    fn unlock(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.release().await;
            // Not before: dropped in the middle, `Drop` frees the lock.
            self.released = true;
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.extension.abort();
        if let (false, Ok(runtime)) = (self.released, Handle::try_current()) {
            runtime.spawn(self.release());
        }
    }
}

/// Extends a lock until Redis says that it is lost.
fn extension(redis: Arc<Redis>, keys: &Keys, owner: &str, asked: Instant) -> AbortHandle {
    let mut extend = keys.call(script::EXTEND, &["lock"]);
    extend.arg(owner).arg(LEASE.as_millis());
    let extending = async move {
        let mut next = asked + EXTEND_EVERY;
        loop {
            time::sleep_until(next).await;
            let sent = Instant::now();
            next = match redis.run_within(EXTEND_WITHIN, &extend).await {
                Ok(Value::Int(0)) => return,
                Ok(_) => sent + EXTEND_EVERY,
                // While Redis is away the lease may end; what is saved then is refused.
                Err(_) => sent + EXTEND_AGAIN,
            };
        }
    };
    tokio::spawn(extending).abort_handle()
}

/// A field's value; what is absent is empty.
fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// What a script's last word means.
fn settled(response: Value) -> Result<(), Error> {
    let word = match &response {
        Value::BulkString(word) => &**word,
        _ => b"",
    };
    let (kind, message) = match word {
        b"saved" => return Ok(()),
        b"lost" => (
            ErrorKind::StoreConflict,
            "the lock in Redis was lost: this process was held up, or Redis was",
        ),
        b"conflict" | b"overtaken" => (
            ErrorKind::StoreConflict,
            "another pair was stored in the meantime",
        ),
        _ => (
            ErrorKind::StoreUnavailable,
            "Redis sent an unexpected response",
        ),
    };
    Err(Error::new(kind, message))
}
