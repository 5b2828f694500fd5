//! What the README says is true: of the manifest, and of each program, built as a stranger would.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Output};

use apivideo_auth::testing::FakeApi;
use tokio::process::Command;

const README: &str = include_str!("../../README.md");
const MANIFEST: &str = include_str!("../../Cargo.toml");

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let lines = README.lines().count();
    assert!(lines < 150, "{lines} lines");
}

#[test]
fn the_readme_names_this_version() {
    let version = concat!(
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR")
    );
    assert!(
        README.contains(&format!("apivideo-auth = \"{version}\"")),
        "not {version}"
    );
}

#[test]
fn the_readme_names_the_oldest_compiler() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        README.contains(&format!("Rust {oldest} or newer")),
        "not {oldest}"
    );
}

#[test]
fn the_readme_lists_each_feature() {
    let features = MANIFEST
        .split("[features]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .expect("features");
    let mut declared: Vec<_> = features
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| *name != "default")
        .collect();
    let mut listed: Vec<_> = README
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split(" | ").nth(2))
        .map(|name| name.trim_matches('`'))
        .collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed);
}

/// A chapter with its programs, and what they depend on: the list of the first, and what stands in the text as `name = ...`.
struct Chapter {
    title: &'static str,
    code: String,
    dependencies: BTreeMap<&'static str, &'static str>,
    /// What stands in the text is for tests.
    is_test: bool,
}

fn chapter(title: &'static str) -> Chapter {
    let text = README
        .split("\n## ")
        .find_map(|chapter| chapter.strip_prefix(title))
        .expect("a chapter");
    let (mut code, mut said, mut fence) = (String::new(), Vec::new(), None);
    for line in text.lines() {
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, Some(language)) if language.starts_with("rust") => {
                code.push_str(line);
                code.push('\n');
            }
            (None, Some("toml")) => said.push(line),
            (None, Some(_)) => {}
            (None, None) => said.extend(line.split('`').skip(1).step_by(2)),
        }
    }
    let dependencies = said
        .into_iter()
        .filter_map(|line| line.split_once(" = "))
        .collect();
    Chapter {
        title,
        code,
        dependencies,
        is_test: text.contains("[dev-dependencies]"),
    }
}

impl Chapter {
    /// The package of a stranger who has read this: `main.rs` is the first program or what becomes of it.
    fn package(&self, main: &str) -> PathBuf {
        let name = self.title.replace(' ', "-").replace(',', "").to_lowercase();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join("readme")
            .join(&name);
        fs::create_dir_all(folder.join("src")).unwrap();
        let mut all = chapter("Start").dependencies;
        let mut tests = BTreeMap::new();
        if self.is_test {
            tests = self.dependencies.clone();
        } else {
            all.extend(&self.dependencies);
        }
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[dependencies]\n{}\n[dev-dependencies]\n{}\n[workspace]\n",
            lines(&all),
            lines(&tests)
        );
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        fs::write(folder.join("src/main.rs"), main).unwrap();
        // The versions that are here.
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
        fs::copy(lock, folder.join("Cargo.lock")).unwrap();
        folder
    }

    /// The first program with the code of this chapter beside it.
    fn beside_the_first(&self) -> PathBuf {
        self.package(&format!(
            "#![deny(warnings)]\n{}\n#[allow(dead_code)]\nmod chapter {{\n{}}}\n",
            chapter("Start").code,
            self.code
        ))
    }
}

fn lines(dependencies: &BTreeMap<&str, &str>) -> String {
    let here = format!("path = \"{}\"", env!("CARGO_MANIFEST_DIR"));
    dependencies
        .iter()
        .map(|(name, wanted)| match *name {
            "apivideo-auth" if wanted.starts_with('"') => format!("{name} = {{ {here} }}\n"),
            "apivideo-auth" => format!("{name} = {}\n", wanted.replace("version = \"0.1\"", &here)),
            // Its TLS library takes a minute to build, and is not among the versions of this package.
            "reqwest" => format!("{name} = {{ version = {wanted}, default-features = false }}\n"),
            _ => format!("{name} = {wanted}\n"),
        })
        .collect()
}

async fn cargo(command: &str, folder: &PathBuf) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("readme/target");
    let output = Command::new(env!("CARGO"))
        .args([command, "--offline", "--quiet"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{folder:?}:\n{}", text(&output));
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

/// The same program, against a server of ours.
fn against_a_fake(program: &str) -> String {
    let real = ".environment(Environment::Production)";
    assert!(program.contains(real) && program.contains(".https_only()"));
    program
        .replace(
            real,
            ".base_url(std::env::var(\"FAKE_API\").unwrap_or_default())",
        )
        .replace(".https_only()", ".https_or_http()")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds packages of its own: .ci/run readme"]
async fn each_program_of_the_readme_builds_in_an_empty_package() {
    for title in ["With reqwest", "With axum", "Errors, retries, logs"] {
        cargo("check", &chapter(title).beside_the_first()).await;
    }
    cargo("test", &chapter("Testing your code").beside_the_first()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds packages of its own: .ci/run readme"]
async fn the_programs_of_the_readme_work_also_twice() {
    let (first, second) = (
        chapter("Start"),
        chapter("Without the API key, with a store"),
    );
    // `layer` and its `use` are replaced.
    let (uses, rest) = first.code.split_once('\n').unwrap();
    assert!(uses.starts_with("use apivideo_auth::"));
    let (before, after) = rest.split_once("fn layer()").unwrap();
    let (_, after) = after.split_once("\n}\n").unwrap();
    let stored = format!("{}\n{before}{after}", second.code);

    let api = FakeApi::start().await.unwrap();
    let (_, seed) = api.mint_pair();
    let home = tempfile::tempdir().unwrap();
    for (chapter, code, runs) in [(&first, &first.code, 1), (&second, &stored, 2)] {
        let folder = chapter.package(&against_a_fake(code));
        cargo("build", &folder).await;
        let name = folder.file_name().unwrap();
        let program = folder.join("../target/debug").join(name);
        for run in 1..=runs {
            let output = Command::new(&program)
                .env("FAKE_API", api.url())
                .env("APIVIDEO_API_KEY", api.api_key())
                .env("APIVIDEO_REFRESH_TOKEN", &seed)
                .env("HOME", home.path())
                .env_remove("XDG_STATE_HOME")
                .output()
                .await
                .unwrap();
            assert_eq!(text(&output), "200 OK\n", "{name:?}, start {run}");
        }
    }
    let counts = api.counts();
    assert_eq!((counts.reuse_violations, api.presentations(&seed)), (0, 1));
}
