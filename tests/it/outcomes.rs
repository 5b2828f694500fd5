//! G11: what follows from which response to a token call.

use apivideo_auth::{ErrorKind, GrantType, RenewalEvent, testing::Fault};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    support::{HOUR, client, list, ours, paused, seconds, with_key, with_refresh_token},
    traces::Traces,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    Transient,
    Ambiguous,
    Refused,
    Suspended,
    OurBug,
}

/// A problem document whose `type` is this very URL.
fn problem_at(status: u16, url: &str) -> Fault {
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/problem+json"),
    );
    Fault::response(
        status,
        headers,
        json!({ "type": url, "title": "?", "status": status }).to_string(),
    )
}

/// Answers that leave the refresh token unspent.
fn uncommitted() -> Vec<(Fault, Class)> {
    use Class::*;
    let mut rows = Vec::new();
    for status in [
        300, 302, 307, 308, 400, 401, 403, 404, 425, 429, 500, 501, 503, 507, 599,
    ] {
        rows.push((Fault::status(status), Transient));
    }
    for status in [405, 408, 409, 410, 418, 422, 502, 504, 520, 522, 524, 529] {
        rows.push((Fault::status(status), Ambiguous));
    }
    for kind in [
        "resource-not-found",
        "too-many-requests",
        "authentication-missing-authorization-header",
        "",
    ] {
        rows.push((Fault::problem(401, kind), Transient));
        rows.push((Fault::problem(403, kind), Transient));
    }
    rows.push((Fault::disconnect(), Ambiguous));
    rows.push((Fault::status(200), Ambiguous));
    for status in [400, 401] {
        for kind in [
            "refresh-token",
            "api-key",
            "user-credentials",
            "credentials",
        ] {
            rows.push((
                Fault::problem(status, &format!("authentication-invalid-{kind}")),
                Refused,
            ));
        }
        rows.push((
            problem_at(
                status,
                "https://docs.api.video/docs/authenticationinvalid_credentials",
            ),
            Refused,
        ));
    }
    // A refusal is what a status says together with its problem, and nothing else.
    rows.push((
        Fault::problem(403, "authentication-invalid-refresh-token"),
        Transient,
    ));
    rows.push((
        Fault::problem(500, "authentication-invalid-refresh-token"),
        Transient,
    ));
    rows.push((
        Fault::problem(404, "authentication-invalid-refresh-token"),
        Transient,
    ));
    rows.push((
        Fault::problem(403, "authorization-suspended-account"),
        Suspended,
    ));
    rows.push((Fault::problem(400, "invalid-payload"), OurBug));
    rows.push((Fault::problem(400, "attribute-required"), OurBug));
    rows
}

#[tokio::test(start_paused = true)]
async fn g11_each_answer_to_a_refresh_has_its_class() {
    for (fault, class) in uncommitted() {
        // With an API key at hand, what is done next tells the class.
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .api_key(api.api_key())
            .clock(clock)
            .build()
            .unwrap();
        api.fault(fault.clone());
        let outcome = list(&client(&layer, &api)).await;
        let counts = api.counts();
        let calls = (counts.refreshes, counts.logins);
        match class {
            Class::Transient => assert!(outcome.is_ok() && calls == (2, 0), "{fault:?}: {calls:?}"),
            Class::Ambiguous | Class::Refused => {
                assert!(outcome.is_ok() && calls == (1, 1), "{fault:?}: {calls:?}");
            }
            Class::Suspended => {
                let error = outcome.unwrap_err();
                assert_eq!((ours(&error).kind(), calls), (ErrorKind::Suspended, (1, 0)));
                assert!(ours(&error).retry_after().unwrap() > seconds(299.0));
            }
            Class::OurBug => {
                let error = outcome.unwrap_err();
                assert_eq!((ours(&error).kind(), calls), (ErrorKind::Protocol, (1, 0)));
                assert!(error.to_string().contains("bug of apivideo-auth"));
            }
        }

        // Without one, an unspent token is presented again unless it was refused.
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        api.fault(fault.clone());
        let outcome = list(&client).await;
        match class {
            Class::Transient | Class::Ambiguous => {
                assert_eq!(
                    (outcome.unwrap().as_u16(), api.most_presentations()),
                    (200, 2),
                    "{fault:?}"
                );
            }
            Class::Refused => {
                let error = outcome.unwrap_err();
                assert_eq!(
                    (ours(&error).kind(), ours(&error).is_transient()),
                    (ErrorKind::Refused, false)
                );
                time::sleep(HOUR).await;
                list(&client).await.unwrap_err();
                assert_eq!(api.most_presentations(), 1, "{fault:?}");
            }
            Class::Suspended | Class::OurBug => {
                outcome.unwrap_err();
                assert_eq!(api.most_presentations(), 1, "{fault:?}");
                time::sleep(seconds(301.0)).await;
                assert_eq!(
                    list(&client).await.unwrap(),
                    200,
                    "nothing is forgotten: {fault:?}"
                );
            }
        }
    }
}

