//! G8: one path that answers 401 whatever the token, while the token endpoint is down.

use std::time::Duration;

use apivideo_auth::testing::Fault;
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::support::{client, get, list, paused, with_refresh_token};

#[tokio::test(start_paused = true)]
async fn g8_a_path_that_always_answers_401_stops_no_other() {
    for with_key in [false, true] {
        let (api, clock) = paused();
        let mut builder = with_refresh_token(&api).clock(clock);
        if with_key {
            builder = builder.api_key(api.api_key());
        }
        let client = client(&builder.build().expect("good settings"), &api);
        assert_eq!(list(&client).await.expect("a first token"), 200);
        let calls = api.counts().token_calls;
        api.on_api_request(|request| {
            (request.uri.path() == "/echo/closed").then(|| {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                response
            })
        });
        api.fault(Fault::status(503).always());

        let (mut served, mut closed, mut longest) = (0, 0, Duration::ZERO);
        for _ in 0..600 {
            let open = async {
                let begun = Instant::now();
                (list(&client).await, begun.elapsed())
            };
            let request = client.clone().oneshot(get("/echo/closed"));
            let (response, (status, waited)) = tokio::join!(request, open);
            closed += usize::from(response.is_ok_and(|response| response.status() == 401));
            served += usize::from(status.is_ok_and(|status| status == 200));
            longest = longest.max(waited);
            sleep(Duration::from_secs(1)).await;
        }
        let calls = api.counts().token_calls - calls;
        println!(
            "API key {with_key}: {served} of 600 served, longest wait {longest:.1?}, {calls} token calls"
        );
        assert_eq!((served, closed), (600, 600), "API key {with_key}");
        // A renewal whose calls fail at once lasts as long as `patience`.
        assert!(longest <= Duration::from_secs(1), "{longest:?}");

        // When the endpoint serves again, a 401 that a new token cures is cured within the guard's 30 s.
        api.fault(None);
        api.clear_on_api_request();
        api.revoke_access_tokens();
        let begun = Instant::now();
        while list(&client).await.expect("a response") != 200 {
            sleep(Duration::from_secs(1)).await;
            assert!(begun.elapsed() <= Duration::from_secs(32));
        }
    }
}
