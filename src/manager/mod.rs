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

#[cfg(feature = "reqwest-middleware")]
pub(crate) use self::token_manager::Handle;
pub(crate) use self::{
    access::{Access, Source, abilities},
    token_manager::Want,
    unauthorized::Verdict,
};
pub use self::{
    builder::{ApiVideoAuthLayerBuilder, GrantPreference},
    keeper::KeepFresh,
    renewed::{GrantType, RenewalEvent, RenewalEvents, RenewalReason},
};
