//! What is stored, and which pair goes before which (guarantee G25). Pure, but for the time that passes.
//!
//! Pairs of one family descend from one login or seed and are numbered by revision: the higher one goes first, wherever
//! it is. Between families the store decides, so that an operator's new login reaches everyone.

use std::time::Duration;

use tokio::time::Instant;

use super::policy;
use crate::{
    credentials::{ApiKey, RefreshToken},
    random,
    store::{Header, InUseMark, Stored, StoredTokens, Version},
};

/// What is stored, opened. Its spans count from when it was read or made.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    header: Header,
    tokens: StoredTokens,
    /// Somebody took the pair away.
    is_logged_out: bool,
    at: Instant,
}

/// What a look at the store can settle for a renewal.
#[derive(Debug)]
pub(super) enum Settled {
    /// A pair that goes before ours, and that requests can use.
    Pair(Snapshot),
    /// The API has asked for a pause, or has failed for others.
    Pause { wait: Duration, was_asked: bool },
    /// Another process may still be about to present the refresh token.
    Mark(Duration),
}

/// A pair on its way into the store.
#[derive(Clone, Debug)]
pub(super) struct BoughtPair {
    snapshot: Snapshot,
    /// What was stored when it was bought.
    base: Option<Version>,
    /// The API key that was held then: a pair of its account is not foreign.
    api_key: Option<ApiKey>,
}

impl Snapshot {
    pub(super) fn new(header: Header, tokens: StoredTokens) -> Self {
        Self {
            header,
            tokens,
            is_logged_out: false,
            at: Instant::now(),
        }
    }

    /// A header alone.
    pub(super) fn logged_out(header: Header) -> Self {
        Self {
            is_logged_out: true,
            ..Self::new(header, StoredTokens::default())
        }
    }

    /// For the first save: nothing was stored before.
    pub(super) fn nothing() -> Self {
        Self::new(Header::new(new_family(0)), StoredTokens::default())
    }

    pub(super) fn version(&self) -> Version {
        self.header.version
    }

    pub(super) fn tokens(&self) -> &StoredTokens {
        &self.tokens
    }

    /// How often the refresh token was presented without a response.
    pub(super) fn marks(&self) -> u32 {
        self.header.mark.map_or(0, |mark| mark.count)
    }

    /// How long somebody may still be about to present, or to save, what the mark names.
    pub(super) fn mark_settles_in(&self) -> Duration {
        self.left(self.header.mark.map(|mark| mark.settles_in))
            .unwrap_or_default()
    }

    /// A span of the header as it is by now.
    fn left(&self, span: Option<Duration>) -> Option<Duration> {
        span.map(|span| span.saturating_sub(self.at.elapsed()))
    }

    /// How much longer the access token lives, by the store's clock and never longer than it ever could.
    pub(super) fn lives(&self) -> Duration {
        self.left(self.header.expires_in)
            .unwrap_or_default()
            .min(self.tokens.lifetime)
    }

    /// Whether a pair of our own goes before this: ours is later in the same family, or nothing is stored at all. A log-out
    /// is not undone.
    pub(super) fn is_behind(&self, ours: Version) -> bool {
        let Version { family, revision } = self.header.version;
        let is_blank = revision == 0
            && self.tokens.access_token.is_none()
            && self.tokens.refresh_token.is_none();
        !self.is_logged_out && (is_blank || family == ours.family && revision < ours.revision)
    }

    /// Whether this is the pair of that version, or came of it. What is left of a refused one is neither: a refused seed has
    /// the number of the pair that it would have brought.
    pub(super) fn is_of(&self, version: Version) -> bool {
        let Version { family, revision } = self.header.version;
        let has_tokens = self.tokens.access_token.is_some() || self.tokens.refresh_token.is_some();
        has_tokens && family == version.family && revision >= version.revision
    }

    /// Whether this goes before ours: later in the same family, or of another.
    fn is_ahead(&self, ours: Option<Version>) -> bool {
        let Version { family, revision } = self.header.version;
        ours.is_none_or(|ours| family != ours.family || revision > ours.revision)
    }

