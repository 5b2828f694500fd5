//! What clones know of the token is never older than what the process knows.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use apivideo_auth::testing::FakeApi;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use super::support::{Body, get, with_refresh_token};

const CLONES: usize = 64;
const ROUNDS: usize = 100;

/// Answers with the token of the request.
async fn echo(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let token = request.headers()[header::AUTHORIZATION]
        .to_str()?
        .trim_start_matches("Bearer ")
        .to_owned();
    Ok(Response::new(Body::from(token)))
}

/// A request: the least generation that it might use, and the token that it used.
type Seen = (u64, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_starts_with_a_token_that_is_known_to_be_replaced_or_invalidated() {
    let api = FakeApi::in_process();
    let layer = with_refresh_token(&api)
        .token_service::<_, Body, _>(api.service())
        .build()
        .unwrap();
    let client = layer.layer(service_fn(echo));
    let known = Arc::new(AtomicU64::new(0));
    let sent = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let tasks: Vec<_> = (0..CLONES)
        .map(|_| {
            let (mut client, known, sent) = (client.clone(), known.clone(), sent.clone());
            let (done, seen) = (done.clone(), seen.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Acquire) {
                    let least = known.load(Ordering::Acquire);
                    let response = client
                        .ready()
                        .await
                        .unwrap()
                        .call(get("/videos"))
                        .await
                        .unwrap();
                    let token = response.into_body().collect().await.unwrap().to_bytes();
                    seen.lock()
                        .unwrap()
                        .push((least, String::from_utf8(token.to_vec()).unwrap()));
                    sent.fetch_add(1, Ordering::AcqRel);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut generations = HashMap::new();
    for round in 0..ROUNDS {
        let bearer = if round % 2 == 0 {
            client.renew().await.unwrap()
        } else {
            // Known to be out of use from here on, before there is another.
            let current = client.token().await.unwrap().generation();
            layer.invalidate(current);
            known.store(current + 1, Ordering::Release);
            client.token().await.unwrap()
        };
        generations.insert(bearer.expose().to_owned(), bearer.generation());
        known.store(bearer.generation(), Ordering::Release);
        // Each clone gets to use it, most of them more than once.
        let enough = sent.load(Ordering::Acquire) + 3 * CLONES;
        while sent.load(Ordering::Acquire) < enough {
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 3 * CLONES * ROUNDS);
    for (least, token) in seen.iter() {
        // What no round knows was used before the first one ended.
        let used = generations.get(token).copied().unwrap_or(0);
        assert!(
            used >= *least,
            "generation {used} was used when {least} was known"
        );
    }
}
