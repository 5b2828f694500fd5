#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
pub mod clock;
mod credentials;
mod drain;
mod endpoint;
mod error;
mod manager;
pub mod middleware;
mod origin;
#[cfg(feature = "reqwest-middleware")]
pub mod reqwest_adaptor;
#[cfg(feature = "test-util")]
pub mod testing;
mod token;

#[cfg(feature = "reqwest-middleware")]
pub use crate::reqwest_adaptor::ApiVideoAuthMiddleware;
pub use crate::{
    admission::{MinLifetime, NoAuth},
    clock::{Clock, Now},
    credentials::{ApiKey, Credentials, Environment, RefreshToken},
    endpoint::TokenCall,
    error::{Error, ErrorKind},
    manager::{ApiVideoAuthLayerBuilder, Cause, KeepFresh, Renewal, Renewed, Subscription, Way},
    middleware::{ApiVideoAuth, ApiVideoAuthLayer, ResponseFuture},
    token::{AccessToken, Bearer, TokenPair},
};
