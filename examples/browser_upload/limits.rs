//! How many uploads may begin in a minute, and be under way at once: of a session, of an address, and of all together.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A session costs nothing to get, and an address may be shared by many people. All together stay below the 200 writes
/// that the API takes in a minute: an upload costs four.
const SESSION: Limit = Limit {
    in_a_minute: 10,
    at_once: 3,
};
const ADDRESS: Limit = Limit {
    in_a_minute: 20,
    at_once: 10,
};
const ALL: Limit = Limit {
    in_a_minute: 40,
    at_once: 100,
};

const MINUTE: Duration = Duration::from_secs(60);

struct Limit {
    in_a_minute: usize,
    at_once: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Whose {
    Session(String),
    Address(IpAddr),
    All,
}

impl Whose {
    fn limit(&self) -> Limit {
        match self {
            Self::Session(_) => SESSION,
            Self::Address(_) => ADDRESS,
            Self::All => ALL,
        }
    }
}

#[derive(Default)]
struct Usage {
    begun: VecDeque<Instant>,
    under_way: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Limits(Arc<Mutex<HashMap<Whose, Usage>>>);

impl Limits {
    /// A place for one upload, or none if that would be too many of somebody's. What is refused does not count.
    pub(crate) fn begin(&self, session: &str, address: IpAddr) -> Option<Place> {
        let whose = [
            Whose::Session(session.to_owned()),
            Whose::Address(address),
            Whose::All,
        ];
        let now = Instant::now();
        let mut usage = self.lock();
        usage.retain(|_, usage| {
            usage
                .begun
                .retain(|begun| now.duration_since(*begun) < MINUTE);
            usage.under_way > 0 || !usage.begun.is_empty()
        });
        let is_free = |whose: &Whose| {
            usage.get(whose).is_none_or(|usage| {
                let Limit {
                    in_a_minute,
                    at_once,
                } = whose.limit();
                usage.begun.len() < in_a_minute && usage.under_way < at_once
            })
        };
        if !whose.iter().all(is_free) {
            return None;
        }
        for whose in &whose {
            let usage = usage.entry(whose.clone()).or_default();
            usage.begun.push_back(now);
            usage.under_way += 1;
        }
        Some(Place {
            limits: self.clone(),
            whose,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, Usage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is free again when this is dropped.
pub(crate) struct Place {
    limits: Limits,
    whose: [Whose; 3],
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut usage = self.limits.lock();
        for whose in &self.whose {
            if let Some(usage) = usage.get_mut(whose) {
                usage.under_way -= 1;
            }
        }
    }
}
