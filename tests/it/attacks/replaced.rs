//! G6: credentials that are replaced while a token call is under way with the old ones.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use apivideo_auth::{
    Credentials,
    testing::{FakeApi, Fault, GatePoint},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    fleet::Fleet,
    support::faulty_store::{Op, When, hook},
    support::{client, list, many, paused, with_refresh_token},
};

/// The next pair that is granted, as the client gets it.
fn next_pair(api: &FakeApi) -> Arc<Mutex<Value>> {
    let pair = Arc::<Mutex<Value>>::default();
    let kept = pair.clone();
    api.fault(Fault::json(move |granted| {
        *kept.lock().unwrap() = granted.clone();
    }));
    pair
}

/// How many requests went out with the access token of this pair.
fn requests_with(api: &FakeApi, pair: &Mutex<Value>) -> usize {
    let pair = pair.lock().unwrap();
    let token = pair["access_token"].as_str();
    token.map_or(0, |token| api.requests_with(token))
}

#[tokio::test(start_paused = true)]
async fn g6_a_token_of_replaced_credentials_is_not_used() {
    for with_key in [false, true] {
        for point in [GatePoint::BeforeCommit, GatePoint::AfterCommit] {
            let (api, clock) = paused();
            let layer = with_refresh_token(&api).clock(clock).build().unwrap();
            let client = client(&layer, &api);
            let old = next_pair(&api);
            let gate = api.gate(point);
            let callers = tokio::spawn({
                let clients = [client.clone()];
                async move { many(10, &clients).await }
            });
            gate.reached(1).await;
            let (_, refresh_token) = api.mint_pair();
            let new = match with_key {
                true => Credentials::new().api_key(api.api_key()),
                false => Credentials::new().refresh_token(refresh_token.as_str()),
            };
            layer.set_credentials(new).unwrap();
            gate.open();
            for outcome in callers.await.unwrap() {
                assert_eq!(outcome.unwrap(), 200, "{point:?}");
            }
            assert_eq!(list(&client).await.unwrap(), 200, "{point:?}");

            let with_old = requests_with(&api, &old);
            assert_eq!(with_old, 0, "API key {with_key}, {point:?}");
            let (logins, spent) = (api.counts().logins, api.presentations(&refresh_token));
            let expected = if with_key { (1, 0) } else { (0, 1) };
            assert_eq!((logins, spent), expected, "{point:?}");
            assert_eq!(api.counts().reuse_violations, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g6_the_pair_of_replaced_credentials_is_saved() {
    let fleet = Fleet::logged_in().await;
    sleep(Duration::from_secs(3600)).await;
    let saved = Arc::<Mutex<Vec<_>>>::default();
    let (log, store) = (saved.clone(), fleet.store.clone());
    let store = fleet.faulty(hook(move |op, when| {
        if (op, when) == (Op::Pair, When::After) {
            let version = store.version().expect("a stored pair");
            let token = store.refresh_token().expect("a stored pair");
            log.lock().unwrap().push((version.family, token));
        }
        async { Ok(()) }
    }));
    let process = fleet.start(fleet.keyless().store(store));
    let old = next_pair(&fleet.api);
    let gate = fleet.api.gate(GatePoint::AfterCommit);
    let caller = process.spawn();
    gate.reached(1).await;
    let new = Credentials::new().api_key(fleet.api.api_key());
    process.layer.set_credentials(new).unwrap();
    gate.open();
    assert_eq!(caller.await.unwrap(), Ok(200));
    assert!(process.layer.shutdown(Duration::from_secs(60)).await);

    let with_old = requests_with(&fleet.api, &old);
    assert_eq!((with_old, fleet.api.counts().logins), (0, 2));
    let saved = saved.lock().unwrap();
    let [(old_family, first), (new_family, second)] = &saved[..] else {
        panic!("saved: {} pairs", saved.len());
    };
    assert_eq!(*first, old.lock().unwrap()["refresh_token"]);
    assert_eq!(Some(second), fleet.api.live_refresh_token().as_ref());
    assert_ne!(old_family, new_family);
}
