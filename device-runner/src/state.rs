//! The device's own folder: its secret, the engine's pinned key, and where everything else lies.
//!
//! ```text
//! secret            32 random bytes, never sent; both keys below are derived from it
//! engine.key        the engine's public key, pinned at the first join
//! generation        how often the owner asked for everything to be tried again
//! quarantine.json   private tasks that keep failing
//! budget.json       every number that left, by data folder
//! name              the name under which it last joined
//! lock              held while a runner is live
//! sent.jsonl        everything that left the device
//! history.jsonl     every attempt, with the details that only this device knows
//! outbox/           commits that the engine has not acknowledged
//! public/           downloaded artifacts, by digest
//! private/          what was made here and stays here, by handle
//! rows/             the row cache
//! scratch/          folders of running attempts
//! resume/           progress of interrupted stages; deleted when they succeed, or after 30 days
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use fs4::fs_std::FileExt;
use headstart_content::read_bounded;
use headstart_disk::{Disk, DiskFile, Mode, Open, SystemDisk, files};
use headstart_protocol::Digest;

use crate::error::DeviceError;

/// Bytes of a small file of the state folder at most.
const SMALL: u64 = 4096;
/// Progress that no attempt has resumed for this long is deleted.
const ABANDONED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Deletes abandoned progress. What cannot be deleted only takes up room.
fn sweep(disk: &dyn Disk, resume: &Path) {
    for entry in std::fs::read_dir(resume).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age >= ABANDONED) {
            let _ = disk.remove_dir_all(&entry.path());
        }
    }
}

/// The state folder, opened.
pub struct State {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    handle_key: [u8; 32],
    join_secret: String,
    /// Held as long as the state is open for running.
    _lock: Option<Box<dyn DiskFile>>,
}

impl State {
    /// Opens the folder for a runner, creating it where needed. Only one runner may hold it.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where another runner holds it or the secret is damaged.
    pub fn open(root: &Path, disk: Arc<dyn Disk>) -> Result<Self, DeviceError> {
        files::create_private_dir(&*disk, root)?;
        for sub in ["outbox", "public", "private", "rows", "scratch", "resume"] {
            files::create_private_dir(&*disk, &root.join(sub))?;
        }
        let root = root.canonicalize().map_err(|e| DeviceError::state(root, e))?;
        let at = root.join("lock");
        let lock = disk.open(&at, Open::Update);
        let lock = lock.map_err(|e| DeviceError::state(&at, e))?;
        if !lock.system().try_lock_exclusive().map_err(|e| DeviceError::state(&at, e))? {
            return Err(DeviceError::Input(format!(
                "{} is in use by another headstart-device; stop that one, or give this one its own --state",
                root.display()
            )));
        }
        let scratch = root.join("scratch");
        disk.remove_dir_all(&scratch)
            .and_then(|()| disk.create_dir(&scratch))
            .map_err(|e| DeviceError::state(&scratch, e))?;
        sweep(&*disk, &root.join("resume"));
        let secret = read_or_make_secret(&*disk, &root.join("secret"))?;
        Ok(Self::with_secret(root, disk, &secret, Some(lock)))
    }

    /// Opens the folder for reading, beside a live runner.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where there is no such folder.
    pub fn look(root: &Path) -> Result<Self, DeviceError> {
        let at = root.join("secret");
        let secret = read_bounded(&at, SMALL).ok().flatten();
        let secret = secret.and_then(|s| <[u8; 32]>::try_from(s).ok()).ok_or_else(|| {
            DeviceError::Input(format!(
                "{} is not the state folder of a device: {} is missing or damaged; name the folder \
                 that was given to `headstart-device join` with --state",
                root.display(),
                at.display()
            ))
        })?;
        Ok(Self::with_secret(root.to_owned(), Arc::new(SystemDisk), &secret, None))
    }

    fn with_secret(
        root: PathBuf,
        disk: Arc<dyn Disk>,
        secret: &[u8; 32],
        lock: Option<Box<dyn DiskFile>>,
    ) -> Self {
        // Two keys, so that the engine, which is shown the join secret, cannot compute handles.
        let join = blake3::derive_key("headstart-device 2025 join secret", secret);
        let handle_key = blake3::derive_key("headstart-device 2025 artifact handles", secret);
        Self { root, disk, handle_key, join_secret: Digest(join).to_string(), _lock: lock }
    }

    /// A path inside the folder.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The folder, absolute when opened by [`State::open`].
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// A digest that nobody without this device's secret can compute or confirm.
    pub fn handle(&self, of: &[u8]) -> Digest {
        Digest::keyed(&self.handle_key, of)
    }

    /// What proves to the engine that this is the device that joined before.
    pub fn join_secret(&self) -> &str {
        &self.join_secret
    }

