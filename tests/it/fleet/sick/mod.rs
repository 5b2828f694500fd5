//! What is wrong with one process is never another one's trouble: one sick member beside two healthy ones, for each
//! sickness and each store. The guide has the table, which these tests make: `SICK_MEMBERS=write` writes it.

mod cell;
mod ended;
mod limits;
mod member;
mod place;
mod sickness;
mod stopped;
mod stores;
mod table;

use std::thread;

use self::{
    cell::{Seen, play},
    sickness::{Onset, Sickness},
    stores::Kind,
};
use super::*;

/// All sicknesses that one runtime can play. A process that is stopped is another matter.
fn all() -> Vec<(Sickness, Onset)> {
    use Sickness::{
        Behind, ClockAhead, ClockBehind, Full, Hung, NoFiles, NoRoute, OldRecord, OtherApiKey,
        OtherStoreKey, ReadOnly,
    };
    let others = [
        NoRoute,
        ClockAhead,
        ClockBehind,
        OtherApiKey,
        OtherStoreKey,
        OldRecord,
        Behind,
    ];
    let of_its_store = [ReadOnly, Full, Hung, NoFiles];
    let onsets = |it| [(it, Onset::BeforeRenewal), (it, Onset::AfterTheCall)];
    let others = others.map(|it| (it, Onset::BeforeRenewal));
    others
        .into_iter()
        .chain(of_its_store.into_iter().flat_map(onsets))
        .collect()
}

/// All cells of such fleets, in paused time.
fn played(kind: Kind, has_key: bool) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut cells = Vec::new();
        for (sickness, onset) in all() {
            cells.push(play(sickness, onset, kind, has_key).await);
        }
        cells
    })
}

#[test]
fn g23_a_sick_member_is_no_trouble_of_healthy_ones() {
    let fleets = [Kind::File, Kind::Redis]
        .into_iter()
        .flat_map(|kind| [(kind, true), (kind, false)]);
    let played: Vec<_> = thread::scope(|scope| {
        let fleets: Vec<_> = fleets
            .map(|(kind, has_key)| ((kind, has_key), scope.spawn(move || played(kind, has_key))))
            .collect();
        let ended = fleets
            .into_iter()
            .map(|(fleet, cells)| (fleet, cells.join().expect("its cells")));
        ended.collect()
    });
    let mut lines = String::new();
    for (at, (sickness, onset)) in all().into_iter().enumerate() {
        let cells = played
            .iter()
            .map(|(fleet, cells)| (*fleet, cells[at].clone()));
        lines += &table::lines(&sickness.name(onset), cells);
    }
    table::agrees(&lines, |row| !row.starts_with("| stopped "));
}
