//! What a file store trusts, and what it leaves behind.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use tempfile::TempDir;

use super::*;
use crate::support::child::{Child, orders, wait_for_parent};

/// A store in a fresh folder that holds one pair, and the pair's file.
async fn with_a_pair() -> (TempDir, FileStore, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    save(&store, stored(version(1, 1), b"test-only-pair")).await;
    let file = store.folder().join(format!("{}.json", key().name()));
    assert!(file.is_file());
    (folder, store, file)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changing the mode");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn make_fifo(path: &Path) {
    assert!(
        Command::new("mkfifo")
            .arg("-m")
            .arg("600")
            .arg(path)
            .status()
            .expect("mkfifo")
            .success()
    );
}

/// Runs a child of this file to its end, on a folder, in a shell that runs `shell` first.
async fn run_child(shell: &str, test: &str, folder: &Path) {
    let folder = folder.to_str().expect("a plain path");
    let child = Child::start_in(shell, &format!("stores::file::{test}"), &[folder]);
    child.passed().await;
}

/// Root may read and write everywhere, unless it gives that up.
const WITHOUT_ROOT: &str = r#"[ "$(id -u)" != 0 ] || set -- setpriv --bounding-set=-dac_override,-dac_read_search "$@"; exec "$@""#;

/// In a child: the store on the folder that it is told.
fn ordered() -> FileStore {
    let [folder] = orders();
    FileStore::in_folder(folder)
}

/// Puts something else in the place of a file.
type Trick = fn(&Path);

const TRICKS: [(&str, Trick); 6] = [
    ("a symbolic link", |path| {
        let elsewhere = path.with_extension("elsewhere");
        fs::rename(path, &elsewhere).expect("renaming");
        symlink(elsewhere, path).expect("linking");
    }),
    ("a hard link", |path| {
        fs::hard_link(path, path.with_extension("elsewhere")).expect("linking")
    }),
    ("a pipe", |path| {
        fs::remove_file(path).expect("removing");
        make_fifo(path);
    }),
    ("readable by the group", |path| set_mode(path, 0o640)),
    ("writable by all", |path| set_mode(path, 0o602)),
    ("in a folder that others may write to", |path| {
        set_mode(path.parent().expect("a folder"), 0o770)
    }),
];

#[tokio::test]
async fn g22_a_record_not_this_users_alone_is_refused() {
    for (trick, play) in TRICKS {
        let (_folder, store, file) = with_a_pair().await;
        let mut lock = locked(&store).await;
        play(&file);
        let error = refused(&store).await;
        assert_eq!(error.kind(), ErrorKind::StoreCorrupt, "{trick}: {error}");
        assert!(!format!("{error:?}").contains("test-only"), "{trick}");
        assert_eq!(
            kind(
                lock.save(Some(version(1, 1)), stored(version(1, 2), b"x"))
                    .await
            ),
            Some(ErrorKind::StoreCorrupt)
        );
        lock.quarantine().await.expect("quarantine");
        let quarantine = names(store.folder())
            .into_iter()
            .filter(|name| name.contains(".json.rejected-"))
            .count();
        assert_eq!(quarantine, 1, "{trick}: {:?}", names(store.folder()));
        assert_eq!(store.load(&key()).await.expect("loading"), None, "{trick}");
    }
}

#[tokio::test]
async fn g21_a_lock_file_that_is_not_this_users_alone_is_refused() {
    for (trick, play) in TRICKS {
        let (_folder, store, file) = with_a_pair().await;
        play(&file.with_extension("lock"));
        assert_eq!(
            kind(store.try_lock(&key()).await),
            Some(ErrorKind::StoreCorrupt),
            "{trick}"
        );
    }
}

#[tokio::test]
async fn g22_a_dangling_link_is_not_followed_by_a_save() {
    let (folder, store, file) = with_a_pair().await;
    let victim = folder.path().join("victim");
    fs::remove_file(&file).expect("removing");
    symlink(&victim, &file).expect("linking");
    let mut lock = locked(&store).await;
    assert_eq!(
        kind(lock.save(None, stored(version(1, 2), b"x")).await),
        Some(ErrorKind::StoreCorrupt)
    );
    drop(lock);
    fs::remove_file(file.with_extension("lock")).expect("removing");
    symlink(&victim, file.with_extension("lock")).expect("linking");
    assert_eq!(
        kind(store.try_lock(&key()).await),
        Some(ErrorKind::StoreCorrupt)
    );
    assert!(!victim.exists());
}

