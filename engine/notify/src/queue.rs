//! Notices that wait, each a file: nothing is lost when the process ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs4::fs_std::FileExt;
use headstart_disk::{Disk, DiskError, DiskFile, Open, files, read};
use headstart_env::Clock;
use headstart_protocol::Digest;
use headstart_store::{StoreError, Workspace};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::deliver::{Courier, Failed};
use crate::notice::{Notice, To};
use crate::secret::Secret;

/// The name of the secret that notifications are signed with.
const SECRET: &str = "notifications";
/// Notices that wait at most: a receiver that is gone for good must not fill the disk.
const MOST: usize = 10_000;
/// Until the first repetition; each later one waits twice as long.
const FIRST_WAIT_MS: u64 = 1_000;
/// Longest wait for a repetition.
const LONGEST_WAIT_MS: u64 = 3_600_000;
/// A notice is given up after this long.
const GIVEN_UP_MS: u64 = 3 * 24 * 3_600_000;
/// How often the folder is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// To whom notices are delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Addresses to which they are posted.
    pub urls: Vec<String>,
    /// Programs that get them on standard input.
    pub commands: Vec<PathBuf>,
}

impl Targets {
    /// Whether this process was told to deliver there. What a file in the workspace names is not enough: a
    /// workspace that came with somebody's files must not choose which program runs.
    fn has(&self, to: &To) -> bool {
        match to {
            To::Url(url) => self.urls.contains(url),
            To::Command(program) => self.commands.contains(program),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.urls.is_empty() && self.commands.is_empty()
    }
}

/// Why notices cannot be kept or delivered.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The disk did not allow it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The secret cannot be had.
    #[error(transparent)]
    Secret(#[from] StoreError),
    /// An address is none.
    #[error("`{url}` is not an address for notifications: {why}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Too many notices wait.
    #[error("{MOST} notifications wait already; this one is dropped")]
    Full,
}

/// A notice that waits for one receiver.
#[derive(Serialize, Deserialize)]
struct Waiting {
    notice: Notice,
    to: To,
    first_ms: u64,
    attempts: u32,
    next_ms: u64,
}

/// Keeps notices until they are delivered.
#[derive(Clone)]
pub struct Notifier {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    targets: Targets,
    courier: Arc<Courier>,
}

impl Notifier {
    /// Notices of a workspace, for these receivers.
    ///
    /// # Errors
    /// If an address is none, or the secret cannot be read or written.
    pub fn open(ws: &Workspace, targets: Targets, clock: Arc<dyn Clock>) -> Result<Self, NotifyError> {
        for url in &targets.urls {
            let wrong = |why: String| NotifyError::Address { url: url.clone(), why };
            let parsed = reqwest::Url::parse(url).map_err(|e| wrong(e.to_string()))?;
            if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
                return Err(wrong("write it as https://host/path".to_owned()));
            }
        }
        let courier = Arc::new(Courier::new(Self::secret(ws)?));
        Ok(Self { dir: ws.dir().join("notifications"), disk: ws.disk().clone(), clock, targets, courier })
    }

