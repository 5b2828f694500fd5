//! A flight's part in a fleet: adopting what others saved, and saving what it got (guarantees G21 to G26).

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::{
    call::Reply,
    renewal::{Failure, Renewal},
    renewed::GrantType,
    session::{Opened, Seen, Session, StoreSettings, new_family},
    single_flight::Pause,
    token_manager::NewPair,
};
use crate::{
    clock::{Deadline, Now},
    credentials::{ApiKey, RefreshToken},
    endpoint::{Grant, Outcome, TokenResponse},
    error::{Error, ErrorKind},
    store::{Fingerprint, Header, InUseMark, StoredTokens, Version},
    token::{AccessToken, TokenPair},
};

/// A pause of others that is over within this is waited out.
const SHORT: Duration = Duration::from_millis(100);

/// Between two tries to save a pair: from the first to the longest.
const SAVE_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Between two looks at a mark that is not settled.
const LOOK_AT_MARK: Duration = Duration::from_millis(250);

/// How long a late response waits for the store's lock.
const LATE_LOCK: Duration = Duration::from_secs(20);

/// What a look at the store can settle.
enum Found {
    Pair(Seen),
    /// Others have found the endpoint sick.
    Pause(Duration),
}

impl Renewal {
    /// Takes the store's lock, or adopts what another process saved. Without a store it does nothing.
    pub(super) async fn enter_store(&mut self) -> Result<Option<TokenPair>, Failure> {
        let Some(store) = self.manager.settings.store.clone() else {
            return Ok(None);
        };
        let (key, ours, ignores_pause) = {
            let mut held = self.manager.held();
            let ignores_pause = std::mem::take(&mut held.ignores_pause);
            (
                held.credentials.api_key.clone(),
                held.version,
                ignores_pause,
            )
        };
        let margin = self.manager.settings.safety_margin;
        loop {
            let enough = |seen: &Seen| {
                let found = settles(seen, ours, margin);
                found.filter(|found| !ignores_pause || matches!(found, Found::Pair(_)))
            };
            let opened = store.open(key.as_ref(), self.deadline, enough).await;
            match opened.map_err(Failure::outage)? {
                Opened::Enough(Found::Pair(seen)) => {
                    if let Some(pair) = self.adopt(seen).await {
                        return Ok(Some(pair));
                    }
                    let message = "the stored access token can't stand in a header";
                    return Err(Failure::outage(Error::new(
                        ErrorKind::StoreCorrupt,
                        message,
                    )));
                }
                Opened::Enough(Found::Pause(wait)) if wait <= SHORT => time::sleep(wait).await,
                Opened::Enough(Found::Pause(wait)) => {
                    let message = "the token endpoint failed for another process, and is left alone for a while";
                    let error = Error::new(ErrorKind::Unavailable, message);
                    return Err(Failure {
                        error,
                        pause: Pause::For(wait),
                    });
                }
                Opened::Locked(session) if !self.has_room_after(Duration::ZERO) => {
                    session.close().await;
                    let message = "the store's lock was free too late for a token call";
                    return Err(Failure::outage(Error::new(ErrorKind::StoreLocked, message)));
                }
                Opened::Locked(mut session) => {
                    let wait = self.someone_elses_mark(&session, ours);
                    if wait.is_zero() {
                        self.agree(&mut session, ours)
                            .await
                            .map_err(Failure::outage)?;
                        *self.session.lock().await = Some(session);
                        return Ok(None);
                    }
                    // Whoever made the mark needs the lock to save what comes of it.
                    session.close().await;
                    self.wait_for_mark(wait).await?;
                }
            }
        }
    }

    async fn adopt(&mut self, seen: Seen) -> Option<TokenPair> {
        let lives = seen.lives();
        let Seen {
            header, contents, ..
        } = seen;
        let refresh_token = contents.refresh_token.clone();
        let new = NewPair {
            access_token: contents.access_token?,
            refresh_token: contents.refresh_token,
            lifetime: contents.lifetime,
            expires: Deadline::after(self.manager.now(), lives),
            way: GrantType::Store,
        };
        let pair = self.manager.publish(new, self.cause, |held| {
            held.put_refresh_token(refresh_token, false);
            held.presented = header.mark.is_some();
            held.version = Some(header.version);
            held.marks = 0;
            true
        });
        pair.await
    }

