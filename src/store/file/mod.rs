//! One file for each account in a private folder.
//!
//! A key has two files: the record (`NAME.json`) and beside it the lock (`NAME.lock`), where
//! NAME is [`StoreKey::name`]. A save writes a third (`.NAME.tmp-…`), syncs it, renames it over the
//! record and syncs the folder: whoever reads sees the old record or the new one, also after a
//! power cut.

mod permissions;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{
    Header, InUseMark, Record, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version,
    blocking::{blocking, in_turn},
    form::refuse_newer,
    lock_owner,
};
use crate::{
    clock::system_now,
    error::{Error, ErrorKind},
};

/// A store in files that only their owner can read.
///
/// ```no_run
/// use apivideo_auth::{ApiVideoAuthLayer, store::FileStore};
///
/// let layer = ApiVideoAuthLayer::builder().store(FileStore::in_user_folder()?).build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// # Its files
///
/// The pair of an account lies in `NAME.json`, where NAME is [`StoreKey::name`]. At `https://ws.api.video` that is
///
/// | account | file |
/// | --- | --- |
/// | `default`, where none is named | `default@https_3a_2f_2fws.api.video_3a443.json` |
/// | `Main` | `+main@https_3a_2f_2fws.api.video_3a443.json` |
///
/// `NAME.lock` beside it carries the lock and says who holds it. `default@seeds@….json` says which
/// [seeds](super#seeds) are spent; who removes the pair leaves it.
///
/// # What protects what
///
/// The folder has to belong to this user, and nobody else may write to it; it is made with mode 0700 if it is missing.
/// Files are made with mode 0600. One that is a link, has a second name, belongs to another user or is open to others is
/// not read. A save replaces the file as a whole and is on the disk when it returns. Anyone who can read the user's files
/// can read the tokens: the user's other programs, root, backups. See `EncryptedStore`. On Windows the folder's access
/// list is all the protection.
///
/// Use it on local disks only: network file systems promise too little about locks and renaming.
///
/// # What it does not do
///
/// Nothing is merged: the file holds one pair, and the last save under the lock stands. Times are
/// kept by the wall clock, so a clock that is set forward makes a token look expired, which costs a
/// renewal; one that is set back can't make it live longer than its lifetime.
///
/// A file that can't be read is not deleted. Where a login can replace it, it is renamed to
/// `NAME.json.rejected-TIME`, for a person to look at; it may hold tokens, so delete it afterwards.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: PathBuf,
}

impl FileStore {
    /// A store in this folder, which should be used for nothing else. Nothing is touched before the
    /// first use.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// A store in the folder `apivideo-auth` where this platform keeps a user's state: below `$XDG_STATE_HOME`, by default
    /// `~/.local/state/apivideo-auth`; on Windows in the local profile, `%LOCALAPPDATA%\apivideo-auth`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if this user has no home folder.
    pub fn in_user_folder() -> Result<Self, Error> {
        use etcetera::BaseStrategy as _;
        let strategy = etcetera::choose_base_strategy().map_err(|error| {
            let message = "this user has no home folder; name one with `FileStore::in_folder`";
            Error::with_source(ErrorKind::Configuration, message, error)
        })?;
        // On Windows the other folders may roam: a pair that is copied to another machine is presented twice.
        let state = strategy.state_dir().unwrap_or(strategy.cache_dir());
        Ok(Self::in_folder(state.join("apivideo-auth")))
    }

    /// Where the files lie, for a message to a person.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Owned, since the work on a thread of its own may outlive the caller.
    fn paths(&self, key: &StoreKey) -> Paths {
        Paths {
            folder: self.folder.clone(),
            name: key.name(),
        }
    }
}

impl TokenStore for FileStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        let paths = self.paths(key);
        Box::pin(blocking("reading the token file", move || paths.load()))
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        let paths = self.paths(key);
        Box::pin(blocking("locking the token file", move || paths.try_lock()))
    }
}

/// Where the files of one account are.
#[derive(Clone)]
struct Paths {
    folder: PathBuf,
    name: String,
}

/// A lock is the operating system's own on a file beside the record, so it ends with its process,
/// `kill -9` included. The file is never renamed or deleted: two processes could then hold locks on
/// two files of one name.
struct FileLock {
    paths: Paths,
    /// Shared with the work under way, which may outlast its caller: the lock is free when both are done.
    held: Arc<Mutex<LockedFile>>,
}

/// The open file that carries the lock: to close it is to unlock it.
struct LockedFile {
    _file: File,
    /// What was last saved under this lock: the same save again is a success, not a conflict.
    saved: Option<Version>,
}

impl StoreLock for FileLock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let paths = self.paths.clone();
        Box::pin(in_turn("writing the token file", &self.held, move |held| {
            paths.save(expected, &mut held.saved, &stored)
        }))
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        let paths = self.paths.clone();
        Box::pin(in_turn(
            "putting the token file into quarantine",
            &self.held,
            move |_| {
                let since = system_now()
                    .wall
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let aside = paths.folder.join(format!(
                    "{}.json.rejected-{}",
                    paths.name,
                    since.as_millis()
                ));
                match fs::rename(paths.record(), &aside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(unavailable(&paths.record(), error))
                    }
                    _ => Ok(()),
                }
            },
        ))
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(async {})
    }
}