    /// The secret that a workspace's notifications are signed with.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn secret(ws: &Workspace) -> Result<Secret, StoreError> {
        Secret::of(ws, SECRET)
    }

    /// Keeps a notice for each receiver: from now on it is delivered, also by a later process.
    ///
    /// # Errors
    /// If the disk does not take it, or too many wait.
    pub fn tell(&self, notice: &Notice) -> Result<(), NotifyError> {
        if self.targets.is_empty() {
            return Ok(());
        }
        files::create_dir(&*self.disk, &self.dir)?;
        if self.waiting().len() >= MOST {
            return Err(NotifyError::Full);
        }
        let urls = self.targets.urls.iter().cloned().map(To::Url);
        let commands = self.targets.commands.iter().cloned().map(To::Command);
        let now = self.clock.now_ms();
        for to in urls.chain(commands) {
            let digest = Digest::of_json(&to).short();
            let path = self.dir.join(format!("{}-{digest}.json", notice.id()));
            let waiting = Waiting { notice: notice.clone(), to, first_ms: now, attempts: 0, next_ms: now };
            self.keep(&path, &waiting)?;
        }
        Ok(())
    }

    fn keep(&self, path: &Path, waiting: &Waiting) -> Result<(), DiskError> {
        files::replace(&*self.disk, path, &serde_json::to_vec(waiting).expect("a notice serializes"))
    }

    fn waiting(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|e| e.path());
        let mut all: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
        all.sort();
        all
    }

    /// Delivers until `closing`. Of several servers on a workspace one does.
    pub async fn deliver(self, closing: CancellationToken) {
        let mut lock = None;
        loop {
            tokio::select! {
                () = self.clock.sleep(POLL_INTERVAL) => {}
                () = closing.cancelled() => return,
            }
            if self.waiting().is_empty() {
                continue;
            }
            if lock.is_none() {
                lock = self.lock().inspect_err(|e| tracing::warn!("notifications wait: {e}")).ok().flatten();
            }
            if lock.is_some() {
                tokio::select! {
                    () = self.round() => {}
                    () = closing.cancelled() => return,
                }
            }
        }
    }

    fn lock(&self) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        let path = self.dir.join("lock");
        let file = self.disk.open(&path, Open::Update).map_err(DiskError::at("open", &path))?;
        let free = FileExt::try_lock_exclusive(file.system()).map_err(DiskError::at("lock", &path))?;
        Ok(free.then_some(file))
    }

    /// Tries what is due, once.
    pub(crate) async fn round(&self) {
        for path in self.waiting() {
            let now = self.clock.now_ms();
            let bytes = read::whole(&path, read::SETTINGS);
            let Ok(waiting) =
                bytes.map_err(drop).and_then(|b| serde_json::from_slice::<Waiting>(&b).map_err(drop))
            else {
                tracing::warn!("{} is no notification, and is not delivered; remove it", path.display());
                continue;
            };
            if !self.targets.has(&waiting.to) {
                self.let_wait(&path, &waiting, now);
            } else if waiting.next_ms <= now {
                self.try_once(&path, waiting, now).await;
            }
        }
    }

    /// A notice for a receiver that this process was not told of: a later one may be.
    fn let_wait(&self, path: &Path, waiting: &Waiting, now: u64) {
        if now.saturating_sub(waiting.first_ms) > GIVEN_UP_MS {
            tracing::warn!(
                "notification {} of run {} is given up after 3 days: no server was told of its receiver",
                waiting.notice.event.word(),
                waiting.notice.run
            );
            self.forget(path);
        }
    }

    async fn try_once(&self, path: &Path, mut waiting: Waiting, now: u64) {
        let what = format!("notification {} of run {}", waiting.notice.event.word(), waiting.notice.run);
        let Err(Failed(why)) = self.courier.deliver(&waiting.to, &waiting.notice, now).await else {
            self.forget(path);
            return;
        };
        if now.saturating_sub(waiting.first_ms) > GIVEN_UP_MS {
            tracing::warn!("{what} is given up after 3 days: {why}");
            self.forget(path);
            return;
        }
        if waiting.attempts == 0 {
            tracing::warn!("{what} is not delivered yet: {why}");
        }
        let wait = FIRST_WAIT_MS.saturating_mul(1 << waiting.attempts.min(20)).min(LONGEST_WAIT_MS);
        waiting.attempts += 1;
        waiting.next_ms = now + wait;
        if let Err(e) = self.keep(path, &waiting) {
            tracing::warn!("{what}: {e}");
        }
    }

    fn forget(&self, path: &Path) {
        // One that stays is delivered again, with the same id.
        if let Err(e) = self.disk.remove_file(path) {
            tracing::warn!("cannot remove {}: {e}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use headstart_env::simulated::SimulatedClock;

    use super::*;
    use crate::notice::Event;

    #[tokio::test]
    async fn what_a_file_names_does_not_run_unless_this_process_was_told_of_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let ws = Workspace::open(&dir.path().join("ws")).expect("opens");
        let (ran, program) = (dir.path().join("ran"), dir.path().join("program"));
        std::fs::write(&program, format!("#!/bin/sh\ncat > {}\n", ran.display())).expect("writable");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("its owner's");
        let clock = SimulatedClock::new();
        let notifier = |commands: Vec<PathBuf>| {
            let targets = Targets { urls: Vec::new(), commands };
            Notifier::open(&ws, targets, Arc::new(clock.clone())).expect("opens")
        };
        let notice = Notice {
            event: Event::Failed,
            at_ms: 0,
            file: "p.pllm".into(),
            schedule: "nightly".into(),
            run: "nightly-1".into(),
            outcome: "failed".into(),
            problem: None,
            catalog: None,
        };
        notifier(vec![program.clone()]).tell(&notice).expect("kept");
        notifier(Vec::new()).round().await;
        notifier(vec![dir.path().join("other")]).round().await;
        assert!(!ran.exists() && notifier(Vec::new()).waiting().len() == 1);
        notifier(vec![program]).round().await;
        assert!(ran.is_file() && notifier(Vec::new()).waiting().is_empty());
    }
}
