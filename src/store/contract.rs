//! The promises of a store as one suite, which each store of this crate passes.

use std::time::Duration;

use super::{Header, InUseMark, Record, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version};
use crate::error::ErrorKind;

/// Checks that a store keeps its promises. `store` is asked for the store once for each process
/// that is played; all of them share what is stored, which has to be empty for the account
/// `contract`. Needs a Tokio runtime with time.
///
/// ```
/// use apivideo_auth::store::{MemoryStore, contract_suite};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = MemoryStore::new();
/// contract_suite(|| store.clone()).await;
/// # }
/// ```
///
/// It looks at the lock, the order of versions, repeated and refused saves, bytes that are no text,
/// spans that count down, clearing and quarantine. What takes another process to see (a lock that
/// outlives `kill -9`, a save that is torn) is not in it.
///
/// # Panics
///
/// If the store breaks a promise; the message says which.
pub async fn contract_suite<S: TokenStore>(store: impl Fn() -> S) {
    let (one, two) = (store(), store());
    let key = StoreKey::new("https://contract.example", "contract").expect("a good key");
    let other = StoreKey::new("https://contract.example", "contract.other").expect("a good key");

    assert_eq!(load(&one, &key).await, None, "nothing is stored at first");
    let mut lock = locked(&one, &key).await;
    let busy = matches!(two.try_lock(&key).await, Ok(TryLock::Busy(_)));
    assert!(busy, "a second process does not get the lock");
    drop(locked(&two, &other).await);

    let first = stored(1, 1, b"test-only-first\0\n\xff\xfe{}");
    save(&mut lock, Some(version(9, 9)), &first)
        .await
        .expect_err("nothing is stored, so nothing is expected");
    save(&mut lock, None, &first).await.expect("the first save");
    save(&mut lock, None, &first)
        .await
        .expect("the same save again: its response may have been lost");
    let seen = load(&two, &key)
        .await
        .expect("the other process sees the save");
    assert_eq!(
        seen.record, first.record,
        "the record comes back byte for byte"
    );
    assert_eq!(seen.header.version, first.header.version);
    assert_eq!((seen.header.mark, seen.header.not_before), (None, None));
    let left = seen.header.expires_in.expect("the expiry was saved");
    assert!(
        left <= Duration::from_secs(100) && left > Duration::from_secs(50),
        "spans count down: {left:?}"
    );
    assert_eq!(load(&two, &other).await, None, "accounts are apart");

    let mut marked = first.clone();
    marked.header.mark = Some(InUseMark {
        count: 2,
        settles_in: Duration::from_secs(15),
    });
    marked.header.not_before = Some(Duration::from_secs(30));
    save(&mut lock, Some(version(1, 1)), &marked)
        .await
        .expect("a save of the same version");
    let seen = load(&two, &key).await.expect("stored");
    let mark = seen.header.mark.expect("the mark was saved");
    assert_eq!(mark.count, 2);
    assert!(mark.settles_in <= Duration::from_secs(15) && mark.settles_in > Duration::ZERO);
    assert!(
        seen.header
            .not_before
            .is_some_and(|wait| wait <= Duration::from_secs(30) && !wait.is_zero())
    );

    let second = stored(1, 2, &vec![b'x'; 4096]);
    let conflict = save(&mut lock, Some(version(1, 7)), &second)
        .await
        .expect_err("another version is stored");
    assert_eq!(conflict.kind(), ErrorKind::StoreConflict);
    let still = load(&two, &key).await.expect("stored");
    assert_eq!(
        (
            still.record,
            still.header.version,
            still.header.mark.map(|mark| mark.count)
        ),
        (seen.record, seen.header.version, Some(2)),
        "a failed save changes nothing"
    );
    save(&mut lock, Some(version(1, 1)), &second)
        .await
        .expect("the next revision");
    let conflict = save(&mut lock, Some(version(1, 1)), &stored(1, 3, b""))
        .await
        .expect_err("it is 2 by now");
    assert_eq!(conflict.kind(), ErrorKind::StoreConflict);
    lock.unlock().await;

    let mut lock = locked(&two, &key).await;
    let before = load(&two, &key).await.expect("stored");
    lock.clear(before).await.expect("clearing");
    let cleared = load(&one, &key).await.expect("the counters stay");
    assert_eq!(
        (cleared.record, cleared.header.version),
        (None, version(1, 2)),
        "clearing keeps the counters"
    );
    lock.quarantine().await.expect("quarantine");
    assert_eq!(
        load(&one, &key).await,
        None,
        "what was quarantined is out of the way"
    );
    save(&mut lock, None, &first)
        .await
        .expect("the key is free again");
    let large = version(u64::MAX, (1 << 53) + 1);
    let empty = stored(large.family, large.revision, b"");
    save(&mut lock, Some(version(1, 1)), &empty)
        .await
        .expect("another family");
    let near = Version {
        revision: 1 << 53,
        ..large
    };
    save(&mut lock, Some(near), &first)
        .await
        .expect_err("versions are compared to the last digit");
    let seen = load(&one, &key).await.expect("stored");
    assert_eq!(
        (seen.header.version, &seen.record),
        (large, &empty.record),
        "an empty record is a record"
    );
    drop(lock);

    // A dropped lock may take the time of a lease to be free.
    let waiting = async {
        loop {
            match one.try_lock(&key).await.expect("asking for the lock") {
                TryLock::Locked(lock) => return lock,
                TryLock::Busy(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let mut lock = tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("a dropped lock is free again");
    save(&mut lock, Some(version(1, 1)), &empty)
        .await
        .expect_err("what another lock saved is not this one's");
    assert!(
        load(&one, &key).await.is_some(),
        "the record outlives its lock"
    );
    lock.quarantine().await.expect("quarantine");
    lock.unlock().await;
}

/// An error is as bad as a broken promise here: the store is expected to be well.
async fn load<S: TokenStore>(store: &S, key: &StoreKey) -> Option<Stored> {
    store.load(key).await.expect("loading")
}

/// The lock, which is free at this point.
async fn locked<S: TokenStore>(store: &S, key: &StoreKey) -> Box<dyn StoreLock> {
    match store.try_lock(key).await.expect("asking for the lock") {
        TryLock::Locked(lock) => lock,
        TryLock::Busy(holder) => panic!("the lock is free, yet {holder:?} holds it"),
    }
}

/// Asks for a copy to be saved, so that the suite can go on with the original.
async fn save(
    lock: &mut Box<dyn StoreLock>,
    expected: Option<Version>,
    stored: &Stored,
) -> Result<(), crate::error::Error> {
    lock.save(expected, stored.clone()).await
}

/// A shorthand.
fn version(family: u64, revision: u64) -> Version {
    Version { family, revision }
}

/// A record whose token lives for 100 s: long enough to be seen counting down.
fn stored(family: u64, revision: u64, record: &[u8]) -> Stored {
    let mut header = Header::new(version(family, revision));
    header.expires_in = Some(Duration::from_secs(100));
    Stored::new(header, Some(Record::new(record.to_vec())))
}