#[tokio::test]
async fn g22_a_damaged_record_is_corrupt_and_a_newer_one_left_alone() {
    let (_folder, store, file) = with_a_pair().await;
    let whole = fs::read(&file).expect("reading");
    for end in 0..whole.len() {
        fs::write(&file, &whole[..end]).expect("writing");
        assert_eq!(
            refused(&store).await.kind(),
            ErrorKind::StoreCorrupt,
            "cut at {end}"
        );
    }
    for damaged in [
        b"\xff\xfe\x00".as_slice(),
        b"null",
        br#"{"form":1}"#,
        br#"{"form":"1"}"#,
        &vec![b' '; 2 << 20],
    ] {
        fs::write(&file, damaged).expect("writing");
        let error = refused(&store).await;
        assert_eq!(error.kind(), ErrorKind::StoreCorrupt);
        assert!(
            error.to_string().contains("remove it"),
            "it says how to mend it: {error}"
        );
    }

    let future = br#"{"form":2,"pair":"test-only-future"}"#;
    fs::write(&file, future).expect("writing");
    let error = refused(&store).await;
    assert_eq!(error.kind(), ErrorKind::StoreUnreadable);
    assert!(error.to_string().contains("newer version"), "{error}");
    let mut lock = locked(&store).await;
    assert_eq!(
        kind(lock.save(None, stored(version(1, 2), b"x")).await),
        Some(ErrorKind::StoreUnreadable)
    );
    assert_eq!(fs::read(&file).expect("reading"), future, "untouched");
}

