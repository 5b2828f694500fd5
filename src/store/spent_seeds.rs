//! Which seeds were taken up: a record of its own, so that it outlives the pair's.
//!
//! A program that is started again with the same seed in its environment must not present it again, also where the pair
//! was deleted, refused or put into quarantine since.

use serde::{Deserialize, Serialize};

use super::{Fingerprint, Record, record};
use crate::{credentials::RefreshToken, error::Error};

/// The form written here.
const FORM: u32 = 1;

/// How many seeds are remembered. Each rolling restart may bring another one; eight are beyond any that could still be in
/// somebody's environment.
const MAX_SEEDS: usize = 8;

/// The seeds that were taken up, by fingerprint, the latest last.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SpentSeeds {
    form: u32,
    spent_seeds: Vec<Fingerprint>,
}

impl Default for SpentSeeds {
    fn default() -> Self {
        Self {
            form: FORM,
            spent_seeds: Vec::new(),
        }
    }
}

impl SpentSeeds {
    /// Whether this seed was taken up before, by any process that shares the store.
    pub(crate) fn has(&self, seed: &RefreshToken) -> bool {
        self.spent_seeds.contains(&Fingerprint::of(seed.expose()))
    }

    /// Notes a seed as taken up. The oldest is forgotten for it.
    pub(crate) fn note(&mut self, seed: &RefreshToken) {
        self.spent_seeds.push(Fingerprint::of(seed.expose()));
        let surplus = self.spent_seeds.len().saturating_sub(MAX_SEEDS);
        self.spent_seeds.drain(..surplus);
    }

    pub(crate) fn close(&self) -> Record {
        Record::new(serde_json::to_vec(self).expect("strings always serialize into memory"))
    }

    /// Reads a record; for its errors see [`record::read`].
    pub(crate) fn open(record: &Record) -> Result<Self, Error> {
        record::read(record, FORM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g26_the_last_eight_seeds_are_remembered() {
        let mut seeds = SpentSeeds::default();
        for number in 0..10 {
            seeds.note(&format!("test-only-{number}").into());
        }
        let record = seeds.close();
        assert!(!String::from_utf8_lossy(record.expose()).contains("test-only"));
        let seeds = SpentSeeds::open(&record).expect("what was closed");
        let known = (0..10).map(|number| seeds.has(&format!("test-only-{number}").into()));
        assert_eq!(
            known.collect::<Vec<_>>(),
            [[false; 2].as_slice(), &[true; 8]].concat()
        );
    }
}
