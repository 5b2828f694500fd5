//! The contract finds what is wrong with a store: each of these breaks one promise.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock},
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{runtime::Handle, sync::oneshot, time};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Everybody gets the lock.
    NoLock,
    /// A lock is kept although the question for it was given up.
    KeptLock,
    /// A save that was given up is carried out a while later.
    LateSave,
    /// The header is written before the record.
    TornSave,
    /// Times are moments, and a long span is beyond them.
    NoLongSpan,
    /// A mark that has settled is forgotten.
    NoSettledMark,
    /// It works only on the runtime on which it was first used.
    OneRuntime,
}

const SOON: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn g21_the_contract_finds_what_is_wrong_with_a_store() {
    for (fault, complaint) in [
        (Fault::NoLock, "does not get the lock"),
        (Fault::KeptLock, "dropped or given up is free again"),
        (Fault::LateSave, "never lands over a later one"),
        (Fault::TornSave, "as a whole or not at all"),
        (Fault::NoLongSpan, "overflow"),
        (Fault::NoSettledMark, "also one that has settled is a mark"),
        (Fault::OneRuntime, "another runtime"),
    ] {
        let store = Broken {
            store: MemoryStore::new(),
            fault,
            runtime: Arc::default(),
        };
        let result = AssertUnwindSafe(contract_suite(|| store.clone())).catch_unwind();
        let panic = result.await.expect_err("it is broken");
        let text = panic.downcast::<String>().map(|text| *text);
        let text = text.or_else(|panic| panic.downcast::<&str>().map(|text| text.to_string()));
        let text = text.expect("a message");
        assert!(text.contains(complaint), "{fault:?}: {text}");
    }
}

/// A sound store with a fault in front of it.
#[derive(Clone)]
struct Broken {
    store: MemoryStore,
    fault: Fault,
    runtime: Arc<OnceLock<tokio::runtime::Id>>,
}

impl TokenStore for Broken {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async {
            let mut found = self.store.load(key).await?;
            if let (Fault::NoSettledMark, Some(stored)) = (self.fault, &mut found) {
                stored.header.mark.take_if(|mark| mark.settles_in.is_zero());
            }
            Ok(found)
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            let here = Handle::current().id();
            if self.fault == Fault::OneRuntime && *self.runtime.get_or_init(|| here) != here {
                let message = "this is another runtime";
                return Err(Error::store(ErrorKind::StoreUnavailable, message, None));
            }
            let (send, asked) = oneshot::channel();
            let (store, key, fault) = (self.store.clone(), key.clone(), self.fault);
            let ask = async move {
                if fault == Fault::KeptLock {
                    time::sleep(SOON).await;
                }
                let lock = match store.try_lock(&key).await {
                    // Another store's lock is as good as none.
                    Ok(TryLock::Busy(_)) if fault == Fault::NoLock => {
                        MemoryStore::new().try_lock(&key).await
                    }
                    lock => lock,
                };
                if let Err(lock) = send.send(lock) {
                    std::mem::forget(lock);
                }
            };
            if fault == Fault::KeptLock {
                tokio::spawn(ask);
            } else {
                ask.await;
            }
            match asked.await.expect("it was asked for")? {
                TryLock::Locked(lock) => Ok(TryLock::Locked(Box::new(BrokenLock {
                    lock: Arc::new(Mutex::new(lock)),
                    fault,
                }))),
                busy => Ok(busy),
            }
        })
    }
}

struct BrokenLock {
    lock: Arc<Mutex<Box<dyn StoreLock>>>,
    fault: Fault,
}

impl StoreLock for BrokenLock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            match self.fault {
                Fault::LateSave => {
                    let mut late = LateSave(Some((self.lock.clone(), expected, stored)));
                    tokio::task::yield_now().await;
                    let (lock, expected, stored) = late.0.take().expect("it was put there");
                    return save_in(&lock, expected, stored);
                }
                Fault::TornSave => {
                    let torn = Stored::new(stored.header, None);
                    save_in(&self.lock, expected, torn)?;
                    time::sleep(SOON).await;
                }
                Fault::NoLongSpan => {
                    let _ = Instant::now() + stored.header.expires_in.unwrap_or_default();
                }
                _ => {}
            }
            save_in(&self.lock, expected, stored)
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        let mut lock = self.lock.lock().expect("no panic");
        let quarantined = lock.quarantine().now_or_never();
        Box::pin(std::future::ready(quarantined.expect("it is in memory")))
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(async {})
    }
}

type Lock = Arc<Mutex<Box<dyn StoreLock>>>;

/// Is carried out when it is given up.
struct LateSave(Option<(Lock, Option<Version>, Stored)>);

impl Drop for LateSave {
    fn drop(&mut self) {
        if let Some((lock, expected, stored)) = self.0.take() {
            tokio::spawn(async move {
                time::sleep(SOON).await;
                save_in(&lock, expected, stored)
            });
        }
    }
}

fn save_in(
    lock: &Mutex<Box<dyn StoreLock>>,
    expected: Option<Version>,
    stored: Stored,
) -> Result<(), Error> {
    let mut lock = lock.lock().expect("no panic");
    let saved = lock.save(expected, stored).now_or_never();
    saved.expect("it is in memory")
}
