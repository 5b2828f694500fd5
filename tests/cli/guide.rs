//! The commands of the guide, exactly as a person types them.

use crate::run::{PROGRAM, Shell};

const GUIDE: &str = include_str!("../../src/guide/login.rs");

/// The lines of its shell blocks.
fn commands() -> Vec<&'static str> {
    let mut is_shell = false;
    let lines = GUIDE.lines().filter_map(|line| {
        let line = line.strip_prefix("//!")?.trim();
        match line {
            "```sh" => is_shell = true,
            "```" => is_shell = false,
            _ if is_shell => return Some(line),
            _ => {}
        }
        None
    });
    lines.collect()
}

/// Only the server differs: production becomes the fake, for the program by a wrapper in the `PATH`, for `curl` in its URL.
#[tokio::test]
async fn g29_the_guides_commands_work_as_they_stand() {
    let shell = Shell::new().await;
    let folder = shell.folder().join("bin");
    std::fs::create_dir(&folder).unwrap();
    let wrapper = folder.join("apivideo-auth");
    let text = format!(
        "#!/bin/sh\nexec {PROGRAM} --base-url {} \"$@\"\n",
        shell.api().url()
    );
    std::fs::write(&wrapper, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, mode).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());

    let commands = commands();
    assert_eq!(commands.len(), 5, "{commands:#?}");
    assert_eq!(commands[0], "cargo install apivideo-auth --features cli");
    for (command, expected) in [
        (commands[1], "may now be forgotten"),
        (commands[2], "logged in"),
        (commands[3], "\"data\":["),
        (commands[4], "no longer in the store"),
    ] {
        let mut bash = shell.command("bash");
        let typed = command.replace("https://ws.api.video", &shell.api().url());
        bash.args(["-c", &typed]).env("PATH", &path);
        let shown = Shell::finish(bash, shell.api().api_key()).await.ok();
        assert!(shown.contains(expected), "{command}: {shown}");
        assert!(!shown.contains("test-only"), "a secret is shown: {shown}");
    }
}
