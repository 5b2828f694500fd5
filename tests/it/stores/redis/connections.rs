//! The way to Redis: one connection for each runtime, and what its failures look like.

use super::*;
use crate::support::child::{Child, orders};

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
async fn g17_tls_proves_that_it_is_the_right_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_server, port, pem) = tls_server(folder.path());
    let trusted = |host: &str| {
        let url = format!("rediss://{host}:{port}");
        RedisStore::builder(url)
            .root_certificates(&*pem)
            .build()
            .expect("a good URL")
    };
    contract_suite(|| trusted("localhost")).await;
    assert_eq!(
        refused(&trusted("127.0.0.1")).await.kind(),
        ErrorKind::StoreUnavailable,
        "another name"
    );
    let unknown = RedisStore::builder(format!("rediss://localhost:{port}"))
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
async fn g24_a_redis_that_takes_no_writes_says_why() {
    let primary = RedisServer::start();
    let replica_of = format!("127.0.0.1 {}", primary.port());
    let replica = RedisServer::start_with(&["--replicaof", &replica_of]);
    let lonely = RedisServer::start_with(&["--min-replicas-to-write", "1"]);
    let (node, _owner) = cluster().await;
    for (server, text) in [
        (&replica, "is a replica"),
        (&lonely, "min-replicas-to-write"),
        (&node, "is a node of a cluster"),
    ] {
        let lock = store(server).try_lock(&key()).await;
        let error = lock.expect_err(text);
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error:?}");
        assert!(error.to_string().contains(text), "{error:?}");
    }
    // What is stored can be read all the same.
    save(&store(&primary), stored(version(1, 1), b"x")).await;
    while store(&replica)
        .load(&key())
        .await
        .expect("loading")
        .is_none()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two nodes of a cluster, of which the second one has all keys, and the first one knows.
async fn cluster() -> (RedisServer, RedisServer) {
    let node = || {
        let bus = free_port().to_string();
        let nodes = ["--cluster-config-file", "{folder}/nodes"];
        let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus];
        (
            RedisServer::start_with(
                &[settings, [nodes[0], nodes[1], "--loglevel", "warning"]].concat(),
            ),
            bus,
        )
    };
    let ((one, _), (two, bus)) = (node(), node());
    let port = two.port().to_string();
    assert_eq!(
        two.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]),
        "+OK"
    );
    assert_eq!(
        one.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]),
        "+OK"
    );
    for _ in 0..500 {
        if one.command(&["GET", RECORD]).starts_with("-MOVED") {
            return (one, two);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the nodes do not meet: {}", one.command(&["GET", RECORD]))
}

#[test]
#[ignore = "needs redis-server; .ci/run runs it"]
fn g24_each_runtime_has_a_connection_that_it_drives() {
    let server = RedisServer::start();
    let store = store(&server);
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

#[test]
#[ignore = "needs redis-server; .ci/run runs it"]
fn g24_runtimes_at_work_at_once_do_not_disturb_each_other() {
    const WORKERS: u64 = 4;
    let server = RedisServer::start();
    let proxy = Proxy::start(&server);
    let store = RedisStore::builder(proxy.url())
        .build()
        .expect("a good URL");
    let until = Instant::now() + Duration::from_millis(500);
    let worker = || {
        runtime().block_on(async {
            let (mut failures, key) = (0, key());
            while Instant::now() < until {
                let two = futures::join!(store.load(&key), store.load(&key));
                failures += usize::from(two.0.is_err()) + usize::from(two.1.is_err());
            }
            failures
        })
    };
    let failures: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        let failures = workers.into_iter().map(|worker| worker.join());
        failures.map(|failures| failures.expect("no panic")).sum()
    });
    assert_eq!((failures, proxy.connections()), (0, WORKERS));
    let connected = || server.command(&["CLIENT", "LIST"]).lines().count();
    for _ in 0..500 {
        if connected() == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} connections outlive their runtimes", connected() - 1);
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g24_certificates_that_were_missing_are_looked_for_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_server, port, pem) = tls_server(folder.path());
    let roots = folder.path().join("roots");
    let roots = roots.to_str().expect("a plain path");
    let child = Child::start_in(
        &format!(r#"unset SSL_CERT_DIR; export SSL_CERT_FILE={roots}; exec "$@""#),
        "stores::redis::connections::child_of_g24_certificates",
        &[
            &format!("rediss://localhost:{port}"),
            roots,
            &pem.replace('\n', "|"),
        ],
    );
    child.passed().await;
}

#[tokio::test]
#[ignore = "a child of g24_certificates_that_were_missing_are_looked_for_again"]
async fn child_of_g24_certificates() {
    let [url, roots, pem] = orders();
    let store = RedisStore::builder(url).build().expect("a good URL");
    for empty in [false, true] {
        if empty {
            std::fs::write(&roots, "").expect("writing");
        }
        let error = refused(&store).await;
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
        let text = error.to_string();
        assert!(text.contains("trusts no certificate"), "{text}");
        let reason = std::error::Error::source(&error).map(|reason| format!("{reason}"));
        let names = reason.is_some_and(|reason| reason.contains(&roots));
        assert_eq!(names, !empty, "{error:?}");
    }
    std::fs::write(&roots, pem.replace('|', "\n")).expect("writing");
    assert_eq!(store.load(&key()).await.expect("loading"), None);
}

/// A Redis for `localhost`, its port and the certificate that vouches for it.
fn tls_server(folder: &std::path::Path) -> (RedisServer, u16, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("writing");
        path.to_str().expect("a plain path").to_owned()
    };
    let (certificate, secret) = (
        write("cert", cert.pem()),
        write("key", signing_key.serialize_pem()),
    );
    let free = free_port();
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
    (RedisServer::start_with(&tls), free, cert.pem())
}
