//! A store is used from several runtimes at once, and outlives each of them.

use std::{panic::resume_unwind, sync::Arc, thread, time::Duration};

use tokio::{runtime, sync::oneshot, time};

use super::{load, locked, save, stored, version};
use crate::store::{StoreKey, TokenStore};

pub(super) async fn one_does_not_disturb_another<S: TokenStore>(
    store: &impl Fn() -> S,
    key: &StoreKey,
) {
    let store = Arc::new(store());
    assert_eq!(load(&store, key).await, None);
    let (send, mut receive) = oneshot::channel();
    let elsewhere = thread::spawn({
        let (store, key) = (store.clone(), key.clone());
        move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            let work = async {
                let mut lock = locked(&store, &key).await;
                for number in 1..=20 {
                    let expected = (number > 1).then(|| version(1, number - 1));
                    let saved = save(&mut lock, expected, &stored(1, number, b"elsewhere")).await;
                    saved.expect("saving while another runtime is at work");
                    load(&store, &key).await.expect("stored");
                }
                lock
            };
            let lock =
                runtime.block_on(async { time::timeout(Duration::from_secs(20), work).await });
            drop(runtime);
            // If the other side has panicked there is nobody to take it.
            let _ = send.send(lock.expect("a store works also where another runtime uses it"));
        }
    });
    let lock = loop {
        tokio::select! {
            lock = &mut receive => break lock,
            _ = load(&store, key) => tokio::task::yield_now().await,
        }
    };
    if let Err(panicked) = elsewhere.join() {
        resume_unwind(panicked);
    }
    let mut lock = lock.expect("it was sent, or the thread has panicked");
    // The runtime on which the lock was taken has ended. Whoever takes over has the lock.
    let saved = save(&mut lock, Some(version(1, 20)), &stored(1, 21, b"here")).await;
    saved.expect("a lock outlives the runtime on which it was taken");
    let found = load(&store, key).await.expect("stored");
    assert_eq!(found.header.version, version(1, 21));
    lock.quarantine().await.expect("quarantine");
    lock.unlock().await;
    locked(&store, key).await.unlock().await;
}
