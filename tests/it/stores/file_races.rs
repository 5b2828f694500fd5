//! A file store under load, and what it costs the runtime.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g21_a_load_sees_a_whole_save_however_often_it_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    let mut lock = locked(&store).await;
    lock.save(None, stored(version(1, 0), &0_u64.to_le_bytes()))
        .await
        .expect("saving");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                loop {
                    let seen = store
                        .load(&key())
                        .await
                        .expect("a whole record")
                        .expect("stored");
                    let record = seen.record.expect("a record").expose().to_vec();
                    assert_eq!(record, seen.header.version.revision.to_le_bytes());
                    if seen.header.version.revision == 100 {
                        return;
                    }
                }
            })
        })
        .collect();
    for next in 1..=100_u64 {
        let saved = lock
            .save(
                Some(version(1, next - 1)),
                stored(version(1, next), &next.to_le_bytes()),
            )
            .await;
        saved.expect("saving");
    }
    for reader in readers {
        reader.await.expect("a reader that saw whole saves only");
    }
}

#[tokio::test]
async fn g24_a_save_that_was_given_up_ends_before_the_next_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    let mut lock = locked(&store).await;
    lock.save(None, stored(version(1, 0), b"x"))
        .await
        .expect("saving");
    for next in 1..=30 {
        let pair = stored(version(1, next), &vec![b'x'; 50_000]);
        {
            let mut given_up = lock.save(Some(version(1, next - 1)), pair.clone());
            let begun = poll_fn(|context| {
                std::task::Poll::Ready(given_up.as_mut().poll(context).is_pending())
            })
            .await;
            assert!(begun, "it runs on a thread of its own");
        }
        lock.save(Some(version(1, next - 1)), pair)
            .await
            .expect("the same save again is no conflict");
    }
    let TryLock::Busy(_) = store.try_lock(&key()).await.expect("asking") else {
        panic!("it is held")
    };
    let pair = stored(version(1, 31), b"test-only-last");
    {
        let mut given_up = lock.save(Some(version(1, 30)), pair);
        let _ =
            poll_fn(|context| std::task::Poll::Ready(given_up.as_mut().poll(context).is_pending()))
                .await;
    }
    // The lock is free only when the save that was given up is done.
    drop(lock);
    let lock = loop {
        if let TryLock::Locked(lock) = store.try_lock(&key()).await.expect("asking") {
            break lock;
        }
    };
    assert_eq!(record(&store).await, b"test-only-last");
    lock.unlock().await;
}

#[tokio::test]
async fn g24_no_step_of_a_file_store_holds_up_the_runtime() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    let (begun, mut held_up) = (Instant::now(), Duration::ZERO);
    for round in 0..4 {
        let (mut lock, asking) = longest_step(locked(&store)).await;
        // So large that its reading and writing takes long.
        let pair = stored(version(1, round), &vec![b'x'; 300_000]);
        let (saved, saving) =
            longest_step(lock.save((round > 0).then(|| version(1, round - 1)), pair)).await;
        saved.expect("saving");
        let (seen, loading) = longest_step(store.load(&key())).await;
        seen.expect("loading").expect("a whole pair");
        let ((), unlocking) = longest_step(lock.unlock()).await;
        held_up += asking + saving + loading + unlocking;
    }
    // The machine may be busy: what counts is that the work is not done, or waited for, in the steps.
    assert!(
        held_up * 5 < begun.elapsed(),
        "{held_up:?} of {:?}",
        begun.elapsed()
    );
}
