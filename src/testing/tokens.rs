//! Families of access and refresh tokens, and which of them are still accepted.

use std::{collections::HashMap, time::Duration};

/// How strictly tokens are kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) login_kills_refresh_tokens: bool,
    pub(super) login_kills_access_tokens: bool,
    pub(super) refresh_kills_access_token: bool,
}

#[derive(Clone)]
pub(super) struct Pair {
    pub(super) access: String,
    pub(super) refresh: String,
}

#[derive(Default)]
pub(super) struct Tokens {
    rules: Rules,
    access: HashMap<String, Access>,
    refresh: HashMap<String, Refresh>,
    families: u64,
    serial: u64,
}

struct Access {
    family: u64,
    issued: Duration,
    lifetime: Duration,
    revoked: bool,
}

struct Refresh {
    family: u64,
    serial: u64,
    state: RefreshState,
}

#[derive(PartialEq, Eq)]
enum RefreshState {
    Live,
    Spent,
    Revoked,
}

pub(super) enum Refused {
    /// The token is unknown or was revoked.
    Invalid,
    /// The token was spent before; its family is now revoked.
    Reused,
}

impl Tokens {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    pub(super) fn login(&mut self, now: Duration, lifetime: Duration) -> Pair {
        if self.rules.login_kills_refresh_tokens {
            self.revoke_refresh_tokens();
        }
        if self.rules.login_kills_access_tokens {
            self.revoke_access_tokens();
        }
        self.families += 1;
        self.issue(self.families, now, lifetime)
    }

    pub(super) fn refresh(
        &mut self,
        token: &str,
        now: Duration,
        lifetime: Duration,
    ) -> Result<Pair, Refused> {
        let presented = self.refresh.get_mut(token).ok_or(Refused::Invalid)?;
        let family = presented.family;
        match presented.state {
            RefreshState::Live => presented.state = RefreshState::Spent,
            RefreshState::Revoked => return Err(Refused::Invalid),
            RefreshState::Spent => {
                self.revoke(Some(family), true, true);
                return Err(Refused::Reused);
            }
        }
        if self.rules.refresh_kills_access_token {
            self.revoke(Some(family), true, false);
        }
        Ok(self.issue(family, now, lifetime))
    }

    pub(super) fn accepts(&self, access: &str, now: Duration) -> bool {
        self.access.get(access).is_some_and(|token| {
            !token.revoked && now.saturating_sub(token.issued) < token.lifetime
        })
    }

    pub(super) fn revoke_access_tokens(&mut self) {
        self.revoke(None, true, false);
    }

    pub(super) fn revoke_refresh_tokens(&mut self) {
        self.revoke(None, false, true);
    }

    pub(super) fn revoke_access_token(&mut self, token: &str) {
        if let Some(token) = self.access.get_mut(token) {
            token.revoked = true;
        }
    }

    pub(super) fn live_refresh_token(&self) -> Option<String> {
        let live = self
            .refresh
            .iter()
            .filter(|(_, token)| token.state == RefreshState::Live);
        live.max_by_key(|(_, token)| token.serial)
            .map(|(token, _)| token.clone())
    }

    /// Revokes the tokens of one family, or all. A spent refresh token stays spent: its reuse is to be seen.
    fn revoke(&mut self, family: Option<u64>, access: bool, refresh: bool) {
        if access {
            let concerned = self
                .access
                .values_mut()
                .filter(|token| family.is_none_or(|f| f == token.family));
            concerned.for_each(|token| token.revoked = true);
        }
        if refresh {
            let concerned = self
                .refresh
                .values_mut()
                .filter(|token| family.is_none_or(|f| f == token.family));
            concerned
                .filter(|token| token.state == RefreshState::Live)
                .for_each(|token| token.state = RefreshState::Revoked);
        }
    }

    fn issue(&mut self, family: u64, now: Duration, lifetime: Duration) -> Pair {
        self.serial += 1;
        let serial = self.serial;
        let pair = Pair {
            access: padded(format!("eyJ0eXAi.test-only-access-{serial}."), 800),
            refresh: padded(format!("def50200-test-only-refresh-{serial}-"), 700),
        };
        self.access.insert(
            pair.access.clone(),
            Access {
                family,
                issued: now,
                lifetime,
                revoked: false,
            },
        );
        self.refresh.insert(
            pair.refresh.clone(),
            Refresh {
                family,
                serial,
                state: RefreshState::Live,
            },
        );
        pair
    }
}

/// `start`, filled up to `length` with random letters and digits.
pub(super) fn padded(mut start: String, length: usize) -> String {
    while start.len() < length {
        start.push(fastrand::alphanumeric());
    }
    start
}
