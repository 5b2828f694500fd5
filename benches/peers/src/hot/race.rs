//! The peers take turns, and their times become ratios.

use super::row::{Row, Spread, Use};

pub(super) struct Runner {
    pub(super) peer: &'static str,
    /// Whether the times of the two before it are to be taken into account; see the module's docs.
    pub(super) is_corrected: bool,
    pub(super) is_shown: bool,
    pub(super) allocations: f64,
    /// Nanoseconds of processor time for one request.
    pub(super) one_task: Box<dyn FnMut() -> f64>,
    /// The same, and the part of the time in which the threads did run.
    pub(super) two_threads: Box<dyn FnMut() -> (f64, f64)>,
}

/// Two threads that share a processor have half of it each.
const SIDE_BY_SIDE: f64 = 0.8;

/// More tries than these don't help: a peer whose threads wait for each other's locks never runs side by side.
const TRIES: usize = 5;

/// The first of them is what the others are compared with.
pub(super) fn race(runners: &mut [Runner], usage: Use, rounds: usize) -> Vec<Row> {
    let mut times = vec![[Vec::new(), Vec::new()]; runners.len()];
    let mut disturbed = 0.0;
    let mut order: Vec<usize> = (0..runners.len()).collect();
    for round in 0..=rounds {
        fastrand::shuffle(&mut order);
        for &index in &order {
            let one_task = (runners[index].one_task)();
            let (two_threads, part) = side_by_side(&mut runners[index].two_threads);
            if round > 0 {
                times[index][0].push(one_task);
                times[index][1].push(two_threads);
                // Others may wait for a lock, and then do not run either.
                if index == 0 && part < SIDE_BY_SIDE {
                    disturbed += 1.0 / rounds as f64;
                }
            }
        }
    }
    // The bare service and the pipeline without the policy stand before the pipeline with it.
    for index in 2..runners.len() {
        if runners[index].is_corrected {
            runners[index].allocations +=
                runners[index - 2].allocations - runners[index - 1].allocations;
            let [bare, without, with] = &mut times[index - 2..=index] else {
                unreachable!("these are three")
            };
            for ((with, without), bare) in with.iter_mut().zip(without).zip(bare) {
                for ((with, without), bare) in with.iter_mut().zip(without).zip(bare) {
                    *with += *bare - *without;
                }
            }
        }
    }
    let ratios = |index: usize, way: usize| {
        let bases = &times[0][way];
        Spread::of(
            times[index][way]
                .iter()
                .zip(bases)
                .map(|(time, base)| time / base)
                .collect(),
        )
    };
    let median = |index: usize, way: usize| Spread::of(times[index][way].clone()).median;
    let row = |(index, runner): (usize, &Runner)| Row {
        peer: runner.peer.to_owned(),
        usage,
        one_task: ratios(index, 0),
        two_threads: ratios(index, 1),
        disturbed,
        nanoseconds: [median(index, 0), median(index, 1)],
        allocations: runner.allocations - runners[0].allocations,
    };
    runners
        .iter()
        .enumerate()
        .filter(|(_, runner)| runner.is_shown)
        .map(row)
        .collect()
}

/// The try in which both threads had the most of the time: a thread that wakes up late says nothing of a peer.
fn side_by_side(run: &mut dyn FnMut() -> (f64, f64)) -> (f64, f64) {
    let mut best = run();
    for _ in 1..TRIES {
        if best.1 >= SIDE_BY_SIDE {
            break;
        }
        let next = run();
        if next.1 > best.1 {
            best = next;
        }
    }
    best
}
