#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
pub mod clock;
mod credentials;
mod endpoint;
mod error;
mod http_service;
pub mod middleware;
mod origin;
#[cfg_attr(
    not(feature = "upload-tokens"),
    expect(
        dead_code,
        unreachable_pub,
        reason = "only uploads show a problem to their caller"
    )
)]
mod problem;
#[cfg(feature = "reqwest-middleware")]
pub mod reqwest_adaptor;
mod response;
mod source;
pub mod store;
#[cfg(feature = "test-util")]
pub mod testing;
mod token;
#[cfg(feature = "upload-tokens")]
pub mod upload_token;

#[cfg(feature = "reqwest-middleware")]
pub use crate::reqwest_adaptor::ApiVideoAuthMiddleware;
#[cfg(feature = "upload-tokens")]
pub use crate::upload_token::{UploadToken, UploadTokenLayer, UploadTokens};
pub use crate::{
    admission::{MinLifetime, NoAuth},
    clock::{Clock, Now},
    credentials::{ApiKey, Credentials, Environment, GrantPreference, RefreshToken},
    endpoint::TokenCall,
    error::{Error, ErrorKind},
    middleware::{ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthLayerBuilder, ResponseFuture},
    source::{
        GrantType, KeepFresh, RenewalEvent, RenewalEvents, RenewalReason, SourceStatus,
        StoreStatus, TokenSource,
    },
    token::{AccessToken, Bearer, TokenPair},
};
