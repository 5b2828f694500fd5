//! Sicknesses that the system itself gives to one process: a folder that is read-only to it, no room in any file, no file
//! descriptor left. Each on real files, where this machine can do that.

use std::{process::Command, sync::Arc};

use super::{
    super::child::{connect, request},
    place::{self, Place},
    *,
};
use crate::{
    redis_server::RedisServer,
    support::child::{Child, orders, wait_for_parent},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    ReadOnly,
    NoRoom,
    NoFiles,
}

impl Limit {
    /// In which shell the process starts. A read-only mount is its own, and needs no rights.
    fn shell(self) -> &'static str {
        match self {
            Self::ReadOnly => {
                r#"exec unshare -rm sh -c 'mount --bind "$FOLDER" "$FOLDER" && exec "$@"' sh "$@""#
            }
            // What does not fit is an error, and no signal.
            Self::NoRoom => r#"trap "" XFSZ; exec "$@""#,
            Self::NoFiles => r#"exec "$@""#,
        }
    }

    fn is_possible(self) -> bool {
        let works = |command: &str| {
            let mut shell = Command::new("sh");
            let shell = shell
                .args(["-c", command])
                .current_dir(std::env::temp_dir());
            let status = shell.status();
            status.is_ok_and(|status| status.success())
        };
        match self {
            Self::ReadOnly => works(
                r#"unshare -rm sh -c 'mount --bind . . && mount -o remount,bind,ro "$PWD"' 2>&-"#,
            ),
            _ => works("prlimit --version >&-"),
        }
    }

    /// Falls ill, or is mended. The process does to its mount itself what its parent does to its limits.
    fn change(self, child: &Child, is_sick: bool) {
        let limit = match (self, is_sick) {
            (Self::ReadOnly, _) => return,
            (Self::NoRoom, true) => "--fsize=0:",
            (Self::NoRoom, false) => "--fsize=unlimited:",
            (Self::NoFiles, true) => "--nofile=3:",
            (Self::NoFiles, false) => "--nofile=256:",
        };
        let pid = child.id().to_string();
        let set = Command::new("prlimit")
            .args(["--pid", &pid, limit])
            .status();
        assert!(set.expect("prlimit").success());
    }

    fn change_own(folder: &str, is_sick: bool) {
        let mode = if is_sick { "ro" } else { "rw" };
        let options = format!("remount,bind,{mode}");
        let mount = Command::new("mount")
            .args(["-o", &options, folder])
            .status();
        assert!(mount.expect("mount").success());
    }
}

/// Makes three requests: well, sick, and mended again.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_a_sick_fleet() {
    let [api, store, key, is_read_only] = orders();
    let builder = ApiVideoAuthLayer::builder().base_url(api);
    let builder = place::open(&store, builder);
    let builder = if key.is_empty() {
        builder
    } else {
        builder.api_key(key)
    };
    let (layer, client) = connect(builder);
    for (is_sick, is_mended) in [(false, false), (true, false), (false, true)] {
        if is_read_only == "true" {
            Limit::change_own(&store, is_sick);
        }
        let mut outcome = request(&client).await;
        // The cool-down may have to end first.
        for _ in 0..300 {
            if !is_mended || outcome == Ok(200) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            outcome = request(&client).await;
        }
        println!("answered {outcome:?}");
        tokio::task::spawn_blocking(wait_for_parent)
            .await
            .expect("no panic");
    }
    assert!(layer.shutdown(seconds(20.0)).await);
}

async fn limited(limit: Limit, place: Place, has_key: bool) {
    let name = format!("{limit:?}, {:?}, key: {has_key}", place.kind());
    let api = FakeApi::start().await.expect("a server");
    let builder = |with_key: bool| {
        let builder = place.open(ApiVideoAuthLayer::builder().base_url(api.url()));
        if with_key {
            builder.api_key(api.api_key())
        } else {
            builder
        }
    };
    let (operator, client) = connect(builder(true));
    client.source::<Body>().renew().await.expect("a login");
    assert!(operator.shutdown(HOUR).await, "{name}");
    let (layer, healthy) = connect(builder(has_key));
    assert_eq!(request(&healthy).await, Ok(200), "{name}");

    let key = if has_key { api.api_key() } else { "" };
    let is_read_only = (limit == Limit::ReadOnly).to_string();
    let mut sick = Child::start_in(
        &format!("export FOLDER={}; {}", place.text(), limit.shell()),
        "fleet::sick::limits::child_of_a_sick_fleet",
        &[&api.url(), &place.text(), key, &is_read_only],
    );
    sick.until(&["answered Ok(200)"]).await;
    limit.change(&sick, true);
    if let Place::Redis(server) = &place {
        // It needs another connection, and so do the others.
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    api.revoke_access_tokens();
    sick.go_on().await;
    let said = sick.until(&["answered"]).await;
    // Without a file descriptor the key may lack a connection to log in by.
    if !has_key || limit != Limit::NoFiles {
        assert_eq!(said.contains("Ok(200)"), has_key, "{name}: {said}");
    }
    let begun = tokio::time::Instant::now();
    assert_eq!(request(&healthy).await, Ok(200), "{name}");
    assert!(begun.elapsed() < seconds(3.0), "{name}");
    limit.change(&sick, false);
    sick.go_on().await;
    sick.until(&["answered Ok(200)"]).await;
    sick.go_on().await;
    sick.passed().await;
    healthy.source::<Body>().renew().await.expect(&name);
    assert!(layer.shutdown(HOUR).await, "{name}");
    assert_eq!(api.counts().reuse_violations, 0, "{name}");
    assert_eq!(api.most_presentations(), 1, "{name}");
}

async fn all_limits(limits: &[Limit], place: impl Fn(usize) -> Place) {
    let mut cells = Vec::new();
    for limit in limits {
        if !limit.is_possible() {
            println!("{limit:?} can't be played on this machine");
            continue;
        }
        for has_key in [true, false] {
            let place = place(cells.len());
            cells.push(tokio::spawn(limited(*limit, place, has_key)));
        }
    }
    for cell in cells {
        cell.await.expect("a cell");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g24_one_without_room_or_files_is_no_trouble_on_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = [Limit::ReadOnly, Limit::NoRoom, Limit::NoFiles];
    all_limits(&limits, |at| {
        Place::Folder(folder.path().join(at.to_string()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g24_one_without_files_is_no_trouble_on_redis() {
    let server = Arc::new(RedisServer::start());
    all_limits(&[Limit::NoFiles], |_| Place::Redis(server.clone())).await;
}
