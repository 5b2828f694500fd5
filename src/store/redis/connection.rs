//! The way to Redis: one connection for each runtime, replaced when it breaks.
//!
//! The library's own manager is not used: the task that drives a connection belongs to one runtime,
//! and a store may be used from several at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind as RedisErrorKind, RedisConnectionInfo, RedisError,
    Value, aio::MultiplexedConnection,
};
use tokio::{
    runtime::{self, Handle},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{
    address::{self, Address},
    stream::{self, Tls},
};
use crate::error::{Error, ErrorKind};

/// A call to Redis gets its response within this time, or fails. It is less than the lease, so that
/// a call that was given up is over before the lease is.
const DEADLINE: Duration = Duration::from_secs(3);

/// Where Redis is, how to log in, and the connections that are open.
pub(super) struct Redis {
    address: Address,
    settings: RedisConnectionInfo,
    tls: Option<Tls>,
    slots: Mutex<HashMap<runtime::Id, Arc<Slot>>>,
}

/// What one runtime has of a store.
#[derive(Default)]
struct Slot {
    open: Mutex<Option<Arc<Open>>>,
    /// Held while connecting, so that many callers make one connection.
    connecting: tokio::sync::Mutex<()>,
}

/// A connection. The task that drives it ends with its runtime, and the stream with the task.
struct Open {
    connection: MultiplexedConnection,
    driver: AbortHandle,
}

/// The slot has it, and each call that is under way: when one call gives a connection up, the others may still get
/// their response. After the last one nothing more is sent over it.
impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Redis {
    /// Checks a URL, without connecting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]; the URL is not quoted, for it may hold a password.
    pub(super) fn new(
        url: &str,
        allow_plaintext: bool,
        root_certificates: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let (address, settings) = Address::parse(url, allow_plaintext)?;
        let tls = match (&address, root_certificates) {
            (Address::Tcp { tls: true, .. }, pem) => Some(Tls::new(pem)?),
            (_, None) => None,
            (_, Some(_)) => {
                return Err(address::refuse(
                    "is without TLS, so certificates are of no use",
                ));
            }
        };
        Ok(Self {
            address,
            settings,
            tls,
            slots: Mutex::default(),
        })
    }

    /// For `Debug` of the store.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Carries out a call that can be sent twice.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StoreUnavailable`] if Redis does not respond in time, can't be reached or
    /// declines; [`ErrorKind::StoreCorrupt`] if the key holds something of another type.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not be carried out, as after an error.
    pub(super) async fn run(&self, call: &Cmd) -> Result<Value, Error> {
        self.run_within(DEADLINE, call).await
    }

    /// The same with a deadline of its own.
    ///
    /// Sends the call, and once more over a new connection if an old one broke: Redis may have been
    /// restarted since.
    pub(super) async fn run_within(&self, limit: Duration, call: &Cmd) -> Result<Value, Error> {
        let (slot, deadline) = (self.slot(), Instant::now() + limit);
        let late = |_| {
            self.address
                .unavailable(&format!("did not answer within {limit:?}"), None)
        };
        for may_be_stale in [true, false] {
            let (open, kept) = timeout_at(deadline, self.connection(&slot))
                .await
                .map_err(late)??;
            let mut connection = open.connection.clone();
            let failed = match timeout_at(deadline, call.query_async(&mut connection)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => Ok(error),
                Err(elapsed) => Err(elapsed),
            };
            // One that hangs would hold up what comes next. Another call may have replaced it already.
            slot.current()
                .take_if(|current| Arc::ptr_eq(current, &open));
            let failed = failed.map_err(late)?;
            let declined = matches!(
                failed.kind(),
                RedisErrorKind::Server(_) | RedisErrorKind::Extension
            );
            // A connection that was kept may have ended with the Redis of then.
            if declined || !(may_be_stale && kept) {
                return Err(self.explain(failed));
            }
        }
        Err(self.address.unavailable("broke the connection", None))
    }

    /// What the current runtime has.
    fn slot(&self) -> Arc<Slot> {
        let runtime = Handle::current().id();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&runtime) {
            return slot.clone();
        }
        // Of the runtimes that have ended: a program may make one for each piece of work.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.current().is_some());
        slots.entry(runtime).or_default().clone()
    }

    /// A connection, and whether it was there before.
    async fn connection(&self, slot: &Slot) -> Result<(Arc<Open>, bool), Error> {
        let _connecting = slot.connecting.lock().await;
        if let Some(open) = slot.current().clone() {
            return Ok((open, true));
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let stream = stream::connect(&self.address, self.tls.as_ref()).await?;
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&self.settings, stream, config)
                .await
                .map_err(|error| self.explain(error))?;
        let driver = tokio::spawn(driver).abort_handle();
        let open = Arc::new(Open { connection, driver });
        *slot.current() = Some(open.clone());
        Ok((open, false))
    }

    /// Redis's own word for an error decides; its text is kept as the source.
    fn explain(&self, error: RedisError) -> Error {
        if says(&error, "WRONGTYPE") {
            let message = "what Redis holds is not a record of this crate";
            return Error::with_source(ErrorKind::StoreCorrupt, message, error);
        }
        let known = REASONS.iter().find(|(word, _)| says(&error, word));
        let what = match (known, error.kind()) {
            (Some((_, what)), _) => what,
            (None, RedisErrorKind::Server(_) | RedisErrorKind::Extension) => "declined",
            (None, RedisErrorKind::AuthenticationFailed) => "refused the user name or password",
            (None, _) => "broke the connection",
        };
        self.address.unavailable(what, Some(error.into()))
    }
}

/// Redis's words for a server that can't be used as it is, and what to do.
const REASONS: [(&str, &str); 4] = [
    (
        "READONLY",
        "is a replica, which takes no writes; name the primary",
    ),
    ("MOVED", NO_CLUSTER),
    ("CLUSTERDOWN", NO_CLUSTER),
    (
        "NOREPLICAS",
        "takes no writes, since it has fewer replicas than its `min-replicas-to-write`",
    ),
];

const NO_CLUSTER: &str = "is a node of a cluster, and redirections are not followed; name a Redis of its own, or a proxy";

/// Whether this is Redis's word. Before version 7, that of a command in a script stands in the text only.
fn says(error: &RedisError, word: &str) -> bool {
    let in_text = |text: &str| text.contains(&format!("-{word} "));
    error.code() == Some(word) || error.detail().is_some_and(in_text)
}

impl Slot {
    /// The connection, if it is not known to have ended. Held for a few instructions.
    fn current(&self) -> MutexGuard<'_, Option<Arc<Open>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.take_if(|open| open.driver.is_finished());
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g24_runtimes_that_have_ended_leave_nothing_behind() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let url = format!("redis://{}", nobody.expect("a port"));
        let redis = Redis::new(&url, false, None).expect("a good URL");
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let failed = runtime.block_on(redis.run(&redis::cmd("PING")));
            assert!(failed.is_err(), "nobody is there");
            assert_eq!(redis.slots.lock().expect("no panic").len(), 1);
        }
    }
}
