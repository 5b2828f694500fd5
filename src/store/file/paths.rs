//! The files of one key. All of this blocks.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    form,
    permissions::{self, NotPrivate},
};
use crate::{
    error::{Error, ErrorKind},
    store::{Stored, Version, lock_owner},
};

/// Where the files of one key are.
#[derive(Clone)]
pub(super) struct Paths {
    folder: PathBuf,
    name: String,
}

/// The open file that carries the lock: to close it is to unlock it.
pub(super) struct LockedFile {
    _file: File,
    /// What was last saved under this lock: the same save again is a success, not a conflict.
    pub(super) saved: Option<Version>,
}

/// What came of [`Paths::try_lock`].
pub(super) enum Locking {
    Locked(LockedFile),
    /// Another process has it; its name, if known.
    Busy(Option<String>),
}

/// How many bytes of a file are read: no honest record comes near it.
const LONGEST: u64 = 1024 * 1024;

/// How long a record stays in quarantine: a person who wants to look at it has a week.
const QUARANTINE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Paths {
    pub(super) fn new(folder: PathBuf, name: String) -> Self {
        Self { folder, name }
    }

    /// The file that a save replaces.
    fn record(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    /// The file that carries the lock. It is never replaced.
    fn lock(&self) -> PathBuf {
        self.folder.join(format!("{}.lock", self.name))
    }

    /// What a save in progress is called, up to a random number. The dot hides it from a plain
    /// listing.
    fn temporary_prefix(&self) -> String {
        format!(".{}.tmp-", self.name)
    }

    /// What a record in quarantine is called, up to the milliseconds since 1970.
    fn rejected_prefix(&self) -> String {
        format!("{}.json.rejected-", self.name)
    }

    /// A folder above this one that others may write to.
    pub(super) fn open_parent(&self) -> Option<PathBuf> {
        permissions::open_parent(&self.folder)
    }

    /// Reads the record, if it is this user's alone: see `permissions`. The file is judged after it
    /// was opened, and what was opened is what is read.
    pub(super) fn load(&self) -> Result<Option<Stored>, Error> {
        let path = self.record();
        let file = match permissions::open(OpenOptions::new().read(true), &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(rejected_or_unavailable(&path, error)),
            Ok(file) => file,
        };
        permissions::check_folder(&self.folder)
            .map_err(|error| rejected_or_unavailable(&self.folder, error))?;
        let length = file
            .metadata()
            .map_err(|error| unavailable(&path, error))?
            .len()
            .min(LONGEST);
        // Reserved once, so that no copy of a token is left behind by growing.
        let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
        file.take(LONGEST)
            .read_to_end(&mut text)
            .map_err(|error| unavailable(&path, error))?;
        let stored = form::read(&path, &text)?;
        stored.map(Some).ok_or_else(|| corrupt(&path))
    }

    /// Takes the lock of the operating system, without waiting. Who has it cleans up what a killed
    /// process left and writes its name into the file.
    pub(super) fn try_lock(&self) -> Result<Locking, Error> {
        let path = self.lock();
        permissions::make_folder(&self.folder).map_err(|error| unavailable(&self.folder, error))?;
        permissions::check_folder(&self.folder)
            .map_err(|error| rejected_or_unavailable(&self.folder, error))?;
        let mut file = permissions::open(
            OpenOptions::new().read(true).write(true).create(true),
            &path,
        )
        .map_err(|error| rejected_or_unavailable(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // A name for a message: without it the message is shorter.
                let _ = file.take(256).read_to_string(&mut holder);
                let holder = holder
                    .lines()
                    .next()
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned);
                return Ok(Locking::Busy(holder));
            }
            Err(TryLockError::Error(error)) => return Err(unavailable(&path, error)),
        }
        // The same: only a message is poorer without it.
        let _ = sign(&mut file);
        // Under the lock: before, the leftover could be the save of the process that holds it.
        self.remove_leftovers();
        Ok(Locking::Locked(LockedFile {
            _file: file,
            saved: None,
        }))
    }

    /// Of a process that was killed while it wrote, and of quarantines that nobody has looked at. Nobody else writes now: we
    /// hold the lock.
    ///
    /// They hold tokens, and nobody would find them.
    fn remove_leftovers(&self) {
        let (temporary, rejected) = (self.temporary_prefix(), self.rejected_prefix());
        let oldest = form::since_1970().saturating_sub(QUARANTINE).as_millis();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let rejected_at = name.strip_prefix(&rejected).map(str::parse::<u128>);
            let is_over = matches!(rejected_at, Some(Ok(at)) if at < oldest);
            if is_over || name.starts_with(&temporary) {
                // What can't be removed does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Replaces the record as a whole: a write that fails half-way leaves the old one in place.
    ///
    /// `saved` is set before the write, not after: a write that fails may have been carried out all
    /// the same, and the same save again must then not be a conflict.
    pub(super) fn save(
        &self,
        expected: Option<Version>,
        saved: &mut Option<Version>,
        stored: &Stored,
    ) -> Result<(), Error> {
        let (found, version) = (
            self.load()?.map(|stored| stored.header.version),
            Some(stored.header.version),
        );
        // An earlier try may have been carried out after its caller had given up.
        let again = *saved == version && found == version;
        if found != expected && !again {
            return Err(Error::new(
                ErrorKind::StoreConflict,
                "another pair was stored in the meantime",
            ));
        }
        *saved = version;
        let text = form::write(stored);
        let temporary = self.folder.join(format!(
            "{}{:016x}",
            self.temporary_prefix(),
            fastrand::u64(..)
        ));
        let write = || -> io::Result<()> {
            let mut file =
                permissions::open(OpenOptions::new().write(true).create_new(true), &temporary)?;
            // Whole and on the disk before it takes the record's name, and the name on the disk
            // before this returns: a power cut at any line leaves the old record or the new one.
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, self.record())?;
            permissions::sync_folder(&self.folder)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            unavailable(&self.record(), error)
        })
    }

    /// Puts the record out of the way, for a person to look at.
    pub(super) fn quarantine(&self) -> Result<(), Error> {
        let since = form::since_1970().as_millis();
        let aside = format!("{}{since}", self.rejected_prefix());
        let moved = match fs::rename(self.record(), self.folder.join(aside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Also where nothing was left to move: this may be the same call again.
            _ => permissions::sync_folder(&self.folder),
        };
        moved.map_err(|error| unavailable(&self.record(), error))
    }
}

/// Says in the lock file who holds it.
///
/// It is a courtesy to whoever waits; the lock does not depend on it.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", lock_owner::this_process())
}

/// The path is told and nothing of the contents.
fn corrupt(path: &Path) -> Error {
    Error::new(
        ErrorKind::StoreCorrupt,
        format!(
            "{} is damaged; restore it, or remove it and log in again",
            path.display()
        ),
    )
}

/// A disk that is full, a folder without permission: it may be mended, so it is transient. A file where a folder is needed
/// is not: that takes another setting.
fn unavailable(path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidFilename, NotADirectory};
    let (kind, advice) = match error.kind() {
        NotADirectory | InvalidFilename => (
            ErrorKind::Configuration,
            " as a place for tokens; name another folder",
        ),
        _ => (ErrorKind::StoreUnavailable, ""),
    };
    let message = format!("{} can't be used{advice}", path.display());
    Error::with_source(kind, message, error)
}

/// What is not private counts as damaged: somebody else may have written it.
fn rejected_or_unavailable(path: &Path, error: io::Error) -> Error {
    let why = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<NotPrivate>());
    match why {
        Some(why) => Error::new(ErrorKind::StoreCorrupt, why.of(path)),
        None => unavailable(path, error),
    }
}
