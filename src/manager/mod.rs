//! One token source: the pair in use, and the one renewal that may be under way.

mod access;
mod builder;
mod keeper;
mod policy;
mod renewal;
mod single_flight;
mod token_manager;

pub(crate) use self::{
    access::{Access, abilities},
    token_manager::{Handle, Verdict, Want},
};
pub use self::{
    builder::{ApiVideoAuthLayerBuilder, Renewal},
    keeper::KeepFresh,
    token_manager::{Cause, Renewed, Subscription, Way},
};
