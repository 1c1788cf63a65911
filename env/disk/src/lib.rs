//! The disk behind a trait, and the one module through which Headstart writes files.
//!
//! Engine, devices and stages change the disk only through a [`Disk`], so that a test can fill it, take its
//! permissions away, or cut its power at any write. Reading goes to the system directly, through [`read`] where
//! somebody else may have made the file.
//!
//! The crate needs nothing but the standard library (and `rustix` on Unix), so that the contract's crate
//! and the models can use it.
//!
//! # Layout
//! - [`Disk`], [`DiskFile`]: the traits. [`SystemDisk`]: the system's.
//! - [`files`]: atomic durable writes, folders that appear whole.
//! - [`read`]: regular files only, and never more of them than is stated.
//! - [`OtherFile`]: what a file is whose first bytes are those of another kind than expected.
//! - [`DiskError`]: what was tried, where, and why not; [`reason`]: the cause in plain words.
//! - [`simulated`]: a disk that fails at a write that a test names, and one that loses what was not synced.

mod error;
pub mod files;
mod other;
pub mod read;
pub mod simulated;
mod system;
mod unique;

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

pub use error::{DiskError, FULL_HELP, REFUSED_HELP, is_full, is_refused, reason};
pub use other::OtherFile;
pub use system::SystemDisk;

/// How a file is opened to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must not exist yet. Only its owner may use it until [`DiskFile::set_mode`] says otherwise.
    New,
    /// Emptied, or created with the permissions of any new file.
    Create,
    /// At its end; created where it does not exist.
    Append,
    /// To be read and written as it is; created where it does not exist.
    Update,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The owner reads and writes, others read.
    Normal,
    /// Read only, for all: content named by its digest.
    ReadOnly,
    /// Only the owner reads: secrets.
    Secret,
}

impl Mode {
    /// The permissions of a file that has `old` now.
    #[cfg(unix)]
    pub fn permissions(self, _old: Permissions) -> Permissions {
        use std::os::unix::fs::PermissionsExt;
        Permissions::from_mode(match self {
            Self::Normal => 0o644,
            Self::ReadOnly => 0o444,
            Self::Secret => 0o600,
        })
    }

    /// The permissions of a file that has `old` now.
    #[cfg(not(unix))]
    pub fn permissions(self, mut old: Permissions) -> Permissions {
        old.set_readonly(self == Self::ReadOnly);
        old
    }
}

/// An open file of a [`Disk`].
pub trait DiskFile: Read + Write + Seek + Send + Sync + fmt::Debug {
    /// Waits until content and length are on disk.
    ///
    /// # Errors
    /// If the disk cannot take them; what is on disk is then unknown.
    fn sync(&self) -> io::Result<()>;

    /// Waits until content and length are on disk, but not times and permissions.
    ///
    /// # Errors
    /// As [`DiskFile::sync`].
    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    /// Cuts the file off or extends it with zeros.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Writes at an offset, without moving the position. Several threads may do so at once.
    ///
    /// # Errors
    /// If the disk cannot take all of it.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the permissions.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn set_permissions(&self, permissions: Permissions) -> io::Result<()>;

    /// The system's file, to be locked, looked at or read.
    fn system(&self) -> &File;

    /// Sets who may do what with it.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        let old = self.system().metadata()?.permissions();
        self.set_permissions(mode.permissions(old))
    }
}

/// What changes files and folders.
pub trait Disk: Send + Sync + fmt::Debug {
    /// The same disk, to be kept.
    fn shared(&self) -> Arc<dyn Disk>;

    /// Opens a file to be written.
    ///
    /// # Errors
    /// If the disk does not allow it; [`io::ErrorKind::AlreadyExists`] for [`Open::New`].
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>>;

    /// Creates one folder.
    ///
    /// # Errors
    /// If the disk does not allow it; [`io::ErrorKind::AlreadyExists`] where the name is taken.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or folder another name, in the place of what has that name.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Lets two files or folders change places, so that there is no moment without either.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the system cannot, and if the disk does not allow it.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;

    /// Gives a file a second name.
    ///
    /// # Errors
    /// If the disk does not allow it, or has no such names.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Creates a name that leads to another.
    ///
    /// # Errors
    /// If the disk does not allow it, or has no such names.
    fn symlink(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Copies a file with its permissions.
    ///
    /// # Errors
    /// If it cannot be read, or the disk cannot take it.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<u64>;

    /// Bytes that are free for this user on the disk of `path`, which exists.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where the system does not say, and if `path` does not exist.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// Sets the permissions of a file or folder.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn set_permissions(&self, path: &Path, permissions: Permissions) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with everything in it.
    ///
    /// # Errors
    /// If the disk does not allow it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Waits until the content of a file is on disk.
    ///
    /// # Errors
    /// If the disk cannot take it.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Waits until the names in a folder are on disk.
    ///
    /// # Errors
    /// If the disk cannot take them.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Waits until the whole file system of `path` is on disk; false where there is no way to.
    ///
    /// # Errors
    /// If the disk cannot take it.
    fn sync_file_system(&self, path: &Path) -> io::Result<bool>;

    /// Differs between any two starts of the system; `None` where that cannot be known.
    fn boot_id(&self) -> Option<String>;
}
