//! One token source: the pair in use, and the one renewal that may be under way.

mod access;
mod builder;
mod call;
mod keeper;
mod policy;
mod renewal;
mod renewed;
mod session;
mod shared;
mod single_flight;
mod token_manager;
mod unauthorized;

pub(crate) use self::{
    access::{Access, Source, abilities},
    token_manager::{Handle, Want},
    unauthorized::Verdict,
};
pub use self::{
    builder::{ApiVideoAuthLayerBuilder, Renewal},
    keeper::KeepFresh,
    renewed::{Cause, Renewed, Subscription, Way},
};
