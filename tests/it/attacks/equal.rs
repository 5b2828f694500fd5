//! G1, G25: what is equal is not newer. Where it was taken for newer, other tests waited for a call that never came.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    fleet::Fleet,
    support::{Body, plain, renewed},
};

/// In paused time this ends at once where nothing goes on.
async fn ends(test: impl Future<Output = ()>) {
    let bound = Duration::from_secs(600);
    timeout(bound, test).await.expect("no wait for ever");
}

#[tokio::test(start_paused = true)]
async fn g1_a_renewal_never_brings_what_it_is_to_replace() {
    let (api, _layer, client) = plain();
    let source = client.source::<Body>();
    ends(async {
        let mut last = source.token().await.unwrap();
        for calls in 2..5 {
            let renewed = source.renew().await.expect("a token");
            assert!(renewed.generation() > last.generation());
            assert_ne!(renewed.expose(), last.expose());
            assert_eq!(api.counts().token_calls, calls);
            last = renewed;
        }
    })
    .await;
}

/// The token is there, and the renewal that brought it has not finished yet: it is no answer to who wants a newer one.
#[tokio::test(start_paused = true)]
async fn g1_a_renewal_that_is_about_to_end_is_not_joined_for_more() {
    let (_api, _layer, client) = plain();
    let source = client.source::<Body>();
    // A task like the leader: which of the two runs first is chance.
    let task = tokio::spawn(async move {
        source.token().await.unwrap();
        for _ in 0..50 {
            let mut renewals = source.subscribe();
            let first = tokio::spawn(source.renew());
            renewed(&mut renewals).await.unwrap();
            let old = source.token().await.unwrap();
            let renewed = source.renew().await.unwrap();
            assert!(renewed.generation() > old.generation());
            first.await.unwrap().unwrap();
        }
    });
    ends(async { task.await.unwrap() }).await;
}

#[tokio::test(start_paused = true)]
async fn g25_a_stored_pair_of_the_same_revision_is_not_adopted() {
    let fleet = Fleet::logged_in().await;
    let process = fleet.start(fleet.keyless());
    let source = process.client.source::<Body>();
    ends(async {
        let adopted = source.token().await.unwrap();
        let renewed = source.renew().await.unwrap();
        assert_ne!(renewed.expose(), adopted.expose());
        assert_eq!(fleet.api.counts().refreshes, 1);
    })
    .await;
}
