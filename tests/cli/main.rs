//! The command line, as processes: what a person types, with `curl` as the client of `token`, and programs beside it that
//! share the store.

#![cfg(test)] // where clippy lets tests unwrap

mod guide;
mod run;

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuthLayer, ErrorKind,
    store::FileStore,
    testing::{FakeApi, Fault},
};
use bytes::Bytes;
use http_body_util::Full;
use tower::{Layer, ServiceExt};

use crate::run::Shell;

/// A program without an API key that shares the store.
struct Program {
    layer: ApiVideoAuthLayer,
    api: FakeApi,
}

impl Program {
    fn start(shell: &Shell) -> Self {
        let store = FileStore::in_folder(shell.folder().join("apivideo-auth"));
        let layer = ApiVideoAuthLayer::builder()
            .base_url(shell.api().url())
            .store(store);
        Self {
            layer: layer.build().unwrap(),
            api: shell.api().clone(),
        }
    }

    async fn list(&self) -> Result<u16, ErrorKind> {
        let request = http::Request::get("/videos")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = self.layer.layer(self.api.service()).oneshot(request).await;
        response
            .map(|response| response.status().as_u16())
            .map_err(|error| error.downcast::<apivideo_auth::Error>().unwrap().kind())
    }
}

#[tokio::test]
async fn g29_programs_before_and_after_a_login_share_it() {
    let mut shell = Shell::new().await;
    let before = Program::start(&shell);
    assert_eq!(before.list().await, Err(ErrorKind::NoCredentials));
    shell.login().await;
    let after = Program::start(&shell);
    assert_eq!(after.list().await, Ok(200));
    // It looks into the store every 5 s.
    let mut found = before.list().await;
    for _ in 0..70 {
        if found == Ok(200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = before.list().await;
    }
    assert_eq!(found, Ok(200));
    let counts = shell.api().counts();
    assert_eq!((counts.logins, counts.refreshes), (1, 0), "they adopt");
}

#[tokio::test]
async fn g21_token_renews_for_all_that_share_the_store() {
    let mut shell = Shell::new().await;
    shell.login().await;
    let first = shell.run(&["token"]).await.ok();
    assert_eq!(shell.run(&["token"]).await.ok(), first, "it is kept");
    let longer = shell.run(&["token", "--min-lifetime", "3601"]).await.ok();
    assert_ne!(longer, first, "as new as there is");
    let counts = shell.api().counts();
    assert_eq!(
        (counts.logins, counts.refreshes, counts.reuse_violations),
        (1, 1, 0)
    );
    assert_eq!(Program::start(&shell).list().await, Ok(200));
}

#[tokio::test]
async fn g25_a_logout_is_written_back_by_nobody() {
    let mut shell = Shell::new().await;
    shell.login().await;
    let program = Program::start(&shell);
    assert_eq!(program.list().await, Ok(200));
    let said = shell.run(&["logout"]).await.ok();
    assert!(
        said.contains("no way to revoke") && said.contains("API key logs in again"),
        "{said}"
    );
    assert_eq!(program.list().await, Ok(200), "to the end of its token");
    // Its token is refused: it looks into the store, and finds that it was logged out.
    shell.api().revoke_access_tokens();
    assert_eq!(program.list().await, Ok(401));
    program.layer.shutdown(Duration::from_secs(5)).await;
    let status = shell.run(&["status", "--json"]).await;
    assert_eq!(status.code, 3);
    assert!(status.out.contains("\"logged_in\":false"), "{}", status.out);
    assert_eq!(shell.run(&["token"]).await.code, 3);
    assert_eq!(
        shell.api().counts().refreshes,
        0,
        "its refresh token is gone"
    );
    shell.login().await;
    assert_eq!(Program::start(&shell).list().await, Ok(200));
}

#[tokio::test]
async fn g29_a_login_replaces_what_is_stored() {
    let mut shell = Shell::new().await;
    shell.login().await;
    let first = shell.run(&["token"]).await.ok();
    shell.login().await;
    assert_ne!(shell.run(&["token"]).await.ok(), first);
    assert_eq!(shell.api().counts().logins, 2);
}

#[tokio::test]
async fn g19_the_prompt_never_shows_the_key() {
    let mut shell = Shell::new().await;
    let key = shell.api().api_key().to_owned();
    let shown = shell.type_at_prompt("login", "API key", &key).await;
    assert!(shown.contains("Logged in"), "{shown}");
    assert!(!shown.contains(&key), "{shown}");
    assert_eq!(shell.run(&["status"]).await.code, 0);
}

#[tokio::test]
async fn g19_a_key_is_read_from_a_file_and_never_from_arguments() {
    let mut shell = Shell::new().await;
    let file = shell.folder().join("key");
    std::fs::write(&file, format!("{}\n", shell.api().api_key())).unwrap();
    let file = file.to_str().unwrap().to_owned();
    shell.run(&["login", "--api-key-file", &file]).await.ok();
    let key = shell.api().api_key().to_owned();
    for arguments in [&["login", "--api-key", &key][..], &["login", &key]] {
        let refused = shell.run_unchecked(arguments).await;
        assert_eq!(refused.code, 2, "{}", refused.err);
    }
}

#[tokio::test]
async fn g29_exit_codes_say_what_to_do() {
    let mut shell = Shell::new().await;
    let help = shell.run(&["--help"]).await.ok();
    for code in ["  0  ", "  1  ", "  2  ", "  3  ", "  4  "] {
        assert!(help.contains(code), "{help}");
    }
    assert_eq!(shell.run(&["token"]).await.code, 3, "nobody is logged in");
    assert_eq!(shell.run(&["--store", "ftp://x", "status"]).await.code, 2);
    assert_eq!(shell.run(&["--account", "../x", "status"]).await.code, 2);
    let wrong = shell.run_with(&["login"], "test-only-wrong-key").await;
    assert_eq!(wrong.code, 3, "{}", wrong.err);
    assert!(wrong.err.contains("refused"), "{}", wrong.err);
    shell.api().fault(Fault::status(503).always());
    let key = shell.api().api_key().to_owned();
    let away = shell.run_with(&["login"], &key).await;
    assert_eq!(away.code, 4, "{}", away.err);
}

#[tokio::test]
async fn g29_status_says_what_is_stored_and_renews_nothing() {
    let mut shell = Shell::new().await;
    shell.login().await;
    let status = shell.run(&["status", "--json"]).await.ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["logged_in"], true);
    assert_eq!(status["account"], "default");
    assert_eq!(status["origin"], shell.api().url());
    assert!(status["access_token_expires_in"].as_u64().unwrap() > 3000);
    assert_eq!(status["renewal_under_way"], false);
    let told = shell.run(&["status"]).await.ok();
    assert!(
        told.contains("logged in") && told.contains("min more"),
        "{told}"
    );
    assert_eq!(shell.api().counts().token_calls, 1);
}
