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
#[derive(Debug)]
pub(super) struct NotPrivate(&'static str);

impl fmt::Display for NotPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
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
                Some(code) if code == Errno::LOOP.raw_os_error() => refuse("it is a symbolic link"),
                _ => error,
            })?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(refuse("it is not a regular file"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse("it belongs to another user"));
        }
        // Without any name it was replaced a moment ago: what is in it was a whole save.
        if metadata.nlink() > 1 {
            return Err(refuse("it has another name (a hard link)"));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(refuse("others may use it"));
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
            return Err(refuse("it belongs to another user"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refuse("others may write to it"));
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
    fn refuse(why: &'static str) -> io::Error {
        io::Error::other(NotPrivate(why))
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
            Err(io::Error::other(NotPrivate("it is not a regular file")))
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
