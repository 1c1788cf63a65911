//! A context over a temporary folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use headstart_protocol::kinds::{self, DefaultValue};
use headstart_protocol::rows::{self, ROWS_FILE, Row};
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Context, Digest, Failure, FailureClass, FileRef, Manifest, Output,
    Progress, RowCache, Stage, Type, Value,
};
use tempfile::TempDir;

use crate::MemoryRows;

/// What all attempts of a test share.
struct Store {
    root: TempDir,
    manifests: Mutex<BTreeMap<Digest, Manifest>>,
    rows: MemoryRows,
    progress: Mutex<Vec<Progress>>,
    counters: Mutex<BTreeMap<String, u64>>,
    log: Mutex<Vec<String>>,
    cancelled: AtomicBool,
    paused: AtomicBool,
    scratches: AtomicU64,
}

/// A complete [`Context`] over a temporary folder: artifacts by digest, a row cache in memory,
/// counters and progress that a test can look at.
///
/// [`MemoryContext::run`] gives every stage a fresh scratch folder, fills in the defaults of its
/// kind, checks what it returns against the contract, and stores it.
pub struct MemoryContext {
    store: Arc<Store>,
    scratch: PathBuf,
    threads: usize,
    memory: Option<u64>,
    private: bool,
    least_rows: usize,
    resumes: bool,
}

impl Default for MemoryContext {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryContext {
    /// An empty one with two threads and no memory limit.
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["blobs", "open", "files"] {
            fs::create_dir(root.path().join(folder)).expect("a folder in a temporary folder");
        }
        let store = Arc::new(Store {
            root,
            manifests: Mutex::default(),
            rows: MemoryRows::default(),
            progress: Mutex::default(),
            counters: Mutex::default(),
            log: Mutex::default(),
            cancelled: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            scratches: AtomicU64::new(0),
        });
        let scratch = store.scratch();
        Self { store, scratch, threads: 2, memory: None, private: false, least_rows: 0, resumes: false }
    }

    /// The same with this memory limit, in bytes.
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// The same for attempts of a place that numbers over fewer rows do not leave.
    pub fn with_least_rows(mut self, rows: usize) -> Self {
        self.least_rows = rows;
        self
    }

    /// The same for attempts that keep their progress in a folder, which does not exist yet.
    pub fn with_resume_dir(mut self) -> Self {
        self.resumes = true;
        self
    }

    /// The same for attempts that may read what is private.
    pub fn with_private(mut self) -> Self {
        self.private = true;
        self
    }

    /// The same with this many threads.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// A context of another attempt: the same artifacts, cache and counters, an empty scratch folder.
    pub fn attempt(&self) -> Self {
        let store = Arc::clone(&self.store);
        Self { scratch: store.scratch(), store, ..*self }
    }

    /// Where relative paths of arguments lie.
    pub fn files(&self) -> PathBuf {
        self.store.root.path().join("files")
    }

