//! What becomes of tokens that came in: saved, then put to use (guarantee G21).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    bought::Bought,
    events::{Event, GrantType, RenewalReason},
    saver::save_later,
    snapshot::{BoughtPair, Settled, Snapshot, new_family},
    state::{NewToken, State},
    store_session::NotSaved,
};
use crate::{
    clock::{Deadline, Now},
    credentials::RefreshToken,
    endpoint::{Grant, TokenResponse},
    error::{Error, ErrorKind},
    store::{Header, InUseMark, StoredTokens, Version},
    token::{AccessToken, Bearer},
};

/// How long a pair waits for the store's lock to be saved under.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// The commit of one response.
pub(super) struct Commit<'a> {
    state: &'a Arc<State>,
    reason: RenewalReason,
    /// The store can't be used: a pair is saved later.
    saves_later: bool,
    bought: &'a Bought,
    sent: Now,
}

impl<'a> Commit<'a> {
    pub(super) fn new(
        state: &'a Arc<State>,
        reason: RenewalReason,
        saves_later: bool,
        (bought, sent): &'a (Bought, Now),
    ) -> Self {
        Self {
            state,
            reason,
            saves_later,
            bought,
            sent: *sent,
        }
    }

    /// Saves a pair, then puts it to use: what a sibling sees in use can be found in the store.
    /// `None` if something newer is there, or its credentials were replaced.
    pub(super) async fn pair(&self, tokens: TokenResponse) -> Option<Bearer> {
        let (state, bought) = (self.state, self.bought);
        let TokenResponse {
            access_token,
            refresh_token,
            lifetime,
        } = tokens;
        let expires = Deadline::after(self.sent, lifetime);
        let mut saved = None;
        if let Some(store) = &state.store {
            let pair = self.stored_form(
                Some(&access_token),
                refresh_token.as_ref(),
                lifetime,
                expires,
            );
            let version = pair.version();
            let result = if self.saves_later {
                Err(NotSaved::Failed(Error::new(
                    ErrorKind::StoreUnavailable,
                    "the token store can't be used",
                )))
            } else {
                store.save(&pair, Instant::now() + LOCK_WAIT, || None).await
            };
            match result {
                Ok(()) => store.forget_unsaved(None),
                Err(NotSaved::MovedOn) => return None,
                Err(NotSaved::Failed(error)) => {
                    // If the lock was lost, whose pair stands is for the store to say.
                    if error.kind() == ErrorKind::StoreConflict
                        && let Ok(Some(stored)) = store.look(pair.api_key()).await
                        // Not if it is the pair that this one was to replace.
                        && pair.gives_way_to(&stored)
                        && let Some(Settled::Pair(stored)) = stored.settles(Some(version))
                        && let Some(bearer) = adopt(state, stored, self.reason)
                    {
                        return Some(bearer);
                    }
                    state.teller.tell(Event::PairUnsaved { error });
                    save_later(state, pair);
                    saved = Some((version, false));
                }
            }
            saved = saved.or(Some((version, true)));
        }
        let grant = GrantType::of(bought.grant());
        let new = NewToken::new(access_token, lifetime, expires, grant);
        state.publish(new, self.reason, |ledger, generation| {
            ledger.received(bought, refresh_token, generation, saved)
        })
    }

    /// Keeps a refresh token that came without a usable access token.
    pub(super) async fn lone_refresh_token(&self, token: RefreshToken) {
        let (state, bought) = (self.state, self.bought);
        let generation = state.current.generation();
        if !state
            .ledger()
            .received_alone(bought, token.clone(), generation)
        {
            return;
        }
        let Some(store) = &state.store else { return };
        let expires = Deadline::after(self.sent, Duration::ZERO);
        let pair = self.stored_form(None, Some(&token), Duration::ZERO, expires);
        let version = pair.version();
        let until = Instant::now() + LOCK_WAIT;
        match store.save(&pair, until, || None).await {
            Ok(()) => state.ledger().saved(version),
            Err(error) => {
                // What moved on is no pair of this family: this token is kept until the next renewal finds that one.
                let moved_on =
                    || Error::new(ErrorKind::StoreConflict, "another pair is stored by now");
                let error = match error {
                    NotSaved::Failed(error) => error,
                    NotSaved::MovedOn => moved_on(),
                };
                state.teller.tell(Event::PairUnsaved { error });
                state.ledger().unsaved(version);
                save_later(state, pair);
            }
        }
    }

    fn stored_form(
        &self,
        access_token: Option<&AccessToken>,
        refresh_token: Option<&RefreshToken>,
        lifetime: Duration,
        expires: Deadline,
    ) -> BoughtPair {
        let (state, bought) = (self.state, self.bought);
        let mut header = Header::new(match (bought.grant(), bought.version()) {
            (Grant::RefreshToken(_), Some(Version { family, revision })) => Version {
                family,
                revision: revision.saturating_add(1),
            },
            _ => new_family(1),
        });
        header.expires_in = access_token.map(|_| expires.left(state.now()));
        let mut tokens = StoredTokens {
            access_token: access_token.cloned(),
            refresh_token: refresh_token.cloned(),
            lifetime,
            // Of the account that it was bought for, whatever key is held by now.
            api_key: bought.owner().cloned(),
            ..StoredTokens::default()
        };
        if let (None, Grant::RefreshToken(token)) = (refresh_token, bought.grant()) {
            // It counts as spent, and may be all there is.
            tokens.refresh_token = Some(token.clone());
            header.mark = Some(InUseMark {
                count: 1,
                settles_in: Duration::ZERO,
            });
        }
        BoughtPair::new(
            Snapshot::new(header, tokens),
            bought.base(),
            bought.api_key().cloned(),
        )
    }
}

/// Puts a pair to use that another process has saved. `None` if it can't be used.
pub(super) fn adopt(state: &State, stored: Snapshot, reason: RenewalReason) -> Option<Bearer> {
    let tokens = stored.tokens();
    let new = NewToken::new(
        tokens.access_token.clone()?,
        tokens.lifetime,
        Deadline::after(state.now(), stored.lives()),
        GrantType::Store,
    );
    state.publish(new, reason, |ledger, generation| {
        ledger.adopt(&stored, generation);
        true
    })
}
