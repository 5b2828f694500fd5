//! The peers take turns, and their times become ratios.

use super::row::{Row, Spread, Use};

pub(super) struct Runner {
    pub(super) peer: &'static str,
    /// Whether the times of the two before it are to be taken into account; see the module's docs.
    pub(super) is_corrected: bool,
    pub(super) is_shown: bool,
    pub(super) allocations: f64,
    /// Nanoseconds for one request.
    pub(super) one_task: Box<dyn FnMut() -> f64>,
    /// The same, and the part of the time in which the threads did run.
    pub(super) two_threads: Box<dyn FnMut() -> (f64, f64)>,
}

/// Two threads that share a processor have half of it each.
const SIDE_BY_SIDE: f64 = 0.8;

/// This part of the rounds has to be without disturbance by other programs.
const ENOUGH: f64 = 0.3;

/// The first of them is what the others are compared with.
pub(super) fn race(runners: &mut [Runner], usage: Use, rounds: usize) -> Vec<Row> {
    let mut times = vec![[Vec::new(), Vec::new()]; runners.len()];
    let mut undisturbed = Vec::new();
    let mut order: Vec<usize> = (0..runners.len()).collect();
    for round in 0..=rounds {
        fastrand::shuffle(&mut order);
        let mut parts = Vec::new();
        for &index in &order {
            let (one_task, (two_threads, part)) =
                ((runners[index].one_task)(), (runners[index].two_threads)());
            if round > 0 {
                times[index][0].push(one_task);
                times[index][1].push(two_threads);
                parts.push(part);
            }
        }
        if round > 0 {
            // Who waits for a lock does not run either, so it takes most of the peers to judge a round.
            undisturbed.push(Spread::of(parts).median >= SIDE_BY_SIDE);
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
    let count = undisturbed
        .iter()
        .filter(|undisturbed| **undisturbed)
        .count();
    if (count as f64) < ENOUGH * rounds as f64 {
        undisturbed.fill(false);
    }
    for [_, two_threads] in &mut times {
        let mut keep = undisturbed.iter();
        two_threads.retain(|_| keep.next() == Some(&true));
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
        peer: runner.peer,
        usage,
        one_task: ratios(index, 0),
        two_threads: ratios(index, 1),
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
