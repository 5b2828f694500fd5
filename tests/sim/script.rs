//! What happens in one schedule, made of one seed.

use std::time::Duration;

use fastrand::Rng;

use crate::{
    line::{CallFault, What},
    store::StoreFault,
};

/// The world before the first step.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Whether each process holds the API key.
    pub(crate) keyed: Vec<bool>,
    /// Processes without a key may have a seed.
    pub(crate) seeded: bool,
    pub(crate) store: bool,
    /// Somebody has logged in before.
    pub(crate) stored: bool,
    pub(crate) lifetime: Duration,
    /// Process 0 alone is sick. To the others nothing happens.
    pub(crate) one_is_sick: bool,
    pub(crate) login_kills_refresh_tokens: bool,
    pub(crate) refresh_kills_access_token: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: Op,
    /// How far all tasks come before the next step, at the same moment.
    pub(crate) yields: usize,
    pub(crate) then: Duration,
}

/// A caller that goes away.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaves {
    /// As it would be polled for the next time.
    Polls(usize),
    After(Duration),
}

/// What a request is like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) latency: Duration,
    pub(crate) leaves: Option<Leaves>,
    pub(crate) min_lifetime: Option<Duration>,
    /// Its path answers 401 for reasons of its own.
    pub(crate) is_denied: bool,
    /// Through a clone that lives for long.
    pub(crate) by_old_clone: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// So many at once.
    Requests {
        process: usize,
        count: usize,
        ask: Ask,
    },
    /// To another host.
    Foreign(usize),
    Renew(usize),
    Invalidate(usize),
    Keep(usize),
    NextCalls(usize, Vec<CallFault>),
    Line(usize, Option<CallFault>),
    Store(usize, Option<StoreFault>),
    EmptyStore {
        seeds: bool,
    },
    LoseLocks,
    RevokeAccessTokens,
    RevokeRefreshTokens,
    RefuseKey(bool),
    Suspend(bool),
    WallForward(usize, Duration),
    WallBack(usize, Duration),
    /// Nothing is polled for so long.
    Jump(Duration),
    /// All machines sleep: their timers and monotonic clocks stand still.
    Sleep(Duration),
    /// What was sent may still be carried out.
    Kill {
        process: usize,
        carried_out: bool,
    },
    ShutDown(usize),
    Start(usize),
    /// An operator rotates credentials.
    Give {
        process: usize,
        key: bool,
        seed: bool,
    },
}

pub(crate) fn setting(rng: &mut Rng) -> Setting {
    let processes = rng.usize(1..=5);
    let one_is_sick = processes > 1 && rng.u8(..4) == 0;
    let mut keyed: Vec<bool> = match rng.u8(..4) {
        0 => vec![true; processes],
        1 => vec![false; processes],
        _ => (0..processes).map(|_| rng.bool()).collect(),
    };
    if one_is_sick {
        keyed[1] = true;
    }
    let store = processes > 1 || rng.u8(..4) > 0;
    Setting {
        seeded: !store || rng.bool(),
        stored: store && rng.u8(..3) > 0,
        keyed,
        store,
        lifetime: Duration::from_secs(*choose(rng, &[40, 120, 900, 3600])),
        one_is_sick,
        login_kills_refresh_tokens: !one_is_sick && rng.u8(..8) == 0,
        refresh_kills_access_token: !one_is_sick && rng.u8(..4) == 0,
    }
}

pub(crate) fn steps(rng: &mut Rng, setting: &Setting) -> Vec<Step> {
    let count = rng.usize(6..26);
    (0..count)
        .map(|_| Step {
            what: op(rng, setting),
            yields: rng.usize(..8),
            then: pause(rng, setting),
        })
        .collect()
}

fn pause(rng: &mut Rng, setting: &Setting) -> Duration {
    match rng.u8(..10) {
        0..=4 => Duration::ZERO,
        5 | 6 => Duration::from_millis(rng.u64(1..300)),
        7 => Duration::from_millis(rng.u64(300..6_000)),
        8 => Duration::from_millis(rng.u64(6_000..40_000)),
        _ => setting.lifetime.mul_f64(0.4 + rng.f64() * 0.7),
    }
}

fn choose<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

