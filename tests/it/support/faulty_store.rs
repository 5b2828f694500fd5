//! A store that does wrong where a test wants it to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use apivideo_auth::{
    Error, ErrorKind,
    store::{StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
};
use futures::future::BoxFuture;
use tokio::sync::Notify;

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Load,
    Lock,
    /// A save that marks the refresh token.
    Mark,
    /// A save of the same pair without a mark.
    Touch,
    /// A save of a new pair.
    Pair,
    Quarantine,
    Unlock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// Called before and after each operation; an error becomes the operation's.
pub(crate) type Hook = Arc<dyn Fn(Op, When) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

pub(crate) fn hook<F>(f: impl Fn(Op, When) -> F + Send + Sync + 'static) -> Hook
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    Arc::new(move |op, when| Box::pin(f(op, when)))
}

/// The store is away wherever `fails` says so.
pub(crate) fn failing(fails: impl Fn(Op, When) -> bool + Send + Sync + 'static) -> Hook {
    hook(move |op, when| {
        let fails = fails(op, when);
        let away = || Error::store(ErrorKind::StoreUnavailable, "the store is away", None);
        async move { if fails { Err(away()) } else { Ok(()) } }
    })
}

/// Stops once, at a given place, until it is told to go on.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    pub(crate) reached: Arc<Notify>,
    pub(crate) go_on: Arc<Notify>,
    done: Arc<AtomicBool>,
}

impl Stop {
    pub(crate) fn at(&self, place: (Op, When)) -> Hook {
        let stop = self.clone();
        hook(move |op, when| {
            let stop = stop.clone();
            async move {
                if (op, when) == place && !stop.done.swap(true, Ordering::SeqCst) {
                    stop.reached.notify_one();
                    stop.go_on.notified().await;
                }
                Ok(())
            }
        })
    }
}

/// Another store with a hook at each operation.
#[derive(Clone)]
pub(crate) struct FaultyStore<S> {
    store: S,
    hook: Hook,
}

impl<S> FaultyStore<S> {
    pub(crate) fn new(store: S, hook: Hook) -> Self {
        Self { store, hook }
    }
}

async fn around<T>(
    hook: &Hook,
    op: Op,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    hook(op, When::Before).await?;
    let result = work.await?;
    hook(op, When::After).await?;
    Ok(result)
}

impl<S: TokenStore> TokenStore for FaultyStore<S> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(around(&self.hook, Op::Load, self.store.load(key)))
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(around(&self.hook, Op::Lock, async {
            Ok(match self.store.try_lock(key).await? {
                TryLock::Locked(lock) => TryLock::Locked(Box::new(FaultyLock {
                    lock,
                    hook: self.hook.clone(),
                })),
                busy => busy,
            })
        }))
    }
}

struct FaultyLock {
    lock: Box<dyn StoreLock>,
    hook: Hook,
}

impl StoreLock for FaultyLock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let op = match stored.header.mark {
            Some(mark) if !mark.settles_in.is_zero() => Op::Mark,
            _ if expected == Some(stored.header.version) => Op::Touch,
            _ => Op::Pair,
        };
        Box::pin(around(&self.hook, op, self.lock.save(expected, stored)))
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(around(&self.hook, Op::Quarantine, self.lock.quarantine()))
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // An unlock that hangs or is killed is all that the hook can do.
            let Self { lock, hook } = *self;
            let _ = around(&hook, Op::Unlock, async {
                lock.unlock().await;
                Ok(())
            })
            .await;
        })
    }
}
