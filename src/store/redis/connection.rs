//! The way to Redis.
//!
//! One connection, shared by all calls of a store and replaced when it breaks. The library's own
//! manager is not used: the task that drives a connection belongs to one runtime, and a store may be
//! used from several.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind as RedisErrorKind, RedisConnectionInfo, RedisError,
    Value, aio::MultiplexedConnection,
};
use tokio::{
    runtime::{self, Handle},
    sync::Mutex,
    task::AbortHandle,
    time,
};

use super::{
    address::{self, Address},
    stream::{self, Tls},
};
use crate::error::{Error, ErrorKind};

/// A call to Redis gets its response within this time, or fails. It is less than the lease, so that
/// a call that was given up is over before the lease is.
const DEADLINE: Duration = Duration::from_secs(3);

/// Where Redis is, how to log in, and the connection that is open.
pub(super) struct Redis {
    address: Address,
    settings: RedisConnectionInfo,
    tls: Option<Tls>,
    /// Locked while connecting too, so that many callers make one connection.
    open: Mutex<Option<Open>>,
    /// Counts connections, so that a call that failed closes the one that it used and no newer one.
    opened: AtomicU64,
}

/// A connection is worth nothing on another runtime than the one that drives it.
///
/// When the runtime ends, the task that drives a connection ends with it, and a call over it would
/// wait for ever.
struct Open {
    connection: MultiplexedConnection,
    number: u64,
    runtime: runtime::Id,
    driver: AbortHandle,
}

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
            open: Mutex::new(None),
            opened: AtomicU64::new(0),
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
        let used = AtomicU64::new(0);
        match time::timeout(DEADLINE, self.try_twice(call, &used)).await {
            Ok(result) => result,
            Err(_) => {
                // What hangs on the connection would hold up what comes next.
                if let Ok(mut open) = self.open.try_lock() {
                    open.take_if(|open| open.number == used.load(Relaxed));
                }
                Err(self.address.unavailable("did not answer within 3 s", None))
            }
        }
    }

    /// Sends the call, and once more over a new connection if an old one broke: Redis may have been
    /// restarted since. `used` tells the caller which connection to close if time runs out.
    async fn try_twice(&self, call: &Cmd, used: &AtomicU64) -> Result<Value, Error> {
        for may_be_stale in [true, false] {
            let (mut connection, number, kept) = self.connection().await?;
            // Before the call: if time runs out in it, `run` has to know which connection hangs.
            used.store(number, Relaxed);
            let failed = match call.query_async(&mut connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // Another call may have replaced it already.
            self.open.lock().await.take_if(|open| open.number == number);
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

    /// A connection, its number, and whether it was there before.
    ///
    /// One that belongs to another runtime is left to it: it may be in use there.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64, bool), Error> {
        let mut open = self.open.lock().await;
        let runtime = Handle::current().id();
        if let Some(open) = open.as_ref().filter(|open| open.runtime == runtime) {
            return Ok((open.connection.clone(), open.number, true));
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let stream = stream::connect(&self.address, self.tls.as_ref()).await?;
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&self.settings, stream, config)
                .await
                .map_err(|error| self.explain(error))?;
        let driver = tokio::spawn(driver).abort_handle();
        let number = 1 + self.opened.fetch_add(1, Relaxed);
        *open = Some(Open {
            connection: connection.clone(),
            number,
            runtime,
            driver,
        });
        Ok((connection, number, false))
    }

    /// Redis's own word for an error decides; its text is kept as the source.
    fn explain(&self, error: RedisError) -> Error {
        if error.code() == Some("WRONGTYPE") {
            let message = "what Redis holds is not a record of this crate";
            return Error::with_source(ErrorKind::StoreCorrupt, message, error);
        }
        let what = match error.kind() {
            RedisErrorKind::Server(_) | RedisErrorKind::Extension => "declined",
            RedisErrorKind::AuthenticationFailed => "refused the user name or password",
            _ => "broke the connection",
        };
        self.address.unavailable(what, Some(error.into()))
    }
}
