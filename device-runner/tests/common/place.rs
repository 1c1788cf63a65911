//! A device's folders, and tasks for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_device::{Allowed, Approval, DeviceError, Options, ReleaseLimits, Summary, Target, Until};
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::Task;
use headstart_protocol::{ArtifactRef, Stage, Type};
use tokio_util::sync::CancellationToken;

use super::Engine;

/// A device's folders.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("data")).expect("data");
        Self { dir }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.data().join(name), text).expect("writes");
    }

    pub fn options(&self, engine: &Engine) -> Options {
        Options {
            target: Target::Key { url: engine.url.clone(), name: "phone".into(), key: engine.key() },
            insecure_plaintext: engine.url.starts_with("http:"),
            data: self.data(),
            state: self.state(),
            until: Until::Idle(Duration::from_millis(150)),
            holds: vec![],
            allowed: Allowed::NUMBERS,
            limits: ReleaseLimits { min_rows: 1, ..ReleaseLimits::default() },
            disk_quota: headstart_device::DEFAULT_DISK_QUOTA,
            private_quota: headstart_device::DEFAULT_PRIVATE_QUOTA,
            approval: Approval::Fixed(Box::new(engine.approved())),
            pin_adapters: false,
            stages: None,
            memory: None,
            threads: 2,
        }
    }

    /// Runs a device whose owner allows failures to be told, until there is nothing to do.
    pub async fn run_telling(
        &self,
        engine: &Engine,
        stages: Vec<Box<dyn Stage>>,
    ) -> Result<Summary, DeviceError> {
        let mut options = self.options(engine);
        options.allowed.failures = true;
        headstart_device::run(options, stages, CancellationToken::new()).await
    }

    /// Runs a device until there is nothing to do.
    pub async fn run(&self, engine: &Engine, stages: Vec<Box<dyn Stage>>) -> Result<Summary, DeviceError> {
        headstart_device::run(self.options(engine), stages, CancellationToken::new()).await
    }
}

/// A task of a kind, with fence `fence`; adjust it as needed.
pub fn task(fence: u64, kind: &str, ty: Type, args: &[(&str, Value)]) -> Task {
    Task {
        run: "run-1".into(),
        instance: u32::try_from(fence).expect("small"),
        name: kind.to_owned(),
        attempt: 1,
        fence,
        kind: kind.to_owned(),
        program: None,
        version: headstart_protocol::kinds::find(kind).map_or(1, |k| k.version),
        ty,
        args: args.iter().map(|(k, v)| ((*k).to_owned(), Expr::value(v.clone()))).collect(),
        when: None,
        memory: None,
        timeout_ms: None,
        private: false,
        release: vec![],
        prefetch: vec![],
        proposal: None,
    }
}

/// `value.name`, as an expression.
pub fn field(artifact: &ArtifactRef, name: &str) -> Expr {
    Expr::Field { of: Box::new(Expr::value(Value::Artifact(artifact.clone()))), name: name.into() }
}

pub fn read_all(dir: &Path) -> Vec<u8> {
    let paths = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    paths.flat_map(|p| if p.is_dir() { read_all(&p) } else { std::fs::read(p).expect("reads") }).collect()
}