    /// Makes what we hold and what is stored the same, whichever is newer.
    async fn agree(&mut self, session: &mut Session, ours: Option<Version>) -> Result<(), Error> {
        let stored = session.version();
        let contents = session
            .seen
            .as_ref()
            .map(|seen| seen.contents.clone())
            .unwrap_or_default();
        let ours_if_later = ours.filter(|ours| {
            session
                .seen
                .as_ref()
                .is_none_or(|seen| seen.is_behind(*ours))
        });
        if let Some(ours) = ours_if_later
            && let Some(seen) = self.in_hand(ours, contents).await
        {
            // The store was emptied, or restored from an older copy.
            return session.save(seen).await;
        }
        let Some(seen) = &session.seen else {
            self.plant_seed(&StoredTokens::default());
            return Ok(());
        };
        let mut held = self.manager.held();
        if stored != ours {
            // What is older than a pair of ours that was refused is spent.
            let token = seen
                .contents
                .refresh_token
                .clone()
                .filter(|_| ours_if_later.is_none());
            held.put_refresh_token(token, false);
            held.version = stored;
            held.marks = 0;
        }
        if session.marks() != held.marks {
            held.presented = true;
        } else if session.marks() == 0 {
            // A mark that stood when the pair was adopted has been cleared.
            held.presented = false;
        }
        drop(held);
        self.plant_seed(&seen.contents);
        Ok(())
    }

    /// Takes up the given refresh token if nothing else is there, and it was not taken up before.
    fn plant_seed(&self, contents: &StoredTokens) {
        let mut held = self.manager.held();
        held.seed.take_if(|seed| contents.has_spent(seed));
        if held.credentials.refresh_token.is_none() && held.seed.is_some() {
            let seed = held.seed.clone();
            held.put_refresh_token(seed, false);
        }
    }

    /// Our own pair, in the form to store.
    async fn in_hand(&mut self, ours: Version, stored: StoredTokens) -> Option<Seen> {
        let pair = self.manager.newest().await;
        let life = pair.as_ref().map(|pair| *pair.bearer().life());
        let now = self.manager.now();
        let held = self.manager.held();
        let mut contents = stored;
        contents.access_token = pair.map(|pair| pair.access_token().clone());
        contents.refresh_token = Some(held.credentials.refresh_token.clone()?);
        contents.lifetime = life.map(|life| life.lifetime).unwrap_or_default();
        contents.api_key = fingerprint(held.credentials.api_key.as_ref()).or(contents.api_key);
        let mut header = Header::new(ours);
        header.expires_in = life.map(|life| life.expires.left(now));
        if held.presented {
            header.mark = Some(InUseMark {
                count: held.marks.max(1),
                settles_in: Duration::ZERO,
            });
        }
        Some(Seen::new(header, contents))
    }

    /// How long another process may still be about to present, or to save, what its mark names.
    fn someone_elses_mark(&self, session: &Session, ours: Option<Version>) -> Duration {
        let Some(seen) = &session.seen else {
            return Duration::ZERO;
        };
        if ours.is_some_and(|ours| seen.is_behind(ours)) {
            return Duration::ZERO;
        }
        let is_own = ours == session.version() && self.manager.held().marks == session.marks();
        let key = self.usable_key(self.manager.now());
        match seen.header.mark.filter(|_| !is_own && key.is_none()) {
            Some(mark) => seen.left(Some(mark.settles_in)).unwrap_or_default(),
            None => Duration::ZERO,
        }
    }

    async fn wait_for_mark(&mut self, wait: Duration) -> Result<(), Failure> {
        if !self.has_room_after(wait) {
            let message =
                "another process presented the refresh token and has not said what came of it";
            return Err(Failure {
                error: Error::new(ErrorKind::Ambiguous, message),
                pause: Pause::For(wait),
            });
        }
        time::sleep(wait.min(LOOK_AT_MARK)).await;
        Ok(())
    }

    /// Saves a granted pair. If another process saved a newer one in the meantime, gives that.
    pub(super) async fn save(
        &mut self,
        tokens: &TokenResponse,
        sent: Now,
        grant: &Grant,
    ) -> Option<TokenPair> {
        let store = self.manager.settings.store.clone()?;
        let session = self.session.clone();
        let mut session = session.lock().await;
        let open = session.as_mut()?;
        let seen = self.granted_form(open.seen.as_ref(), tokens, sent, grant);
        let version = seen.header.version;
        let error = open.save(seen.clone()).await.err();
        if let Some(error) = error {
            if error.kind() == ErrorKind::StoreConflict {
                // The lock was lost. Whose pair stands is for the store to say.
                session.take();
                drop(session);
                if let Some(pair) = self.adopt_newer(&store, version).await {
                    return Some(pair);
                }
            }
            tracing::error!(%error, "the new pair of tokens is in use but could not be saved; trying again");
            self.unsaved = Some(seen);
        }
        self.saved = Some(version);
        None
    }

