//! Which credential comes next, and what becomes of one after each outcome (guarantees G11, G25 and G26). Pure: it
//! makes no call, reads no clock and knows no store. It is the one home of the refresh token.

use std::time::Duration;

use super::{bought::Bought, cool_down::FORGET_OUTAGE, failure::Failure, snapshot::Snapshot};
use crate::{
    clock::{Deadline, Now},
    credentials::{ApiKey, Credentials, GrantPreference, RefreshToken},
    endpoint::{Grant, Outcome},
    error::{Error, ErrorKind},
    store::{Fingerprint, Version},
};

/// Refused API keys and suspended accounts are asked again after this, should someone have mended them.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(300);

/// How long refreshing is given up when others keep ending our refresh tokens. Two processes that log in with one key do
/// so to each other for ever; an hour of logins costs 1 call in place of 2.
const SKIP_REFRESH: Duration = Duration::from_secs(3600);

/// The credentials of a source, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    preference: GrantPreference,
    has_store: bool,
    api_key: Option<ApiKey>,
    refresh_token: Option<RefreshToken>,
    /// Counts calls of `give`: what was bought with older credentials is not put to use.
    edition: u64,
    /// The refresh token was presented, and nothing says whether it is spent. Set as the call goes out; a renewal that
    /// is lost leaves it behind for the next.
    in_doubt: bool,
    /// The refresh token came straight from a login of ours.
    from_login: bool,
    refused_in_a_row: u32,
    /// The last refresh token was refused, and nothing has taken its place.
    was_refused: bool,
    skip_refresh_until: Option<Deadline>,
    key_refused_until: Option<Deadline>,
    fallbacks: u64,
    /// A call of our own has failed a while ago, and nothing has succeeded since.
    failing_until: Option<Deadline>,
    /// With a store: a refresh token that was given, to be used if the store has none.
    seed: Option<RefreshToken>,
    /// With a store: which of its pairs we hold, and how often we marked its refresh token.
    version: Option<Version>,
    marks: u32,
    /// The API key whose login began the family of the pair we hold; `None` for that of a seed.
    owner: Option<Fingerprint>,
    /// The store never had the pair we hold. Nobody else can present its refresh token.
    is_unsaved: bool,
    /// New credentials are tried at once, also in a cool-down that others share.
    ignores_pause: bool,
    /// The generation that the refresh token makes a pair with, or 0.
    pair_of: u64,
}

/// What one renewal remembers of its own calls.
#[derive(Debug, Default)]
pub(super) struct Round {
    edition: u64,
    /// The refresh token might have been spent before the call under way.
    was_in_doubt: bool,
    /// A refresh token that may be spent was presented again. This is done once in a renewal.
    represented: bool,
    fell_back: bool,
    refused: Option<Error>,
    /// The store can't be used in this renewal.
    store_failed: Option<Error>,
}

impl Round {
    pub(super) fn new(edition: u64) -> Self {
        Self {
            edition,
            ..Self::default()
        }
    }

    /// Whether this renewal has already presented a refresh token that may be spent.
    pub(super) fn has_represented(&self) -> bool {
        self.represented
    }

    /// The call was held back: what it was about to present may be presented once more.
    pub(super) fn held_back(&mut self) {
        self.represented = false;
    }

    pub(super) fn edition(&self) -> u64 {
        self.edition
    }

    /// The store can't be used from here on.
    pub(super) fn store_failed(&mut self, error: Error) {
        self.store_failed = Some(error);
    }
}

impl Ledger {
    pub(super) fn new(
        credentials: Credentials,
        preference: GrantPreference,
        has_store: bool,
    ) -> Self {
        let mut ledger = Self {
            preference,
            has_store,
            ..Self::default()
        };
        ledger.take(credentials);
        ledger
    }

    /// Takes new credentials over from the user: they are tried at once, and nothing that was refused before counts.
    pub(super) fn give(&mut self, credentials: Credentials) {
        self.take(credentials);
        self.edition += 1;
        self.pair_of = 0;
        self.ignores_pause = true;
        self.was_refused = false;
        (self.refused_in_a_row, self.skip_refresh_until) = (0, None);
        self.key_refused_until = None;
    }

    fn take(&mut self, credentials: Credentials) {
        let is_new_key = credentials.api_key.is_some() && credentials.api_key != self.api_key;
        self.api_key = credentials.api_key;
        if !self.has_store
            && credentials.refresh_token.is_some()
            && credentials.refresh_token == self.refresh_token
        {
            // It may be on its way, and what it brings is still wanted.
            return;
        }
        if is_new_key {
            // It may be another account's: what is stored says so, and our copy does not.
            self.put(None, false);
        }
        if self.has_store {
            self.seed = credentials.refresh_token;
        } else {
            self.put(credentials.refresh_token, false);
        }
    }

