//! G25: which family a pair is of, and whose it is.

use tokio::time::sleep;

use super::{stores::field, *};
use crate::traces::Traces;

/// Two virtual machines that are started from one snapshot have the same memory.
#[tokio::test(start_paused = true)]
async fn g25_machines_from_one_snapshot_begin_two_families() {
    let versions = async |fleet: &Fleet| {
        fastrand::seed(1);
        fleet.log_in().await;
        fleet.store.version().expect("a pair")
    };
    let (one, other) = (Fleet::new(), Fleet::new());
    assert_ne!(
        versions(&one).await.family,
        versions(&other).await.family,
        "neither would ever take the other's pair for another login's"
    );
}

/// Nobody knows whose account a seed is of. A holder of a key that refreshes such a pair is no proof that it is the key's.
#[tokio::test(start_paused = true)]
async fn g25_a_pair_from_a_seed_belongs_to_no_key_until_a_login() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    let owner = || field(&fleet.store.read().expect("a pair"), "api_key");
    let seeded = fleet.start(fleet.keyless().refresh_token(seed));
    assert_eq!(seeded.list().await, Ok(200));
    assert_eq!(owner(), None);

    let traces = Traces::default();
    let subscribed = traces.subscribe();
    let keyed = fleet.start(fleet.keyed());
    for _ in 0..3 {
        assert_eq!(keyed.list().await, Ok(200));
        sleep(HOUR).await;
    }
    drop(subscribed);
    assert_eq!((fleet.api.counts().refreshes, owner()), (3, None));
    let words = "the stored pair does not say whose it is";
    assert!(traces.warned(words), "{}", traces.text());
    assert_eq!(traces.text().matches(words).count(), 1, "it is said once");
    // A store that has lost the pair gets it back as it was.
    fleet.store.put(None);
    assert_eq!(keyed.list().await, Ok(200));
    assert_eq!(owner(), None);
    let other = || fleet.start(fleet.keyless().api_key("test-only-other"));
    assert_eq!(other().list().await, Ok(200));

    sleep(HOUR).await;
    fleet.api.revoke_refresh_tokens();
    assert_eq!(keyed.list().await, Ok(200));
    assert_eq!(fleet.api.counts().logins, 1);
    assert!(owner().is_some());
    assert_eq!(other().list().await, Err(ErrorKind::StoreForeign));
    // Whoever refreshes it without a key leaves it that of the key.
    let of_the_key = owner();
    let keyless = fleet.start(fleet.keyless());
    assert_eq!(keyless.list().await, Ok(200));
    sleep(HOUR).await;
    fleet.store.put(None);
    assert_eq!(keyless.list().await, Ok(200));
    assert_eq!(owner(), of_the_key);
}
