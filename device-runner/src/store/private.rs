//! What was made on this device and stays here, by handle.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_content::read_bounded;
use headstart_disk::{Disk, DiskError, Mode, files, read};
use headstart_protocol::contract::stage_name;
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactType, Digest, Failure, Manifest};
use serde::{Deserialize, Serialize};

use super::Gathered;
use super::origin::Lineage;

/// Bytes of an artifact's description at most.
const LARGEST: u64 = 256 << 20;

/// A private artifact, or the knowledge that it turned out absent or that its stage failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The instance that made it, for people.
    pub name: String,
    /// The run in which it was made first.
    pub run: String,
    /// Its manifest; `None` where a `when` was false, or the stage failed.
    pub manifest: Option<Manifest>,
    /// Why the stage failed. Only this device knows that it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Where it comes from: rows behind it, files. What was kept by an earlier version has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// Whether its task was taken over and nothing is made yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// The stage that made it, as contracts name it. Unknown of what was kept by an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<String>,
}

impl Held {
    /// What is known of a task that made nothing.
    pub fn nothing(task: &Task) -> Self {
        Self {
            name: task.name.clone(),
            run: task.run.clone(),
            manifest: None,
            failure: None,
            lineage: None,
            waits: false,
            maker: Some(stage_name(&task.kind, task.program.as_ref())),
        }
    }

    /// The type that local references to it have. Only here is an absent value told apart.
    pub fn ty(&self) -> ArtifactType {
        self.manifest.as_ref().and_then(|m| ArtifactType::of(&m.ty)).unwrap_or(ArtifactType::Absent)
    }
}

/// The private artifacts of a device.
pub struct Private {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Private {
    /// The artifacts in a folder.
    pub fn new(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { root, disk }
    }

    /// The folder that holds all of them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What a handle stands for, if it is still here, files and all.
    pub fn get(&self, handle: &Digest) -> Option<Held> {
        let at = self.dir(handle).join("artifact.json");
        let text = read_bounded(&at, LARGEST).inspect_err(|e| tracing::warn!("{e}")).ok()??;
        let held: Held = serde_json::from_slice(&text).ok()?;
        let files = self.files(handle);
        let complete = held.manifest.iter().flat_map(|m| &m.files).all(|(name, file)| {
            std::fs::metadata(files.join(name)).is_ok_and(|m| m.is_file() && m.len() == file.size)
        });
        complete.then_some(held)
    }

    /// Whether as many handles as this stand for something here.
    pub fn holds(&self, most: usize) -> bool {
        std::fs::read_dir(&self.root).is_ok_and(|entries| entries.take(most).count() == most)
    }

    /// The folder of an artifact's files.
    pub fn files(&self, handle: &Digest) -> PathBuf {
        self.dir(handle).join("files")
    }

    fn dir(&self, handle: &Digest) -> PathBuf {
        self.root.join(handle.to_string())
    }

    /// Keeps under another handle what is kept under `from`: its files are there once.
    ///
    /// # Errors
    /// Any of writing it.
    pub fn keep_as(&self, handle: &Digest, held: &Held, from: &Digest) -> Result<(), Failure> {
        let files = Path::new("..").join(from.to_string()).join("files");
        self.write(handle, held, |inside| {
            self.disk.symlink(&files, inside).map_err(DiskError::at("create", inside))
        })
    }

    /// Keeps an artifact: complete and on disk, or not at all. Files below `scratch` are moved,
    /// others copied.
    ///
    /// # Errors
    /// Any of writing it.
    pub fn keep(
        &self,
        handle: &Digest,
        held: &Held,
        gathered: Option<&Gathered>,
        scratch: &Path,
    ) -> Result<(), Failure> {
        let same = |h: &Held| {
            (&h.manifest, &h.failure, &h.lineage, h.waits, &h.maker)
                == (&held.manifest, &held.failure, &held.lineage, held.waits, &held.maker)
        };
        if self.get(handle).as_ref().is_some_and(same) {
            return Ok(());
        }
        self.write(handle, held, |inside| {
            files::create_dir(&*self.disk, inside)?;
            for (name, from) in gathered.iter().flat_map(|g| &g.files) {
                let to = inside.join(name);
                files::take(&*self.disk, from, &to, from.starts_with(scratch))?;
                // What a link leads to that somebody has put there meanwhile is not kept.
                read::open_below(inside, Path::new(name)).map_err(DiskError::at("read", &to))?;
                files::sync_file(&*self.disk, &to)?;
            }
            files::sync_dir(&*self.disk, inside)
        })
    }

    /// Writes an artifact whose files `fill` puts into a folder.
    fn write(
        &self,
        handle: &Digest,
        held: &Held,
        fill: impl FnOnce(&Path) -> Result<(), DiskError>,
    ) -> Result<(), Failure> {
        // What lies here under this handle is damaged or incomplete.
        let (dir, disk) = (self.dir(handle), &*self.disk);
        files::create_dir_atomic(
            disk,
            &dir,
            |_| true,
            |new| -> Result<(), DiskError> {
                fill(&new.join("files"))?;
                let at = new.join("artifact.json");
                let json =
                    serde_json::to_vec_pretty(held).map_err(|e| DiskError::at("write", &at)(e.into()))?;
                files::write_atomic(disk, &at, &json, Mode::Secret)
            },
        )
        .and_then(|_| files::sync_dir(disk, &self.root))
        .map_err(Failure::from)
    }
}

#[cfg(test)]
mod tests {
    use headstart_disk::SystemDisk;
    use headstart_protocol::Type;

    use super::*;

    fn held(name: &str) -> Held {
        let manifest = Manifest {
            ty: Type::Metrics,
            files: Default::default(),
            value: serde_json::json!({ "name": name }),
            uses: Default::default(),
        };
        Held {
            name: name.into(),
            run: "r".into(),
            manifest: Some(manifest),
            failure: None,
            lineage: None,
            waits: false,
            maker: None,
        }
    }

    #[test]
    fn a_promise_is_replaced_by_what_was_made_and_handles_are_counted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let private = Private::new(dir.path().to_owned(), Arc::new(SystemDisk));
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let promise = Held { waits: true, manifest: None, ..held("x") };
        private.keep(&one, &promise, None, dir.path()).expect("writes");
        assert!(private.get(&one).is_some_and(|h| h.waits));
        private.keep(&one, &held("x"), None, dir.path()).expect("writes");
        assert_eq!(private.get(&one), Some(held("x")));
        assert!(private.holds(1) && !private.holds(2));
        private.keep_as(&other, &held("y"), &one).expect("writes");
        assert_eq!(private.get(&other), Some(held("y")));
        assert!(private.holds(2) && !private.holds(3));
    }
}
