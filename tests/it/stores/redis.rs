//! A fleet's store, against a real Redis.

mod connections;
mod lease;
mod own;
mod saves;

use apivideo_auth::store::RedisStore;

use super::*;
use crate::redis_server::{Proxy, RedisServer, free_port};

const LOCK: &str = "{apivideo-auth:main@https_3a_2f_2fws.example_3a443}:lock";
const RECORD: &str = "{apivideo-auth:main@https_3a_2f_2fws.example_3a443}:record";

fn store(server: &RedisServer) -> RedisStore {
    RedisStore::builder(server.url())
        .build()
        .expect("a good URL")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn g17_plaintext_beyond_this_machine_is_refused() {
    let build = |url: &str| RedisStore::builder(url).build();
    for good in [
        "redis://127.0.0.1",
        "redis://:test-only-password@localhost:1/3",
        "redis://[::1]",
        "unix:///run/redis.sock",
        "rediss://redis.example",
        "valkeys://user:test-only-password@redis.example:6380",
    ] {
        let store = build(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        assert!(!format!("{store:?}").contains("test-only"));
    }
    for bad in [
        "redis://redis.example",
        "redis://10.0.0.1",
        "redis://localhost.evil.example",
        "valkey://redis.example:1",
        "rediss://user:test-only-password@redis.example/#insecure",
        "rediss+unix:///run/redis.sock",
        "http://127.0.0.1",
        "test-only-password",
        "",
    ] {
        let error = build(bad).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Configuration, "{bad}");
        assert!(!format!("{error:?}").contains("test-only"), "{error:?}");
    }
    RedisStore::builder("redis://redis.example")
        .allow_plaintext()
        .build()
        .expect("it was asked for");
    let certificates = |pem: &str| {
        RedisStore::builder("rediss://redis.example")
            .root_certificates(pem)
            .build()
    };
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in ["", "no PEM", no_certificate] {
        let kind = kind(certificates(bad));
        assert_eq!(kind, Some(ErrorKind::Configuration), "{bad}");
    }
    let builder = format!(
        "{:?}",
        RedisStore::builder("rediss://user:test-only-password@redis.example")
    );
    assert!(!builder.contains("test-only"));
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g21_the_redis_store_keeps_the_contract() {
    let server = RedisServer::start_with(&["--unixsocket", "{folder}/socket"]);
    contract_suite(|| store(&server)).await;
    server.command(&["FLUSHALL"]);
    contract_suite(|| encrypted(store(&server))).await;
    server.command(&["FLUSHALL"]);
    let socket = format!("unix://{}", server.folder().join("socket").display());
    contract_suite(|| RedisStore::builder(&socket).build().expect("a good URL")).await;
    server.command(&["FLUSHALL"]);
    contract_suite(|| {
        RedisStore::builder(server.url() + "?protocol=resp3")
            .build()
            .expect("a good URL")
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g22_what_redis_holds_is_judged_before_it_is_used() {
    let server = RedisServer::start();
    let store = store(&server);
    fn hash<'a>(fields: &[&'a str]) -> Vec<&'a str> {
        [&["HSET", RECORD], fields].concat()
    }
    let whole = ["form", "1", "family", "1", "revision", "1", "record", "x"];
    let cases = [
        (vec!["SET", RECORD, "text"], ErrorKind::StoreCorrupt),
        (
            hash(&["family", "1", "revision", "1"]),
            ErrorKind::StoreCorrupt,
        ),
        (hash(&["form", "1", "family", "1"]), ErrorKind::StoreCorrupt),
        (
            hash(&[&whole[..], &["revision", "-1"]].concat()),
            ErrorKind::StoreCorrupt,
        ),
        (
            hash(&[&whole[..], &["expires", "soon"]].concat()),
            ErrorKind::StoreCorrupt,
        ),
        (
            hash(&[&whole[..], &["mark_count", "4294967296"]].concat()),
            ErrorKind::StoreCorrupt,
        ),
        (
            hash(&["form", "3", "pair", "test-only-future"]),
            ErrorKind::StoreUnreadable,
        ),
    ];
    for (command, expected) in cases {
        server.command(&["DEL", RECORD]);
        assert!(!server.command(&command).starts_with('-'), "{command:?}");
        let error = refused(&store).await;
        assert_eq!(error.kind(), expected, "{command:?}: {error:?}");
        let mut lock = locked(&store).await;
        let save = lock.save(None, stored(version(1, 2), b"x")).await;
        assert!(save.is_err(), "{command:?} is not written over");
        assert_eq!(refused(&store).await.kind(), expected);
        lock.quarantine().await.expect("quarantine");
        lock.save(None, stored(version(1, 2), b"x"))
            .await
            .expect("the key is free");
        lock.unlock().await;
    }
    server.command(&["CONFIG", "SET", "requirepass", "test-only-password"]);
    let stranger = RedisStore::builder(server.url())
        .build()
        .expect("a good URL");
    let error = refused(&stranger).await;
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error:?}");
}
