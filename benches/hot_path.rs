//! What the layer costs while its token is usable, as a ratio to a header that never changes.
//!
//! `cargo bench --bench hot_path` prints criterion's figures and, at the end, the ratios of the medians. The wrapped
//! service answers at once and does nothing. All ways of sending build the same request; `static` is tower-http's
//! header layer with a value made once, `naive` what is often written by hand: an `RwLock` around the token, a header
//! formatted for each request and a boxed future. `2 threads` is two threads with 32 clones each, in turn.

use std::{
    future::{Future, Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    sync::{Arc, Barrier},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use criterion::Criterion;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use tokio::{sync::RwLock, time::Instant};
use tower::{BoxError, Layer, Service};
use tower_http::set_header::SetRequestHeaderLayer;

type Body = Full<Bytes>;

const CLONES: usize = 32;

/// Answers at once, with the headers of the request. As large as a small client.
#[derive(Clone)]
struct Nothing {
    _ballast: [u64; 32],
}

const NOTHING: Nothing = Nothing { _ballast: [0; 32] };

impl Service<Request<Body>> for Nothing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut response = Response::new(Body::default());
        *response.headers_mut() = black_box(request).into_parts().0.headers;
        ready(Ok(response))
    }
}

#[derive(Clone)]
struct Naive<S> {
    inner: S,
    token: Arc<RwLock<String>>,
}

impl<S> Service<Request<Body>> for Naive<S>
where
    S: Service<Request<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let token = self.token.clone();
        Box::pin(async move {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.read().await))
                .expect("a good token");
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
            inner.call(request).await
        })
    }
}

/// What is sent, and how.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    uri: &'static str,
    /// How many headers a request has.
    headers: usize,
    /// Whether the header map has room already.
    is_warm: bool,
    /// Whether each request is sent by a clone made for it.
    clones: bool,
}

const USUAL: Scenario = Scenario {
    name: "new map",
    uri: "https://ws.api.video/videos",
    headers: 0,
    is_warm: false,
    clones: false,
};

const SCENARIOS: [Scenario; 6] = [
    USUAL,
    Scenario {
        name: "warm map",
        is_warm: true,
        ..USUAL
    },
    Scenario {
        name: "5 headers",
        headers: 5,
        ..USUAL
    },
    Scenario {
        name: "clone per request",
        clones: true,
        ..USUAL
    },
    Scenario {
        name: "path only",
        uri: "/videos",
        ..USUAL
    },
    Scenario {
        name: "other origin",
        uri: "https://example.com/videos",
        ..USUAL
    },
];

impl Scenario {
    /// Sends `count` requests in turn over some clones. Nothing here ever has to wait.
    fn send<S>(self, clients: &mut [S], count: u64)
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        let uri = Uri::from_static(self.uri);
        let mut context = Context::from_waker(Waker::noop());
        let mut map = HeaderMap::new();
        let mut left = count;
        while left > 0 {
            for client in clients.iter_mut() {
                if left == 0 {
                    break;
                }
                left -= 1;
                let mut request = Request::new(Body::default());
                *request.uri_mut() = uri.clone();
                *request.headers_mut() = std::mem::take(&mut map);
                for name in NAMES.iter().take(self.headers) {
                    request
                        .headers_mut()
                        .insert(name, HeaderValue::from_static("value"));
                }
                let mut one;
                let client = if self.clones {
                    one = client.clone();
                    &mut one
                } else {
                    client
                };
                assert!(client.poll_ready(&mut context).is_ready());
                let Poll::Ready(Ok(response)) = pin!(client.call(request)).poll(&mut context)
                else {
                    panic!("a usable token is waited for, or the service fails");
                };
                if self.is_warm {
                    map = response.into_parts().0.headers;
                    map.clear();
                }
            }
        }
    }

    fn one_task<S>(self, client: &S, count: u64) -> Duration
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        let start = Instant::now();
        self.send(&mut [client.clone()], count);
        start.elapsed()
    }

    fn two_threads<S>(self, client: &S, count: u64) -> Duration
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send,
    {
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                let mut clients = vec![client.clone(); CLONES];
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    self.send(&mut clients, count);
                    barrier.wait();
                });
            }
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            start.elapsed()
        })
    }
}

const NAMES: [HeaderName; 5] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::USER_AGENT,
    header::REFERER,
    header::ORIGIN,
];

/// A way of sending, run for a scenario in one task (or in two threads) so many times.
type GrantType = (&'static str, Box<dyn Fn(Scenario, bool, u64) -> Duration>);

fn way<S>(name: &'static str, client: S) -> GrantType
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
{
    let run = move |scenario: Scenario, in_threads, count| {
        if in_threads {
            scenario.two_threads(&client, count)
        } else {
            scenario.one_task(&client, count)
        }
    };
    (name, Box::new(run))
}

const SAMPLES: usize = 30;

/// The median time of a request in nanoseconds; `None` if the user asked for others only.
fn measure(
    criterion: &mut Criterion,
    scenario: Scenario,
    in_threads: bool,
    (way, run): &GrantType,
) -> Option<f64> {
    let mut times = Vec::new();
    let group = if in_threads { "2 threads" } else { "1 task" };
    criterion.bench_function(&format!("{} / {group} / {way}", scenario.name), |bencher| {
        bencher.iter_custom(|count| {
            let time = run(scenario, in_threads, count);
            times.push(time.as_nanos() as f64 / count as f64);
            time
        });
    });
    // What came before these was criterion's warming up.
    let mut times = times.split_off(times.len().saturating_sub(SAMPLES));
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn main() {
    // Only for the first token. What is measured runs outside, where Tokio makes no future yield now and then.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let api = FakeApi::builder().journal(false).build();
    let builder = || {
        ApiVideoAuthLayer::builder()
            .refresh_token(api.mint_pair().1)
            .token_service::<_, Body, _>(api.service())
    };
    let layer = builder().build().expect("good settings");
    let bare = builder().no_replay().build().expect("good settings");
    let (ours, bare) = (layer.layer(NOTHING), bare.layer(NOTHING));
    let token = runtime
        .block_on(ours.token())
        .expect("a token")
        .expose()
        .to_owned();
    runtime.block_on(bare.token()).expect("a token");
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a good token");
    let fixed = SetRequestHeaderLayer::overriding(header::AUTHORIZATION, value).layer(NOTHING);
    let naive = Naive {
        inner: NOTHING,
        token: Arc::new(RwLock::new(token)),
    };

    let ways = [
        way("static", fixed),
        way("no replay", bare),
        way("replay", ours),
        way("naive", naive),
    ];

    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
        .configure_from_args();
    let mut lines = Vec::new();
    for scenario in SCENARIOS {
        for in_threads in [false, true] {
            let medians = ways
                .each_ref()
                .map(|way| measure(&mut criterion, scenario, in_threads, way));
            let [Some(base), rest @ ..] = medians else {
                continue;
            };
            let name = format!(
                "{}, {}",
                scenario.name,
                if in_threads { "2 threads" } else { "1 task" }
            );
            let mut line = format!("{name:<32}{base:>7.1} ns");
            for ((way, _), time) in ways.iter().skip(1).zip(rest) {
                if let Some(time) = time {
                    line += &format!("   {way} {:.2}", time / base);
                }
            }
            lines.push(line);
        }
    }
    println!(
        "\n{:<32}{:>10}   as a ratio to that\n{}",
        "",
        "static",
        lines.join("\n")
    );
}
