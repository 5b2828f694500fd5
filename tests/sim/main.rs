//! Random schedules in paused time, each made of one seed: processes that share a store, callers that go away, networks
//! and stores that fail, clocks that jump, processes that are killed. The crate is the real one; the API is the fake one;
//! `model` says what may happen.
//!
//! A schedule that fails is made as small as it can be, and printed with its story and the command that plays it again:
//!
//! ```text
//! SIM_SEED=42 SIM_STEPS=3,7,8 cargo test --all-features --test sim
//! ```
//!
//! `SIM_SCHEDULES` says how many are played, `SIM_SECONDS` for how long at the most, and `SIM_FIRST` which seed is first.

mod line;
mod model;
mod run;
mod script;
mod store;
mod world;

use std::{
    env,
    time::{Duration, Instant},
};

use self::{
    run::{Failure, play},
    script::{Setting, Step},
};

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn script(seed: u64) -> (Setting, Vec<Step>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let setting = script::setting(&mut rng);
    let steps = script::steps(&mut rng, &setting);
    (setting, steps)
}

fn some(steps: &[Step], chosen: &[usize]) -> Vec<Step> {
    let chosen = chosen.iter().filter_map(|step| steps.get(*step));
    chosen.cloned().collect()
}

/// The fewest of these steps that still fail.
fn shrink(seed: u64, setting: &Setting, steps: &[Step]) -> Vec<usize> {
    let fails = |chosen: &[usize]| play(seed, setting, &some(steps, chosen), false).0.is_some();
    let mut chosen: Vec<usize> = (0..steps.len()).collect();
    let mut size = chosen.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < chosen.len() {
            let mut fewer = chosen.clone();
            fewer.drain(at..(at + size).min(chosen.len()));
            if fails(&fewer) {
                chosen = fewer;
            } else {
                at += size;
            }
        }
        if size == 1 {
            return chosen;
        }
        size = size.div_ceil(2);
    }
}

fn report(seed: u64, setting: &Setting, steps: &[Step], chosen: &[usize]) -> String {
    let (failure, _) = play(seed, setting, &some(steps, chosen), true);
    let Some(Failure { what, story }) = failure else {
        return format!("seed {seed} failed once, and not again: it is not one story");
    };
    let numbers: Vec<_> = chosen.iter().map(usize::to_string).collect();
    let steps = numbers.join(",");
    format!(
        "{what}\n\n{setting:?}\n{}\n\nSIM_SEED={seed} SIM_STEPS={steps} cargo test --all-features --test sim -- schedules",
        told(&story)
    )
}

/// Without the time, the same line over and over is told once.
fn told(story: &[String]) -> String {
    let what = |line: &String| line.get(11..).unwrap_or_default().to_owned();
    let mut lines: Vec<String> = Vec::new();
    let mut alike = 0;
    for (number, line) in story.iter().enumerate() {
        if number > 0 && what(line) == what(&story[number - 1]) {
            alike += 1;
            continue;
        }
        if alike > 0 {
            lines.push(format!("           ({alike} more)"));
        }
        alike = 0;
        lines.push(line.clone());
    }
    lines.join("\n")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures how long it takes")]
fn schedules_end_as_promised() {
    if let Some(seed) = number("SIM_SEED") {
        let (setting, steps) = script(seed);
        let chosen: Vec<usize> = match env::var("SIM_STEPS") {
            Ok(chosen) => chosen
                .split(',')
                .filter_map(|step| step.parse().ok())
                .collect(),
            Err(_) => (0..steps.len()).collect(),
        };
        let (failure, story) = play(seed, &setting, &some(&steps, &chosen), true);
        println!("{setting:?}\n{}", told(&story));
        assert!(
            failure.is_none(),
            "{}",
            failure.map(|f| f.what).unwrap_or_default()
        );
        return;
    }
    let limit = Duration::from_secs(number("SIM_SECONDS").unwrap_or(12));
    let (first, count) = (
        number("SIM_FIRST").unwrap_or(1),
        number("SIM_SCHEDULES").unwrap_or(1000),
    );
    let (begun, mut played, mut failed) = (Instant::now(), 0, Vec::new());
    for seed in first..first + count {
        let (setting, steps) = script(seed);
        if let Some(failure) = play(seed, &setting, &steps, false).0 {
            println!("seed {seed}: {}", failure.what);
            failed.push(seed);
            if failed.len() == 1 {
                let chosen = shrink(seed, &setting, &steps);
                println!("{}\n", report(seed, &setting, &steps, &chosen));
            }
            if failed.len() >= number("SIM_FAILURES").unwrap_or(1) as usize {
                break;
            }
        }
        played += 1;
        if begun.elapsed() > limit {
            break;
        }
    }
    let per_second = f64::from(played) / begun.elapsed().as_secs_f64();
    println!(
        "
sim: {} schedules={played} per_second={per_second:.0}",
        if failed.is_empty() { "ok" } else { "failed" }
    );
    assert!(failed.is_empty(), "seeds {failed:?}");
}

#[test]
fn one_seed_is_one_story() {
    for seed in 1..40 {
        let (setting, steps) = script(seed);
        let (_, story) = play(seed, &setting, &steps, true);
        let (_, again) = play(seed, &setting, &steps, true);
        let differs = story
            .iter()
            .zip(&again)
            .position(|(one, other)| one != other);
        let same = differs.unwrap_or(story.len().min(again.len()));
        let from = same.saturating_sub(10);
        assert!(
            story == again,
            "seed {seed} has two stories:\n{}\n\n{}",
            story[from..story.len().min(same + 3)].join("\n"),
            again[from..again.len().min(same + 3)].join("\n")
        );
    }
}
