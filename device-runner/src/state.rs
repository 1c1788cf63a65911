//! The device's own folder: its secret, the engine that it is paired with, and where everything else lies.
//!
//! ```text
//! secret            32 random bytes, never sent; the keys below are derived from it
//! engine.json       the engine that it is paired with: address, key, the device's name
//! fence             the highest fence that it was granted, and the engine's signature under it
//! generation        how often the owner asked for everything to be tried again
//! quarantine.json   private tasks that keep failing
//! contract.json     what its owner approved, by engine
//! proposals.json    what waits for approval
//! budget.json       every number that left, by data folder
//! parts.json        how the disk is divided between public and private work
//! lock              held while a runner is live
//! sent.jsonl        everything that left the device; what was before in earlier-sent.jsonl, 64 MiB in all
//! history.jsonl     every attempt, with the details that only this device knows; likewise
//! outbox/           commits that the engine has not acknowledged
//! queue/            private tasks that were taken over and are yet to be worked on
//! public/           downloaded artifacts, by digest
//! private/          what was made here and stays here, by handle
//! made/             which of them was made from the same content as another task asks for
//! reserve           room for what has to be written down on a full disk
//! rows/             the row cache
//! scratch/          folders of running private attempts
//! scratch-public/   the same of public attempts
//! resume/           progress of interrupted private stages; deleted when they succeed, or after 30 days
//! resume-public/    the same of public stages
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs4::fs_std::FileExt;
use headstart_content::read_bounded;
use headstart_disk::{Disk, DiskFile, Mode, Open, SystemDisk, files, read};
use headstart_protocol::Digest;
use headstart_protocol::wire::GrantStub;
use headstart_transport::Identity;

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
    identity: Identity,
    /// Held as long as the state is open for running.
    _lock: Option<Box<dyn DiskFile>>,
}

