//! What the README says of the manifest is true.

const README: &str = include_str!("../../README.md");
const MANIFEST: &str = include_str!("../../Cargo.toml");

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
        README.contains(&format!("\n{oldest}. Raising it")),
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
    let chapter = README
        .split("\n## Features\n")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next());
    let mut listed: Vec<_> = chapter
        .expect("a chapter on features")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` |").map(|(name, _)| name))
        .collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed);
}
