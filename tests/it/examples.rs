//! What all examples have in common, since they are copied.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the examples");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true if path.ends_with("node_modules") => Vec::new(),
            true => sources(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .collect()
}

/// By their text: from where a layer is built to its shutdown nothing leaves the function.
#[test]
fn g2_examples_shut_down_whatever_goes_wrong() {
    let mut seen = 0;
    for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")) {
        let text = fs::read_to_string(&path).expect("an example");
        if !text.contains("ApiVideoAuthLayer::builder()") {
            continue;
        }
        assert!(text.contains(".shutdown("), "{path:?}");
        for function in text.split("\n}\n") {
            let built = function.find("ApiVideoAuthLayer::builder()");
            let Some((_, rest)) = built.and_then(|at| function[at..].split_once(".build()?"))
            else {
                continue;
            };
            if let Some((between, _)) = rest.split_once(".shutdown(") {
                let leaves = ["?", "assert", "return", "panic", "expect("];
                let found = leaves.iter().find(|leaves| between.contains(**leaves));
                assert_eq!(found, None, "{path:?}: {between}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "{seen} layers");
}
