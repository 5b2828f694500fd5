//! A save is done as a whole or not at all, and none comes late.

use std::time::Duration;

use futures::FutureExt as _;

use super::{load, locked, marked, save, stored, version};
use crate::store::{InUseMark, Record, StoreKey, Stored, TokenStore};

pub(super) async fn given_up_none_lands_later<S: TokenStore>(store: &S, key: &StoreKey) {
    let mut lock = locked(store, key).await;
    let mut before = stored(1, 1, b"before");
    save(&mut lock, None, &before)
        .await
        .expect("the first save");
    for polls in 0..8 {
        let current = before.header.version;
        let given_up = marked(stored(1, current.revision, &vec![b'g'; 50_000]));
        let mut saving = lock.save(Some(current), given_up.clone());
        for _ in 0..polls {
            match (&mut saving).now_or_never() {
                Some(saved) => {
                    saved.expect("saving");
                    break;
                }
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        drop(saving);
        let found = load(store, key).await.expect("stored");
        assert!(
            is(&found, &before) || is(&found, &given_up),
            "a save that was given up is done as a whole or not at all, not {found:?}"
        );

        let later = stored(1, current.revision, format!("later {polls}").as_bytes());
        let saved = save(&mut lock, Some(current), &later).await;
        saved.expect("a save after one that was given up");
        for _ in 0..2 {
            let found = load(store, key).await.expect("stored");
            assert!(
                is(&found, &later),
                "a save that was given up never lands over a later one: {found:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        // Given up, and the same call again.
        before = stored(1, current.revision + 1, format!("next {polls}").as_bytes());
        let mut saving = lock.save(Some(current), before.clone());
        let _ = (&mut saving).now_or_never();
        drop(saving);
        let saved = save(&mut lock, Some(current), &before).await;
        saved.expect("the same call again settles whether it was done");
    }
    lock.quarantine().await.expect("quarantine");
    lock.unlock().await;
}

pub(super) async fn readers_see_whole_records<S: TokenStore>(
    writer: &S,
    reader: &S,
    key: &StoreKey,
) {
    let mut lock = locked(writer, key).await;
    // The mark counts as the record does, and a long record follows on a short one.
    let record = |number: u32| {
        let long = if number.is_multiple_of(2) { 1 } else { 20_000 };
        let mut next = stored(1, number.into(), &number.to_le_bytes().repeat(long));
        next.header.mark = Some(InUseMark {
            count: number,
            settles_in: Duration::from_secs(60),
        });
        next
    };
    save(&mut lock, None, &record(0))
        .await
        .expect("the first save");
    let saving = async move {
        for number in 1..=20_u32 {
            let expected = version(1, u64::from(number) - 1);
            let saved = save(&mut lock, Some(expected), &record(number)).await;
            saved.expect("saving");
        }
        lock
    };
    let mut saving = std::pin::pin!(saving);
    let mut lock = loop {
        tokio::select! {
            lock = &mut saving => break lock,
            found = load(reader, key) => {
                let found = found.expect("stored");
                let number = u32::try_from(found.header.version.revision).expect("at most 20");
                assert!(is(&found, &record(number)), "torn: {found:?}");
            }
        }
    };
    lock.quarantine().await.expect("quarantine");
    lock.unlock().await;
}

pub(super) async fn any_span_can_be_saved<S: TokenStore>(store: &S, key: &StoreKey) {
    let mut lock = locked(store, key).await;
    for (revision, span) in [(1, Duration::ZERO), (2, Duration::MAX)] {
        let mut next = stored(1, revision, b"spans");
        next.header.mark = Some(InUseMark {
            count: u32::MAX,
            settles_in: span,
        });
        next.header.not_before = Some(span);
        next.header.expires_in = Some(span);
        let expected = (revision > 1).then(|| version(1, revision - 1));
        let saved = save(&mut lock, expected, &next).await;
        saved.unwrap_or_else(|error| panic!("a span of {span:?}: {error:?}"));
        let found = load(store, key).await.expect("stored").header;
        let mark = found.mark.expect("also one that has settled is a mark");
        assert_eq!(mark.count, u32::MAX);
        let year = Duration::from_secs(365 * 24 * 3600);
        for left in [Some(mark.settles_in), found.not_before, found.expires_in] {
            let left = left.unwrap_or_default();
            if span == Duration::MAX {
                assert!(left > year, "a span of {span:?} is {left:?}");
            } else {
                assert_eq!(left, Duration::ZERO, "a span of {span:?} has passed");
            }
        }
    }
    lock.quarantine().await.expect("quarantine");
    lock.unlock().await;
}

/// Whether all of this was loaded; spans are shorter by then.
fn is(found: &Stored, saved: &Stored) -> bool {
    let count = |stored: &Stored| stored.header.mark.map(|mark| mark.count);
    let pauses = |stored: &Stored| stored.header.not_before.is_some_and(|wait| !wait.is_zero());
    let bytes = |stored: &Stored| {
        stored
            .record
            .as_ref()
            .map(Record::expose)
            .map(<[u8]>::to_vec)
    };
    found.header.version == saved.header.version
        && count(found) == count(saved)
        && pauses(found) == pauses(saved)
        && bytes(found) == bytes(saved)
}
