//! What the simulation has found, each played again as it was made small.

use std::time::Duration;

use crate::{
    line::{CallFault, What},
    run::play,
    script::{Ask, Op, Setting, Step},
};

fn setting(keyed: &[bool]) -> Setting {
    Setting {
        keyed: keyed.to_vec(),
        seeded: false,
        store: true,
        stored: true,
        lifetime: Duration::from_secs(3600),
        one_is_sick: false,
        login_kills_refresh_tokens: false,
        refresh_kills_access_token: false,
    }
}

fn call(before: f64, what: What, after: f64) -> CallFault {
    CallFault {
        before: Duration::from_secs_f64(before),
        what,
        after: Duration::from_secs_f64(after),
    }
}

fn requests(process: usize) -> Op {
    Op::Requests {
        process,
        count: 1,
        ask: Ask::default(),
    }
}

/// Each with what it waits for afterwards.
fn ends_well(setting: &Setting, steps: &[(Op, f64)]) {
    let steps: Vec<Step> = steps
        .iter()
        .map(|(what, then)| Step {
            what: what.clone(),
            yields: 8,
            then: Duration::from_secs_f64(*then),
        })
        .collect();
    let (failure, story) = play(1, setting, &steps, true);
    assert!(
        failure.is_none(),
        "{}\n{}",
        failure.map(|failure| failure.what).unwrap_or_default(),
        story.join("\n")
    );
}

/// Its pair comes when its credentials have been replaced, and the store that it was to be saved in is empty.
#[test]
fn g6_what_replaced_credentials_spent_is_not_presented() {
    let setting = Setting {
        stored: false,
        seeded: true,
        ..setting(&[false])
    };
    let slow = call(0.0, What::Good, 2.0);
    let give = Op::Give {
        process: 0,
        key: false,
        seed: true,
    };
    ends_well(
        &setting,
        &[
            (Op::NextCalls(0, vec![slow]), 0.0),
            (requests(0), 0.1),
            (give, 0.0),
            (Op::EmptyStore { seeds: true }, 5.0),
        ],
    );
}

/// It logs in, and finds its lock lost as it saves: what is stored is the pair that it was to replace.
#[test]
fn g21_a_lost_lock_brings_no_replaced_pair_back() {
    let faults = vec![call(3.5, What::LostBefore, 0.0), call(0.2, What::Good, 0.0)];
    ends_well(
        &setting(&[true]),
        &[
            (requests(0), 0.0),
            (Op::Invalidate(0), 0.0),
            (Op::NextCalls(0, faults), 0.0),
            (requests(0), 1.0),
            (Op::LoseLocks, 5.0),
        ],
    );
}

/// The same, and its own pair is refused before it is saved.
#[test]
fn g25_an_unsaved_pair_gives_not_way_to_what_it_replaces() {
    let denied = Op::Requests {
        process: 1,
        count: 2,
        ask: Ask {
            is_denied: true,
            ..Ask::default()
        },
    };
    ends_well(
        &setting(&[true, true]),
        &[
            (requests(1), 0.5),
            (Op::Invalidate(1), 0.0),
            (
                Op::NextCalls(1, vec![call(12.7, What::Page(404), 2.9)]),
                0.0,
            ),
            (denied, 0.2),
            (Op::LoseLocks, 20.0),
        ],
    );
}

/// Process 1 has presented the refresh token, and its response may come. Process 0 would log in, and is refused.
#[test]
fn g22_a_refused_key_waits_for_the_mark_of_another() {
    let faults = vec![
        call(0.0, What::LostAfter, 0.0),
        call(11.3, What::BadGatewayAfter, 0.0),
    ];
    ends_well(
        &setting(&[true, true]),
        &[
            (Op::RefuseKey(true), 0.2),
            (Op::NextCalls(1, faults), 0.0),
            (Op::RevokeAccessTokens, 0.0),
            (requests(1), 0.0),
            (requests(0), 30.0),
        ],
    );
}

/// The first response comes when the seed that it was bought with has been presented again, and refused.
#[test]
fn g21_a_late_pair_of_a_refused_seed_is_not_used_unsaved() {
    let setting = Setting {
        stored: false,
        seeded: true,
        lifetime: Duration::from_secs(40),
        ..setting(&[false])
    };
    ends_well(
        &setting,
        &[
            (Op::NextCalls(0, vec![call(0.0, What::Good, 22.1)]), 0.0),
            (requests(0), 35.0),
            (requests(0), 1.0),
        ],
    );
}
