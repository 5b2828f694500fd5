//! One file for each account in a private folder.
//!
//! A key has two files: the record (`NAME.json`) and beside it the lock (`NAME.lock`), where
//! NAME is [`StoreKey::name`]. A save writes a third (`.NAME.tmp-…`), syncs it, renames it over the
//! record and syncs the folder: whoever reads sees the old record or the new one, also after a
//! power cut.

mod form;
mod paths;
mod permissions;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::BoxFuture;

use self::paths::{LockedFile, Locking, Paths};
use super::{StoreKey, StoreLock, Stored, TokenStore, TryLock, Version, blocking::Turn};
use crate::error::{Error, ErrorKind};

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
/// Whoever may write to a folder above it, and is not kept from it by the sticky bit, can move the folder away: the store
/// is then empty, and no save lasts. That is warned of once, by the name of that folder.
///
/// Use it on local disks only: network file systems promise too little about locks and renaming. On a disk that hangs, an
/// operation fails after 5 s. What hangs goes on, on a thread of its own; until it ends the other operations of this store and
/// its clones fail as well, and start nothing.
///
/// # What it does not do
///
/// Nothing is merged: the file holds one pair, and the last save under the lock stands. Times are
/// kept by the wall clock, so a clock that is set forward makes a token look expired, which costs a
/// renewal; one that is set back can't make it live longer than its lifetime.
///
/// A file that can't be read is not deleted. Where a login can replace it, it is renamed to
/// `NAME.json.rejected-TIME`, for a person to look at. It may hold tokens: whoever takes the lock more than seven days later
/// deletes it.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: PathBuf,
    /// One operation at a time, of all clones: one that hangs keeps the others from hanging too.
    turn: Turn,
    knows_parents: Arc<AtomicBool>,
}

impl FileStore {
    /// A store in this folder, which should be used for nothing else. Nothing is touched before the
    /// first use.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            turn: Turn::default(),
            knows_parents: Arc::default(),
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

    /// The folder as a person looks for it, who need not know where the program was started.
    pub(super) fn whole_path(&self) -> PathBuf {
        std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone())
    }

    /// Owned, since the work on a thread of its own may outlive the caller.
    fn paths(&self, key: &StoreKey) -> Paths {
        Paths::new(self.folder.clone(), key.name())
    }
}

impl TokenStore for FileStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        let paths = self.paths(key);
        self.turn
            .run("reading the token file", move || paths.load())
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        let (paths, knows_parents) = (self.paths(key), self.knows_parents.clone());
        let work = move || {
            let locking = paths.try_lock()?;
            // Once: it is asked for again and again while somebody holds the lock.
            let is_known = knows_parents.swap(true, Ordering::Relaxed);
            let open_parent = (!is_known).then(|| paths.open_parent()).flatten();
            Ok((paths, locking, open_parent))
        };
        Box::pin(async move {
            let run = self.turn.run("locking the token file", work);
            let (paths, locking, open_parent) = run.await?;
            if let Some(parent) = open_parent {
                tracing::warn!(
                    target: "apivideo_auth::store",
                    account = key.account(),
                    origin = key.origin(),
                    folder = %self.folder.display(),
                    parent = %parent.display(),
                    "others may write to a folder above that of the tokens, and put another in its place; take that right from \
                     them (chmod go-w), or name another folder"
                );
            }
            Ok(match locking {
                Locking::Locked(file) => TryLock::Locked(Box::new(FileLock {
                    paths,
                    turn: self.turn.clone(),
                    held: Arc::new(Mutex::new(file)),
                })),
                Locking::Busy(holder) => TryLock::Busy(holder),
            })
        })
    }

    fn place(&self) -> String {
        format!("the file store in {}", self.whole_path().display())
    }
}

/// A lock is the operating system's own on a file beside the record, so it ends with its process,
/// `kill -9` included. The file is never renamed or deleted: two processes could then hold locks on
/// two files of one name.
struct FileLock {
    paths: Paths,
    turn: Turn,
    /// Shared with the work under way, which may outlast its caller: the lock is free when both are done.
    held: Arc<Mutex<LockedFile>>,
}

impl FileLock {
    /// Does this with the lock held.
    fn run(
        &self,
        what: &'static str,
        work: impl FnOnce(&Paths, &mut LockedFile) -> Result<(), Error> + Send + 'static,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let (paths, held) = (self.paths.clone(), self.held.clone());
        self.turn.run(what, move || {
            // Nobody waits here: it is this work's turn.
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            work(&paths, &mut held)
        })
    }
}

impl StoreLock for FileLock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.run("writing the token file", move |paths, held| {
            paths.save(expected, &mut held.saved, &stored)
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.run("putting the token file into quarantine", |paths, _| {
            paths.quarantine()
        })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(async {})
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::store::Header;

    #[tokio::test(start_paused = true)]
    async fn g24_while_one_operation_hangs_the_others_fail_in_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = FileStore::in_folder(folder.path().join("tokens"));
        let key = StoreKey::new("https://ws.example", "main").expect("a good key");
        tokio::time::resume();
        let TryLock::Locked(mut lock) = store.try_lock(&key).await.expect("asking") else {
            panic!("it is free")
        };
        tokio::time::pause();
        let (disk, mended) = mpsc::channel::<()>();
        let hung = store.turn.run("reading the token file", move || {
            let _ = mended.recv();
            Ok(())
        });
        hung.await.expect_err("it hangs");

        let (other, stored) = (
            store.clone(),
            Stored::new(
                Header::new(Version {
                    family: 1,
                    revision: 1,
                }),
                None,
            ),
        );
        let outcomes = [
            store.load(&key).await.map(drop),
            other.load(&key).await.map(drop),
            other.try_lock(&key).await.map(drop),
            lock.save(None, stored.clone()).await,
            lock.quarantine().await,
        ];
        for outcome in outcomes {
            let error = outcome.expect_err("it still hangs");
            assert!(
                error.to_string().contains("earlier") && error.is_transient(),
                "{error}"
            );
        }
        drop(disk);
        tokio::time::resume();
        assert_eq!(
            store.load(&key).await.expect("loading"),
            None,
            "nothing given up comes after"
        );
        lock.save(None, stored).await.expect("the disk is mended");
    }
}
