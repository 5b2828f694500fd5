//! Files, folders and disks: modes, links, owners, and no room.

use std::{
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::PathBuf,
    thread,
};

use apivideo_auth::{TokenSource, store::FileStore};
use rustix::{
    process::{Resource, Rlimit, geteuid, setrlimit},
    thread::set_thread_res_uid,
};

use super::*;
use crate::support::child::{Child, orders};

pub(super) const NO_HOME: &str = "no home folder";

/// Where a child prints the message of a mistake.
const MARK: &str = "MESSAGE ";

pub(super) fn is_root() -> bool {
    geteuid().is_root()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A source whose pair lies in this folder.
fn source(builder: Builder, api: &FakeApi, folder: &Path) -> TokenSource {
    let layer = builder.store(FileStore::in_folder(folder)).build().unwrap();
    layer.layer(api.service()).source::<Body>()
}

/// Does this as a user to whom modes mean something: root may do everything. Threads that it starts are that user's too.
fn as_nobody<T: Send>(user: u32, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        if is_root() {
            let user = rustix::process::Uid::from_raw(user);
            set_thread_res_uid(user, user, user).unwrap();
        }
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(work)
}

/// Saves a pair, and says where.
async fn saved(api: &FakeApi, folder: &Path) -> PathBuf {
    source(with_key(api), api, folder).token().await.unwrap();
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let records = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    records.min().unwrap()
}

pub(super) async fn files(messages: &mut Messages) {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 10] = [
        ("a file that others may read", |file| mode(file, 0o644)),
        ("a folder that others may write to", |file| {
            mode(file.parent().unwrap(), 0o777)
        }),
        ("a symbolic link", |file| {
            let other = file.with_extension("other");
            fs::rename(file, &other).unwrap();
            symlink(other, file).unwrap();
        }),
        ("a hard link", |file| {
            fs::hard_link(file, file.with_extension("other")).unwrap()
        }),
        ("a damaged file", |file| {
            fs::write(file, "{\"oops\"").unwrap()
        }),
        ("a file cut short", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("an empty file", |file| fs::write(file, "").unwrap()),
        ("a file of a newer version", |file| {
            let text = fs::read_to_string(file).unwrap();
            fs::write(file, text.replace("\"form\":1", "\"form\":99")).unwrap();
        }),
        ("a folder in place of the file", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("a file that is gone", |file| fs::remove_file(file).unwrap()),
    ];
    for (mistake, spoil) in cases {
        let api = FakeApi::in_process();
        let folder = tempfile::tempdir().unwrap();
        mode(folder.path(), 0o700);
        spoil(&saved(&api, folder.path()).await);
        let builder = ApiVideoAuthLayer::builder().base_url(api.url());
        let error = source(builder, &api, folder.path()).token().await;
        messages.add_in(mistake, &error.unwrap_err(), folder.path());
    }

    let api = FakeApi::in_process();
    let mut refused = async |mistake, place: &Path, folder: &Path| {
        let error = source(with_refresh_token(&api), &api, place).token().await;
        messages.add_in(mistake, &error.unwrap_err(), folder);
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mistake = "a file in place of the folder";
    refused(mistake, &file.join("tokens"), folder.path()).await;
    let mistake = "a folder that is missing and can't be made";
    refused(mistake, Path::new("/proc/missing"), folder.path()).await;
    // Where we are not root, one that is.
    let others = if is_root() {
        chown(folder.path(), Some(4242), None).unwrap();
        folder.path()
    } else {
        Path::new("/usr")
    };
    refused("the folder of another user", others, others).await;
    let (error, folder) = as_nobody(4242, || {
        let folder = tempfile::tempdir().unwrap();
        mode(folder.path(), 0o500);
        let error = block_on(source(with_refresh_token(&api), &api, folder.path()).token());
        (error.unwrap_err(), folder)
    });
    messages.add_in("a folder without the right to write", &error, folder.path());
}

pub(super) async fn disks(messages: &mut Messages) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_string_lossy().into_owned();
    // A write beyond the limit is an error then, and not the end.
    let shell = r#"unset HOME XDG_STATE_HOME; trap "" XFSZ; exec "$@""#;
    for mistake in [
        "a disk that is full at first",
        "a disk that is full later",
        NO_HOME,
    ] {
        if mistake == NO_HOME && !is_root() {
            continue;
        }
        let test = "messages::files::child_of_mistakes";
        let said = Child::start_in(shell, test, &[mistake, &place])
            .passed()
            .await;
        let message = said.lines().find_map(|line| line.split(MARK).nth(1));
        messages.add_text(mistake, message.expect("a message"));
    }
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_mistakes() {
    let [mistake, folder] = orders();
    let folder = Path::new(&folder);
    let error = if mistake == NO_HOME {
        as_nobody(54321, || FileStore::in_user_folder().map(drop))
    } else {
        let api = FakeApi::in_process();
        let source = source(with_refresh_token(&api), &api, folder);
        if mistake.ends_with("later") {
            source.token().await.unwrap();
        }
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Fsize, none).unwrap();
        source.renew().await.map(drop)
    };
    let error = error.unwrap_err();
    let mut messages = Messages::default();
    messages.add_in("", &error, folder);
    println!("{MARK}{}", messages.0.trim());
}
