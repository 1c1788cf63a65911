//! The states of schedules on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs4::fs_std::FileExt;
use headstart_disk::{Disk, DiskError, DiskFile, Open, files, read};
use headstart_protocol::Digest;
use headstart_protocol::text::safe_file_name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fire::{Cause, Fire};
use crate::state::{Action, SCHEMA, State};

/// Requests that are remembered as taken.
const REMEMBERED: usize = 100;
/// Bytes of a request at most.
const LARGEST_REQUEST: u64 = 64 << 10;

/// Why a state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The disk did not allow it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file cannot be read.
    #[error("cannot read {}: {}", .path.display(), headstart_disk::reason(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no state of a schedule.
    #[error("{} is damaged: {source}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A file is of a later version.
    #[error("{} was written by a later version of Headstart (form {found}; this one knows {SCHEMA})", .path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// The version of its form.
        found: u32,
    },
}

/// Which schedule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScheduleId {
    /// Its pipeline file.
    pub file: String,
    /// Its name.
    pub name: String,
}

impl ScheduleId {
    /// What tells it apart from all others: schedules of two files may have one name.
    pub fn identity(&self) -> String {
        format!("{}\0{}", self.file, self.name)
    }

    fn file_name(&self) -> String {
        let digest = Digest::of(self.identity().as_bytes()).to_string();
        format!("{}-{}", safe_file_name(&self.name), &digest[..12])
    }
}

/// What a command asks of the server that holds a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Skip its times from now on.
    Pause,
    /// Fire again.
    Resume,
    /// Run now.
    Run {
        /// When somebody asked.
        at: Timestamp,
    },
    /// Run because a webhook was called.
    Webhook {
        /// The webhook.
        name: String,
        /// What the caller calls the call.
        call: String,
        /// When it came.
        at: Timestamp,
    },
    /// Run for the times of a range.
    Backfill {
        /// Excluded.
        from: Timestamp,
        /// Included.
        to: Timestamp,
    },
}

/// The folder of all schedules of a workspace.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Folder {
    /// The folder `dir`, which need not exist yet.
    pub fn new(dir: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { dir, disk }
    }

    fn at(&self, id: &ScheduleId, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", id.file_name()))
    }

    /// All states, by file and name; those that cannot be read as errors.
    pub fn list(&self) -> Vec<Result<State, SchedulerError>> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let states = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        let mut all: Vec<_> = states.filter_map(|path| self.read_at(&path).transpose()).collect();
        all.sort_by_key(|state| state.as_ref().ok().map(|s| (s.file.clone(), s.name.clone())));
        all
    }

    fn read_at(&self, path: &Path) -> Result<Option<State>, SchedulerError> {
        let bytes = match read::whole(path, read::SETTINGS) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SchedulerError::Read { path: path.to_owned(), source }),
        };
        #[derive(Deserialize)]
        struct Form {
            schema: u32,
        }
        let damaged = |source| SchedulerError::Damaged { path: path.to_owned(), source };
        let form: Form = serde_json::from_slice(&bytes).map_err(damaged)?;
        if form.schema > SCHEMA {
            return Err(SchedulerError::Later { path: path.to_owned(), found: form.schema });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// What is known of a schedule; none where nothing is.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn read(&self, id: &ScheduleId) -> Result<Option<State>, SchedulerError> {
        self.read_at(&self.at(id, "json"))
    }

    /// Holds a schedule: none where another process does. `earlier` is its expression and zone, by which version 0.1
    /// named its file.
    ///
    /// # Errors
    /// If the folder cannot be written, or the state cannot be read.
    pub fn hold(
        &self,
        id: &ScheduleId,
        earlier: Option<(&str, &str)>,
    ) -> Result<Option<Held>, SchedulerError> {
        files::create_dir(&*self.disk, &self.dir)?;
        let path = self.at(id, "lock");
        let lock = self.disk.open(&path, Open::Update).map_err(DiskError::at("open", &path))?;
        if !FileExt::try_lock_exclusive(lock.system()).map_err(DiskError::at("lock", &path))? {
            return Ok(None);
        }
        let state = match self.read(id)? {
            Some(state) => state,
            None => State::new(&id.identity(), &id.file, &id.name, self.handled_by_0_1(id, earlier)),
        };
        let saved = serde_json::to_vec(&state).expect("a state serializes");
        Ok(Some(Held { folder: self.clone(), id: id.clone(), state, saved, _lock: lock }))
    }

    /// Up to when version 0.1 had handled the fires of a schedule.
    fn handled_by_0_1(&self, id: &ScheduleId, earlier: Option<(&str, &str)>) -> Option<Timestamp> {
        let (cron, timezone) = earlier?;
        let identity = format!("{} {cron} {timezone}", id.name);
        let name = format!("{}-{}", id.name, Digest::of(identity.as_bytes()).short());
        read::text(&self.dir.join(name), read::SETTINGS).ok()?.trim().parse().ok()
    }

    /// Asks the server that holds a schedule, or the next one that does.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn ask(&self, id: &ScheduleId, request: &Request, now: Timestamp) -> Result<(), SchedulerError> {
        let dir = self.at(id, "requests");
        files::create_dir(&*self.disk, &dir)?;
        let bytes = serde_json::to_vec(request).expect("a request serializes");
        let digest = Digest::of(&bytes).to_string();
        let name = format!("{:020}-{}.json", now.as_nanosecond().max(0), &digest[..8]);
        Ok(files::replace(&*self.disk, &dir.join(name), &bytes)?)
    }

    /// Whether nobody has taken a request yet.
    pub fn has_requests(&self, id: &ScheduleId) -> bool {
        !self.requests(id).is_empty()
    }

    /// The requests that lie there, oldest first.
    fn requests(&self, id: &ScheduleId) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.at(id, "requests")).into_iter().flatten().flatten();
        let mut all: Vec<PathBuf> =
            entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
        all.sort();
        all
    }
}