impl State {
    /// Opens the folder for a runner, creating it where needed. Only one runner may hold it.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where another runner holds it or the secret is damaged.
    pub fn open(root: &Path, disk: Arc<dyn Disk>) -> Result<Self, DeviceError> {
        let fresh = !root.exists();
        files::create_dir(&*disk, root)?;
        let mut open = files::protect(&*disk, root)? && !fresh;
        let secret = root.join("secret");
        open |= secret.exists() && files::protect(&*disk, &secret)?;
        if open {
            tracing::warn!("{}: other users could read it; now only its owner can", root.display());
        }
        const FOLDERS: [&str; 10] = [
            "outbox",
            "queue",
            "public",
            "private",
            "made",
            "rows",
            "scratch",
            "scratch-public",
            "resume",
            "resume-public",
        ];
        for sub in FOLDERS {
            files::create_private_dir(&*disk, &root.join(sub))?;
        }
        let root = root.canonicalize().map_err(|e| DeviceError::state(root, e))?;
        let at = root.join("lock");
        let lock = disk.open(&at, Open::Update);
        let lock = lock.map_err(|e| DeviceError::state(&at, e))?;
        // A process that is being started holds what its parent held, for a moment.
        let mut locked = false;
        for pause in [0, 5, 20, 50, 100] {
            std::thread::sleep(Duration::from_millis(pause));
            locked = lock.system().try_lock_exclusive().map_err(|e| DeviceError::state(&at, e))?;
            if locked {
                break;
            }
        }
        if !locked {
            return Err(DeviceError::Input(format!(
                "{} is in use by another headstart-device; stop that one, or give this one its own --state",
                root.display()
            )));
        }
        for scratch in ["scratch", "scratch-public"] {
            let scratch = root.join(scratch);
            disk.remove_dir_all(&scratch)
                .and_then(|()| disk.create_dir(&scratch))
                .map_err(|e| DeviceError::state(&scratch, e))?;
        }
        for resume in ["resume", "resume-public"] {
            sweep(&*disk, &root.join(resume));
        }
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
        let identity = blake3::derive_key("headstart-device 2026 identity key", secret);
        let handle_key = blake3::derive_key("headstart-device 2025 artifact handles", secret);
        Self { root, disk, handle_key, identity: Identity::from_secret(&identity), _lock: lock }
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

    /// The key by which engines know this device.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name by which its engine knows the device.
    pub fn name(&self) -> Option<String> {
        let paired = read_bounded(&self.at("engine.json"), SMALL).ok().flatten();
        let paired: Option<serde_json::Value> = paired.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let paired = paired.and_then(|p| Some(p.get("name")?.as_str()?.to_owned()));
        // Versions before 0.2 kept it in a file of its own.
        paired.or_else(|| read::text(&self.at("name"), SMALL).ok())
    }

    /// How often the owner asked for everything to be tried again.
    pub fn generation(&self) -> u64 {
        let text = read::text(&self.at("generation"), SMALL).ok();
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

    /// The highest fence that the device was granted; 0 before the first.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where the file is damaged.
    pub fn highest_fence(&self) -> Result<u64, DeviceError> {
        let at = self.at("fence");
        let Some(bytes) = read_bounded(&at, SMALL)? else { return Ok(0) };
        let number =
            std::str::from_utf8(&bytes).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
        number.ok_or_else(|| {
            DeviceError::Input(format!(
                "{} is damaged: it should hold the number of the last task; without it an old task could be \
                 run again. Remove it only if nobody else could have recorded this device's traffic",
                at.display()
            ))
        })
    }

    /// What is left of the grant of the highest fence; none where an earlier version took it.
    ///
    /// # Errors
    /// [`DeviceError::State`] where it cannot be read.
    pub fn highest_grant(&self) -> Result<Option<GrantStub>, DeviceError> {
        let text = read_bounded(&self.at("fence"), SMALL)?;
        let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.and_then(|text| serde_json::from_str(text.lines().nth(1)?).ok()))
    }

    /// Takes the fence of a grant, durably. `false` if it is not higher than every one before.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub fn take_fence(&self, grant: &GrantStub) -> Result<bool, DeviceError> {
        let fence = grant.fence;
        if fence <= self.highest_fence()? {
            return Ok(false);
        }
        let proof = serde_json::to_string(grant).map_err(|e| DeviceError::Internal(e.to_string()))?;
        write_durably(&*self.disk, &self.at("fence"), format!("{fence}\n{proof}\n").as_bytes())?;
        Ok(true)
    }
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
    fn the_secret_is_the_owners_and_no_key_is_the_secret() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("state");
        let (handle, key) = {
            let state = State::open(&root, Arc::new(SystemDisk)).expect("opens");
            (state.handle(b"x"), state.identity().public())
        };
        let secret: [u8; 32] =
            std::fs::read(root.join("secret")).expect("secret").try_into().expect("32 bytes");
        assert_ne!(handle, Digest::keyed(&secret, b"x"));
        assert_ne!(
            handle,
            Digest::keyed(key.as_bytes(), b"x"),
            "what the engine is shown computes no handle"
        );
        assert_ne!(key, Identity::from_secret(&secret).public());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(root.join("secret")).expect("secret").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let again = State::open(&root, Arc::new(SystemDisk)).expect("opens again");
        assert_eq!((again.handle(b"x"), again.identity().public()), (handle, key));
        assert!(
            matches!(State::open(&root, Arc::new(SystemDisk)), Err(DeviceError::Input(m)) if m.contains("in use"))
        );
    }

    #[test]
    fn a_fence_is_taken_once_also_by_another_process() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = State::open(dir.path(), Arc::new(SystemDisk)).expect("opens");
        assert_eq!(state.highest_fence().expect("none yet"), 0);
        let grant = |fence| GrantStub {
            fence,
            issued_ms: 1,
            expires_ms: 2,
            body: Digest::of(b"task"),
            signature: "00".repeat(64),
        };
        let taken = [5, 5, 4, 9].map(|fence| state.take_fence(&grant(fence)).expect("writable"));
        assert_eq!(taken, [true, false, false, true]);
        drop(state);
        let state = State::open(dir.path(), Arc::new(SystemDisk)).expect("opens again");
        assert_eq!(state.highest_grant().expect("readable"), Some(grant(9)));
        assert!(!state.take_fence(&grant(9)).expect("readable"));
        std::fs::write(state.at("fence"), "nine").expect("writes");
        assert!(matches!(state.take_fence(&grant(10)), Err(DeviceError::Input(m)) if m.contains("damaged")));
    }
}
