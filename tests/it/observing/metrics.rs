//! The metrics. A recorder is set for the thread of the test: the runtime of these tests has no other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use apivideo_auth::testing::Fault;
use tokio::time::sleep;

use crate::support::{client, list, paused, seconds, settle, with_key};

/// For a source with this label, the recorder panics.
const PANICS: &str = "account=panics";

/// What was recorded: `name{label=value}` and the last or summed value.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, f64>>>);

struct Entry(Recorded, String);

impl Recorded {
    fn entry(&self, key: &Key) -> Arc<Entry> {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        assert!(
            !labels.contains(&PANICS.to_owned()),
            "a recorder of the user's"
        );
        Arc::new(Entry(
            self.clone(),
            format!("{}{{{}}}", key.name(), labels.join(",")),
        ))
    }

    /// The sum over all that have this name and these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let recorded = self.0.lock().unwrap();
        let fits = |key: &str| {
            let (its, rest) = key.split_once('{').unwrap();
            let rest = rest.trim_end_matches('}').split(',').collect::<Vec<_>>();
            its == name && labels.iter().all(|label| rest.contains(label))
        };
        recorded
            .iter()
            .filter(|(key, _)| fits(key))
            .map(|(_, value)| value)
            .sum()
    }

    fn text(&self) -> String {
        format!("{:?}", self.0.lock().unwrap())
    }
}

impl Entry {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Entry {
    fn increment(&self, value: u64) {
        self.change(|sum| *sum += value as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|sum| *sum = value as f64);
    }
}

impl GaugeFn for Entry {
    fn increment(&self, value: f64) {
        self.change(|sum| *sum += value);
    }

    fn decrement(&self, value: f64) {
        self.change(|sum| *sum -= value);
    }

    fn set(&self, value: f64) {
        self.change(|sum| *sum = value);
    }
}

impl HistogramFn for Entry {
    fn record(&self, value: f64) {
        self.change(|sum| *sum += value);
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.entry(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.entry(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.entry(key))
    }
}

#[tokio::test(start_paused = true)]
async fn g29_metrics_count_what_the_events_tell() {
    let recorded = Recorded::default();
    let _guard = ::metrics::set_default_local_recorder(&recorded);
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).account("shop").build().unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::status(503).always());
    list(&client).await.unwrap_err();
    let cool_down = || recorded.sum("apivideo_auth.cool_down", &["account=shop"]);
    settle().await;
    assert_eq!(cool_down(), 1.0);
    api.fault(None);
    sleep(seconds(3)).await;
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;
    assert_eq!(cool_down(), 0.0);
    api.revoke_access_tokens();
    api.revoke_refresh_tokens();
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;

    let sum = |name: &str, labels: &[&str]| recorded.sum(&format!("apivideo_auth.{name}"), labels);
    assert_eq!(
        sum("renewals", &["reason=first", "outcome=unavailable"]),
        1.0
    );
    assert_eq!(sum("renewals", &["reason=first", "outcome=ok"]), 1.0);
    assert_eq!(sum("renewals", &["reason=unauthorized", "outcome=ok"]), 1.0);
    assert!(sum("renewal.duration", &["outcome=unavailable"]) > 0.0);
    let calls = api.counts();
    assert_eq!(
        sum(
            "token_calls",
            &["endpoint=/auth/refresh", "status_class=4xx"]
        ),
        1.0
    );
    assert_eq!(
        sum(
            "token_calls",
            &["endpoint=/auth/api-key", "status_class=2xx"]
        ),
        2.0
    );
    assert_eq!(sum("token_calls", &[]), calls.token_calls as f64);
    assert_eq!(sum("replays", &["status_class=2xx"]), 1.0);
    assert_eq!(sum("key_fallbacks", &[]), 1.0);
    let expires_at = layer.subscribe().latest().unwrap().expires_at;
    let expiry = expires_at.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((sum("token.expiry", &[]) - expiry.as_secs_f64()).abs() < 0.001);
    assert!(
        !recorded.text().contains("test-only"),
        "{}",
        recorded.text()
    );
}

#[tokio::test(start_paused = true)]
async fn g5_a_recorder_that_panics_harms_no_renewal() {
    let recorded = Recorded::default();
    let _guard = ::metrics::set_default_local_recorder(&recorded);
    let (api, clock) = paused();
    let builder = with_key(&api).clock(clock).account("panics");
    let layer = builder.build().unwrap();
    let client = client(&layer, &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    api.revoke_access_tokens();
    assert_eq!(list(&client).await.unwrap(), 200);
    assert!(layer.shutdown(seconds(1)).await);
    assert_eq!(recorded.text(), "{}");
}
