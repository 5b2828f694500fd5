//! The sicknesses of one process, as values.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use apivideo_auth::{
    Error,
    store::{Record, Stored},
};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sickness {
    /// Each connection to the API is refused.
    NoRoute,
    /// Nothing can be written, a lock included.
    ReadOnly,
    /// Locks can be taken, and nothing can be saved.
    Full,
    /// Each operation hangs.
    Hung,
    /// No file and no connection can be opened. The one to the API is open.
    NoFiles,
    /// By two hours, as the next one.
    ClockAhead,
    ClockBehind,
    OtherApiKey,
    /// What is stored is encrypted, and this process has another key for that.
    OtherStoreKey,
    /// It writes records as an older version did, without the fields that have come since.
    OldRecord,
    /// It is an older version, which can't read what the others write.
    Behind,
}

/// When a sickness begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onset {
    BeforeRenewal,
    /// The refresh token is spent, and the new pair not saved.
    AfterTheCall,
}

impl Sickness {
    /// As it stands in the table.
    pub(super) fn name(self, onset: Onset) -> String {
        let name = match self {
            Self::NoRoute => "no route to the API",
            Self::ReadOnly => "read-only store",
            Self::Full => "full store",
            Self::Hung => "hung store",
            Self::NoFiles => "no file descriptor left",
            Self::ClockAhead => "clock 2 h ahead",
            Self::ClockBehind => "clock 2 h behind",
            Self::OtherApiKey => "wrong API key",
            Self::OtherStoreKey => "wrong key of an encrypted store",
            Self::OldRecord => "writes records of an old version",
            Self::Behind => "too old for what is stored",
        };
        match onset {
            Onset::BeforeRenewal => name.to_owned(),
            Onset::AfterTheCall => format!("{name}, after the call"),
        }
    }

    /// What the store refuses.
    fn fails(self, op: Op) -> bool {
        match self {
            Self::ReadOnly => op != Op::Load && op != Op::Unlock,
            Self::Full => matches!(op, Op::Mark | Op::Touch | Op::Pair | Op::Quarantine),
            Self::NoFiles => op != Op::Unlock,
            _ => false,
        }
    }

    /// Redis hears no more of it, and ends its lock.
    pub(super) fn ends_lease(self) -> bool {
        matches!(self, Self::ReadOnly | Self::Hung | Self::NoFiles)
    }

    fn error(self) -> Error {
        let code = match self {
            Self::ReadOnly => 30, // EROFS
            Self::Full => 28,     // ENOSPC
            _ => 24,              // EMFILE
        };
        let cause = std::io::Error::from_raw_os_error(code);
        let text = "the store can't be used";
        Error::store(ErrorKind::StoreUnavailable, text, Some(cause.into()))
    }
}

/// Whether somebody is sick now.
#[derive(Clone)]
pub(super) struct Health {
    pub(super) sickness: Sickness,
    onset: Onset,
    is_due: Arc<AtomicBool>,
    is_sick: Arc<AtomicBool>,
    pub(super) begun: Arc<tokio::sync::Notify>,
}

impl Health {
    pub(super) fn new(sickness: Sickness, onset: Onset) -> Self {
        Self {
            sickness,
            onset,
            is_due: Arc::default(),
            is_sick: Arc::default(),
            begun: Arc::default(),
        }
    }

    pub(super) fn fall_ill(&self) {
        self.is_due.store(true, Ordering::SeqCst);
        if self.onset == Onset::BeforeRenewal {
            self.begin();
        }
    }

    fn begin(&self) {
        if !self.is_sick.swap(true, Ordering::SeqCst) {
            self.begun.notify_one();
        }
    }

    pub(super) fn recover(&self) {
        self.is_due.store(false, Ordering::SeqCst);
        self.is_sick.store(false, Ordering::SeqCst);
    }

    pub(super) fn is(&self, sickness: Sickness) -> bool {
        self.sickness == sickness && self.is_sick.load(Ordering::SeqCst)
    }

    /// What it does to a store.
    pub(super) fn hook(&self) -> Hook {
        let health = self.clone();
        hook(move |op, when| {
            let is_due = health.is_due.load(Ordering::SeqCst);
            if is_due && (op, when) == (Op::Pair, When::Before) {
                health.begin();
            }
            let sickness = health.sickness;
            let is_sick = health.is_sick.load(Ordering::SeqCst) && when == When::Before;
            async move {
                if is_sick && sickness == Sickness::Hung {
                    pending::<()>().await;
                }
                match is_sick && sickness.fails(op) {
                    true => Err(sickness.error()),
                    false => Ok(()),
                }
            }
        })
    }

    /// What it reads in place of what is stored.
    pub(super) fn read(&self, stored: Stored) -> Stored {
        if self.is(Sickness::Behind) {
            return Stored::new(stored.header, Some(Record::new(b"{\"form\":99}".to_vec())));
        }
        stored
    }

    /// What it writes in place of what is to be stored.
    pub(super) fn write(&self, stored: Stored) -> Stored {
        let record = match &stored.record {
            Some(record) if self.is(Sickness::OldRecord) => record,
            _ => return stored,
        };
        let mut form: serde_json::Value = serde_json::from_slice(record.expose()).expect("JSON");
        let fields = form.as_object_mut().expect("an object");
        fields.retain(|name, _| {
            ["form", "access_token", "refresh_token", "lifetime_ms"].contains(&&**name)
        });
        Stored::new(
            stored.header,
            Some(Record::new(form.to_string().into_bytes())),
        )
    }
}
