//! G3: a response that comes while the next attempt writes its in-use mark.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::testing::{Fault, GatePoint};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    fleet::Fleet,
    support::faulty_store::{Hook, Op, When, hook},
    support::settle,
};

const HOUR: Duration = Duration::from_secs(3600);

/// The bound of a waiter, and what a timer may be late.
const BOUND: Duration = Duration::from_millis(31_100);

/// Stops the second in-use mark before it is written.
#[derive(Clone, Default)]
struct SecondMark {
    marks: Arc<AtomicUsize>,
    reached: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl SecondMark {
    fn hook(&self) -> Hook {
        let this = self.clone();
        hook(move |op, when| {
            let this = this.clone();
            async move {
                let is_mark = (op, when) == (Op::Mark, When::Before);
                if is_mark && this.marks.fetch_add(1, Ordering::SeqCst) == 1 {
                    this.reached.notify_one();
                    this.go_on.notified().await;
                }
                Ok(())
            }
        })
    }
}

/// What became of a fleet whose first attempt was answered with `response` while the second wrote its mark.
async fn answered_during_the_second_mark(response: impl FnOnce(&Fleet) -> Fault) -> Fleet {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let mark = SecondMark::default();
    let process = fleet.start(fleet.keyless().store(fleet.faulty(mark.hook())));
    fleet.api.fault(response(&fleet));
    let gate = fleet.api.gate(GatePoint::BeforeCommit);
    let begun = Instant::now();
    let caller = process.spawn();
    timeout(BOUND, mark.reached.notified())
        .await
        .expect("a second attempt");
    assert_eq!(gate.arrived(), 1, "the second one is not sent yet");
    // Nothing waits for a timer: the response comes while the mark is being written.
    gate.open();
    settle().await;
    mark.go_on.notify_one();

    let first_ends = timeout(BOUND - begun.elapsed(), caller).await.is_ok();
    let (mut asked, mut served) = (0, false);
    while asked < 5 && !served {
        let outcome = timeout(BOUND, process.list()).await;
        println!("later caller, {:.0?} after: {outcome:?}", begun.elapsed());
        (asked, served) = (asked + 1, outcome == Ok(Ok(200)));
        sleep(Duration::from_secs(5)).await;
    }
    let shutdown_ends = process.layer.shutdown(HOUR).await;
    assert_eq!(
        (first_ends, served, shutdown_ends),
        (true, true, true),
        "the first caller ends in time, a later one is served, shutdown ends"
    );
    fleet
}

/// The response of a server that leaves the old token alone, so that the second attempt may go out all the same.
#[tokio::test(start_paused = true)]
async fn g3_a_response_during_the_next_mark_hangs_nothing() {
    answered_during_the_second_mark(|fleet| {
        let mut headers = HeaderMap::new();
        let json_type = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json_type);
        let (_, refresh_token) = fleet.api.mint_pair();
        let pair = json!({ "token_type": "Bearer", "refresh_token": refresh_token });
        Fault::response(200, headers, pair.to_string())
    })
    .await;
}

/// The old token is spent by then: to send it now is to lose the new one.
#[tokio::test(start_paused = true)]
async fn g11_a_token_that_was_replaced_during_its_mark_is_not_sent() {
    let fleet = answered_during_the_second_mark(|_| {
        Fault::json(|pair| {
            pair.as_object_mut().expect("a pair").remove("access_token");
        })
    })
    .await;
    let counts = fleet.api.counts();
    assert_eq!(
        (counts.reuse_violations, fleet.api.most_presentations()),
        (0, 1)
    );
    assert_eq!(fleet.store.refresh_token(), fleet.api.live_refresh_token());
}
