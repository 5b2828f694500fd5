//! The reference model: what the server has granted, what each process has heard of it, and so what may happen next.

use std::{collections::HashMap, time::Duration};

use apivideo_auth::Now;
use tokio::time::Instant;

use crate::world::now;

/// How long a call's response is read under the lock at least, and the grace of its mark.
const MARK: Duration = Duration::from_secs(14);

/// Between the end of a call and the next probe at least.
const PROBE: Duration = Duration::from_millis(600);

/// The process number and its number among all that were started.
pub(crate) type Id = usize;

/// What is true at the server, and what was played so far.
#[derive(Default)]
pub(crate) struct Model {
    refresh: HashMap<String, Refresh>,
    access: HashMap<String, Access>,
    families: usize,
    /// The store lost what was stored, or its locks.
    pub(crate) emptied: Option<Instant>,
    pub(crate) locks_lost: Option<Instant>,
    pub(crate) login_kills_refresh_tokens: bool,
    pub(crate) forgets_seeds: bool,
}

struct Refresh {
    name: String,
    family: usize,
    is_live: bool,
    /// The access token that it was spent for.
    successor: Option<String>,
    presented: Vec<Presented>,
}

struct Presented {
    by: Id,
    call: usize,
    at: Instant,
    ended: Option<Instant>,
    heard: Heard,
}

/// What a process knows of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing, or nothing that tells.
    Nothing,
    /// It had no effect.
    Harmless,
    Granted,
    Refused,
}

struct Access {
    name: String,
    family: usize,
    serial: usize,
    buyer: Option<Id>,
    /// By the clock of the buyer.
    sent: Option<Now>,
    /// When the server ends it.
    expires: Instant,
    lifetime: Duration,
    was_written: bool,
    was_tried: bool,
}

/// What has become of a pair in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Save {
    /// It is there, whether or not anybody knows.
    Written,
    /// The process has heard of the end of its first save, good or bad.
    Tried,
}

/// Who is about to present a refresh token.
pub(crate) struct Presenter {
    pub(crate) id: Id,
    pub(crate) call: usize,
    pub(crate) has_usable_key: bool,
    pub(crate) shares_store: bool,
    /// Its clock was set, or it was given credentials: no cool-down holds.
    pub(crate) free_since: Option<Instant>,
}

/// Who sends a request with an access token.
pub(crate) struct User {
    pub(crate) id: Id,
    pub(crate) now: Now,
    pub(crate) saves: bool,
    /// Nobody knows how long it slept.
    pub(crate) was_set_back: bool,
    /// For this token, perhaps: after a clock has jumped meanwhile it goes to the server once, and no second renewal is
    /// begun for that.
    pub(crate) has_waited: bool,
}

impl Model {
    /// A pair of a new family, or the next of a family.
    pub(crate) fn granted(
        &mut self,
        (access, refresh): (&str, &str),
        spent: Option<&str>,
        buyer: Option<(Id, Now)>,
        lifetime: Duration,
    ) {
        let family = match spent.and_then(|spent| self.refresh.get_mut(spent)) {
            Some(spent) => {
                spent.is_live = false;
                spent.successor = Some(access.to_owned());
                spent.family
            }
            None => {
                if self.login_kills_refresh_tokens {
                    self.revoke_refresh_tokens();
                }
                self.families += 1;
                self.families
            }
        };
        let serial = self.access.len() + 1;
        let name = format!("{serial} (family {family})");
        self.access.insert(
            access.to_owned(),
            Access {
                name: name.clone(),
                family,
                serial,
                buyer: buyer.map(|(id, _)| id),
                sent: buyer.map(|(_, sent)| sent),
                expires: now() + lifetime,
                lifetime,
                was_written: false,
                was_tried: false,
            },
        );
        self.refresh.insert(
            refresh.to_owned(),
            Refresh {
                name,
                family,
                is_live: true,
                successor: None,
                presented: Vec::new(),
            },
        );
    }

    pub(crate) fn revoke_refresh_tokens(&mut self) {
        self.refresh
            .values_mut()
            .for_each(|token| token.is_live = false);
    }

    /// The server has refused it. If it was spent, its family ends.
    pub(crate) fn refused(&mut self, token: &str) {
        let Some(token) = self.refresh.get_mut(token) else {
            return;
        };
        token.is_live = false;
        if token.successor.is_some() {
            let family = token.family;
            let of_family = self.refresh.values_mut().filter(|t| t.family == family);
            of_family.for_each(|token| token.is_live = false);
        }
    }

    pub(crate) fn is_live(&self, refresh: &str) -> bool {
        self.refresh.get(refresh).is_some_and(|token| token.is_live)
    }

    pub(crate) fn was_presented(&self, refresh: &str) -> bool {
        let token = self.refresh.get(refresh);
        token.is_some_and(|token| !token.presented.is_empty())
    }

    pub(crate) fn name_of(&self, token: &str) -> String {
        let refresh = self.refresh.get(token).map(|token| &token.name);
        let access = self.access.get(token).map(|token| &token.name);
        refresh
            .or(access)
            .cloned()
            .unwrap_or_else(|| "unknown".to_owned())
    }