    fn put(&mut self, token: Option<RefreshToken>, from_login: bool) {
        self.was_refused &= token.is_none();
        self.is_unsaved = false;
        self.refresh_token = token;
        self.in_doubt = false;
        self.from_login = from_login;
    }

    pub(super) fn api_key(&self) -> Option<ApiKey> {
        self.api_key.clone()
    }

    /// The refresh token that makes a pair with this generation; `None` also if it may be spent.
    pub(super) fn refresh_token_of(&self, generation: u64) -> Option<RefreshToken> {
        let is_pair = self.pair_of == generation && !self.in_doubt;
        self.refresh_token.clone().filter(|_| is_pair)
    }

    /// Whether there is, or was given, a refresh token.
    pub(super) fn holds_refresh_token(&self) -> bool {
        self.refresh_token.is_some() || self.seed.is_some()
    }

    /// Whether the refresh token was presented, and nothing came back.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    pub(super) fn edition(&self) -> u64 {
        self.edition
    }

    pub(super) fn fallbacks(&self) -> u64 {
        self.fallbacks
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.version
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.is_unsaved
    }

    pub(super) fn owner(&self) -> Option<Fingerprint> {
        self.owner.clone()
    }

    /// The API key, if it was not refused a short while ago.
    pub(super) fn usable_key(&self, now: Now) -> Option<ApiKey> {
        self.api_key
            .clone()
            .filter(|_| left(self.key_refused_until, now).is_none())
    }

    /// Whether a cool-down that nobody has asked for is believed: not before a call of our own has failed in this outage.
    /// What has failed for another process may be a way to the API that is not ours.
    pub(super) fn believes_failures(&self, now: Now) -> bool {
        left(self.failing_until, now).is_some()
    }

    /// Whether the renewal that begins now may call in a cool-down that others share.
    pub(super) fn take_ignores_pause(&mut self) -> bool {
        std::mem::take(&mut self.ignores_pause)
    }

    /// What to get the next pair with, and the number of the fall-back to the API key if it is one. `None` if there is something, but not for this renewal: it `may_call` no more,
    /// or has presented a doubtful token already.
    ///
    /// # Errors
    ///
    /// Nothing is left to try.
    pub(super) fn next_grant(
        &mut self,
        round: &mut Round,
        may_call: bool,
        now: Now,
    ) -> Result<Option<(Grant, Option<u64>)>, Failure> {
        if round.edition != self.edition {
            if !may_call {
                // They were not tried: whatever this renewal ends with is not held against them.
                return Ok(None);
            }
            *round = Round {
                edition: self.edition,
                store_failed: round.store_failed.take(),
                ..Round::default()
            };
        }
        let spends = self.preference == GrantPreference::RefreshToken;
        let key = self.usable_key(now);
        let skips = key.is_some() && left(self.skip_refresh_until, now).is_some();
        // Without its mark in the store, a sibling could present the same token. Of one that the store never had, no
        // sibling knows; still, a login is safer where there is a key.
        let kept_back = round.store_failed.as_ref().is_some_and(|error| {
            // Beside a lock that somebody keeps, a login is made once.
            let logs_in = key.is_some() && error.kind() != ErrorKind::StoreLocked;
            !self.is_unsaved || logs_in
        });
        let refresh = self
            .refresh_token
            .clone()
            .filter(|_| spends && !skips && !kept_back);
        round.was_in_doubt = self.in_doubt;
        let grant = match (refresh, key) {
            (Some(token), _) if !self.in_doubt => Grant::RefreshToken(token),
            (_, Some(key)) => Grant::ApiKey(key),
            (Some(_), None) if round.represented => return Ok(None),
            (Some(token), None) => Grant::RefreshToken(token),
            (None, None) => return Err(self.nothing_left(round, now)),
        };
        if !may_call {
            return Ok(None);
        }
        let is_login = matches!(grant, Grant::ApiKey(_));
        round.represented |= self.in_doubt && !is_login;
        let had_refresh_token = self.refresh_token.is_some() || round.refused.is_some();
        let falls_back = is_login && spends && had_refresh_token && !round.fell_back;
        round.fell_back |= falls_back;
        self.fallbacks += u64::from(falls_back);
        Ok(Some((grant, falls_back.then_some(self.fallbacks))))
    }

    /// Notes what is about to be sent, when `base` is stored. `None`, and then nothing may be sent: it is no longer what we
    /// hold, or others can find it by now and it `has_no_mark`.
    pub(super) fn presented(
        &mut self,
        grant: &Grant,
        generation: u64,
        base: Option<Version>,
        has_no_mark: bool,
    ) -> Option<Bought> {
        let is_refresh = matches!(grant, Grant::RefreshToken(_));
        if !self.has(grant) || is_refresh && has_no_mark && !self.is_unsaved {
            return None;
        }
        self.in_doubt |= is_refresh;
        let owner = match grant {
            Grant::ApiKey(key) => Some(Fingerprint::of(key.expose())),
            Grant::RefreshToken(_) => self.owner.clone(),
        };
        let (grant, api_key) = (grant.clone(), self.api_key.clone());
        let (edition, version) = (self.edition, self.version);
        Some(Bought::new(
            grant, api_key, owner, edition, generation, version, base,
        ))
    }

    /// The refresh token is marked in the store, which holds it under this version.
    pub(super) fn marked(&mut self, version: Option<Version>, marks: u32) {
        self.version = version;
        self.marks = marks;
    }

    /// Draws the consequences of an outcome that brought no tokens. Says whether refreshing is given up for a while.
    pub(super) fn apply(
        &mut self,
        grant: &Grant,
        outcome: &Outcome,
        round: &mut Round,
        now: Now,
    ) -> bool {
        let is_failure = !matches!(outcome, Outcome::Granted(_) | Outcome::HeldBack(_));
        if is_failure {
            self.failing_until = Some(Deadline::after(now, FORGET_OUTAGE));
        }
        match outcome {
            // Its tokens are not here: see `received` and `received_alone`.
            Outcome::Granted(_) | Outcome::Ambiguous { .. } => false,
            Outcome::Refused(error) => {
                round.refused = Some(error.clone());
                self.has(grant) && self.refused(grant, now)
            }
            // The call had no effect. A doubt from before it stays, and a login says nothing of the refresh token.
            _ => {
                let is_login = matches!(grant, Grant::ApiKey(_));
                self.in_doubt &= is_login || round.was_in_doubt || !self.has(grant);
                false
            }
        }
    }

    /// Forgets exactly the credential that was refused.
    fn refused(&mut self, grant: &Grant, now: Now) -> bool {
        if matches!(grant, Grant::ApiKey(_)) {
            self.key_refused_until = Some(Deadline::after(now, ASK_AGAIN));
            return false;
        }
        self.refused_in_a_row = if self.from_login {
            self.refused_in_a_row + 1
        } else {
            0
        };
        self.put(None, false);
        self.was_refused = true;
        let gives_up = self.refused_in_a_row >= 2 && self.api_key.is_some();
        if gives_up {
            self.refused_in_a_row = 0;
            self.skip_refresh_until = Some(Deadline::after(now, SKIP_REFRESH));
        }
        gives_up
    }

    /// A pair came in. Says whether it is put to use: it is not if its credentials were replaced, or if something newer
    /// came since it was bought. `generation` is the one in use now, `saved` the number of the pair in the store and
    /// whether it is there.
    pub(super) fn received(
        &mut self,
        bought: &Bought,
        refresh_token: Option<RefreshToken>,
        generation: u64,
        saved: Option<(Version, bool)>,
    ) -> bool {
        let is_login = bought.is_login();
        if !self.is_newest(bought, generation) {
            if refresh_token.is_some() {
                self.forget_spent(bought);
            }
            return false;
        }
        self.failing_until = None;
        self.pair_of = generation + 1;
        self.owner = bought.owner().cloned();
        if !is_login {
            self.refused_in_a_row = 0;
        } else {
            self.key_refused_until = None;
        }
        match refresh_token {
            // The one sent counts as spent. With an API key held it is not presented again.
            None if !is_login => self.in_doubt = true,
            token => self.put(token, is_login),
        }
        if let Some((version, is_saved)) = saved {
            self.marked(Some(version), 0);
            self.is_unsaved = !is_saved;
        }
        true
    }

    /// A refresh token came in without a usable access token. Says whether it is kept.
    pub(super) fn received_alone(
        &mut self,
        bought: &Bought,
        token: RefreshToken,
        generation: u64,
    ) -> bool {
        let is_kept = self.is_newest(bought, generation);
        if is_kept {
            self.put(Some(token), bought.is_login());
            self.owner = bought.owner().cloned();
        } else {
            self.forget_spent(bought);
        }
        is_kept
    }

    /// What a response brought is not put to use; what it was bought with is spent all the same.
    fn forget_spent(&mut self, bought: &Bought) {
        if !bought.is_login() && self.has(bought.grant()) {
            self.put(None, false);
        }
    }

    /// Whether nothing newer came since this was bought, and its credentials were not replaced. `generation` is the one
    /// in use now.
    fn is_newest(&self, bought: &Bought, generation: u64) -> bool {
        let is_refresh = !bought.is_login();
        // A token that was refused is forgotten, not replaced: the refusal was of its second presentation.
        let was_forgotten =
            is_refresh && self.refresh_token.is_none() && generation == bought.generation();
        let has = self.has(bought.grant());
        // A refresh token that was given again is not replaced either.
        let is_given_again = has && is_refresh && !self.has_store;
        is_given_again || self.edition == bought.edition() && (has || was_forgotten)
    }

    /// What we hold is in the store now, under this version.
    pub(super) fn saved(&mut self, version: Version) {
        self.marked(Some(version), 0);
        self.is_unsaved = false;
    }

    /// The pair of this version was saved after a while. If it is what we hold, it is not presented without a mark from now
    /// on; says whether that has been done before.
    pub(super) fn saved_late(&mut self, version: Version) -> bool {
        let is_held = self.version == Some(version);
        if is_held {
            self.is_unsaved = false;
            self.marks = u32::from(self.in_doubt);
        }
        is_held && self.in_doubt
    }

    /// The store has what we hold, or what came of it: its save was done, perhaps without a word.
    pub(super) fn look_at(&mut self, stored: &Snapshot) {
        let is_stored = |ours: Version| stored.is_of(ours);
        self.is_unsaved &= !self.version.is_some_and(is_stored);
    }

    /// What we hold could not be saved; it will have this version.
    pub(super) fn unsaved(&mut self, version: Version) {
        self.marked(Some(version), 0);
        self.is_unsaved = true;
    }

    /// Takes over a pair that another process has saved.
    pub(super) fn adopt(&mut self, stored: &Snapshot, generation: u64) {
        self.failing_until = None;
        self.pair_of = generation + 1;
        self.put(stored.tokens().refresh_token.clone(), false);
        self.in_doubt = stored.marks() > 0;
        self.took_over(stored);
    }

    /// What we hold is what is stored.
    fn took_over(&mut self, stored: &Snapshot) {
        self.owner = stored.tokens().api_key.clone();
        self.saved(stored.version());
    }

    /// Whether the mark in the store is the one that we made.
    pub(super) fn is_own_mark(&self, version: Option<Version>, marks: u32) -> bool {
        self.version == version && self.marks == marks
    }

    /// Makes what we hold the same as what is stored, under the store's lock, where ours does not go before it: see
    /// [`write_back`](Self::write_back).
    pub(super) fn agree(&mut self, stored: Option<&Snapshot>) {
        let Some(stored) = stored else {
            return;
        };
        if self.version != Some(stored.version()) {
            // What is older than a pair of ours that was refused is spent.
            let is_spent = self.version.is_some_and(|ours| stored.is_behind(ours));
            let token = stored.tokens().refresh_token.clone().filter(|_| !is_spent);
            self.put(token, false);
            self.took_over(stored);
        }
        // Under our number there is our pair: its save was done, perhaps without a word.
        self.is_unsaved = false;
        if stored.tokens().refresh_token.is_none() {
            // Somebody has seen it refused, or has logged out.
            self.put(None, false);
        }
        if stored.marks() != self.marks {
            // Somebody has presented it since.
            self.in_doubt = true;
        } else if stored.marks() == 0 {
            // A mark that stood when the pair was adopted has been cleared.
            self.in_doubt = false;
        }
    }

    /// Our own pair's number and marks, if it goes before what is stored: the store was emptied, or restored from an
    /// older copy, or never had it.
    pub(super) fn write_back(
        &self,
        stored: Option<&Snapshot>,
    ) -> Option<(Version, u32, RefreshToken)> {
        let ours = self
            .version
            .filter(|ours| stored.is_none_or(|stored| stored.is_behind(*ours)))?;
        let marks = if self.in_doubt { self.marks.max(1) } else { 0 };
        Some((ours, marks, self.refresh_token.clone()?))
    }

    /// The given refresh token, if there is no other to present.
    pub(super) fn needed_seed(&self) -> Option<RefreshToken> {
        let is_needed =
            self.refresh_token.is_none() && self.preference == GrantPreference::RefreshToken;
        self.seed.clone().filter(|_| is_needed)
    }

    /// Whether this is the given refresh token.
    pub(super) fn is_seed(&self, token: &RefreshToken) -> bool {
        self.seed.as_ref() == Some(token)
    }

    /// A given refresh token that was taken up is worth nothing: the store's copy is the one.
    pub(super) fn forget_seed(&mut self, spent: &RefreshToken) {
        self.seed.take_if(|seed| seed == spent);
    }

    /// Whether this credential is still the one held.
    pub(super) fn has(&self, grant: &Grant) -> bool {
        match grant {
            Grant::RefreshToken(token) => self.refresh_token.as_ref() == Some(token),
            Grant::ApiKey(key) => self.api_key.as_ref() == Some(key),
        }
    }

    fn nothing_left(&self, round: &Round, now: Now) -> Failure {
        // The store had a pair, and has none now: somebody's refusal is as good as ours.
        let was_cleared = self.refresh_token.is_none()
            && self.version.is_some_and(|version| version.revision > 0);
        match (&round.store_failed, left(self.key_refused_until, now)) {
            (Some(error), _) => Failure::kept_back(error),
            (None, Some(wait)) => Failure::key_refused(round.refused.clone(), wait, self.has_store),
            (None, None) => {
                let is_refused = round.refused.is_some() || self.was_refused || was_cleared;
                Failure::nothing_left(is_refused, self.has_store)
            }
        }
    }
}