/// The file's form: the header in plain JSON, times as milliseconds since 1970, and the record in
/// Base64.
///
/// Plain, so that a person can see what is there. What is missing has a default, so that a field
/// can be added without a new form.
#[derive(Serialize, Deserialize)]
struct Form {
    form: u32,
    family: u64,
    revision: u64,
    /// The two parts of a mark; a count without a time has settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark_count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark_settles: Option<u64>,
    /// The end of a cool-down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<u64>,
    /// When the access token expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    /// Missing after a log-out: the version stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<Zeroizing<String>>,
}

/// The form written here.
const FORM: u32 = 1;

/// How many bytes of a file are read: no honest record comes near it.
const LONGEST: u64 = 1024 * 1024;

impl Form {
    /// From spans to moments, by the wall clock: another process may read them, and a monotonic
    /// reading means nothing to it.
    fn of(stored: &Stored) -> Self {
        let now = system_now()
            .wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let time = |span: Duration| {
            u64::try_from(now.saturating_add(span).as_millis()).unwrap_or(u64::MAX)
        };
        let Header {
            version,
            mark,
            not_before,
            expires_in,
        } = stored.header;
        Self {
            form: FORM,
            family: version.family,
            revision: version.revision,
            mark_count: mark.map(|mark| mark.count),
            mark_settles: mark.map(|mark| time(mark.settles_in)),
            not_before: not_before.map(time),
            expires: expires_in.map(time),
            record: stored
                .record
                .as_ref()
                .map(|record| Zeroizing::new(BASE64.encode(record.expose()))),
        }
    }

    /// From moments back to spans, counted from now. `None` if the record is not Base64.
    fn stored(self) -> Option<Stored> {
        let now = system_now()
            .wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let record = match self.record {
            Some(text) => Some(Record::new(BASE64.decode(text.as_bytes()).ok()?)),
            None => None,
        };
        let mark = self.mark_count.map(|count| InUseMark {
            count,
            settles_in: Duration::from_millis(self.mark_settles.unwrap_or(0)),
        });
        let version = Version {
            family: self.family,
            revision: self.revision,
        };
        let since_1970 = Header {
            version,
            mark,
            not_before: self.not_before.map(Duration::from_millis),
            expires_in: self.expires.map(Duration::from_millis),
        };
        Some(Stored {
            header: since_1970.counted_down(now),
            record,
        })
    }
}

impl Paths {
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

    /// Reads the record, if it is this user's alone: see `permissions`. The file is judged after it
    /// was opened, and what was opened is what is read.
    fn load(&self) -> Result<Option<Stored>, Error> {
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

        /// Read first, and alone: a newer form may have fields that this one can't read.
        #[derive(Deserialize)]
        struct Which {
            form: u32,
        }
        match serde_json::from_slice(&text) {
            Ok(Which { form }) => {
                refuse_newer(path.display(), form, FORM)?;
                // The parser's own error may quote the record: it is not kept.
                let stored = serde_json::from_slice::<Form>(&text)
                    .ok()
                    .and_then(Form::stored);
                stored.map(Some).ok_or_else(|| corrupt(&path))
            }
            Err(_) => Err(corrupt(&path)),
        }
    }

    /// Takes the lock of the operating system, without waiting. Who has it cleans up what a killed
    /// process left and writes its name into the file.
    fn try_lock(&self) -> Result<TryLock, Error> {
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
                return Ok(TryLock::Busy(holder));
            }
            Err(TryLockError::Error(error)) => return Err(unavailable(&path, error)),
        }
        // The same: only a message is poorer without it.
        let _ = sign(&mut file);
        // Under the lock: before, the leftover could be the save of the process that holds it.
        self.remove_leftovers();
        let held = LockedFile {
            _file: file,
            saved: None,
        };
        Ok(TryLock::Locked(Box::new(FileLock {
            paths: self.clone(),
            held: Arc::new(Mutex::new(held)),
        })))
    }

    /// Of a process that was killed while it wrote. Nobody else writes now: we hold the lock.
    ///
    /// They hold tokens, and nobody would find them.
    fn remove_leftovers(&self) {
        let prefix = self.temporary_prefix();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // What can't be removed does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Replaces the record as a whole: a write that fails half-way leaves the old one in place.
    ///
    /// `saved` is set before the write, not after: a write that fails may have been carried out all
    /// the same, and the same save again must then not be a conflict.
    fn save(
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
        let form = Form::of(stored);
        let mut text = Zeroizing::new(Vec::with_capacity(
            form.record.as_ref().map_or(0, |text| text.len()) + 1024,
        ));
        serde_json::to_writer(&mut *text, &form)
            .expect("strings and numbers always serialize into memory");
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
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<permissions::NotPrivate>())
    {
        let message = format!(
            "{} is not this user's alone; if you trust it, make it so (chmod go= PATH), or remove it and log in again",
            path.display()
        );
        return Error::with_source(ErrorKind::StoreCorrupt, message, error);
    }
    unavailable(path, error)
}