/// A schedule that this process holds.
#[derive(Debug)]
pub struct Held {
    folder: Folder,
    id: ScheduleId,
    /// What is known of it. Changes are lost unless they are saved.
    pub state: State,
    /// What was read or saved last.
    saved: Vec<u8>,
    /// Locked as long as it is open.
    _lock: Box<dyn DiskFile>,
}

impl Held {
    /// Which one.
    pub fn id(&self) -> &ScheduleId {
        &self.id
    }

    /// Makes the state durable.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn save(&mut self) -> Result<(), SchedulerError> {
        let bytes = serde_json::to_vec(&self.state).expect("a state serializes");
        let disk = &*self.folder.disk;
        files::replace(disk, &self.folder.at(&self.id, "json"), &bytes)?;
        self.saved = bytes;
        self.state.unsaved = false;
        Ok(())
    }

    /// Makes the state durable where something happened since the last time.
    ///
    /// # Errors
    /// If the disk does not take it; the state stays as it is.
    pub fn save_if_changed(&mut self) -> Result<(), SchedulerError> {
        if self.state.unsaved { self.save() } else { Ok(()) }
    }

    /// As [`Held::save_if_changed`], but where the disk does not take it, the state is what was saved last, so that
    /// what is due is decided again.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn save_or_revert(&mut self) -> Result<(), SchedulerError> {
        self.save_if_changed().inspect_err(|_| {
            self.state = serde_json::from_slice(&self.saved).expect("it was written by this process");
        })
    }

    /// Does what commands have asked, and makes that durable. Gives what is to be done, and requests that make no
    /// sense as errors in words.
    ///
    /// # Errors
    /// If the disk does not take it; the requests then lie there as before.
    pub fn take_requests(&mut self, now: Timestamp) -> Result<(Vec<Action>, Vec<String>), SchedulerError> {
        let paths = self.folder.requests(&self.id);
        let (mut actions, mut wrong) = (Vec::new(), Vec::new());
        for path in &paths {
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if self.state.taken.contains(&id) {
                continue;
            }
            let request = read::whole(path, LARGEST_REQUEST).map_err(|e| e.to_string());
            match request.and_then(|b| serde_json::from_slice::<Request>(&b).map_err(|e| e.to_string())) {
                Ok(request) => actions.extend(self.state.obey(&request, now)),
                Err(e) => wrong.push(format!("{}: {e}", path.display())),
            }
            self.state.taken.push_back(id);
            while self.state.taken.len() > REMEMBERED.max(paths.len()) {
                self.state.taken.pop_front();
            }
        }
        if !paths.is_empty() {
            self.state.unsaved = true;
            self.save_or_revert()?;
        }
        for path in paths {
            // One that stays is known as taken.
            let _ = self.folder.disk.remove_file(&path);
        }
        Ok((actions, wrong))
    }
}

impl SchedulerError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Damaged { path, .. } => Some(format!(
                "restore it from a backup, or move it away: the schedule then starts without its history, and fires \
                 that were due before are not made up for: mv {0} {0}.damaged",
                path.display()
            )),
            Self::Later { .. } => Some("serve this workspace with that version, or a later one".to_owned()),
            Self::Disk(_) | Self::Read { .. } => None,
        }
    }
}

impl State {
    /// Does what somebody asked.
    fn obey(&mut self, request: &Request, now: Timestamp) -> Vec<Action> {
        match request {
            Request::Pause => return self.pause(now),
            Request::Resume => self.resume(now),
            Request::Run { at } => self.request(Cause::Manual { at: *at }),
            Request::Webhook { name, call, at } => {
                let cause = Cause::Webhook { name: name.clone(), call: call.clone(), at: *at };
                match self.paused {
                    true => self.skip(now, Fire { cause }, 1, "the schedule is paused"),
                    false => self.request(cause),
                }
            }
            Request::Backfill { from, to } => drop(self.backfill(*from, *to)),
        }
        Vec::new()
    }
}
