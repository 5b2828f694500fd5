//! Families of access and refresh tokens, and which of them are still accepted.
//!
//! The rules are those of single-use refresh tokens with reuse detection (OAuth 2.0 Security Best
//! Current Practice, 4.14): the strictest that the API may have.

use std::{collections::HashMap, time::Duration};

/// What tokens look like, and how strictly they are kept, where the API's documents leave it open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) login_kills_refresh_tokens: bool,
    pub(super) login_kills_access_tokens: bool,
    pub(super) refresh_kills_access_token: bool,
    pub(super) short_tokens: bool,
}

/// Both tokens of one grant; both contain `test-only`, so that a leak is found by a search.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) access: String,
    pub(super) refresh: String,
}

/// All tokens ever issued: a spent one is remembered, since to present it again is a violation.
#[derive(Default)]
pub(super) struct Tokens {
    rules: Rules,
    access: HashMap<String, Access>,
    refresh: HashMap<String, Refresh>,
    families: u64,
    serial: u64,
}

/// Its times are those of the monotonic clock.
struct Access {
    family: u64,
    issued: Duration,
    lifetime: Duration,
    revoked: bool,
}

/// `serial` tells the newest.
struct Refresh {
    family: u64,
    serial: u64,
    state: RefreshState,
}

/// A revoked token is merely refused, a spent one betrays its family.
#[derive(PartialEq, Eq)]
enum RefreshState {
    Live,
    Spent,
    Revoked,
}

/// Why a refresh token is refused. To the client, both are the same.
pub(super) enum Refused {
    /// The token is unknown or was revoked.
    Invalid,
    /// The token was spent before; its family is now revoked.
    Reused,
}

impl Tokens {
    /// No token yet.
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// A new family. By the rules, it may end what was issued before.
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

    /// Spends a refresh token for the next pair of its family.
    ///
    /// A spent one revokes the whole family, access tokens included: of two that hold the same
    /// token, the server can't know which one is the thief.
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

    /// Whether an access token is good now.
    pub(super) fn accepts(&self, access: &str, now: Duration) -> bool {
        self.access.get(access).is_some_and(|token| {
            !token.revoked && now.saturating_sub(token.issued) < token.lifetime
        })
    }

    /// Those of all families, issued so far.
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

    /// The newest that would be accepted.
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

    /// Tokens as long as the API's, so that buffers and headers meet their real sizes.
    fn issue(&mut self, family: u64, now: Duration, lifetime: Duration) -> Pair {
        self.serial += 1;
        let serial = self.serial;
        let (access, refresh) = match self.rules.short_tokens {
            true => (50, 50),
            false => (800, 700),
        };
        let pair = Pair {
            access: padded(format!("eyJ0eXAi.test-only-access-{serial}."), access),
            refresh: padded(format!("def50200-test-only-refresh-{serial}-"), refresh),
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
