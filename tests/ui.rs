//! What the compiler says to those whose body type does not fit.

/// The text is that of one compiler, and everything is built anew for it: `.ci/run ui` does that. `TRYBUILD=overwrite` writes
/// it anew.
#[test]
#[ignore = "takes a build of its own"]
fn g16_the_compiler_names_the_way_out_for_each_body() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
