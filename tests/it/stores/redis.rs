//! A fleet's store, against a real Redis.

use apivideo_auth::store::RedisStore;

use super::*;
use crate::redis_server::RedisServer;

const LOCK: &str = "{apivideo-auth:main@https_3a_2f_2fws.example}:lock";
const RECORD: &str = "{apivideo-auth:main@https_3a_2f_2fws.example}:record";

fn store(server: &RedisServer) -> RedisStore {
    RedisStore::builder(server.url())
        .build()
        .expect("a good URL")
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
    assert_eq!(kind(certificates("no PEM")), Some(ErrorKind::Configuration));
    let builder = format!(
        "{:?}",
        RedisStore::builder("rediss://user:test-only-password@redis.example")
    );
    assert!(!builder.contains("test-only"));
}

#[tokio::test]
async fn g24_a_redis_that_is_not_there_is_a_clear_error() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a port");
    let store = RedisStore::builder(format!("redis://:test-only-password@{nobody}"))
        .build()
        .expect("a good URL");
    for error in [
        refused(&store).await,
        store.try_lock(&key()).await.expect_err("nobody is there"),
    ] {
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
        assert!(
            error.is_transient() && error.to_string().contains(&nobody.to_string()),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("test-only"), "{error:?}");
    }
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
async fn g17_tls_proves_that_it_is_the_right_redis() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writing");
        path.to_str().expect("a plain path").to_owned()
    };
    let (certificate, secret) = (
        write("cert", cert.pem()),
        write("key", signing_key.serialize_pem()),
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a port")
        .port();
    let arguments = [
        "--tls-port",
        &free.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &secret,
    ];
    let tls = [
        &arguments[..],
        &[
            "--tls-ca-cert-file",
            &certificate,
            "--tls-auth-clients",
            "no",
        ],
    ]
    .concat();
    let _server = RedisServer::start_with(&tls);
    let trusted = |host: &str| {
        let url = format!("rediss://{host}:{free}");
        RedisStore::builder(url)
            .root_certificates(cert.pem())
            .build()
            .expect("a good URL")
    };
    contract_suite(|| trusted("localhost")).await;
    assert_eq!(
        refused(&trusted("127.0.0.1")).await.kind(),
        ErrorKind::StoreUnavailable,
        "another name"
    );
    let unknown = RedisStore::builder(format!("rediss://localhost:{free}"))
        .build()
        .expect("a good URL");
    assert_eq!(
        refused(&unknown).await.kind(),
        ErrorKind::StoreUnavailable,
        "nobody vouches for it"
    );
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_lease_is_extended_until_its_runtime_ends() {
    let server = RedisServer::start();
    let url = server.url();
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let lock = runtime.block_on(async {
            let store = RedisStore::builder(url).build().expect("a good URL");
            locked(&store).await
        });
        drop(runtime);
        lock
    });
    let orphan = other.join().expect("a lock");
    let store = store(&server);
    match store.try_lock(&key()).await.expect("asking") {
        TryLock::Busy(Some(holder)) => {
            assert!(holder.starts_with(&format!("process {} on ", std::process::id())))
        }
        other => panic!("{other:?}"),
    }
    let left = || {
        server
            .command(&["PTTL", LOCK])
            .trim_start_matches(':')
            .parse::<i64>()
            .expect("a number")
    };
    let mut lock = loop {
        assert!(left() <= 5000, "nobody extends it");
        match store.try_lock(&key()).await.expect("asking") {
            TryLock::Locked(lock) => break lock,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    // Longer than a lease.
    let held = Instant::now();
    while held.elapsed() < Duration::from_millis(5500) {
        assert!(left() > 2000, "it is extended every 1.5 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(orphan);
    tokio::time::sleep(Duration::from_millis(50)).await;
    lock.save(None, stored(version(1, 1), b"test-only-pair"))
        .await
        .expect("the lock is still this one's");
    lock.unlock().await;
    assert_eq!(left(), -2, "released");
    drop(locked(&store).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(left(), -2, "released by a drop");
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_lost_lease_changes_nothing_and_frees_no_other() {
    let server = RedisServer::start();
    let (one, two) = (store(&server), store(&server));
    let mut late = locked(&one).await;
    late.save(None, stored(version(1, 1), b"test-only-first"))
        .await
        .expect("saving");
    server.command(&["DEL", LOCK]);
    let mut owner = locked(&two).await;
    owner
        .save(
            Some(version(1, 1)),
            stored(version(1, 2), b"test-only-second"),
        )
        .await
        .expect("saving");

    let save = late
        .save(
            Some(version(1, 2)),
            stored(version(1, 3), b"test-only-late"),
        )
        .await;
    assert_eq!(kind(save), Some(ErrorKind::StoreConflict));
    let again = late
        .save(None, stored(version(1, 1), b"test-only-first"))
        .await;
    assert_eq!(kind(again), Some(ErrorKind::StoreConflict));
    assert_eq!(
        kind(late.quarantine().await),
        Some(ErrorKind::StoreConflict)
    );
    late.unlock().await;
    assert!(
        matches!(
            one.try_lock(&key()).await.expect("asking"),
            TryLock::Busy(_)
        ),
        "still the other one's"
    );
    owner
        .save(
            Some(version(1, 2)),
            stored(version(1, 3), b"test-only-third"),
        )
        .await
        .expect("saving");
    assert_eq!(record(&one).await, b"test-only-third");
    owner.unlock().await;
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g24_a_paused_redis_is_an_error_in_time() {
    let server = RedisServer::start();
    let store = store(&server);
    let mut lock = locked(&store).await;
    lock.save(None, stored(version(1, 1), b"test-only-first"))
        .await
        .expect("saving");
    server.command(&["CLIENT", "PAUSE", "3400", "ALL"]);
    let begun = Instant::now();
    let next = stored(version(1, 2), b"test-only-second");
    let (saved, step) = longest_step(lock.save(Some(version(1, 1)), next.clone())).await;
    assert_eq!(kind(saved), Some(ErrorKind::StoreUnavailable));
    assert!(
        begun.elapsed() < Duration::from_millis(3300),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        step < Duration::from_millis(100),
        "the runtime is not held up: {step:?}"
    );

    let again = lock.save(Some(version(1, 1)), next).await;
    assert_eq!(kind(again), None, "reconnected");
    lock.save(
        Some(version(1, 2)),
        stored(version(1, 3), b"test-only-third"),
    )
    .await
    .expect("saving");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(record(&store).await, b"test-only-third");
    lock.unlock().await;
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g24_a_killed_redis_is_an_error_and_is_found_again() {
    let mut server = RedisServer::start();
    let store = store(&server);
    let mut lock = locked(&store).await;
    lock.save(None, stored(version(1, 1), b"test-only-first"))
        .await
        .expect("saving");
    server.kill();
    for error in [
        refused(&store).await,
        lock.quarantine().await.expect_err("nobody is there"),
    ] {
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error:?}");
    }
    server.restart();
    assert_eq!(store.load(&key()).await.expect("loading"), None);
    let save = lock
        .save(
            Some(version(1, 1)),
            stored(version(1, 2), b"test-only-second"),
        )
        .await;
    assert_eq!(
        kind(save),
        Some(ErrorKind::StoreConflict),
        "the lock was lost with everything else"
    );
    let mut lock = locked(&store).await;
    lock.save(None, stored(version(1, 2), b"test-only-second"))
        .await
        .expect("writing it back");

    // Killed and back before the next call: that one sees nothing of it.
    server.restart();
    assert_eq!(store.load(&key()).await.expect("loading"), None);
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
            hash(&["form", "2", "pair", "test-only-future"]),
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

#[test]
#[ignore = "needs redis-server; .ci/run runs it"]
fn g24_each_runtime_has_a_connection_that_it_drives() {
    let server = RedisServer::start();
    let store = store(&server);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (one, two) = (runtime(), runtime());
    for number in 1..=3 {
        one.block_on(save(&store, stored(version(1, number), b"one")));
        assert_eq!(
            two.block_on(record(&store)),
            b"one",
            "the other runtime stands still meanwhile"
        );
        let third = runtime();
        drop(third.block_on(locked(&store)));
        drop(third);
        two.block_on(async {
            while !matches!(
                store.try_lock(&key()).await.expect("asking"),
                TryLock::Locked(_)
            ) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        server.command(&["DEL", LOCK]);
    }
}