fn latency(rng: &mut Rng) -> Duration {
    match rng.u8(..6) {
        0..=2 => Duration::ZERO,
        3 => Duration::from_millis(rng.u64(1..200)),
        4 => Duration::from_millis(rng.u64(200..4_000)),
        _ => Duration::from_millis(rng.u64(4_000..25_000)),
    }
}

fn call_fault(rng: &mut Rng, setting: &Setting) -> CallFault {
    let what = match rng.u8(..20) {
        0..=6 => What::Good,
        7 => What::ConnectionRefused,
        8 => What::LostBefore,
        9 | 10 => What::LostAfter,
        11 => What::HangsBefore,
        12 | 13 => What::HangsAfter,
        14 | 15 => What::Page(*choose(rng, &[500, 503, 502, 404, 403])),
        16 | 17 => What::BadGatewayAfter,
        // All believe in a wait that the API asks for.
        _ if setting.one_is_sick => What::Page(500),
        _ => What::RateLimited(*choose(rng, &[0, 1, 2, 5, 60])),
    };
    CallFault {
        before: latency(rng),
        what,
        after: latency(rng),
    }
}

fn store_fault(rng: &mut Rng) -> StoreFault {
    match rng.u8(..8) {
        0..=2 => StoreFault::Slow(Duration::from_millis(rng.u64(1..440))),
        3 => StoreFault::Slow(Duration::from_millis(rng.u64(440..4_000))),
        4 => StoreFault::Fails,
        5 => StoreFault::Full,
        6 => StoreFault::FailsAfter,
        _ => StoreFault::Hangs,
    }
}

fn ask(rng: &mut Rng, setting: &Setting) -> Ask {
    Ask {
        latency: match rng.u8(..3) {
            0 => Duration::from_millis(rng.u64(1..3_000)),
            _ => Duration::ZERO,
        },
        leaves: match rng.u8(..6) {
            0 => Some(Leaves::Polls(rng.usize(1..6))),
            1 => Some(Leaves::After(Duration::from_millis(rng.u64(..5_000)))),
            _ => None,
        },
        min_lifetime: (rng.u8(..10) == 0).then(|| Duration::from_secs(rng.u64(1..2_000))),
        is_denied: !setting.one_is_sick && rng.u8(..10) == 0,
        by_old_clone: rng.bool(),
    }
}

fn op(rng: &mut Rng, setting: &Setting) -> Op {
    let any = rng.usize(..setting.keyed.len());
    // Whom faults befall.
    let process = if setting.one_is_sick { 0 } else { any };
    let is_shared = !setting.one_is_sick;
    match rng.u8(..40) {
        0..=11 => Op::Requests {
            process: any,
            count: rng.usize(1..4),
            ask: ask(rng, setting),
        },
        12 => Op::Foreign(any),
        13 => Op::Renew(process),
        14 => Op::Invalidate(process),
        15 => Op::Keep(process),
        16..=20 => {
            let faults = (0..rng.usize(1..4))
                .map(|_| call_fault(rng, setting))
                .collect();
            Op::NextCalls(process, faults)
        }
        21 | 22 => Op::Line(process, rng.bool().then(|| call_fault(rng, setting))),
        23..=25 => Op::Store(process, rng.bool().then(|| store_fault(rng))),
        26 if is_shared => Op::EmptyStore {
            seeds: rng.u8(..3) == 0,
        },
        27 if is_shared => Op::LoseLocks,
        28 if is_shared => Op::RevokeAccessTokens,
        29 if is_shared => Op::RevokeRefreshTokens,
        30 if is_shared => match rng.u8(..3) {
            0 => Op::RefuseKey(rng.bool()),
            1 => Op::Suspend(rng.bool()),
            _ => Op::RevokeAccessTokens,
        },
        31 => {
            let by = Duration::from_secs(rng.u64(1..setting.lifetime.as_secs() * 2));
            match rng.bool() {
                true => Op::WallForward(process, by),
                false => Op::WallBack(process, by),
            }
        }
        32 if is_shared => match rng.bool() {
            true => Op::Jump(Duration::from_millis(rng.u64(100..60_000))),
            false => Op::Sleep(Duration::from_millis(rng.u64(100..600_000))),
        },
        33 | 34 => Op::Kill {
            process,
            carried_out: rng.bool(),
        },
        35 => Op::ShutDown(process),
        36 => {
            let key = rng.bool();
            let seed = !key || rng.bool();
            Op::Give { process, key, seed }
        }
        _ => Op::Start(any),
    }
}