    /// What a look at this settles, if anything: a newer pair that can be used, or a cool-down that is on.
    pub(super) fn settles(&self, ours: Option<Version>) -> Option<Settled> {
        let margin = policy::margin(self.tokens.lifetime);
        if self.tokens.access_token.is_some() && self.lives() > margin && self.is_ahead(ours) {
            return Some(Settled::Pair(self.clone()));
        }
        let wait = self.left(self.header.not_before);
        wait.filter(|wait| !wait.is_zero())
            .map(|wait| Settled::Pause {
                wait,
                was_asked: self.tokens.pause_was_asked,
            })
    }

    /// Whether a cool-down was the last word of anybody, over or not.
    pub(super) fn is_failing(&self) -> bool {
        self.header.not_before.is_some()
    }

    /// Notes that the refresh token is about to be presented for the `count`th time.
    pub(super) fn mark(&mut self, count: u32, settles_in: Duration) {
        self.header.mark = Some(InUseMark {
            count,
            settles_in: settles_in + self.at.elapsed(),
        });
    }

    /// The call that the mark was for had no effect.
    pub(super) fn clear_mark(&mut self) {
        self.header.mark = None;
    }

    /// A given refresh token that is taken up: revision 0 of a family, of no API key. From here on the store has it, and the
    /// copy in somebody's environment is worth nothing.
    pub(super) fn planted(seed: RefreshToken) -> Self {
        let mut snapshot = Self::nothing();
        snapshot.tokens.refresh_token = Some(seed);
        snapshot
    }

    /// Whether its refresh token is a seed that was taken up and has brought no pair.
    pub(super) fn is_planted(&self) -> bool {
        self.tokens.refresh_token.is_some() && self.version().revision == 0
    }

    /// Forgets a pair that was refused. Its number stays, but for that of a seed: what was refused is not nothing, and nobody
    /// writes an older pair over it.
    pub(super) fn forget_tokens(&mut self) {
        let revision = &mut self.header.version.revision;
        *revision = (*revision).max(1);
        self.tokens.access_token = None;
        self.tokens.refresh_token = None;
        self.header.mark = None;
        self.header.expires_in = None;
    }

    /// Keeps everybody from calling for a while.
    pub(super) fn pause(&mut self, wait: Duration, was_asked: bool) {
        self.tokens.pause_was_asked = was_asked;
        self.header.not_before = Some(wait + self.at.elapsed());
    }

    /// The form that stores take.
    pub(super) fn close(&self) -> Stored {
        let mut header = self.header.counted_down(self.at.elapsed());
        header.not_before = header.not_before.filter(|wait| !wait.is_zero());
        let record = (!self.is_logged_out).then(|| self.tokens.close());
        Stored::new(header, record)
    }
}

impl BoughtPair {
    pub(super) fn new(snapshot: Snapshot, base: Option<Version>, api_key: Option<ApiKey>) -> Self {
        Self {
            snapshot,
            base,
            api_key,
        }
    }

    pub(super) fn api_key(&self) -> Option<&ApiKey> {
        self.api_key.as_ref()
    }

    pub(super) fn version(&self) -> Version {
        self.snapshot.version()
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn has_expired(&self) -> bool {
        // A refresh token that came alone has no life that is known.
        self.snapshot.tokens.access_token.is_some() && self.snapshot.lives().is_zero()
    }

    /// Whether it came from a login: it begins a family of its own.
    pub(super) fn is_login(&self) -> bool {
        self.base
            .is_none_or(|base| base.family != self.version().family)
    }

    /// Whether what is stored by now goes before this pair.
    pub(super) fn gives_way_to(&self, stored: &Snapshot) -> bool {
        // What was refreshed before a log-out does not undo it.
        let is_base = Some(stored.version()) == self.base;
        let is_base = is_base && (self.is_login() || !stored.is_logged_out);
        !is_base && !stored.is_behind(self.version())
    }

    /// Whether this is its refresh token.
    pub(super) fn has(&self, token: &RefreshToken) -> bool {
        self.snapshot.tokens.refresh_token.as_ref() == Some(token)
    }
}

/// A new family of pairs.
pub(super) fn new_family(revision: u64) -> Version {
    Version {
        family: random::number().max(1),
        revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g25_nothing_is_written_over_a_seed_that_was_refused() {
        let older = Version {
            family: 7,
            revision: 3,
        };
        assert!(Snapshot::nothing().is_behind(older));
        let mut stored = Snapshot::planted("test-only-seed".into());
        assert!(!stored.is_behind(older), "the seed is another family");
        stored.forget_tokens();
        assert!(!stored.is_behind(older), "and stays one when it is refused");
    }
}