/// What is left until a deadline, if it has not passed.
fn left(deadline: Option<Deadline>, now: Now) -> Option<Duration> {
    deadline
        .filter(|deadline| !deadline.has_passed(now))
        .map(|deadline| deadline.left(now))
}

#[cfg(test)]
mod rules;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        endpoint::TokenResponse,
        source::cool_down::Pause,
        store::{Header, StoredTokens},
    };

    fn at(seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now::new(SystemTime::UNIX_EPOCH + since, since)
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "test-only")
    }

    fn refresh(token: &str) -> Grant {
        Grant::RefreshToken(token.into())
    }

    fn login() -> Grant {
        Grant::ApiKey("test-only-key".into())
    }

    fn credentials(key: bool, token: &str) -> Credentials {
        let mut credentials = Credentials::new();
        if key {
            credentials = credentials.api_key("test-only-key");
        }
        match token {
            "" => credentials,
            token => credentials.refresh_token(token),
        }
    }

    /// One that holds the refresh token `one`, and perhaps an API key.
    fn ledger(key: bool) -> Ledger {
        Ledger::new(credentials(key, "one"), GrantPreference::default(), false)
    }

    /// What comes next, in short: the refresh token, `key`, `later` or the kind of the error.
    fn next(ledger: &mut Ledger, round: &mut Round, seconds: u64) -> String {
        match ledger.next_grant(round, true, at(seconds)) {
            Ok(Some((Grant::RefreshToken(token), _))) => token.expose().to_owned(),
            Ok(Some((Grant::ApiKey(_), _))) => "key".to_owned(),
            Ok(None) => "later".to_owned(),
            Err(failure) => format!("{:?}", failure.error.kind()),
        }
    }

    fn present(ledger: &mut Ledger, grant: &Grant) -> Bought {
        let version = ledger.version();
        ledger
            .presented(grant, 0, version, false)
            .expect("what is held")
    }

    fn stored(family: u64, revision: u64, marks: u32, token: &str) -> Snapshot {
        let tokens = StoredTokens {
            refresh_token: Some(token.into()),
            ..StoredTokens::default()
        };
        let mut snapshot = Snapshot::new(Header::new(Version { family, revision }), tokens);
        if marks > 0 {
            snapshot.mark(marks, Duration::ZERO);
        }
        snapshot
    }

    fn logged_out(family: u64, revision: u64) -> Snapshot {
        Snapshot::logged_out(Header::new(Version { family, revision }))
    }

    fn refused(family: u64, revision: u64) -> Snapshot {
        let mut snapshot = stored(family, revision, 0, "older");
        snapshot.forget_tokens();
        snapshot
    }

    type Make = fn() -> Outcome;

    /// Guarantee G11, row by row: what is presented after each outcome of a refresh, in the same renewal and in the next.
    #[test]
    fn g11_each_outcome_has_its_consequence() {
        let transient = || Outcome::Transient {
            error: error(ErrorKind::Unavailable),
            wait: None,
        };
        let ambiguous = || Outcome::Ambiguous {
            error: error(ErrorKind::Ambiguous),
            refresh_token: None,
        };
        let refused = || Outcome::Refused(error(ErrorKind::Refused));
        let suspended = || Outcome::Suspended(error(ErrorKind::Suspended));
        let misunderstood = || Outcome::Misunderstood(error(ErrorKind::Protocol));
        let rows: [(Make, bool, &str, &str); 10] = [
            (transient, true, "one", "one"),
            (transient, false, "one", "one"),
            (ambiguous, true, "key", "key"),
            (ambiguous, false, "one", "one"),
            (refused, true, "key", "key"),
            (refused, false, "Refused", "Refused"),
            (suspended, true, "one", "one"),
            (suspended, false, "one", "one"),
            (misunderstood, true, "one", "one"),
            (misunderstood, false, "one", "one"),
        ];
        for (outcome, key, same, other) in rows {
            let (mut ledger, mut round) = (ledger(key), Round::default());
            assert_eq!(next(&mut ledger, &mut round, 0), "one");
            present(&mut ledger, &refresh("one"));
            ledger.apply(&refresh("one"), &outcome(), &mut round, at(1));
            assert_eq!(
                next(&mut ledger, &mut round, 1),
                same,
                "{:?} {key}",
                outcome()
            );
            assert_eq!(
                next(&mut ledger, &mut Round::default(), 1),
                other,
                "{:?} {key}",
                outcome()
            );
        }
    }

    #[test]
    fn g11_a_doubtful_token_is_presented_once_more_in_a_renewal() {
        let (mut ledger, mut round) = (ledger(false), Round::default());
        for expected in ["one", "one", "later"] {
            assert_eq!(next(&mut ledger, &mut round, 0), expected);
            if expected == "one" {
                present(&mut ledger, &refresh("one"));
            }
        }
        // A call that was held back was none; and a transient outcome does not take the doubt away.
        round.held_back();
        assert_eq!(next(&mut ledger, &mut round, 0), "one");
        let outcome = Outcome::Transient {
            error: error(ErrorKind::Unavailable),
            wait: None,
        };
        ledger.apply(&refresh("one"), &outcome, &mut round, at(0));
        assert!(ledger.is_in_doubt());
    }

    #[test]
    fn g11_a_refused_api_key_is_asked_again_after_five_minutes() {
        let mut ledger = Ledger::new(credentials(true, ""), GrantPreference::default(), false);
        let refused = Outcome::Refused(error(ErrorKind::Refused));
        ledger.apply(&login(), &refused, &mut Round::default(), at(0));
        for (seconds, expected) in [(0, "Refused"), (299, "Refused"), (300, "key")] {
            assert_eq!(
                next(&mut ledger, &mut Round::default(), seconds),
                expected,
                "{seconds}"
            );
        }
        let failure = ledger
            .next_grant(&mut Round::default(), true, at(100))
            .expect_err("refused");
        assert_eq!(failure.pause, Pause::For(Duration::from_secs(200)));
        ledger.give(credentials(true, ""));
        assert_eq!(
            next(&mut ledger, &mut Round::default(), 100),
            "key",
            "new credentials are tried at once"
        );
    }

    #[test]
    fn g11_two_fresh_tokens_refused_in_a_row_end_refreshing_for_an_hour() {
        let (mut ledger, refused) = (ledger(true), Outcome::Refused(error(ErrorKind::Refused)));
        let mut gave_up = Vec::new();
        for token in ["one", "two", "three"] {
            let round = &mut Round::default();
            assert_eq!(next(&mut ledger, round, 0), token);
            present(&mut ledger, &refresh(token));
            gave_up.push(ledger.apply(&refresh(token), &refused, round, at(0)));
            assert_eq!(next(&mut ledger, round, 0), "key");
            let bought = present(&mut ledger, &login());
            let fresh = if token == "one" { "two" } else { "three" };
            assert!(ledger.received(&bought, Some(fresh.into()), 0, None));
        }
        assert_eq!(
            gave_up,
            [false, false, true],
            "the first was not from a login of ours"
        );
        assert_eq!(next(&mut ledger, &mut Round::default(), 3599), "key");
        assert_eq!(next(&mut ledger, &mut Round::default(), 3600), "three");
        assert_eq!(ledger.fallbacks(), 4);
    }

    #[test]
    fn g12_without_a_new_refresh_token_the_one_sent_counts_as_spent() {
        for key in [true, false] {
            let mut ledger = ledger(key);
            let bought = present(&mut ledger, &refresh("one"));
            assert!(ledger.received(&bought, None, 0, None));
            assert!(ledger.is_in_doubt());
            let last_resort = if key { "key" } else { "one" };
            assert_eq!(next(&mut ledger, &mut Round::default(), 0), last_resort);
        }
    }

    #[test]
    fn g3_a_late_response_never_overwrites_what_is_newer() {
        let tokens = |token: &str| Some(RefreshToken::from(token));
        // Kept: its token was refused only because it was presented a second time.
        let mut forgotten = ledger(false);
        let bought = present(&mut forgotten, &refresh("one"));
        let refused = Outcome::Refused(error(ErrorKind::Refused));
        forgotten.apply(&refresh("one"), &refused, &mut Round::default(), at(0));
        assert!(forgotten.received(&bought, tokens("two"), 0, None));
        assert_eq!(next(&mut forgotten, &mut Round::default(), 0), "two");

        // Not kept: a login came meanwhile.
        let mut replaced = ledger(true);
        let bought = present(&mut replaced, &refresh("one"));
        let newer = present(&mut replaced, &login());
        assert!(replaced.received(&newer, tokens("three"), 0, None));
        assert!(!replaced.received(&bought, tokens("two"), 1, None));
        assert_eq!(next(&mut replaced, &mut Round::default(), 0), "three");

        // Not kept: a login without a refresh token came meanwhile.
        let mut replaced = ledger(true);
        let bought = present(&mut replaced, &refresh("one"));
        let newer = present(&mut replaced, &login());
        assert!(replaced.received(&newer, None, 0, None));
        assert!(!replaced.received(&bought, tokens("two"), 1, None));
    }

    #[test]
    fn g6_what_replaced_credentials_bought_is_not_used() {
        let mut ledger = ledger(false);
        let bought = present(&mut ledger, &refresh("one"));
        ledger.give(credentials(false, "other"));
        assert!(!ledger.received(&bought, Some("two".into()), 0, None));
        assert!(!ledger.received_alone(&bought, "two".into(), 0));
        assert!(
            ledger.presented(&refresh("one"), 0, None, false).is_none(),
            "and it is not sent any more"
        );
        assert_eq!(next(&mut ledger, &mut Round::default(), 0), "other");
        assert!(ledger.take_ignores_pause() && !ledger.take_ignores_pause());
    }

    #[test]
    fn g6_what_replaced_credentials_spent_is_forgotten() {
        type Receive = fn(&mut Ledger, &Bought) -> bool;
        let receive: [Receive; 2] = [
            |ledger, bought| ledger.received(bought, Some("two".into()), 0, None),
            |ledger, bought| ledger.received_alone(bought, "two".into(), 0),
        ];
        for receive in receive {
            let mut ledger = Ledger::new(credentials(false, ""), GrantPreference::default(), true);
            ledger.adopt(&stored(1, 1, 0, "one"), 0);
            let bought = present(&mut ledger, &refresh("one"));
            // With a store these are a seed: the stored token stays.
            ledger.give(credentials(false, "other"));
            assert!(!receive(&mut ledger, &bought));
            assert!(!ledger.has(&refresh("one")), "it is spent");
        }
    }

    #[test]
    fn g21_without_a_mark_only_an_unsaved_token_is_presented() {
        let mut ledger = Ledger::new(credentials(true, ""), GrantPreference::default(), true);
        ledger.adopt(&stored(1, 1, 0, "one"), 0);
        assert!(ledger.presented(&refresh("one"), 0, None, true).is_none());
        ledger.unsaved(stored(1, 1, 0, "one").version());
        assert!(ledger.presented(&refresh("one"), 0, None, true).is_some());
        // Its save was done, as a look shows: others can find it.
        ledger.look_at(&stored(1, 1, 0, "one"));
        assert!(ledger.presented(&refresh("one"), 0, None, true).is_none());
        assert!(ledger.presented(&login(), 0, None, true).is_some());
    }

    /// Guarantee G8: what is presented when the store can't be used.
    #[test]
    fn g8_without_its_store_a_source_takes_the_safe_way() {
        let full = || error(ErrorKind::StoreUnavailable);
        for (key, is_unsaved, expected) in [
            (true, false, "key"),
            (true, true, "key"),
            (false, true, "one"),
            (false, false, "StoreUnavailable"),
        ] {
            let mut ledger = Ledger::new(credentials(key, ""), GrantPreference::default(), true);
            ledger.adopt(&stored(1, 1, 0, "one"), 0);
            if is_unsaved {
                ledger.unsaved(Version {
                    family: 1,
                    revision: 2,
                });
            }
            let mut round = Round::default();
            round.store_failed(full());
            assert_eq!(
                next(&mut ledger, &mut round, 0),
                expected,
                "{key} {is_unsaved}"
            );
        }
    }

    /// Guarantee G25: whose pair stands when the store is locked. Ours is number 2 of family 7.
    #[test]
    fn g25_the_later_pair_of_a_family_stands_and_else_the_stored_one() {
        for (found, writes_back, then) in [
            (None, true, "ours"),
            (Some(stored(7, 1, 0, "older")), true, "ours"),
            (Some(stored(7, 2, 0, "ours")), false, "ours"),
            (Some(stored(7, 3, 0, "newer")), false, "newer"),
            (Some(stored(8, 1, 0, "login")), false, "login"),
            // A log-out is a pair of its own, and an older one that was refused is none.
            (Some(logged_out(7, 1)), false, "Refused"),
            (Some(logged_out(8, 0)), false, "NoCredentials"),
            (Some(refused(7, 1)), true, "ours"),
        ] {
            let mut ledger = Ledger::new(credentials(false, ""), GrantPreference::default(), true);
            ledger.adopt(&stored(7, 2, 0, "ours"), 0);
            let back = ledger.write_back(found.as_ref());
            assert_eq!(back.is_some(), writes_back, "{found:?}");
            if back.is_none() {
                ledger.agree(found.as_ref());
            }
            assert_eq!(
                next(&mut ledger, &mut Round::default(), 0),
                then,
                "{found:?}"
            );
        }
    }

    #[test]
    fn g22_a_mark_that_is_not_ours_puts_the_token_in_doubt() {
        let mut ledger = Ledger::new(credentials(false, ""), GrantPreference::default(), true);
        ledger.adopt(&stored(7, 2, 0, "ours"), 0);
        assert!(!ledger.is_own_mark(
            Some(Version {
                family: 7,
                revision: 2
            }),
            1
        ));
        ledger.agree(Some(&stored(7, 2, 1, "ours")));
        assert!(ledger.is_in_doubt());
        ledger.agree(Some(&stored(7, 2, 0, "ours")));
        assert!(!ledger.is_in_doubt(), "the mark was cleared");
    }

    /// Guarantee G26: a seed is for an empty store, once.
    #[test]
    fn g26_the_store_goes_before_the_seed() {
        let seeded = |preference| Ledger::new(credentials(false, "seed"), preference, true);
        let seed = Some(RefreshToken::from("seed"));
        let mut empty = seeded(GrantPreference::RefreshToken);
        empty.agree(None);
        assert!(empty.holds_refresh_token());
        assert_eq!(empty.needed_seed(), seed);
        empty.agree(Some(&stored(1, 0, 0, "seed")));
        assert_eq!(next(&mut empty, &mut Round::default(), 0), "seed");
        assert!(empty.is_seed(&"seed".into()));
        empty.forget_seed(&"seed".into());
        assert_eq!(empty.seed, None, "it is the store's now");

        let mut full = seeded(GrantPreference::RefreshToken);
        full.agree(Some(&stored(1, 1, 0, "one")));
        assert_eq!(full.needed_seed(), None);
        assert_eq!(next(&mut full, &mut Round::default(), 0), "one");
        // What is stored was refused: now the seed.
        present(&mut full, &refresh("one"));
        let refused = Outcome::Refused(error(ErrorKind::Refused));
        full.apply(&refresh("one"), &refused, &mut Round::default(), at(0));
        assert_eq!(full.needed_seed(), seed);
        full.forget_seed(&"another".into());
        assert_eq!(full.needed_seed(), seed);
        full.forget_seed(&"seed".into());
        assert_eq!(full.needed_seed(), None);

        let login = seeded(GrantPreference::ApiKey);
        assert_eq!(login.needed_seed(), None, "it would not present it");
    }

    #[test]
    fn g11_an_outcome_with_tokens_changes_nothing_by_itself() {
        let mut ledger = ledger(true);
        present(&mut ledger, &refresh("one"));
        let tokens = TokenResponse {
            access_token: "test-only".into(),
            refresh_token: None,
            lifetime: Duration::ZERO,
        };
        let mut round = Round::default();
        ledger.apply(
            &refresh("one"),
            &Outcome::Granted(tokens),
            &mut round,
            at(0),
        );
        assert!(ledger.is_in_doubt(), "until they are received");
    }

    #[test]
    fn g11_the_key_alone_is_used_where_that_is_preferred() {
        let preference = GrantPreference::ApiKey;
        let mut with_key = Ledger::new(credentials(true, "one"), preference, false);
        assert_eq!(next(&mut with_key, &mut Round::default(), 0), "key");
        assert_eq!(with_key.fallbacks(), 0);
        let mut without = Ledger::new(credentials(false, "one"), preference, false);
        assert_eq!(
            next(&mut without, &mut Round::default(), 0),
            "NoCredentials"
        );
        let failure = without
            .next_grant(&mut Round::default(), true, at(0))
            .expect_err("nothing");
        assert_eq!(failure.pause, Pause::UntilCredentialsChange);
    }
}
