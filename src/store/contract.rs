//! The promises of a store as one suite, which each store of this crate passes.

mod locks;
mod runtimes;
mod saves;

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
/// It looks at
///
/// - the lock: many that ask for it at once, a question that was given up, a lock that was dropped;
/// - saves: the order of versions, repeated and refused ones, one that was given up against a later one, whole records for
///   those who read meanwhile, bytes that are no text, clearing and quarantine;
/// - spans that count down, of zero and of [`Duration::MAX`];
/// - two runtimes at once, of which one ends: a lock that was taken there is still good here.
///
/// What takes another process to see (a lock that outlives `kill -9`, a save that is torn by it) is not in it.
///
/// # Panics
///
/// If the store breaks a promise; the message says which.
pub async fn contract_suite<S: TokenStore>(store: impl Fn() -> S) {
    let key = StoreKey::new("https://contract.example", "contract").expect("a good key");
    versions_are_kept_in_order(&store, &key).await;
    locks::one_of_many_has_it(&store, &key).await;
    locks::given_up_it_is_free(&store, &key).await;
    let (one, two) = (store(), store());
    saves::any_span_can_be_saved(&one, &key).await;
    saves::given_up_none_lands_later(&one, &key).await;
    saves::readers_see_whole_records(&one, &two, &key).await;
    runtimes::one_does_not_disturb_another(&store, &key).await;
}

async fn versions_are_kept_in_order<S: TokenStore>(store: &impl Fn() -> S, key: &StoreKey) {
    let (one, two) = (store(), store());
    let other = StoreKey::new("https://contract.example", "contract.other").expect("a good key");

    assert_eq!(load(&one, key).await, None, "nothing is stored at first");
    let mut lock = locked(&one, key).await;
    let busy = matches!(two.try_lock(key).await, Ok(TryLock::Busy(_)));
    assert!(busy, "a second process does not get the lock");
    locked(&two, &other).await.unlock().await;

    let first = stored(1, 1, b"test-only-first\0\n\xff\xfe{}");
    save(&mut lock, Some(version(9, 9)), &first)
        .await
        .expect_err("nothing is stored, so nothing is expected");
    save(&mut lock, None, &first).await.expect("the first save");
    save(&mut lock, None, &first)
        .await
        .expect("the same save again: its response may have been lost");
    let seen = load(&two, key)
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

    let marked = marked(first.clone());
    save(&mut lock, Some(version(1, 1)), &marked)
        .await
        .expect("a save of the same version");
    let seen = load(&two, key).await.expect("stored");
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
    let still = load(&two, key).await.expect("stored");
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

    let mut lock = locked(&two, key).await;
    let before = load(&two, key).await.expect("stored");
    lock.clear(before).await.expect("clearing");
    let cleared = load(&one, key).await.expect("the counters stay");
    assert_eq!(
        (cleared.record, cleared.header.version),
        (None, version(1, 2)),
        "clearing keeps the counters"
    );
    lock.quarantine().await.expect("quarantine");
    assert_eq!(
        load(&one, key).await,
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
    let seen = load(&one, key).await.expect("stored");
    assert_eq!(
        (seen.header.version, &seen.record),
        (large, &empty.record),
        "an empty record is a record"
    );
    drop(lock);

    let mut lock = free_again(&one, key).await;
    save(&mut lock, Some(version(1, 1)), &empty)
        .await
        .expect_err("what another lock saved is not this one's");
    assert!(
        load(&one, key).await.is_some(),
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

/// The lock, once it is free: one that was dropped, or asked for in vain, may take the time of a lease.
async fn free_again<S: TokenStore>(store: &S, key: &StoreKey) -> Box<dyn StoreLock> {
    let waiting = async {
        loop {
            match store.try_lock(key).await.expect("asking for the lock") {
                TryLock::Locked(lock) => return lock,
                TryLock::Busy(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("a lock that was dropped or given up is free again")
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

/// The same with a mark and a cool-down.
fn marked(mut stored: Stored) -> Stored {
    stored.header.mark = Some(InUseMark {
        count: 2,
        settles_in: Duration::from_secs(15),
    });
    stored.header.not_before = Some(Duration::from_secs(30));
    stored
}
