//! G8 and G21: a store that takes no writes, as on a full disk. It can still be read and locked.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{Error, ErrorKind, testing::GatePoint};
use tokio::time::{Instant, sleep};

use crate::{
    fleet::{Fleet, Process},
    support::faulty_store::{Hook, Op, When, hook},
    support::{list, ours},
    traces::Traces,
};

const HOUR: Duration = Duration::from_secs(3600);

const REASON: &str = "No space left on device";

#[derive(Clone, Default)]
struct Disk(Arc<AtomicBool>);

impl Disk {
    fn fill(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }

    fn hook(&self) -> Hook {
        let disk = self.clone();
        hook(move |op, when| {
            let writes = when == When::Before && matches!(op, Op::Mark | Op::Touch | Op::Pair);
            let fails = writes && disk.0.load(Ordering::SeqCst);
            async move {
                match fails {
                    true => Err(Error::store(ErrorKind::StoreUnavailable, REASON, None)),
                    false => Ok(()),
                }
            }
        })
    }
}

/// One request a second for three hours, which are three lifetimes: nearly all have to be served.
async fn three_hours_are_served(process: &Process) {
    let begun = Instant::now();
    let (mut requests, mut failures) = (0, 0);
    while begun.elapsed() < 3 * HOUR {
        requests += 1;
        failures += usize::from(process.list().await != Ok(200));
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        requests > 10_000 && failures <= 15,
        "{failures} of {requests} requests failed"
    );
}

/// The disk has room again.
async fn the_newest_pair_is_saved(fleet: &Fleet, process: &Process) {
    sleep(Duration::from_secs(60)).await;
    let live = fleet.api.live_refresh_token();
    assert_eq!(fleet.store.refresh_token(), live);
    assert!(process.layer.shutdown(HOUR).await);
    let counts = fleet.api.counts();
    assert_eq!(
        (counts.reuse_violations, fleet.api.most_presentations() < 2),
        (0, true)
    );
}

#[tokio::test(start_paused = true)]
async fn g8_a_full_store_stops_no_source_that_holds_a_key() {
    let fleet = Fleet::logged_in().await;
    let disk = Disk::default();
    let process = fleet.start(fleet.keyed().store(fleet.faulty(disk.hook())));
    let traces = Traces::default();
    let subscribed = traces.subscribe();
    disk.fill(true);
    three_hours_are_served(&process).await;
    assert!(fleet.api.counts().logins > 1, "the key logs in");
    disk.fill(false);
    the_newest_pair_is_saved(&fleet, &process).await;
    drop(subscribed);
    assert!(traces.warned(REASON), "{}", traces.text());
}

#[tokio::test(start_paused = true)]
async fn g8_an_unsaved_pair_is_renewed_on_without_a_key() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let disk = Disk::default();
    let process = fleet.start(fleet.keyless().store(fleet.faulty(disk.hook())));
    let traces = Traces::default();
    let subscribed = traces.subscribe();
    // The mark could still be written, and the pair could not.
    let gate = fleet.api.gate(GatePoint::AfterCommit);
    let first = process.spawn();
    gate.reached(1).await;
    disk.fill(true);
    gate.open();
    assert_eq!(first.await.expect("no panic"), Ok(200));
    three_hours_are_served(&process).await;
    assert!(fleet.api.counts().refreshes > 2);
    disk.fill(false);
    the_newest_pair_is_saved(&fleet, &process).await;
    drop(subscribed);
    assert!(traces.warned(REASON), "{}", traces.text());
}

#[tokio::test(start_paused = true)]
async fn g8_a_stored_token_that_cannot_be_marked_is_kept_back() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let token = fleet.stored();
    let disk = Disk::default();
    disk.fill(true);
    let process = fleet.start(fleet.keyless().store(fleet.faulty(disk.hook())));
    for _ in 0..60 {
        let error = list(&process.client).await.expect_err("no safe way on");
        let error = ours(&error);
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(reason) = source {
            text = format!("{text}: {reason}");
            source = reason.source();
        }
        assert!(
            text.contains("refresh token") && text.contains(REASON),
            "{text}"
        );
        sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(fleet.api.presentations(&token), 0);
    disk.fill(false);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(fleet.api.presentations(&token), 1);
}
