//! Keys in the keyring of the operating system.

use std::{fs, os::unix::net::UnixListener, path::Path};

use apivideo_auth::store::KeyringStore;

use super::*;
use crate::support::child::{Child, orders};

/// Each test has an account of its own: the keyring is shared.
fn account(name: &str) -> StoreKey {
    StoreKey::new(
        "https://keyring.example",
        format!("{name}.{:x}", fastrand::u64(..)),
    )
    .expect("a good key")
}

async fn lock(store: &KeyringStore, key: &StoreKey) -> Result<Box<dyn StoreLock>, Error> {
    loop {
        if let TryLock::Locked(lock) = store.try_lock(key).await? {
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn entry(key: &StoreKey) -> keyring_core::Entry {
    use keyring_core::api::CredentialStoreApi as _;
    let keyring = zbus_secret_service_keyring_store::Store::new().expect("a keyring");
    keyring
        .build("apivideo-auth", &key.name(), None)
        .expect("an entry")
}

#[tokio::test]
#[ignore = "needs gnome-keyring; .ci/run runs it"]
async fn g21_the_keyring_store_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    contract_suite(|| KeyringStore::in_folder(folder.path().join("tokens"))).await;
    contract_suite(|| encrypted(KeyringStore::in_folder(folder.path().join("encrypted")))).await;
}

#[tokio::test]
#[ignore = "needs gnome-keyring; .ci/run runs it"]
async fn g22_the_key_of_the_pair_lies_in_the_keyring_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, key) = (KeyringStore::in_folder(folder.path()), account("hidden"));
    let pair = stored(version(1, 1), b"test-only-pair");
    lock(&store, &key)
        .await
        .expect("the lock")
        .save(None, pair.clone())
        .await
        .expect("saving");
    let secret = entry(&key).get_password().expect("a key");
    let file =
        fs::read_to_string(folder.path().join(format!("{}.json", key.name()))).expect("the file");
    assert!(!file.contains(&secret) && !format!("{store:?}").contains(&secret));

    let inner = FileStore::in_folder(folder.path())
        .load(&key)
        .await
        .expect("loading")
        .expect("stored");
    assert!(
        inner
            .record
            .expect("sealed")
            .expose()
            .starts_with(b"sealed:1")
    );
    let next = KeyringStore::in_folder(folder.path());
    assert_eq!(
        next.load(&key)
            .await
            .expect("loading")
            .expect("stored")
            .record,
        pair.record,
        "the next process reads it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs gnome-keyring; .ci/run runs it"]
async fn g21_processes_that_start_at_once_agree_on_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = account("agree");
    let starts = (1..=8_u64).map(|number| {
        let (store, key) = (KeyringStore::in_folder(folder.path()), key.clone());
        tokio::spawn(async move {
            let mut lock = lock(&store, &key).await.expect("the lock");
            let found = store
                .load(&key)
                .await
                .expect("a pair that can be read")
                .map(|stored| stored.header.version);
            lock.save(found, stored(version(1, number), b"test-only-pair"))
                .await
                .expect("saving");
            lock.unlock().await;
        })
    });
    for start in starts.collect::<Vec<_>>() {
        start
            .await
            .expect("a process that read what the others had saved");
    }
}

#[tokio::test]
#[ignore = "needs gnome-keyring; .ci/run runs it"]
async fn g22_a_pair_whose_key_is_gone_is_unreadable_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, key) = (KeyringStore::in_folder(folder.path()), account("gone"));
    let mut held = lock(&running, &key).await.expect("the lock");
    held.save(None, stored(version(1, 1), b"test-only-pair"))
        .await
        .expect("saving");
    held.unlock().await;
    let file = folder.path().join(format!("{}.json", key.name()));
    let (before, secret) = (
        fs::read(&file).expect("reading"),
        entry(&key).get_password().expect("a key"),
    );
    entry(&key).delete_credential().expect("deleting");

    let store = KeyringStore::in_folder(folder.path());
    for error in [
        store.load(&key).await.expect_err("no key"),
        store.try_lock(&key).await.expect_err("no key"),
    ] {
        assert_eq!(error.kind(), ErrorKind::StoreUnreadable);
        assert!(
            error.to_string().contains("restore") && error.to_string().contains(&key.name()),
            "{error}"
        );
    }
    assert!(
        entry(&key).get_password().is_err(),
        "no other key is made in its place"
    );
    assert_eq!(fs::read(&file).expect("reading"), before);
    assert!(
        running
            .load(&key)
            .await
            .expect("it knows the key")
            .is_some()
    );

    entry(&key).set_password("not a key").expect("restoring");
    assert_eq!(
        kind(store.load(&key).await),
        Some(ErrorKind::StoreUnreadable)
    );
    entry(&key).set_password(&secret).expect("restoring");
    assert!(store.load(&key).await.expect("the key is back").is_some());
}