/// A pair that was granted and never arrived: no second presentation while an API key is held.
#[tokio::test(start_paused = true)]
async fn g11_g12_a_committed_answer_that_never_came_is_ambiguous() {
    for fault in [
        Fault::disconnect().after_commit(),
        Fault::status(502).after_commit(),
        Fault::status(504).after_commit(),
        Fault::status(524).after_commit(),
        Fault::disconnect().mid_body(),
        Fault::response(200, http::HeaderMap::new(), "").after_commit(),
        Fault::huge(),
        Fault::drip(),
        Fault::json(|pair| pair["token_type"] = json!("mac")),
        Fault::json(|pair| pair["access_token"] = json!("")),
        Fault::json(|pair| *pair = json!([])),
        Fault::json(|pair| *pair = json!(null)),
    ] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .api_key(api.api_key())
            .clock(clock)
            .build()
            .unwrap();
        api.fault(fault.clone());
        assert_eq!(list(&client(&layer, &api)).await.unwrap(), 200, "{fault:?}");
        assert_eq!(
            (api.most_presentations(), api.counts().reuse_violations),
            (1, 0),
            "{fault:?}"
        );

        // Without one it is presented once more in the flight, which here is refused.
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        api.fault(fault.clone());
        let mut outcome = list(&client(&layer, &api)).await;
        let shown = format!("{fault:?}");
        if shown.contains("drip") {
            // The response is awaited for as long as one more call fits in; callers need not wait for that.
            assert_eq!(ours(&outcome.unwrap_err()).kind(), ErrorKind::Ambiguous);
            tokio::time::sleep(seconds(15.0)).await;
            outcome = list(&client(&layer, &api)).await;
        }
        let kept = shown.contains("json") && outcome.is_ok();
        if !kept {
            assert_eq!(
                ours(&outcome.unwrap_err()).kind(),
                ErrorKind::Refused,
                "{fault:?}"
            );
            assert_eq!(api.most_presentations(), 2, "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g11_silence_ends_no_credential_and_probes_present_it_once() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::disconnect().always());
    let mut calls = 0;
    for flight in 0..10 {
        let error = list(&client).await.unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
        let now = api.counts().token_calls;
        assert_eq!(now - calls, if flight == 0 { 2 } else { 1 });
        calls = now;
        time::sleep(ours(&error).retry_after().unwrap() + seconds(0.001)).await;
    }
    api.fault(None);
    assert_eq!(list(&client).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g11_on_a_login_ambiguous_equals_transient() {
    for fault in [
        Fault::disconnect().after_commit(),
        Fault::status(504).after_commit(),
        Fault::disconnect().mid_body(),
        Fault::response(200, http::HeaderMap::new(), "").after_commit(),
        Fault::huge(),
        Fault::status(200),
        Fault::json(|pair| *pair = json!({})),
        Fault::json(|pair| *pair = json!({ "token_type": "mac", "access_token": "x" })),
    ] {
        let (api, clock) = paused();
        let layer = with_key(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        api.fault(fault.clone().always());
        let begun = Instant::now();
        let error = list(&client).await.unwrap_err();
        assert!(
            ours(&error).is_transient() && ours(&error).retry_after().is_some(),
            "{fault:?}"
        );
        assert_eq!(api.counts().logins, 4, "{fault:?}");
        // 0.1 + 0.2 + 0.4 s of pauses between them.
        assert!(
            begun.elapsed() >= seconds(0.7),
            "{fault:?}: no pause between the calls"
        );
        api.fault(None);
        time::sleep(seconds(1.0)).await;
        assert_eq!(list(&client).await.unwrap(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn g11_a_refused_refresh_token_falls_back_to_the_api_key() {
    let traces = Traces::default();
    let _subscribed = traces.subscribe();
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock.clone()).build().unwrap();
    let client = client(&layer, &api);
    let mut fallbacks = Vec::new();
    for _ in 0..4 {
        assert_eq!(list(&client).await.unwrap(), 200);
        let RenewalEvent {
            grant,
            fallbacks: count,
            ..
        } = layer.subscribe().latest().unwrap();
        fallbacks.push((grant, count));
        api.revoke_refresh_tokens();
        clock.advance(HOUR - seconds(5.0));
    }
    // Two refused in a row, both fresh from a login: no refresh for an hour.
    assert_eq!(api.counts().refreshes, 2);
    assert_eq!(
        fallbacks[..3],
        [
            (GrantType::ApiKey, 0),
            (GrantType::ApiKey, 1),
            (GrantType::ApiKey, 2)
        ]
    );
    for words in [
        "logging in with the API key",
        "another process seems to log in",
    ] {
        assert!(traces.warned(words), "{}", traces.text());
    }
    // The hour is over, and the token is looked at again.
    assert_eq!(list(&client).await.unwrap(), 200);
    let counts = api.counts();
    assert_eq!(
        (counts.refreshes, counts.refused, counts.reuse_violations),
        (3, 3, 0)
    );
}