#[tokio::test]
async fn g25_names_stay_in_their_folder_and_apart() {
    for bad in [
        "",
        "../x",
        "..",
        ".x",
        "a/b",
        "a\\b",
        "a b",
        "é",
        "a\0",
        &"x".repeat(65),
    ] {
        assert_eq!(
            kind(StoreKey::new("https://ws.example", bad)),
            Some(ErrorKind::Configuration),
            "{bad:?}"
        );
    }
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    let origins = [
        "https://ws.example",
        "https://ws.example:8443",
        "https://../../x",
        "https://[::1]",
        "a_3a",
        "a:",
    ];
    for (number, origin) in (1..).zip(origins) {
        let key = StoreKey::new(origin, "x".repeat(64)).expect("a good key");
        let TryLock::Locked(mut lock) = store.try_lock(&key).await.expect("asking") else {
            panic!("it is free")
        };
        lock.save(None, stored(version(1, number), b"x"))
            .await
            .expect("a place of its own");
    }
    assert_eq!(names(folder.path()), ["tokens"]);
    assert_eq!(names(store.folder()).len(), 2 * origins.len());
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_umask() {
    save(&ordered(), stored(version(1, 1), b"test-only-pair")).await;
}

#[tokio::test]
async fn g22_files_are_private_whatever_the_umask() {
    for umask in ["022", "000"] {
        let outside = tempfile::tempdir().expect("a folder");
        let folder = outside.path().join("deep").join("tokens");
        let shell = format!(r#"umask {umask}; exec "$@""#);
        run_child(&shell, "child_of_umask", &folder).await;
        for made in [&outside.path().join("deep"), &folder] {
            assert_eq!(
                fs::metadata(made).expect("a folder").mode() & 0o777,
                0o700,
                "umask {umask}"
            );
        }
        for name in names(&folder) {
            let mode = fs::metadata(folder.join(&name)).expect("a file").mode() & 0o777;
            assert_eq!(mode, 0o600, "umask {umask}: {name}");
        }
        assert_eq!(
            record(&FileStore::in_folder(folder)).await,
            b"test-only-pair"
        );
    }
}

#[tokio::test]
async fn g22_what_a_killed_process_left_is_removed_under_the_lock() {
    let (_folder, store, file) = with_a_pair().await;
    let (own, other) = (
        format!(".{}.tmp-0123", key().name()),
        ".other@https_3a_2f_2fws.example_3a443.tmp-0123",
    );
    let mine = [
        store.folder().join(&own),
        store.folder().join(other),
        file.with_extension("json.rejected-9999999999999"),
    ];
    for left in &mine {
        fs::write(left, "test-only-left").expect("writing");
    }
    let lock = locked(&store).await;
    assert_eq!(
        mine.each_ref().map(|left| left.exists()),
        [false, true, true]
    );
    fs::write(&mine[0], "of the one who holds the lock").expect("writing");
    let TryLock::Busy(_) = store.try_lock(&key()).await.expect("asking") else {
        panic!("it is held")
    };
    assert!(mine[0].exists());
    lock.unlock().await;
}

#[tokio::test]
async fn g22_a_quarantined_record_is_kept_for_seven_days() {
    let (_folder, store, file) = with_a_pair().await;
    let now = fs::metadata(&file)
        .and_then(|file| file.modified())
        .expect("a time");
    let since = now.duration_since(UNIX_EPOCH).expect("a time");
    let days = |days: f64| since - Duration::from_secs_f64(days * 24.0 * 3600.0);
    let of = |name: &str, time: &dyn std::fmt::Display| {
        store.folder().join(format!("{name}.json.rejected-{time}"))
    };
    let name = key().name();
    let kept = [
        of(&name, &days(6.9).as_millis()),
        of(&name, &u64::MAX),
        of(&name, &"by-hand"),
        of(
            "other@https_3a_2f_2fws.example_3a443",
            &days(8.0).as_millis(),
        ),
    ];
    let ended = [of(&name, &days(7.1).as_millis()), of(&name, &1)];
    for path in kept.iter().chain(&ended) {
        fs::write(path, "test-only-rejected").expect("writing");
    }
    locked(&store).await.unlock().await;
    assert!(
        kept.iter().all(|path| path.exists()),
        "{:?}",
        names(store.folder())
    );
    assert!(
        !ended.iter().any(|path| path.exists()),
        "{:?}",
        names(store.folder())
    );
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_unreadable_folder() {
    let mut lock = locked(&ordered()).await;
    for _ in 0..2 {
        let kind = kind(lock.quarantine().await);
        assert_eq!(
            kind,
            Some(ErrorKind::StoreUnavailable),
            "a power cut may undo it"
        );
    }
}

/// A folder can't be synced that can't be opened.
#[tokio::test]
async fn g22_a_quarantine_is_on_the_disk_when_it_returns() {
    let (_folder, store, file) = with_a_pair().await;
    set_mode(store.folder(), 0o300);
    run_child(WITHOUT_ROOT, "child_of_unreadable_folder", store.folder()).await;
    set_mode(store.folder(), 0o700);
    assert!(!file.exists());
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_lock() {
    let _lock = locked(&ordered()).await;
    println!("it is held");
    wait_for_parent();
}

#[tokio::test]
async fn g21_a_held_lock_names_its_holder_and_ends_with_it() {
    let (_folder, store, file) = with_a_pair().await;
    let path = store.folder().to_str().expect("a plain path");
    let mut child = Child::start("stores::file::child_of_lock", &[path]);
    child.until(&["it is held"]).await;
    let holder = match store.try_lock(&key()).await.expect("asking") {
        TryLock::Busy(holder) => holder.expect("a name"),
        free => panic!("{free:?}"),
    };
    assert!(
        holder.starts_with(&format!("process {} on ", child.id())) && holder.contains("since"),
        "{holder}"
    );
    assert_eq!(
        record(&store).await,
        b"test-only-pair",
        "it can be read meanwhile"
    );

    child.signal("-KILL");
    child.killed().await;
    locked(&store).await.unlock().await;
    assert!(
        file.with_extension("lock").exists(),
        "the lock's file stays"
    );
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_full_disk() {
    let mut lock = locked(&ordered()).await;
    let large = stored(version(1, 2), &[b'x'; 100_000]);
    let error = lock
        .save(Some(version(1, 1)), large)
        .await
        .expect_err("no place");
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
    assert!(
        error.is_transient() && std::error::Error::source(&error).is_some(),
        "{error:?}"
    );
    // The lock is held all the same: it is tried again when there is place.
    lock.save(
        Some(version(1, 1)),
        stored(version(1, 2), b"test-only-next"),
    )
    .await
    .expect("a place for little");
}

#[tokio::test]
async fn g24_a_full_disk_is_an_error_and_keeps_what_was_stored() {
    let (_folder, store, _) = with_a_pair().await;
    let before = names(store.folder());
    // No file may grow beyond 2 to 4 KiB; writing more is an error, not a signal.
    let shell = r#"trap '' XFSZ; ulimit -f 4; exec "$@""#;
    run_child(shell, "child_of_full_disk", store.folder()).await;
    assert_eq!(record(&store).await, b"test-only-next");
    assert_eq!(names(store.folder()), before, "nothing is left behind");
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_read_only_folder() {
    let store = ordered();
    assert_eq!(record(&store).await, b"test-only-pair");
    let mut lock = locked(&store).await;
    let save = lock
        .save(Some(version(1, 1)), stored(version(1, 2), b"x"))
        .await;
    assert_eq!(kind(save), Some(ErrorKind::StoreUnavailable));
    assert_eq!(
        kind(lock.quarantine().await),
        Some(ErrorKind::StoreUnavailable)
    );
    let fresh = FileStore::in_folder(store.folder().join("deeper"));
    assert_eq!(
        kind(fresh.try_lock(&key()).await),
        Some(ErrorKind::StoreUnavailable)
    );
}

#[tokio::test]
async fn g24_a_read_only_folder_can_be_read_but_not_written_to() {
    let (_folder, store, file) = with_a_pair().await;
    set_mode(store.folder(), 0o500);
    run_child(WITHOUT_ROOT, "child_of_read_only_folder", store.folder()).await;
    set_mode(store.folder(), 0o700);
    assert!(file.exists());
    assert_eq!(record(&store).await, b"test-only-pair");
}
