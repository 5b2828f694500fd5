//! What a response was bought with: noted as its call goes out, and asked when it comes.

use crate::{
    credentials::ApiKey,
    endpoint::Grant,
    store::{Fingerprint, Version},
};

/// What a response was bought with.
#[derive(Clone, Debug)]
pub(super) struct Bought {
    grant: Grant,
    /// The API key that was held then, whatever was presented.
    api_key: Option<ApiKey>,
    edition: u64,
    /// Whose pair it brings.
    owner: Option<Fingerprint>,
    /// The token in use at that time.
    generation: u64,
    /// The pair that was held at that time, and the one that was stored.
    version: Option<Version>,
    base: Option<Version>,
}

impl Bought {
    pub(super) fn new(
        grant: Grant,
        api_key: Option<ApiKey>,
        owner: Option<Fingerprint>,
        edition: u64,
        generation: u64,
        version: Option<Version>,
        base: Option<Version>,
    ) -> Self {
        Self {
            grant,
            api_key,
            owner,
            edition,
            generation,
            version,
            base,
        }
    }

    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(super) fn api_key(&self) -> Option<&ApiKey> {
        self.api_key.as_ref()
    }

    pub(super) fn owner(&self) -> Option<&Fingerprint> {
        self.owner.as_ref()
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.version
    }

    pub(super) fn base(&self) -> Option<Version> {
        self.base
    }

    pub(super) fn edition(&self) -> u64 {
        self.edition
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn is_login(&self) -> bool {
        matches!(self.grant, Grant::ApiKey(_))
    }
}