#[tokio::test]
#[ignore = "needs gnome-keyring; .ci/run runs it"]
async fn g22_a_running_process_finds_another_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, sibling) = (
        KeyringStore::in_folder(folder.path()),
        KeyringStore::in_folder(folder.path()),
    );
    let key = account("changed");
    let file = folder.path().join(format!("{}.json", key.name()));
    let put = async |store: &KeyringStore, version| {
        let mut held = lock(store, &key).await.expect("the lock");
        held.save(None, stored(version, b"test-only-pair"))
            .await
            .expect("saving");
        held.unlock().await;
    };
    put(&running, version(1, 1)).await;
    fs::write(
        &file,
        br#"{"form":1,"family":1,"revision":1,"record":"AAAA"}"#,
    )
    .expect("writing");
    assert_eq!(
        kind(running.load(&key).await),
        Some(ErrorKind::StoreUnreadable)
    );
    fs::remove_file(&file).expect("removing");
    entry(&key).delete_credential().expect("deleting");
    put(&sibling, version(2, 1)).await;
    assert!(
        running
            .load(&key)
            .await
            .expect("the new key")
            .expect("stored")
            .record
            .is_some()
    );
}

/// Runs a child of this file in a session of its own, with what `shell` starts there.
async fn in_session(shell: &str, test: &str, folder: &Path) {
    let folder = folder.to_str().expect("a plain path");
    let shell = format!(
        r#"export HOME="{folder}" XDG_RUNTIME_DIR="{folder}" XDG_DATA_HOME="{folder}"; {shell}"#
    );
    let child = Child::start_in(&shell, &format!("stores::keyring::{test}"), &[folder]);
    child.passed().await;
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_locked_keyring() {
    let ([folder], key) = (orders(), account("locked"));
    let store = || KeyringStore::in_folder(Path::new(&folder).join("tokens"));
    let running = store();
    let mut held = lock(&running, &key).await.expect("the lock");
    held.save(None, stored(version(1, 1), b"test-only-pair"))
        .await
        .expect("saving");
    held.unlock().await;
    let collection = "array:objpath:/org/freedesktop/secrets/collection/login";
    let locked = std::process::Command::new("dbus-send")
        .args([
            "--session",
            "--print-reply",
            "--dest=org.freedesktop.secrets",
            "/org/freedesktop/secrets",
        ])
        .args(["org.freedesktop.Secret.Service.Lock", collection])
        .output()
        .expect("dbus-send");
    assert!(locked.status.success(), "{locked:?}");
    let begun = Instant::now();
    let error = store().load(&key).await.expect_err("it is locked");
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(6) && error.is_transient(),
        "{error:?}"
    );
    assert!(
        running
            .load(&key)
            .await
            .expect("a running process knows the key")
            .is_some()
    );
}

#[tokio::test]
#[ignore = "needs gnome-keyring; .ci/run runs it"]
async fn g24_a_locked_keyring_is_a_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let unlock = "printf test-only | gnome-keyring-daemon --unlock --components=secrets >/dev/null";
    let shell = format!(r#"exec dbus-run-session -- sh -c '{unlock}; exec "$@"' sh "$@""#);
    in_session(&shell, "child_of_locked_keyring", folder.path()).await;
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_no_keyring() {
    let ([folder], key) = (orders(), account("none"));
    let folder = Path::new(&folder).join("tokens");
    let store = KeyringStore::in_folder(&folder);
    assert!(
        store
            .load(&key)
            .await
            .expect("nothing is stored, so no key is needed")
            .is_none()
    );
    let error = store.try_lock(&key).await.expect_err("no keyring");
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
    assert!(error.to_string().contains("Secret Service"), "{error}");
    // The lock was let go.
    let TryLock::Locked(_) = FileStore::in_folder(folder)
        .try_lock(&key)
        .await
        .expect("asking")
    else {
        panic!("the lock is free")
    };
}

#[tokio::test]
async fn g24_without_a_keyring_it_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let shell = r#"export DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent; exec "$@""#;
    in_session(shell, "child_of_no_keyring", folder.path()).await;
}

#[test]
#[ignore = "runs as a child process"]
fn child_of_hanging_keyring() {
    let runtime = |paused| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder
            .enable_all()
            .start_paused(paused)
            .build()
            .expect("a runtime")
    };
    let ([folder], key) = (orders(), account("hangs"));
    let store = |name| KeyringStore::in_folder(Path::new(&folder).join(name));
    // Paused, time runs ahead to the deadline: nothing else moves.
    let paused = runtime(true);
    let (error, _) = paused.block_on(longest_step(store("tokens").try_lock(&key)));
    let error = error.expect_err("no response");
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
    assert!(error.to_string().contains("within 5 s"), "{error}");
    drop(paused);

    let real = runtime(false);
    let begun = real.block_on(async {
        let other = store("others");
        let asked = tokio::time::timeout(Duration::from_millis(300), other.try_lock(&key));
        let (asked, step) = longest_step(asked).await;
        assert!(asked.is_err(), "it hangs");
        assert!(step < Duration::from_millis(100), "{step:?}");
        Instant::now()
    });
    drop(real);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "the work is left behind"
    );
}

#[tokio::test]
async fn g24_a_keyring_that_hangs_holds_up_no_runtime_nor_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = folder.path().join("bus");
    let _bus = UnixListener::bind(&bus).expect("a socket that never answers");
    let shell = format!(
        r#"export DBUS_SESSION_BUS_ADDRESS="unix:path={}"; exec "$@""#,
        bus.display()
    );
    in_session(&shell, "child_of_hanging_keyring", folder.path()).await;
}
