//! G25: which family a pair is of, and whose it is.

use super::*;

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
