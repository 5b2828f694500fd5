//! Where a file store puts its files, and places that can't be used.

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use apivideo_auth::{
    ApiVideoAuthLayer, GrantType,
    store::{KeyringStore, RedisStore},
    testing::FakeApi,
};

use super::*;
use crate::support::{
    Body,
    child::{Child, orders},
    client, list,
};
use crate::traces::Traces;

/// What Windows takes for a device, whatever its case and whatever follows a dot.
const DEVICES: [&str; 8] = [
    "con", "NUL", "Aux", "prn", "com1", "LPT9", "con.x", "nul.a.b",
];

#[test]
fn g25_accounts_have_names_apart_where_case_is_ignored() {
    let accounts = ["main", "Main", "MAIN", "mAin", "_main", "m.a-i_n"];
    let accounts = accounts.iter().chain(&DEVICES);
    let mut names = HashSet::new();
    for account in accounts.clone() {
        let key = StoreKey::new("https://ws.example", *account).expect("a good key");
        let name = key.name();
        let base = name.split('.').next().expect("a part").to_owned();
        assert!(
            !DEVICES
                .iter()
                .any(|device| base.eq_ignore_ascii_case(device)),
            "{name}"
        );
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-@+".contains(letter);
        assert!(name.chars().all(is_plain), "{name}");
        assert!(names.insert(name.to_lowercase()), "{name}");
    }
    assert_eq!(names.len(), accounts.count());
    let name = |account| {
        let key = StoreKey::new("https://ws.api.video", account).expect("a good key");
        key.name()
    };
    assert_eq!(name("default"), "default@https_3a_2f_2fws.api.video_3a443");
    assert_eq!(name("Main.B"), "+main.+b@https_3a_2f_2fws.api.video_3a443");
    assert_eq!(name("con"), "@con@https_3a_2f_2fws.api.video_3a443");
}

#[tokio::test]
async fn g25_a_key_is_the_same_however_its_origin_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    let api = FakeApi::in_process();
    let builder = ApiVideoAuthLayer::builder()
        .base_url("https://ws.api.video")
        .api_key(api.api_key());
    let layer = builder.store(store.clone()).build().expect("good settings");
    client(&layer, &api)
        .source::<Body>()
        .token()
        .await
        .expect("a token");
    for origin in ["https://ws.api.video", "HTTPS://WS.API.VIDEO:443/"] {
        let key = StoreKey::new(origin, "default").expect("a good key");
        assert!(
            store.load(&key).await.expect("loading").is_some(),
            "{origin}"
        );
    }
    let is_same =
        |one: &str, other: &str| StoreKey::new(one, "a").ok() == StoreKey::new(other, "a").ok();
    assert!(is_same("http://x", "http://x:80") && is_same("https://x:8443", "https://X:8443"));
    for other in [
        "http://x",
        "https://x.",
        "https://x:8443",
        "x",
        "https://x/path",
        "https://u@x",
    ] {
        assert!(!is_same("https://x", other), "{other}");
    }
    assert!(!is_same("any", "ANY"), "what is no origin stays as it is");
}

#[test]
#[ignore = "runs as a child process"]
fn child_of_user_folder() {
    let [expected] = orders();
    let store = FileStore::in_user_folder().expect("a home");
    assert_eq!(store.folder(), Path::new(&expected));
}

#[tokio::test]
async fn g24_the_users_folder_is_the_one_for_state() {
    for (shell, expected) in [
        (
            "export HOME=/home/test XDG_STATE_HOME=/var/test XDG_DATA_HOME=/data",
            "/var/test/apivideo-auth",
        ),
        (
            "unset XDG_STATE_HOME; export HOME=/home/test",
            "/home/test/.local/state/apivideo-auth",
        ),
    ] {
        let shell = format!(r#"{shell}; exec "$@""#);
        let test = "stores::file_places::child_of_user_folder";
        Child::start_in(&shell, test, &[expected]).passed().await;
    }
}

/// It stands in errors, whose reader need not know where the program was started.
#[test]
fn g24_a_store_says_its_whole_place() {
    let whole = std::env::current_dir().expect("a folder").join("tokens");
    let files = FileStore::in_folder("tokens");
    let expected = format!("the file store in {}", whole.display());
    assert_eq!(files.place(), expected);
    let key = EncryptionKey::from_bytes([7; 32]);
    assert_eq!(Arc::new(EncryptedStore::new(files, key)).place(), expected);
    let keyring = KeyringStore::in_folder("tokens").place();
    assert_eq!(keyring, format!("the keyring store in {}", whole.display()));
    let redis = RedisStore::builder("rediss://fleet:secret@redis.example/0").build();
    let redis = redis.expect("a good URL").place();
    assert_eq!(redis, "the Redis store at redis.example:6379");
}

#[tokio::test]
async fn g24_a_place_that_can_never_work_is_not_transient() {
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("file");
    fs::write(&file, "something else").expect("writing");
    let long = outside.path().join("x".repeat(300));
    for (place, why) in [
        (file.clone(), "a file where the folder is to be"),
        (file.join("tokens"), "a file above the folder"),
        (long, "a name that is too long"),
    ] {
        let store = FileStore::in_folder(&place);
        for error in [
            store.load(&key()).await.expect_err(why),
            store.try_lock(&key()).await.expect_err(why),
        ] {
            assert_eq!(error.kind(), ErrorKind::Configuration, "{why}: {error:?}");
            assert!(!error.is_transient(), "{why}");
            assert!(
                error.to_string().contains(place.to_str().expect("a path")),
                "{error}"
            );
        }

        // It is no reason to stop where the key can log in.
        let api = FakeApi::builder().build();
        let layer = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .store(store);
        let keyless = layer.build().expect("good settings");
        assert!(list(&client(&keyless, &api)).await.is_err());
        let layer = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .api_key(api.api_key());
        let keyed = layer
            .store(FileStore::in_folder(&place))
            .build()
            .expect("good settings");
        assert_eq!(
            list(&client(&keyed, &api)).await.expect("a login"),
            200,
            "{why}"
        );
        let grant = keyed.subscribe().latest().map(|renewed| renewed.grant);
        assert_eq!(grant, Some(GrantType::ApiKey));
    }
}

#[tokio::test]
async fn g22_a_parent_that_others_may_write_to_is_warned_of() {
    for (mode, is_open) in [
        (0o777, true),
        (0o770, true),
        (0o1777, false),
        (0o755, false),
    ] {
        let outside = tempfile::tempdir().expect("a folder");
        let parent = outside.path().join("parent");
        let folder = parent.join("deep/tokens");
        fs::create_dir(&parent).expect("a folder");
        fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).expect("its mode");
        let traces = Traces::default();
        let subscribed = traces.subscribe();
        let store = FileStore::in_folder(folder);
        for store in [store.clone(), store] {
            locked(&store).await.unlock().await;
        }
        drop(subscribed);
        let name = parent.to_str().expect("a path");
        let warnings = traces.text().matches("WARN").count();
        assert_eq!(
            warnings,
            usize::from(is_open),
            "{mode:o}: {}",
            traces.text()
        );
        assert_eq!(traces.warned(name), is_open, "{mode:o}: {}", traces.text());
    }
}