    /// Saves a refresh token that came alone.
    pub(super) async fn store_refresh_token(&mut self, token: RefreshToken, grant: &Grant) {
        let session = self.session.clone();
        let mut session = session.lock().await;
        let Some(open) = session.as_mut() else { return };
        let tokens = TokenResponse {
            access_token: AccessToken::from(""),
            refresh_token: Some(token),
            lifetime: Duration::ZERO,
        };
        let mut seen = self.granted_form(open.seen.as_ref(), &tokens, self.manager.now(), grant);
        seen.contents.access_token = None;
        let version = seen.header.version;
        match open.save(seen).await {
            Ok(()) => {
                let mut held = self.manager.held();
                held.version = Some(version);
                held.marks = 0;
            }
            Err(error) => {
                tracing::error!(%error, "a new refresh token is held but could not be saved")
            }
        }
    }

    fn granted_form(
        &self,
        seen: Option<&Seen>,
        tokens: &TokenResponse,
        sent: Now,
        grant: &Grant,
    ) -> Seen {
        let mut contents = seen.map(|seen| seen.contents.clone()).unwrap_or_default();
        let mut header = Header::new(match (grant, seen) {
            (Grant::RefreshToken(_), Some(seen)) => {
                let Version { family, revision } = seen.header.version;
                Version {
                    family,
                    revision: revision.saturating_add(1),
                }
            }
            _ => new_family(1),
        });
        contents.access_token = Some(tokens.access_token.clone());
        contents.refresh_token = tokens.refresh_token.clone();
        if let (None, Grant::RefreshToken(token)) = (&tokens.refresh_token, grant) {
            // It counts as spent, and may be all there is.
            contents.refresh_token = Some(token.clone());
            header.mark = Some(InUseMark {
                count: 1,
                settles_in: Duration::ZERO,
            });
        }
        contents.lifetime = tokens.lifetime;
        let key = self.manager.held().credentials.api_key.clone();
        contents.api_key = fingerprint(key.as_ref()).or(contents.api_key);
        header.expires_in = Some(Deadline::after(sent, tokens.lifetime).left(self.manager.now()));
        Seen::new(header, contents)
    }

    async fn adopt_newer(
        &mut self,
        store: &Arc<StoreSettings>,
        ours: Version,
    ) -> Option<TokenPair> {
        let key = self.manager.held().credentials.api_key.clone();
        let seen = store.look(key.as_ref()).await.ok()??;
        match settles(&seen, Some(ours), self.manager.settings.safety_margin) {
            Some(Found::Pair(seen)) => self.adopt(seen).await,
            _ => None,
        }
    }

    /// The lock was lost: whoever has it now may have saved another pair.
    pub(super) async fn enter_store_again(&mut self) -> Result<Option<TokenPair>, Failure> {
        if let Some(session) = self.session.lock().await.take() {
            session.close().await;
        }
        self.enter_store().await
    }

    /// Whether the store has another pair than the one this flight was presenting.
    pub(super) async fn store_has_changed(&mut self) -> bool {
        let Some(store) = self.manager.settings.store.clone() else {
            return false;
        };
        let mut session = self.session.lock().await;
        let Some(seen) = session.as_ref().map(Session::version) else {
            return false;
        };
        let key = self.manager.held().credentials.api_key.clone();
        let stored = store
            .look(key.as_ref())
            .await
            .ok()
            .flatten()
            .map(|seen| seen.header.version);
        let changed = stored.is_some() && stored != seen;
        if changed && let Some(session) = session.take() {
            session.close().await;
        }
        changed
    }

    /// The stored refresh token was refused. Its counters and the spent seeds stay.
    pub(super) async fn forget_stored_tokens(&mut self) {
        if let Some(session) = self.session.lock().await.as_mut()
            && let Some(mut seen) = session.seen.clone()
        {
            seen.contents.access_token = None;
            seen.contents.refresh_token = None;
            seen.header.mark = None;
            seen.header.expires_in = None;
            if let Err(error) = session.save(seen.clone()).await {
                tracing::warn!(%error, "a refused refresh token stays in the store");
            }
            self.plant_seed(&seen.contents);
        }
    }

