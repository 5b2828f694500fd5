//! What one clone of a client keeps of the current token, so that its requests need no lock.

use std::{ops::Deref, sync::Arc};

use http::HeaderValue;

use crate::{
    clock::Calm,
    endpoint::{TokenEndpoint, Transport},
    origin::Origin,
    source::{Generations, TokenSource, Tokens},
    token::{Life, own_copy},
};

/// What a layer and all its clients share.
pub(crate) struct Shared<T> {
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) generations: Arc<Generations>,
    pub(crate) transport: T,
    /// Where tokens may go; the first is the API's.
    pub(crate) origins: Arc<[Origin]>,
    /// Who makes the crate's own calls.
    pub(crate) application: Option<HeaderValue>,
    /// The largest body, in bytes, that is kept for a replay.
    pub(crate) replay_limit: usize,
}

impl<T> Shared<T> {
    /// The token source for a client over the service `inner` with request bodies `B`.
    pub(super) fn source<S, B>(&self, inner: &S) -> TokenSource
    where
        T: Transport<S, B>,
    {
        TokenSource::new(self.tokens.clone(), self.transport.endpoint(inner))
    }

    /// Endpoints for renewals, made over the service `inner`. It is borrowed mutably, since it need not be `Sync`.
    pub(super) fn endpoints<S, B>(&self, inner: &mut S) -> impl FnMut() -> Box<dyn TokenEndpoint>
    where
        T: Transport<S, B>,
    {
        move || self.transport.endpoint(inner)
    }
}

/// The cache of one clone.
pub(super) enum CloneCache<T> {
    Nothing,
    /// This generation was used once. A clone made for one request never pays for a copy of the header.
    Once(u64),
    /// With the time in which no clock says anything new about it.
    Own(Arc<CachedToken<T>>, Calm),
}

/// What one clone keeps to itself: no other thread touches its counts.
pub(super) struct CachedToken<T> {
    shared: Arc<Shared<T>>,
    header: HeaderValue,
    generation: u64,
    life: Life,
}

/// How a request on its way holds its source.
pub(super) enum SourceRef<T> {
    Shared(Arc<Shared<T>>),
    Cached(Arc<CachedToken<T>>),
}

impl<T> SourceRef<T> {
    pub(super) fn into_shared(self) -> Arc<Shared<T>> {
        match self {
            Self::Shared(shared) => shared,
            Self::Cached(cached) => cached.shared.clone(),
        }
    }
}

impl<T> Deref for SourceRef<T> {
    type Target = Shared<T>;

    fn deref(&self) -> &Shared<T> {
        match self {
            Self::Shared(shared) => shared,
            Self::Cached(cached) => &cached.shared,
        }
    }
}

/// A token that needs no waiting.
pub(super) struct AtHand<T> {
    pub(super) header: HeaderValue,
    pub(super) generation: u64,
    pub(super) source: SourceRef<T>,
    /// A renewal is due.
    pub(super) is_stale: bool,
}

impl<T> AtHand<T> {
    #[inline]
    fn cached(cached: &Arc<CachedToken<T>>, is_stale: bool) -> Self {
        Self {
            header: cached.header.clone(),
            generation: cached.generation,
            source: SourceRef::Cached(cached.clone()),
            is_stale,
        }
    }
}

impl<T> CloneCache<T> {
    /// The token, if there is a usable one. For a clone that has used it before this needs no lock.
    #[inline]
    pub(super) fn token(&mut self, shared: &Arc<Shared<T>>) -> Option<AtHand<T>> {
        if let Self::Own(cached, calm) = self
            && cached.generation == shared.generations.live()
            && calm.is_on()
        {
            return Some(AtHand::cached(cached, false));
        }
        self.token_anew(shared)
    }

    /// The same for a clone that has to look at both clocks, or has not used this token, or used it once.
    #[inline(never)]
    fn token_anew(&mut self, shared: &Arc<Shared<T>>) -> Option<AtHand<T>> {
        let (tokens, now) = (&shared.tokens, shared.tokens.now());
        if let Self::Own(cached, calm) = self
            && cached.generation == shared.generations.live()
            && !cached.life.usable_until.has_passed(now)
        {
            let fresh_until = &cached.life.fresh_until;
            *calm = tokens.calm_before(fresh_until, now);
            return Some(AtHand::cached(cached, fresh_until.has_passed(now)));
        }
        let (header, generation, is_stale, life) = tokens.look_at_usable(now, |bearer| {
            let used_before = matches!(self, Self::Once(seen) if *seen == bearer.generation());
            let life = used_before.then(|| *bearer.life());
            (
                bearer.header().clone(),
                bearer.generation(),
                bearer.is_stale(now),
                life,
            )
        })?;
        let source = match life {
            Some(life) => {
                let (shared, header) = (shared.clone(), own_copy(&header));
                let cached = Arc::new(CachedToken {
                    shared,
                    header,
                    generation,
                    life,
                });
                *self = Self::Own(cached.clone(), Calm::default());
                SourceRef::Cached(cached)
            }
            None => {
                *self = Self::Once(generation);
                SourceRef::Shared(shared.clone())
            }
        };
        Some(AtHand {
            header,
            generation,
            source,
            is_stale,
        })
    }
}
