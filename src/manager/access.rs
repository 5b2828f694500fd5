//! Asking a source for its tokens, whatever carries the calls.

use std::{sync::Arc, time::Duration};

use super::{
    keeper::KeepFresh,
    renewed::RenewalReason,
    token_manager::{Handle, TokenManager, Want},
};
use crate::{
    endpoint::{TokenEndpoint, Transport, calls},
    error::Error,
    token::{Bearer, TokenPair},
};

/// A source, and where its token calls go. What clients share.
pub(crate) struct Source<T> {
    pub(crate) handle: Arc<Handle>,
    pub(crate) transport: T,
}

impl<T> Source<T> {
    pub(crate) fn manager(&self) -> &Arc<TokenManager> {
        &self.handle.manager
    }

    /// Endpoints for flights, made over the service `inner`. It is borrowed mutably, since it need not be `Sync`.
    pub(crate) fn endpoints<S, B>(&self, inner: &mut S) -> impl FnMut() -> Box<dyn TokenEndpoint>
    where
        T: Transport<S, B>,
    {
        move || self.transport.endpoint(inner)
    }

    /// Access for a client over the service `inner` with request bodies `B`.
    pub(crate) fn access<S, B>(&self, inner: &S) -> Access
    where
        T: Transport<S, B>,
    {
        Access {
            handle: self.handle.clone(),
            endpoint: self.transport.endpoint(inner),
        }
    }
}

/// A source and a way to make its token calls.
pub(crate) struct Access {
    pub(crate) handle: Arc<Handle>,
    pub(crate) endpoint: Box<dyn TokenEndpoint>,
}

impl Access {
    pub(crate) async fn pair(mut self) -> Result<TokenPair, Error> {
        self.acquire(Want::Usable, None).await
    }

    pub(crate) async fn token(self) -> Result<Bearer, Error> {
        self.pair().await.map(|pair| pair.bearer().clone())
    }

    pub(crate) async fn renew(mut self, generation: u64) -> Result<Bearer, Error> {
        let pair = self
            .acquire(Want::NewerThan(generation), Some(RenewalReason::Requested))
            .await?;
        Ok(pair.bearer().clone())
    }

    pub(crate) async fn hand_over(mut self) -> Result<TokenPair, Error> {
        self.handle
            .manager
            .hand_over(calls(&mut self.endpoint))
            .await
    }

    pub(crate) fn keep_fresh(self) -> Result<KeepFresh, Error> {
        self.handle.keep_fresh(self.endpoint)
    }

    pub(crate) async fn acquire(
        &mut self,
        want: Want,
        cause: Option<RenewalReason>,
    ) -> Result<TokenPair, Error> {
        self.handle
            .manager
            .acquire(want, cause, calls(&mut self.endpoint))
            .await
    }
}

impl TokenManager {
    /// The token for a request that may ask for a lifetime. Renews it at the side if that is due.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn holds its arguments twice, and thousands may wait here"
    )]
    pub(crate) fn token_for(
        self: &Arc<Self>,
        wanted: Option<Duration>,
        mut endpoint: impl FnMut() -> Box<dyn TokenEndpoint>,
    ) -> impl Future<Output = Result<TokenPair, Error>> {
        async move {
            let now = self.now();
            if let (Some(wanted), Some(pair)) = (wanted, self.usable(now))
                && self.is_too_short(&pair, wanted, now)
            {
                let newer = Want::NewerThan(pair.bearer().generation());
                // A usable token beats the error, and without one the last line tells.
                if let Ok(pair) = self
                    .acquire(newer, Some(RenewalReason::MinLifetime), &mut endpoint)
                    .await
                {
                    return Ok(pair);
                }
            }
            let pair = self.acquire(Want::Usable, None, &mut endpoint).await?;
            if pair.bearer().is_stale(self.now()) {
                let newer = Want::NewerThan(pair.bearer().generation());
                self.renew_at_the_side(newer, RenewalReason::Early, endpoint);
            }
            Ok(pair)
        }
    }
}

/// The abilities of a client, in an impl block of their own for each transport: only where token calls go through
/// the wrapped service do they have to name its body type.
macro_rules! abilities {
    ([$($header:tt)*], [$($captured:ident),*], [$($body:ident)?], [$($bound:tt)*], $access:expr) => {
        $($header)* {
            /// The current access token, renewed first if there is no usable one.
            ///
            /// # Errors
            ///
            /// An [`Error`](crate::Error) if there is none to be had, or outside a Tokio runtime.
            ///
            /// # Cancel safety
            ///
            /// Dropping the future ends the waiting, not the renewal.
            pub fn token$(<$body>)?(
                &self,
            ) -> impl Future<Output = Result<$crate::Bearer, $crate::Error>> + Send + use<$($captured,)* $($body)?>
            where
                $($bound)*
            {
                $access(self).token()
            }

            /// Replaces the pair that is current at the call, or joins the renewal that does, and returns the
            /// new token. In the pause after a failure it fails at once with that failure.
            ///
            /// # Errors
            ///
            /// An [`Error`](crate::Error) if the renewal fails, whether or not the old token is still usable.
            ///
            /// # Cancel safety
            ///
            /// Dropping the future ends the waiting, not the renewal.
            pub fn renew$(<$body>)?(
                &self,
            ) -> impl Future<Output = Result<$crate::Bearer, $crate::Error>> + Send + use<$($captured,)* $($body)?>
            where
                $($bound)*
            {
                let access = $access(self);
                let generation = access.handle.manager.generation();
                access.renew(generation)
            }

            /// A copy of the current pair, renewed first if there is no usable one. The next renewal kills it: to
            /// take it elsewhere, use [`hand_over`](Self::hand_over).
            ///
            /// # Errors
            ///
            /// An [`Error`](crate::Error) if there is none to be had, or outside a Tokio runtime.
            ///
            /// # Cancel safety
            ///
            /// Dropping the future ends the waiting, not the renewal.
            pub fn pair$(<$body>)?(
                &self,
            ) -> impl Future<Output = Result<$crate::TokenPair, $crate::Error>> + Send + use<$($captured,)* $($body)?>
            where
                $($bound)*
            {
                $access(self).pair()
            }

            /// Ends the source, once no renewal is under way, and gives its pair away: from now on it belongs to the
            /// caller alone. Requests through this source then fail.
            ///
            /// # Errors
            ///
            /// An [`Error`](crate::Error) if there is no pair to be had, or if its refresh token may be spent; the
            /// source then goes on.
            ///
            /// # Cancel safety
            ///
            /// If the future is dropped, the source goes on.
            pub fn hand_over$(<$body>)?(
                &self,
            ) -> impl Future<Output = Result<$crate::TokenPair, $crate::Error>> + Send + use<$($captured,)* $($body)?>
            where
                $($bound)*
            {
                $access(self).hand_over()
            }

            /// Starts a task that renews the token before it expires, with or without requests, through outages, until
            /// the guard is dropped, the source is shut down, or all its layers and clients are gone. It looks at
            /// the clock every 30 s at least, since timers stand still while a machine sleeps.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) outside a Tokio runtime.
            pub fn keep_fresh$(<$body>)?(&self) -> Result<$crate::KeepFresh, $crate::Error>
            where
                $($bound)*
            {
                $access(self).keep_fresh()
            }
        }
    };
}
pub(crate) use abilities;
