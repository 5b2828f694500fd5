//! G5, G21: a runtime that ends in the middle of a renewal, in a program that makes one for each piece of work.

use apivideo_auth::{store::MemoryStore, testing::GatePoint};
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use super::*;

fn runtime() -> Runtime {
    RuntimeBuilder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

/// The lock of a renewal that is gone is free, though its process lives on and renews nothing: siblings need it.
#[test]
fn g21_a_lost_renewal_leaves_no_lock_behind() {
    for gated in [true, false] {
        let clock = ManualClock::new();
        let api = FakeApi::builder().clock(clock.clone()).build();
        let store = MemoryStore::new();
        let builder = || {
            ApiVideoAuthLayer::builder()
                .base_url(api.url())
                .clock(clock.clone())
                .store(store.clone())
        };
        let start = |builder: Builder| {
            let layer = builder.build().expect("good settings");
            let client = client(&layer, &api);
            Process { layer, client }
        };
        let process = start(builder().api_key(api.api_key()));
        let first = runtime();
        assert_eq!(first.block_on(process.list()), Ok(200));
        first.block_on(process.layer.shutdown(seconds(60.0)));
        let (process, sibling) = (start(builder()), start(builder()));
        for process in [&process, &sibling] {
            assert_eq!(first.block_on(process.list()), Ok(200));
        }
        drop(first);

        // In the early window: the request is served at once, and a renewal goes on beside it.
        clock.advance(HOUR - seconds(100.0));
        let short = runtime();
        let gate = api.gate(GatePoint::BeforeCommit);
        let served = short.block_on(async {
            let served = process.list().await;
            if gated {
                gate.reached(1).await;
            }
            served
        });
        assert_eq!(served, Ok(200));
        drop((short, gate));

        clock.advance(seconds(200.0));
        let other = runtime();
        assert_eq!(other.block_on(sibling.list()), Ok(200), "gated: {gated}");
        assert_eq!(api.counts().reuse_violations, 0);
    }
}
