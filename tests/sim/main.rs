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
//! `SIM_SCHEDULES` says how many are played at least, `SIM_SECONDS` for how long more are, `SIM_FIRST` which seed is first,
//! `SIM_THREADS` on how many threads, `SIM_FAILURES` after how many failures it stops.

mod found;
mod line;
mod model;
mod run;
mod script;
mod store;
mod world;

use std::{
    env,
    num::NonZero,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use apivideo_auth::{
    store::contract_suite,
    testing::{FakeApi, ManualClock},
};

use self::{
    run::{Failure, play},
    script::{Setting, Step},
    store::Client,
    world::{Life, Shared, World},
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
    let begun = Instant::now();
    let all = Schedules {
        next: AtomicU64::new(number("SIM_FIRST").unwrap_or(1)),
        least: number("SIM_SCHEDULES").unwrap_or(1000),
        until: begun + Duration::from_secs(number("SIM_SECONDS").unwrap_or(6)),
        failures: usize::try_from(number("SIM_FAILURES").unwrap_or(1)).unwrap_or(1),
        played: AtomicU64::new(0),
        failed: Mutex::default(),
    };
    let threads = number("SIM_THREADS").unwrap_or_else(|| {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        cores.min(4) as u64
    });
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| all.play());
        }
    });
    let played = all.played.into_inner();
    let per_second = played as f64 / begun.elapsed().as_secs_f64();
    let mut failed = all
        .failed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    let how = if failed.is_empty() { "ok" } else { "failed" };
    println!("\nsim: {how} schedules={played} per_second={per_second:.0}");
    if let Some(seed) = failed.first() {
        let (setting, steps) = script(*seed);
        let chosen = shrink(*seed, &setting, &steps);
        println!("{}\n", report(*seed, &setting, &steps, &chosen));
    }
    assert!(failed.is_empty(), "seeds {failed:?}");
}

/// What several threads play, each schedule on one of them.
struct Schedules {
    next: AtomicU64,
    /// So many are played, however long it takes, and more until this moment.
    least: u64,
    until: Instant,
    /// After so many failures no more is played.
    failures: usize,
    played: AtomicU64,
    failed: Mutex<Vec<u64>>,
}

impl Schedules {
    #[expect(clippy::disallowed_methods, reason = "it measures how long it takes")]
    fn play(&self) {
        let failed = || self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        while failed().len() < self.failures {
            if self.played.load(Ordering::Relaxed) >= self.least && Instant::now() >= self.until {
                return;
            }
            self.played.fetch_add(1, Ordering::Relaxed);
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let (setting, steps) = script(seed);
            if let Some(failure) = play(seed, &setting, &steps, false).0 {
                println!("seed {seed}: {}", failure.what);
                failed().push(seed);
            }
        }
    }
}

#[tokio::test]
async fn the_store_keeps_the_contract() {
    let clock = ManualClock::with_tokio();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let world = World::new(api, clock, Duration::from_secs(3600), false);
    let (disk, world) = (world.disk.clone(), Shared(Arc::new(Mutex::new(world))));
    let id = AtomicUsize::new(0);
    contract_suite(|| Client {
        disk: disk.clone(),
        world: world.clone(),
        id: id.fetch_add(1, Ordering::Relaxed),
        life: Life::default(),
    })
    .await;
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
