//! G12: odd responses to token calls.

use std::time::Duration;

use apivideo_auth::{Clock, ErrorKind, testing::Fault};
use serde_json::{Value, json};
use tokio::time;

use crate::support::{
    Body, HOUR, client, list, ours, paused, seconds, with_key, with_refresh_token,
};

/// Each row: what is done to the response's JSON, and the lifetime that is believed.
#[tokio::test(start_paused = true)]
async fn g12_lifetimes_are_read_from_what_can_be_a_number() {
    let text = |text: &str| Some(json!(text));
    for (expires_in, lifetime) in [
        (Some(json!(3600)), 3600),
        (text("3600"), 3600),
        (text(" 3599 "), 3599),
        (Some(json!(3599.9)), 3599),
        (text("12.7"), 12),
        (Some(json!(1)), 1),
        (Some(json!(86_401)), 86_400),
        (Some(json!(u64::MAX)), 86_400),
        (Some(json!(1e300)), 86_400),
        (text("1e400"), 300),
        (None, 300),
        (Some(Value::Null), 300),
        (text("soon"), 300),
        (text(""), 300),
        (text("NaN"), 300),
        (text("inf"), 300),
        (Some(json!(0)), 300),
        (Some(json!(0.9)), 300),
        (Some(json!(-5)), 300),
        (text("-5"), 300),
        (Some(json!(i64::MIN)), 300),
        (Some(json!(true)), 300),
        (Some(json!([3600])), 300),
        (Some(json!({ "seconds": 3600 })), 300),
    ] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .clock(clock.clone())
            .build()
            .unwrap();
        let row = expires_in.clone();
        api.fault(Fault::json(move |pair| {
            match &expires_in {
                Some(value) => pair["expires_in"] = value.clone(),
                None => drop(pair.as_object_mut().unwrap().remove("expires_in")),
            };
        }));
        let token = client(&layer, &api).source::<Body>().token().await.unwrap();
        let believed = token.expires_at().duration_since(clock.now().wall).unwrap();
        assert_eq!(believed, Duration::from_secs(lifetime), "{row:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn g12_odd_fields_are_taken_for_what_they_mean() {
    for kind in [
        json!("bearer"),
        json!("BEARER"),
        json!("Bearer"),
        Value::Null,
        json!(["x"]),
    ] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        api.fault(Fault::json(move |pair| {
            pair["token_type"] = kind.clone();
            pair["surprise"] = json!({ "deep": [[[[1, 2, { "x": null }]]]] });
        }));
        assert_eq!(list(&client(&layer, &api)).await.unwrap(), 200);
        assert_eq!(api.counts().token_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn g12_without_a_new_refresh_token_the_old_counts_as_spent() {
    for with_api_key in [false, true] {
        for odd in [
            None,
            Some(json!("")),
            Some(Value::Null),
            Some(json!(7.5)),
            Some(json!("with space")),
        ] {
            let (api, clock) = paused();
            let mut layer = with_refresh_token(&api).clock(clock.clone());
            if with_api_key {
                layer = layer.api_key(api.api_key());
            }
            let layer = layer.build().unwrap();
            let client = client(&layer, &api);
            let field = odd.clone();
            api.fault(Fault::json(move |pair| match &field {
                Some(value) => pair["refresh_token"] = value.clone(),
                None => drop(pair.as_object_mut().unwrap().remove("refresh_token")),
            }));
            assert_eq!(list(&client).await.unwrap(), 200);
            clock.advance(HOUR);
            let outcome = list(&client).await;
            if with_api_key {
                assert_eq!(
                    (outcome.unwrap().as_u16(), api.counts().logins),
                    (200, 1),
                    "{odd:?}"
                );
                assert_eq!(api.most_presentations(), 1, "{odd:?}");
            } else if odd != Some(json!(7.5)) {
                // The last resort; the fake's tokens are single use.
                assert_eq!(
                    ours(&outcome.unwrap_err()).kind(),
                    ErrorKind::Refused,
                    "{odd:?}"
                );
                assert_eq!(api.most_presentations(), 2, "{odd:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g12_a_new_refresh_token_is_kept_without_an_access_token() {
    for login in [false, true] {
        let (api, clock) = paused();
        let layer = if login {
            with_key(&api)
        } else {
            with_refresh_token(&api)
        };
        let layer = layer.clock(clock).build().unwrap();
        api.fault(Fault::json(|pair| {
            drop(pair.as_object_mut().unwrap().remove("access_token"))
        }));
        assert_eq!(list(&client(&layer, &api)).await.unwrap(), 200);
        let counts = api.counts();
        assert_eq!(
            (counts.logins, counts.refreshes),
            if login { (1, 1) } else { (0, 2) }
        );
        assert_eq!(api.most_presentations(), 1);
    }
}

/// Whatever the responses are, one flight makes few calls, and the source is usable as soon as they are good.
#[tokio::test(start_paused = true)]
async fn g12_nothing_loops() {
    let no_token = |pair: &mut Value| drop(pair.as_object_mut().unwrap().remove("access_token"));
    for fault in [
        Fault::status(200),
        Fault::response(200, http::HeaderMap::new(), "").after_commit(),
        Fault::disconnect().mid_body(),
        Fault::huge(),
        Fault::drip(),
        Fault::json(no_token),
        Fault::json(|pair| *pair = json!({})),
        Fault::json(|pair| pair["access_token"] = json!("line\nbreak")),
        Fault::status(200),
        Fault::status(204),
    ] {
        let (api, clock) = paused();
        let layer = with_key(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        api.fault(fault.clone().always());
        list(&client).await.unwrap_err();
        assert!(
            api.counts().token_calls <= 5,
            "{fault:?}: {}",
            api.counts().token_calls
        );
        api.fault(None);
        time::sleep(seconds(15.0)).await;
        assert_eq!(list(&client).await.unwrap(), 200, "{fault:?}");
    }
}
