//! Of many that ask at once, one gets the lock; and nobody keeps it for a question that was given up.

use std::time::Duration;

use futures::{FutureExt as _, future::join_all};

use super::{free_again, load, locked, save, stored, version};
use crate::store::{StoreKey, TokenStore, TryLock};

pub(super) async fn one_of_many_has_it<S: TokenStore>(store: &impl Fn() -> S, key: &StoreKey) {
    let processes: Vec<S> = (0..16).map(|_| store()).collect();
    for _ in 0..4 {
        let asked = join_all(processes.iter().map(|process| process.try_lock(key))).await;
        let locks = asked.into_iter().filter_map(|asked| match asked {
            Ok(TryLock::Locked(lock)) => Some(lock),
            Ok(TryLock::Busy(_)) => None,
            Err(error) => panic!("asking for a lock that others ask for too: {error:?}"),
        });
        let mut locks: Vec<_> = locks.collect();
        assert_eq!(
            locks.len(),
            1,
            "of many that ask at once, one gets the lock"
        );
        if let Some(lock) = locks.pop() {
            lock.unlock().await;
        }
    }
}

pub(super) async fn given_up_it_is_free<S: TokenStore>(store: &impl Fn() -> S, key: &StoreKey) {
    let (one, two) = (store(), store());
    for polls in 0..4 {
        let mut asked = one.try_lock(key);
        for _ in 0..polls {
            if (&mut asked).now_or_never().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(asked);
        let mut lock = free_again(&two, key).await;
        // It is this one's, whatever becomes of the one that was given up.
        let first = stored(1, polls, b"first");
        save(&mut lock, None, &first).await.expect("the first save");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let same = save(&mut lock, Some(version(1, polls)), &first).await;
        same.expect("the lock is still held");
        lock.quarantine().await.expect("quarantine");
        lock.unlock().await;
    }
    assert_eq!(load(&one, key).await, None);
    locked(&one, key).await.unlock().await;
}