    /// A refresh token is about to be presented. G11 and G22 say when it may be for a second time.
    pub(crate) fn present(
        &mut self,
        token: &str,
        by: &Presenter,
        unsaved_keeper: impl Fn(Id) -> bool,
    ) -> Result<(), String> {
        let now = now();
        let Some(entry) = self.refresh.get(token) else {
            return Err("a refresh token that nobody was given".to_owned());
        };
        let saved = entry
            .successor
            .as_ref()
            .and_then(|access| self.access.get(access));
        let saved = saved.is_some_and(|access| access.was_written);
        let mut result = Ok(());
        let mut forbid = |why: String| {
            if result.is_ok() {
                result = Err(format!(
                    "refresh token {} is presented again: {why}",
                    entry.name
                ));
            }
        };
        let since =
            |moment: Option<Instant>, at: Instant| moment.is_some_and(|moment| moment >= at);
        for before in &entry.presented {
            let is_own = before.by == by.id;
            let is_lost = since(self.emptied, before.at);
            if before.heard == Heard::Harmless {
                continue;
            }
            if is_own {
                match before.heard {
                    Heard::Granted => forbid("this process has what it was spent for".to_owned()),
                    Heard::Refused if !since(by.free_since, before.at) => {
                        forbid("this process has seen it refused".to_owned());
                    }
                    _ if by.has_usable_key => forbid("this process holds the API key".to_owned()),
                    _ => {}
                }
                continue;
            }
            if !by.shares_store || is_lost {
                continue;
            }
            if before.heard == Heard::Granted && saved {
                forbid("what it was spent for is in the store".to_owned());
            }
            if by.has_usable_key && before.heard != Heard::Refused {
                forbid(
                    "another process may have spent it, and this one holds the API key".to_owned(),
                );
            }
            if since(self.locks_lost, before.at) {
                continue;
            }
            if before.heard == Heard::Granted && unsaved_keeper(before.by) {
                forbid(
                    "its owner holds what it was spent for, unsaved, and can't log in".to_owned(),
                );
            }
            if before.heard != Heard::Refused && now < before.at + MARK {
                forbid(format!("the mark of process {} has not settled", before.by));
            }
        }
        let own = entry
            .presented
            .iter()
            .filter(|p| p.by == by.id && p.heard == Heard::Nothing);
        let own: Vec<_> = own.collect();
        if let [.., _, last] = own[..] {
            let given_up = last.at + Duration::from_secs(10);
            let over = last.ended.map_or(given_up, |ended| ended.min(given_up));
            if now < over + PROBE && !since(by.free_since, last.at) {
                forbid("it may be spent, and was presented twice in this renewal".to_owned());
            }
        }
        let presented = Presented {
            by: by.id,
            call: by.call,
            at: now,
            ended: None,
            heard: Heard::Nothing,
        };
        if let Some(entry) = self.refresh.get_mut(token) {
            entry.presented.push(presented);
        }
        result
    }

    /// What came of a presentation, as the process sees it.
    pub(crate) fn heard(&mut self, token: &str, call: usize, heard: Heard) {
        let entry = self.refresh.get_mut(token);
        let presented = entry.and_then(|e| e.presented.iter_mut().find(|p| p.call == call));
        if let Some(presented) = presented {
            presented.heard = heard;
            presented.ended = Some(now());
        }
    }

    /// A pair was saved, or was not.
    pub(crate) fn save(&mut self, access: &str, save: Save) {
        let Some(access) = self.access.get_mut(access) else {
            return;
        };
        match save {
            Save::Written => access.was_written = true,
            Save::Tried => access.was_tried = true,
        }
    }

    /// Whether a live pair of this process is in use without being stored.
    pub(crate) fn is_unsaved(&self, id: Id) -> bool {
        let now = now();
        self.access
            .values()
            .any(|access| access.buyer == Some(id) && !access.was_written && access.expires > now)
    }

    /// Whether `older` is of the same family as `newer`, and came before.
    pub(crate) fn goes_before(&self, older: &str, newer: &str) -> bool {
        match (self.access.get(older), self.access.get(newer)) {
            (Some(older), Some(newer)) => {
                older.family == newer.family && older.serial < newer.serial
            }
            _ => false,
        }
    }

    /// A request leaves with this access token.
    pub(crate) fn attach(&self, token: &str, by: &User) -> Result<(), String> {
        let Some(access) = self.access.get(token) else {
            return Err("a request leaves with an access token that nobody was given".to_owned());
        };
        let name = &access.name;
        if let (Some(buyer), Some(sent)) = (access.buyer, access.sent)
            && buyer == by.id
        {
            let by_wall = by.now.wall.duration_since(sent.wall).unwrap_or_default();
            let aged = by_wall.max(by.now.monotonic.saturating_sub(sent.monotonic));
            if aged >= access.lifetime && !by.has_waited {
                return Err(format!(
                    "a request leaves with access token {name}, expired"
                ));
            }
            if by.saves && !access.was_tried {
                let state = if access.was_written {
                    "while it is being saved"
                } else {
                    "before it is saved"
                };
                return Err(format!("access token {name} is in use {state}"));
            }
        }
        if now() >= access.expires && !by.has_waited && !by.was_set_back {
            return Err(format!(
                "a request leaves with access token {name}, expired at the server"
            ));
        }
        Ok(())
    }
}
