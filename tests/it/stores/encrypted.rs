//! What an encrypted store protects.

use super::*;

fn with(key: u8, store: &MemoryStore) -> EncryptedStore<MemoryStore> {
    EncryptedStore::new(store.clone(), EncryptionKey::from_bytes([key; 32]))
}

#[tokio::test]
async fn g22_the_wrong_key_is_a_clear_error_and_destroys_nothing() {
    let inner = MemoryStore::new();
    save(&with(1, &inner), stored(version(1, 1), b"test-only-pair")).await;
    let sealed = inner.load(&key()).await.expect("loading");

    let wrong = with(2, &inner);
    let error = refused(&wrong).await;
    assert_eq!(
        error.kind(),
        ErrorKind::StoreUnreadable,
        "never taken for corrupt, so never quarantined"
    );
    assert!(
        error.to_string().contains("key") && !error.is_transient(),
        "{error}"
    );
    let mut lock = locked(&wrong).await;
    assert_eq!(
        kind(lock.save(None, stored(version(2, 1), b"x")).await),
        Some(ErrorKind::StoreConflict)
    );
    lock.unlock().await;
    assert_eq!(
        inner.load(&key()).await.expect("loading").map(|s| s.record),
        sealed.map(|s| s.record)
    );
    assert_eq!(record(&with(1, &inner)).await, b"test-only-pair");
}

#[tokio::test]
async fn g22_what_was_not_sealed_for_this_place_is_unreadable() {
    let inner = MemoryStore::new();
    let store = with(1, &inner);
    save(&store, stored(version(1, 5), b"test-only-pair")).await;
    let sealed = inner.load(&key()).await.expect("loading").expect("stored");
    let bytes = sealed.record.as_ref().expect("sealed").expose().to_vec();
    assert!(
        !bytes.windows(9).any(|part| part == b"test-only"),
        "the inner store sees no token"
    );

    let mut changed = bytes.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    let cases = [
        ("changed", stored(version(1, 5), &changed)),
        (
            "cut short",
            stored(version(1, 5), &bytes[..bytes.len() - 1]),
        ),
        ("a version that it never had", stored(version(1, 6), &bytes)),
        ("another family", stored(version(2, 5), &bytes)),
        ("not encrypted", stored(version(1, 5), br#"{"form":1}"#)),
        ("empty", stored(version(1, 5), b"")),
        (
            "of a newer form",
            stored(version(1, 5), b"sealed:2 something"),
        ),
    ];
    for (case, tampered) in cases {
        save(&inner, tampered).await;
        assert_eq!(
            refused(&store).await.kind(),
            ErrorKind::StoreUnreadable,
            "{case}"
        );
    }

    // Another account's pair, put in the place of this one.
    let other = StoreKey::new("https://ws.example", "other").expect("a good key");
    let TryLock::Locked(mut lock) = inner.try_lock(&other).await.expect("asking") else {
        panic!("it is free")
    };
    lock.save(None, sealed).await.expect("saving");
    assert_eq!(
        kind(store.load(&other).await),
        Some(ErrorKind::StoreUnreadable)
    );
}

/// So a process that holds the newer one can tell.
#[tokio::test]
async fn g25_an_older_pair_that_was_put_back_has_its_own_version() {
    let inner = MemoryStore::new();
    let store = with(1, &inner);
    save(&store, stored(version(1, 1), b"test-only-older")).await;
    let older = inner.load(&key()).await.expect("loading").expect("stored");
    save(&store, stored(version(1, 2), b"test-only-newer")).await;
    assert_eq!(record(&store).await, b"test-only-newer");

    save(&inner, older.clone()).await;
    let seen = store.load(&key()).await.expect("loading").expect("stored");
    assert_eq!(seen.header.version, version(1, 1));
    assert_eq!(record(&store).await, b"test-only-older");

    let sealed = older.record.as_ref().expect("sealed").expose();
    save(&inner, stored(version(1, 2), sealed)).await;
    assert_eq!(refused(&store).await.kind(), ErrorKind::StoreUnreadable);
}

/// First all learn to read the new key, then all write it, then the old one goes.
#[tokio::test]
async fn g22_a_key_is_changed_while_a_fleet_runs() {
    let inner = MemoryStore::new();
    let both =
        |key: u8, second: u8| with(key, &inner).second_key(EncryptionKey::from_bytes([second; 32]));
    let (old, learns, writes, new) = (with(1, &inner), both(1, 2), both(2, 1), with(2, &inner));
    save(&old, stored(version(1, 1), b"test-only-old")).await;
    for store in [&learns, &writes] {
        assert_eq!(record(store).await, b"test-only-old");
    }
    assert_eq!(refused(&new).await.kind(), ErrorKind::StoreUnreadable);

    save(&learns, stored(version(1, 2), b"test-only-learns")).await;
    for store in [&old, &learns, &writes] {
        assert_eq!(record(store).await, b"test-only-learns");
    }
    save(&writes, stored(version(1, 3), b"test-only-writes")).await;
    for store in [&learns, &writes, &new] {
        assert_eq!(record(store).await, b"test-only-writes");
    }
    assert_eq!(refused(&old).await.kind(), ErrorKind::StoreUnreadable);

    // Neither key opens what was not sealed for this place, or with a third.
    let elsewhere = MemoryStore::new();
    save(&with(3, &elsewhere), stored(version(1, 4), b"test-only")).await;
    let third = elsewhere
        .load(&key())
        .await
        .expect("loading")
        .expect("stored");
    save(&inner, third).await;
    assert_eq!(refused(&writes).await.kind(), ErrorKind::StoreUnreadable);
    save(&inner, stored(version(1, 5), br#"{"form":1}"#)).await;
    assert_eq!(refused(&writes).await.kind(), ErrorKind::StoreUnreadable);
    assert!(!format!("{writes:?}").contains("2, 2"));
}
