//! Files and folders that belong to one user alone.
//!
//! A file of tokens in a folder where others can write is not private, whatever its own mode: they
//! can replace it. So both are looked at, and a file that fails is not read at all, since whoever
//! could write to it could make this program use tokens of theirs.

use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

pub(super) use self::platform::{check_folder, make_folder, open, open_parent, sync_folder};

/// Why a file or folder is not trusted. It travels inside an [`io::Error`], by which it is told
/// from an error of the disk.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(unix),
    expect(dead_code, reason = "there, only the kind of file is looked at")
)]
pub(super) enum NotPrivate {
    SymbolicLink,
    HardLink,
    NoFile,
    OtherOwner,
    FileMode,
    FolderMode,
}

impl NotPrivate {
    /// The text of the error: what is wrong with it, and what helps. `chmod` does in two of the cases.
    pub(super) fn of(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::SymbolicLink => {
                format!(
                    "{path} is a symbolic link, which is not followed; remove it and log in again"
                )
            }
            Self::HardLink => format!(
                "{path} has a second name (a hard link), by which others may use it; remove both and log in again"
            ),
            Self::NoFile => format!("{path} is not a regular file; move it away and log in again"),
            Self::OtherOwner => format!(
                "{path} belongs to another user; run this program as that user, or name another folder"
            ),
            Self::FileMode => format!(
                "others may use {path}; if you trust what is in it, close it to them (chmod go= '{path}'), or remove it and \
                 log in again"
            ),
            Self::FolderMode => format!(
                "others may write to {path}; if you trust what is in it, close it to them (chmod go-w '{path}'), or name \
                 another folder"
            ),
        }
    }
}

impl fmt::Display for NotPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not this user's alone")
    }
}

impl std::error::Error for NotPrivate {}

/// Something else has the folder's name.
fn no_folder(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => error,
    }
}

#[cfg(unix)]
mod platform {
    use std::{
        fs,
        os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    };

    use rustix::{fs::OFlags, io::Errno};

    use super::*;

    /// Opens a file that belongs to this user alone. It is judged by the open file, not by its name, which may
    /// lead elsewhere a moment later.
    pub(in crate::store::file) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        // A pipe in its place must not make us wait for its other end.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = options
            .mode(0o600)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(code) if code == Errno::LOOP.raw_os_error() => {
                    refuse(NotPrivate::SymbolicLink)
                }
                _ => error,
            })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(refuse(NotPrivate::NoFile));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse(NotPrivate::OtherOwner));
        }
        // Without any name it was replaced a moment ago: what is in it was a whole save.
        if metadata.nlink() > 1 {
            return Err(refuse(NotPrivate::HardLink));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(refuse(NotPrivate::FileMode));
        }
        Ok(file)
    }

    /// Made private from the start: a mode that is set afterwards leaves a moment in between. A
    /// folder that exists is left as it is, and checked.
    pub(in crate::store::file) fn make_folder(folder: &Path) -> io::Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(no_folder)
    }

    /// Whether nobody else can put files here. Others may look inside: the files themselves are
    /// closed to them.
    pub(in crate::store::file) fn check_folder(folder: &Path) -> io::Result<()> {
        let metadata = fs::metadata(folder)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse(NotPrivate::OtherOwner));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refuse(NotPrivate::FolderMode));
        }
        Ok(())
    }

    /// A folder above this one that others may write to: they could put another folder in its place. A sticky one lets them
    /// move nothing but what is theirs.
    pub(in crate::store::file) fn open_parent(folder: &Path) -> Option<PathBuf> {
        const STICKY: u32 = 0o1000;
        let folder = fs::canonicalize(folder).ok()?;
        let is_open = |parent: &&Path| {
            fs::metadata(parent)
                .is_ok_and(|parent| parent.mode() & 0o022 != 0 && parent.mode() & STICKY == 0)
        };
        folder.ancestors().skip(1).find(is_open).map(Path::to_owned)
    }

    /// Makes a renaming last: without it, a power cut may bring the old record back.
    pub(in crate::store::file) fn sync_folder(folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    /// As an [`io::Error`], so that it passes through the same way as those of the system.
    fn refuse(why: NotPrivate) -> io::Error {
        io::Error::other(why)
    }
}

/// Elsewhere the access list that a file inherits from the user's profile is all there is.
#[cfg(not(unix))]
mod platform {
    use super::*;

    /// Only the kind of file is looked at; a folder or a device in its place is refused.
    pub(in crate::store::file) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        let file = options.open(path)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other(NotPrivate::NoFile))
        }
    }

    pub(in crate::store::file) fn make_folder(folder: &Path) -> io::Result<()> {
        let made = DirBuilder::new().recursive(true).create(folder);
        made.map_err(no_folder)
    }

    pub(in crate::store::file) fn check_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::store::file) fn open_parent(_: &Path) -> Option<PathBuf> {
        None
    }

    pub(in crate::store::file) fn sync_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }
}
