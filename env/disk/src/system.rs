//! The system's disk.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::{Disk, DiskFile, Open};

/// The disk of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl DiskFile for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    #[cfg(unix)]
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(self, bytes, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => (bytes, offset) = (&bytes[n..], offset + n as u64),
            }
        }
        Ok(())
    }

    fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        File::set_permissions(self, permissions)
    }

    fn system(&self) -> &File {
        self
    }
}

/// The options with which the system opens a file.
pub(crate) fn options(how: Open) -> OpenOptions {
    let mut options = OpenOptions::new();
    match how {
        Open::New => options.read(true).write(true).create_new(true),
        Open::Create => options.read(true).write(true).create(true).truncate(true),
        Open::Append => options.read(true).append(true).create(true),
        Open::Update => options.read(true).write(true).create(true).truncate(false),
    };
    #[cfg(unix)]
    if how == Open::New {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    options
}

impl Disk for SystemDisk {
    fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(*self)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(options(how).open(path)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    #[cfg(target_os = "linux")]
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(|e| match e {
            // What a file system or a kernel says that has no such thing.
            rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => io::ErrorKind::Unsupported.into(),
            e => e.into(),
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn exchange(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    #[cfg(unix)]
    fn symlink(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(from, to)
    }

    #[cfg(not(unix))]
    fn symlink(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<u64> {
        fs::copy(from, to)
    }

    #[cfg(unix)]
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(path)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    #[cfg(not(unix))]
    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_permissions(&self, path: &Path, permissions: Permissions) -> io::Result<()> {
        fs::set_permissions(path, permissions)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Windows cannot open folders as files; NTFS journals names itself.
        if cfg!(windows) { Ok(()) } else { File::open(path)?.sync_all() }
    }

    #[cfg(target_os = "linux")]
    fn sync_file_system(&self, path: &Path) -> io::Result<bool> {
        rustix::fs::syncfs(File::open(path)?)?;
        Ok(true)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_file_system(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn boot_id(&self) -> Option<String> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }
}