    /// Keeps the name under which the device joined, for the owner's page.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn keep_name(&self, name: &str) -> Result<(), DeviceError> {
        if self.name().as_deref() == Some(name) {
            return Ok(());
        }
        write_durably(&*self.disk, &self.at("name"), name.as_bytes())
    }

    /// The name under which the device last joined.
    pub fn name(&self) -> Option<String> {
        std::fs::read_to_string(self.at("name")).ok()
    }

    /// How often the owner asked for everything to be tried again.
    pub fn generation(&self) -> u64 {
        let text = std::fs::read_to_string(self.at("generation")).ok();
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Notes that the owner asks for everything to be tried again.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn next_generation(&self) -> Result<(), DeviceError> {
        let next = self.generation().saturating_add(1);
        write_durably(&*self.disk, &self.at("generation"), format!("{next}\n").as_bytes())
    }

    /// Checks the engine's key against the pinned one, or pins it at the first join.
    ///
    /// # Errors
    /// [`DeviceError::KeyChanged`], and [`DeviceError::Input`] where the text is not a key.
    pub fn pin(&self, url: &str, key: &str) -> Result<VerifyingKey, DeviceError> {
        let parsed = parse_key(key).ok_or_else(|| {
            DeviceError::Input(format!("{url} does not show an Ed25519 key; is it a Headstart engine?"))
        })?;
        let file = self.at("engine.key");
        let pinned = read_bounded(&file, SMALL)?;
        match pinned.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
            Some(pinned) if pinned.trim() == key => Ok(parsed),
            Some(pinned) => Err(DeviceError::KeyChanged {
                url: url.to_owned(),
                got: key.chars().take(8).collect(),
                pinned: pinned.trim().chars().take(8).collect(),
                file,
            }),
            None => {
                write_durably(&*self.disk, &file, format!("{key}\n").as_bytes())?;
                Ok(parsed)
            }
        }
    }
}

/// A public key from 64 hexadecimal digits.
pub fn parse_key(hex: &str) -> Option<VerifyingKey> {
    // The digits of a key and of a digest are written alike.
    let bytes: Digest = hex.parse().ok()?;
    VerifyingKey::from_bytes(&bytes.0).ok()
}

fn read_or_make_secret(disk: &dyn Disk, at: &Path) -> Result<[u8; 32], DeviceError> {
    if let Some(bytes) = read_bounded(at, SMALL)? {
        return bytes.try_into().map_err(|_| {
            DeviceError::Input(format!(
                "{} is damaged: it should hold 32 bytes. Without it the private results in this folder \
                 cannot be found again; restore it, or start over with another --state and --name",
                at.display()
            ))
        });
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| DeviceError::state(at, e.into()))?;
    write_durably(disk, at, &secret)?;
    Ok(secret)
}

/// Holds a lock file until it is dropped, so that a running device and a command beside it do not overwrite
/// each other's changes.
///
/// # Errors
/// [`DeviceError::State`].
pub fn hold(disk: &dyn Disk, at: &Path) -> Result<Box<dyn DiskFile>, DeviceError> {
    let open = || {
        let file = disk.open(at, Open::Update)?;
        FileExt::lock_exclusive(file.system())?;
        Ok(file)
    };
    open().map_err(|e| DeviceError::state(at, e))
}

/// Writes a file that is there completely or not at all, also after a power cut; readable by its
/// owner only.
///
/// # Errors
/// [`DeviceError::State`].
pub fn write_durably(disk: &dyn Disk, at: &Path, bytes: &[u8]) -> Result<(), DeviceError> {
    Ok(files::write_atomic(disk, at, bytes, Mode::Secret)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_the_owners_and_neither_key_is_the_secret() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("state");
        let (handle, join) = {
            let state = State::open(&root, Arc::new(SystemDisk)).expect("opens");
            (state.handle(b"x"), state.join_secret().to_owned())
        };
        let secret = std::fs::read(root.join("secret")).expect("secret");
        let key: [u8; 32] = secret.clone().try_into().expect("32 bytes");
        assert_ne!(handle, Digest::keyed(&key, b"x"));
        let join_key: Digest = join.parse().expect("hex");
        assert_ne!(handle, Digest::keyed(&join_key.0, b"x"), "what the engine is shown computes no handle");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(root.join("secret")).expect("secret").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let again = State::open(&root, Arc::new(SystemDisk)).expect("opens again");
        assert_eq!((again.handle(b"x"), again.join_secret()), (handle, join.as_str()));
        assert!(
            matches!(State::open(&root, Arc::new(SystemDisk)), Err(DeviceError::Input(m)) if m.contains("in use"))
        );
    }
}
