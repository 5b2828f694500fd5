//! Nothing of a process's source runs on, neither tasks nor threads, when its last client is gone or it was shut down, however
//! sick it is. Played in a process of its own, whose threads are nobody else's.

use std::{fs, thread};

use apivideo_auth::testing::Fault;
use tokio::{runtime::Handle, time::sleep};

use super::{
    member::Member,
    sickness::{Health, Onset, Sickness},
    stores::{Kind, Shared},
    *,
};
use crate::support::child::{Child, orders};

/// The tasks of this runtime, and the threads that stores have started.
fn running() -> (usize, usize) {
    let is_ours = |name: &String| name.starts_with("apivideo-auth");
    let threads = || {
        let threads = fs::read_dir("/proc/self/task").expect("Linux").flatten();
        let names = threads.flat_map(|it| fs::read_to_string(it.path().join("comm")));
        names.filter(is_ours).count()
    };
    // A thread has reported before it ends.
    for _ in 0..100 {
        if threads() == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    (Handle::current().metrics().num_alive_tasks(), threads())
}

#[tokio::test(start_paused = true)]
#[ignore = "runs as a child process"]
async fn child_of_g2_counts_what_runs() {
    let [_] = orders();
    let of_its_store = [
        Sickness::ReadOnly,
        Sickness::Full,
        Sickness::Hung,
        Sickness::NoFiles,
    ];
    let onsets = [Onset::BeforeRenewal, Onset::AfterTheCall];
    let cases = of_its_store
        .into_iter()
        .flat_map(|it| onsets.map(|onset| (it, onset)))
        .flat_map(|(it, onset)| [true, false].map(|hangs| (it, onset, hangs)))
        .flat_map(|it| [true, false].map(|is_shut_down| (it, is_shut_down)));
    for ((sickness, onset, api_hangs), is_shut_down) in cases {
        let name = format!("{}, {api_hangs}, {is_shut_down}", sickness.name(onset));
        let clock = ManualClock::with_tokio();
        let api = FakeApi::builder().clock(clock.clone()).build();
        let shared = Shared::new(Kind::File, sickness);
        let health = Health::new(sickness, onset);
        let store = shared.sick(&clock, &health);
        let line = Some(health.clone());
        let member = Member::start(&api, store, &clock, line, |builder| {
            builder.refresh_token(api.mint_pair().1)
        });
        assert_eq!(member.ask().await, "served", "{name}");
        sleep(HOUR).await;
        health.fall_ill();
        if api_hangs {
            api.fault(Fault::latency(HOUR));
        }
        let client = member.client.clone();
        let caller = tokio::spawn(async move { client.source::<Body>().token().await.is_ok() });
        sleep(seconds(1.0)).await;
        caller.abort();
        if is_shut_down {
            health.recover();
            api.fault(None);
            assert!(member.layer.shutdown(HOUR).await, "{name}");
        } else {
            drop(member);
            sleep(seconds(65.1)).await;
        }
        settle().await;
        assert_eq!(running(), (0, 0), "{name}");
    }
    println!("counted");
}

#[tokio::test]
async fn g2_no_thread_runs_65_s_after_the_last_client() {
    let child = Child::start("fleet::sick::ended::child_of_g2_counts_what_runs", &[]);
    assert!(child.passed().await.contains("counted"));
}