    /// Writes a file below [`MemoryContext::files`] and returns where.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.files().join(name);
        fs::create_dir_all(path.parent().expect("below a folder")).expect("folders in a temporary folder");
        fs::write(&path, content).expect("a file in a temporary folder");
        path
    }

    /// The arguments of a kind: those given, and the defaults of the rest.
    pub fn args<'a>(kind: &str, given: impl IntoIterator<Item = (&'a str, Value)>) -> Args {
        let kind = kinds::find(kind).unwrap_or_else(|| panic!("no stage kind `{kind}`"));
        let mut args: BTreeMap<String, Value> = BTreeMap::new();
        for (name, value) in given {
            assert!(kind.args.iter().any(|a| a.name == name), "`{}` has no argument `{name}`", kind.name);
            args.insert(name.into(), value);
        }
        for arg in kind.args.iter().filter(|a| !args.contains_key(&a.name)).collect::<Vec<_>>() {
            let value = match &arg.default {
                DefaultValue::Required => panic!("`{}` needs its argument `{}`", kind.name, arg.name),
                DefaultValue::Absent => continue,
                DefaultValue::Int(i) => Value::Int(*i),
                DefaultValue::Float(x) => Value::Float(*x),
                DefaultValue::Bool(b) => Value::Bool(*b),
                DefaultValue::Text(t) => Value::Text(t.clone()),
            };
            args.insert(arg.name.clone(), value);
        }
        Args(args)
    }

    /// Runs a stage in a fresh attempt and stores its output.
    ///
    /// # Errors
    /// The stage's failure.
    ///
    /// # Panics
    /// If the arguments are not the kind's, or the output breaks the contract.
    pub fn run<'a>(
        &self,
        stage: &dyn Stage,
        given: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<ArtifactRef, Failure> {
        let kind = kinds::find(stage.kind()).expect("a stage of a known kind");
        let args = Self::args(&kind.name, given);
        let output = stage.run(&args, &self.attempt())?;
        assert_eq!(output.ty, kind.returns, "output of `{}`", kind.name);
        Ok(self.put(output))
    }

    /// Stores an output as an artifact.
    ///
    /// # Panics
    /// If a file is missing or its name leaves the artifact.
    pub fn put(&self, output: Output) -> ArtifactRef {
        let mut files = BTreeMap::new();
        for (name, at) in output.files {
            let plain = Path::new(&name).components().all(|c| matches!(c, Component::Normal(_)));
            assert!(plain && !name.is_empty(), "`{name}` is no name of a file in an artifact");
            let bytes = fs::read(&at).unwrap_or_else(|e| panic!("output file {}: {e}", at.display()));
            let file = FileRef { digest: Digest::of(&bytes), size: bytes.len() as u64 };
            fs::write(self.blob(&file.digest), &bytes).expect("a file in a temporary folder");
            assert!(files.insert(name.clone(), file).is_none(), "two output files `{name}`");
        }
        let manifest = Manifest { ty: output.ty, files, value: output.value, uses: output.uses };
        let artifact = ArtifactRef::public(&manifest);
        lock(&self.store.manifests).insert(artifact.id, manifest);
        artifact
    }

    /// Stores a dataset of prompts and responses.
    pub fn dataset(&self, rows: &[(&str, &str)]) -> ArtifactRef {
        let row = |(p, r): &(&str, &str)| Row::new(*p, *r);
        let rows: Vec<Row> = rows.iter().map(row).collect();
        self.put_rows(Type::Dataset, &rows)
    }

    /// Stores rows as a `Dataset` or as `Responses`.
    pub fn put_rows(&self, ty: Type, rows: &[Row]) -> ArtifactRef {
        let at = self.attempt().scratch.join(ROWS_FILE);
        fs::write(&at, rows::to_jsonl(rows)).expect("a file in a temporary folder");
        self.put(Output::new(ty, serde_json::json!({ "rows": rows.len() })).file(ROWS_FILE, at))
    }

    /// The rows of a `Dataset` or of `Responses`.
    pub fn rows_of(&self, artifact: &ArtifactRef) -> Vec<Row> {
        rows::from_jsonl(&self.read(artifact, ROWS_FILE)).expect("rows")
    }

    /// A text file of an artifact.
    pub fn read(&self, artifact: &ArtifactRef, name: &str) -> String {
        let folder = self.open(artifact).expect("an artifact of this test");
        fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The value of an artifact.
    pub fn value_of(&self, artifact: &ArtifactRef) -> serde_json::Value {
        self.manifest_of(artifact).value
    }

    /// The manifest of an artifact.
    pub fn manifest_of(&self, artifact: &ArtifactRef) -> Manifest {
        self.manifest(artifact).expect("an artifact of this test")
    }

    /// What was counted so far, in all attempts.
    pub fn counter(&self, name: &str) -> u64 {
        lock(&self.store.counters).get(name).copied().unwrap_or(0)
    }

    /// Lines that programs wrote so far, in all attempts.
    pub fn logged(&self) -> Vec<String> {
        lock(&self.store.log).clone()
    }

    /// What was reported so far, in all attempts.
    pub fn reports(&self) -> Vec<Progress> {
        lock(&self.store.progress).clone()
    }

    /// Asks all attempts to stop.
    pub fn cancel(&self) {
        self.store.cancelled.store(true, Ordering::SeqCst);
    }

    /// Has the stage make no headway, or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.store.paused.store(paused, Ordering::SeqCst);
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.store.root.path().join("blobs").join(digest.to_string())
    }
}

impl Store {
    fn scratch(&self) -> PathBuf {
        let number = self.scratches.fetch_add(1, Ordering::SeqCst);
        let path = self.root.path().join(format!("scratch-{number}"));
        fs::create_dir(&path).expect("a folder in a temporary folder");
        path
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no stage panics while it holds the store")
}

impl Context for MemoryContext {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        assert_ne!(artifact.ty, ArtifactType::Absent, "an absent value has no manifest");
        let missing = || {
            let id = artifact.id.short();
            Failure::new(FailureClass::MissingArtifact, format!("artifact {id} is not here"))
        };
        lock(&self.store.manifests).get(&artifact.id).cloned().ok_or_else(missing)
    }

    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        let manifest = self.manifest(artifact)?;
        // One lock for all, so that two attempts do not lay out the same folder at once.
        let _held = lock(&self.store.manifests);
        let folder = self.store.root.path().join("open").join(artifact.id.to_string());
        if !folder.exists() {
            fs::create_dir(&folder).map_err(|e| Failure::io(&folder, &e))?;
            for (name, file) in &manifest.files {
                let at = folder.join(name);
                fs::create_dir_all(at.parent().expect("below a folder")).map_err(|e| Failure::io(&at, &e))?;
                fs::hard_link(self.blob(&file.digest), &at).map_err(|e| Failure::io(&at, &e))?;
            }
        }
        Ok(folder)
    }

    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn resume_dir(&self) -> Option<PathBuf> {
        self.resumes.then(|| self.store.root.path().join("resume"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.files().join(path)
    }

    fn rows(&self) -> &dyn RowCache {
        &self.store.rows
    }

    fn progress(&self, progress: Progress) {
        lock(&self.store.progress).push(progress);
    }

    fn count(&self, counter: &str, n: u64) {
        *lock(&self.store.counters).entry(counter.to_owned()).or_default() += n;
    }

    fn log(&self, line: &str) {
        lock(&self.store.log).push(line.to_owned());
    }

    fn paused(&self) -> bool {
        self.store.paused.load(Ordering::SeqCst)
    }

    fn cancelled(&self) -> bool {
        self.store.cancelled.load(Ordering::SeqCst)
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn memory(&self) -> Option<u64> {
        self.memory
    }

    fn is_private(&self) -> bool {
        self.private
    }

    fn least_rows(&self) -> usize {
        self.least_rows
    }
}
