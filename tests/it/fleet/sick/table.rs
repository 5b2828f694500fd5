//! The table in the guide.

use std::{env, fs};

use super::{cell::Seen, stores::Kind};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide/sick_members.md");

const HEAD: &str = "\
| one process | in which fleets | the healthy ones | the sick one | token calls | presented twice |
| --- | --- | --- | --- | --- | --- |
";

/// A line of the table, but for its second column.
fn line(name: &str, fleets: &str, seen: &str) -> String {
    format!("| {name} | {fleets} | {seen} |\n")
}

fn told(seen: &Seen) -> String {
    let Seen {
        healthy,
        sick,
        token_calls,
        logins,
        is_presented_twice,
    } = seen;
    let errors = |outcomes: &std::collections::BTreeSet<String>| {
        let errors = outcomes.iter().filter(|outcome| *outcome != "served");
        errors.cloned().collect::<Vec<_>>().join(", ")
    };
    let healthy = match errors(&healthy.outcomes) {
        none if none.is_empty() => "served at once".to_owned(),
        errors => format!("served, then {errors}"),
    };
    let sick = match errors(&sick.outcomes) {
        none if none.is_empty() && *logins > 0 => "served, logs in by itself".to_owned(),
        none if none.is_empty() => "served".to_owned(),
        errors => errors,
    };
    let twice = if *is_presented_twice { "once" } else { "never" };
    format!("{healthy} | {sick} | {token_calls} | {twice}")
}

/// Those of which the same can be told.
fn grouped<T>(cells: impl Iterator<Item = (T, String)>) -> Vec<(Vec<T>, String)> {
    let mut groups: Vec<(Vec<T>, String)> = Vec::new();
    for (cell, told) in cells {
        match groups.iter_mut().find(|(_, of_others)| *of_others == told) {
            Some((cells, _)) => cells.push(cell),
            None => groups.push((vec![cell], told)),
        }
    }
    groups
}

/// The lines of one sickness.
pub(super) fn lines(name: &str, cells: impl Iterator<Item = ((Kind, bool), Seen)>) -> String {
    let groups = grouped(cells.map(|(fleet, seen)| (fleet, told(&seen))));
    let lines = groups
        .iter()
        .map(|(fleets, told)| line(name, &named(fleets), told));
    lines.collect()
}

/// The lines of a process that is stopped, in such a fleet, at each of these steps.
pub(super) fn stopped_lines(
    kind: Kind,
    has_key: bool,
    steps: impl Iterator<Item = (&'static str, String)>,
) -> String {
    let fleet = named(&[(kind, has_key)]);
    let lines = grouped(steps)
        .into_iter()
        .map(|(steps, told)| line(&format!("stopped {}", steps.join(", or ")), &fleet, &told));
    lines.collect()
}

pub(super) fn is_of_stopped(row: &str, kind: Kind) -> bool {
    let kind = match kind {
        Kind::File => "| files,",
        Kind::Redis => "| Redis,",
    };
    row.starts_with("| stopped ") && row.contains(kind)
}

fn named(fleets: &[(Kind, bool)]) -> String {
    let one = |kind: Kind, has_key: bool| {
        let kind = match kind {
            Kind::File => "files",
            Kind::Redis => "Redis",
        };
        format!("{kind}, {}", if has_key { "key" } else { "no key" })
    };
    match fleets {
        [_, _, _, _] => "all".to_owned(),
        [(_, true), (_, true)] => "key".to_owned(),
        [(_, false), (_, false)] => "no key".to_owned(),
        [(Kind::File, _), (Kind::File, _)] => "files".to_owned(),
        [(Kind::Redis, _), (Kind::Redis, _)] => "Redis".to_owned(),
        others => {
            let others = others.iter().map(|(kind, has_key)| one(*kind, *has_key));
            others.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Compares with the guide those of its lines that `are_mine`, or writes them anew.
pub(super) fn agrees(lines: &str, are_mine: impl Fn(&str) -> bool) {
    let guide = fs::read_to_string(PATH).unwrap_or_else(|_| HEAD.to_owned());
    let (head, rows) = guide.split_at(HEAD.len().min(guide.len()));
    let (mine, others): (Vec<_>, Vec<_>) =
        rows.split_inclusive('\n').partition(|row| are_mine(row));
    if env::var_os("SICK_MEMBERS").is_some() {
        let text = [head, lines, &others.concat()].concat();
        fs::write(PATH, text).expect("writing");
        return;
    }
    assert_eq!(head, HEAD);
    for (now, stands) in lines.split_inclusive('\n').zip(&mine) {
        assert_eq!(
            now, *stands,
            "SICK_MEMBERS=write writes the guide's table anew"
        );
    }
    assert_eq!(lines.lines().count(), mine.len());
}