    /// Ends the session: shares a cool-down, or goes on saving a pair that could not be saved, under the lock.
    pub(super) async fn leave_store(&mut self, cool_down: Option<Deadline>) {
        let Some(mut session) = self.session.lock().await.take() else {
            if let Some(seen) = self.unsaved.take() {
                self.save_again(None, seen).await;
            }
            return;
        };
        if let Some(seen) = self.unsaved.take() {
            return self.save_again(Some(session), seen).await;
        }
        if let Some(until) = cool_down {
            let left = until.left(self.manager.now());
            if let Err(error) = session.pause(left).await {
                tracing::warn!(%error, "the pause after a failure is not shared");
            }
        }
        session.close().await;
    }

    /// Until it is saved or worthless: the lock and the mark keep others from presenting the spent token.
    async fn save_again(&mut self, mut session: Option<Session>, seen: Seen) {
        let Some(store) = self.manager.settings.store.clone() else {
            return;
        };
        let key = self.manager.held().credentials.api_key.clone();
        let ours = seen.header.version;
        let mut pause = SAVE_AGAIN.0;
        while !seen.lives().is_zero() {
            time::sleep(pause).await;
            pause = (pause * 2).min(SAVE_AGAIN.1);
            let mut open = match session.take() {
                Some(open) => open,
                None => {
                    let until = Instant::now() + SAVE_AGAIN.1;
                    let newer =
                        |seen: &Seen| is_newer(seen.header.version, Some(ours)).then_some(());
                    match store.open(key.as_ref(), until, newer).await {
                        Ok(Opened::Locked(open)) => open,
                        Ok(Opened::Enough(())) => return,
                        Err(_) => continue,
                    }
                }
            };
            match open.save(seen.clone()).await {
                Ok(()) => {
                    tracing::info!("the pair of tokens is saved now");
                    return open.close().await;
                }
                // Lost: taken anew in the next round.
                Err(error) if error.kind() == ErrorKind::StoreConflict => open.close().await,
                Err(_) => session = Some(open),
            }
        }
        tracing::error!("a pair of tokens expired before it could be saved");
    }

    /// Keeps a pair that came after its flight, unless something newer is there.
    pub(super) async fn keep_late(&mut self, reply: Reply) {
        let Reply {
            grant,
            sent,
            outcome: Outcome::Granted(tokens),
            version,
        } = reply
        else {
            return;
        };
        if let Some(store) = self.manager.settings.store.clone() {
            let key = self.manager.held().credentials.api_key.clone();
            let until = Instant::now() + LATE_LOCK;
            let moved_on = |seen: &Seen| (Some(seen.header.version) != version).then_some(());
            match store.open(key.as_ref(), until, moved_on).await {
                Ok(Opened::Enough(())) => return,
                Ok(Opened::Locked(session)) => *self.session.lock().await = Some(session),
                Err(error) => {
                    tracing::error!(%error, "a late pair of tokens could not be saved; trying again");
                    let base = version
                        .map(|version| Seen::new(Header::new(version), StoredTokens::default()));
                    let seen = self.granted_form(base.as_ref(), &tokens, sent, &grant);
                    self.saved = Some(seen.header.version);
                    self.unsaved = Some(seen);
                }
            }
            if self.save(&tokens, sent, &grant).await.is_some() {
                return;
            }
        }
        if self.publish(tokens, sent, &grant, true).await.is_some() {
            self.manager.gate.warm_up();
        }
        self.leave_store(None).await;
    }
}

/// What a look at the store settles, if anything: a newer pair that can be used, or a pause that is on.
fn settles(seen: &Seen, ours: Option<Version>, safety_margin: Duration) -> Option<Found> {
    let margin = safety_margin.min(seen.contents.lifetime / 10);
    let is_usable = seen.contents.access_token.is_some() && seen.lives() > margin;
    if is_usable && is_newer(seen.header.version, ours) {
        return Some(Found::Pair(seen.clone()));
    }
    seen.left(seen.header.not_before)
        .filter(|wait| !wait.is_zero())
        .map(Found::Pause)
}

/// Whether a stored pair goes before ours: of the same line the later one, and else whatever is stored.
fn is_newer(stored: Version, ours: Option<Version>) -> bool {
    ours.is_none_or(|ours| stored.family != ours.family || stored.revision > ours.revision)
}

fn fingerprint(key: Option<&ApiKey>) -> Option<Fingerprint> {
    key.map(|key| Fingerprint::of(key.expose()))
}
