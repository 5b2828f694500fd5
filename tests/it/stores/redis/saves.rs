//! What a save leaves behind in Redis, whole or refused, in time or late.

use super::*;

/// What the docs of the store say, without the comment's slashes.
fn documented(line: &str) -> String {
    let docs = include_str!("../../../../src/store/redis/mod.rs");
    let line = docs
        .lines()
        .filter_map(|text| text.trim_start().strip_prefix("/// "))
        .find(|text| text.starts_with(line));
    line.expect("it is documented").to_owned()
}

/// A store for the user of the docs, in a database of its own, with `changes` to what the user may do.
fn restricted(server: &RedisServer, changes: &[&str]) -> RedisStore {
    let rules = documented("ACL SETUSER fleet");
    let words = rules.split(' ').chain(changes.iter().copied());
    assert_eq!(server.command(&words.collect::<Vec<_>>()), "+OK");
    let url = server.url().replace("://", "://fleet:PASSWORD@") + "/3";
    RedisStore::builder(url).build().expect("a good URL")
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g21_the_documented_rights_and_keys_are_the_used_ones() {
    let server = RedisServer::start();
    contract_suite(|| restricted(&server, &[])).await;

    let api = StoreKey::new("https://ws.api.video", "main").expect("a good key");
    let store = store(&server);
    let TryLock::Locked(mut lock) = store.try_lock(&api).await.expect("asking") else {
        panic!("the lock is free")
    };
    lock.save(None, stored(version(1, 1), b"x"))
        .await
        .expect("saving");
    for key in ["record", "lock"] {
        let key = documented(&format!(
            "{{apivideo-auth:main@https_3a_2f_2fws.api.video_3a443}}:{key}"
        ));
        let key = key.split(' ').next().expect("a word");
        assert_eq!(server.command(&["EXISTS", key]), ":1", "{key}");
    }
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g8_a_save_that_redis_refuses_leaves_the_record() {
    let server = RedisServer::start();
    let first = stored(version(1, 1), b"test-only-first");
    save(&restricted(&server, &[]), first.clone()).await;
    for refused in ["-hset", "-pexpire"] {
        let store = restricted(&server, &[refused]);
        let mut lock = locked(&store).await;
        let next = stored(version(1, 2), b"test-only-next");
        let result = lock.save(Some(version(1, 1)), next.clone()).await;
        assert_eq!(kind(result), Some(ErrorKind::StoreUnavailable), "{refused}");
        let found = store.load(&key()).await.expect("loading").expect("stored");
        assert_eq!(found.record, first.record, "{refused}");
        assert_eq!(found.header.version, version(1, 1), "{refused}");
        assert!(found.header.expires_in.is_some(), "{refused}");

        // The right comes back, and the same save is done.
        let store = restricted(&server, &[]);
        lock.save(Some(version(1, 1)), next)
            .await
            .expect("the same save again");
        lock.save(Some(version(1, 2)), first.clone())
            .await
            .expect("and the next");
        assert_eq!(record(&store).await, b"test-only-first");
        lock.unlock().await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g22_a_record_of_the_first_form_is_read_and_replaced() {
    let server = RedisServer::start();
    let store = store(&server);
    let least = ["HSET", RECORD, "form", "1", "family", "7", "revision", "1"];
    let whole = [
        "mark_count",
        "2",
        "mark_settles",
        "1",
        "expires",
        "1",
        "record",
        "",
    ];
    for (fields, marks, bytes) in [(&[][..], None, None), (&whole, Some(2), Some(&b""[..]))] {
        server.command(&["DEL", RECORD]);
        server.command(&[&least, fields].concat());
        let found = store.load(&key()).await.expect("loading").expect("stored");
        assert_eq!(found.header.version, version(7, 1));
        assert_eq!(found.header.mark.map(|mark| mark.count), marks);
        assert_eq!(found.header.not_before, None);
        assert_eq!(found.record.as_ref().map(Record::expose), bytes);

        let mut lock = locked(&store).await;
        lock.save(
            Some(version(7, 1)),
            Stored::new(Header::new(version(7, 2)), None),
        )
        .await
        .expect("saving");
        lock.unlock().await;
        let found = store.load(&key()).await.expect("loading").expect("stored");
        assert_eq!(
            (found.header, found.record),
            (Header::new(version(7, 2)), None),
            "nothing of the old one is left"
        );
    }
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g21_a_save_that_comes_late_never_lands_over_a_later_one() {
    let server = RedisServer::start();
    let proxy = Proxy::start(&server);
    let store = RedisStore::builder(proxy.url())
        .build()
        .expect("a good URL");
    let (one, two) = (version(1, 1), version(1, 2));
    let cases = [
        ("mark", one, one, one),
        ("pair", one, two, two),
        ("both", one, two, one),
    ];
    let mut locks = Vec::new();
    for (account, ..) in cases {
        let key = StoreKey::new("https://ws.example", account).expect("a good key");
        let TryLock::Locked(mut lock) = store.try_lock(&key).await.expect("asking") else {
            panic!("the lock is free")
        };
        let first = lock.save(None, stored(one, b"test-only-first")).await;
        first.expect("saving");
        locks.push((key, lock));
    }
    // Given up on a connection that hangs; they go on their way when the later saves are long done.
    proxy.block();
    let late = locks
        .iter_mut()
        .zip(cases)
        .map(|((_, lock), (_, expected, given_up, _))| {
            lock.save(Some(expected), stored(given_up, b"test-only-late"))
        });
    for late in futures::future::join_all(late).await {
        assert_eq!(kind(late), Some(ErrorKind::StoreUnavailable));
    }
    proxy.pass_new();
    for ((_, lock), (account, expected, _, later)) in locks.iter_mut().zip(cases) {
        let save = lock.save(Some(expected), stored(later, b"test-only-later"));
        assert_eq!(kind(save.await), None, "{account}");
    }
    proxy.pass();
    proxy.wait_until_said("overtaken", cases.len());
    for (key, lock) in locks {
        let found = store.load(&key).await.expect("loading").expect("stored");
        let record = found.record.expect("a record");
        assert_eq!(record.expose(), b"test-only-later", "{}", key.account());
        lock.unlock().await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g22_what_was_quarantined_is_kept_for_a_week() {
    let server = RedisServer::start();
    let store = store(&server);
    server.command(&["SET", RECORD, "damaged"]);
    let mut lock = locked(&store).await;
    lock.quarantine().await.expect("quarantine");
    lock.quarantine().await.expect("nothing to move");
    lock.unlock().await;
    assert_eq!(server.command(&["DBSIZE"]), ":1");
    let kept = server.command(&["RANDOMKEY"]);
    let since = kept.strip_prefix(&RECORD.replace("record", "rejected-"));
    assert!(
        since.is_some_and(|since| since.parse::<u64>().is_ok()),
        "{kept}"
    );
    assert_eq!(server.command(&["GET", &kept]), "damaged");
    let left = server.command(&["TTL", &kept]);
    let left: i64 = left.trim_start_matches(':').parse().expect("a number");
    assert!((604_000..=604_800).contains(&left), "{left} s");
}
