//! Pipeline files that are read again as they change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_dsl::plan::{Plan, Schedule};
use headstart_dsl::{FileLoader, Listing, ProgramError};
use headstart_protocol::Digest;

use crate::Volume;
use crate::args::Values;
use crate::exit::{CommandError, INPUT};
use crate::loader::{self, Disk, Notes, print_diagnostics};

/// Texts of files, or why they could not be read, by path.
type Texts = BTreeMap<String, Result<String, String>>;

/// This machine's files; remembers the texts that were read.
#[derive(Default)]
struct Recording {
    read: RefCell<Texts>,
}

impl FileLoader for Recording {
    fn read(&self, path: &str) -> Result<String, String> {
        let text = Disk.read(path);
        self.read.borrow_mut().insert(path.to_owned(), text.clone());
        text
    }

    fn glob(&self, pattern: &str) -> Result<Listing, String> {
        Disk.glob(pattern)
    }

    fn program(&self, path: &str, files: &[String]) -> Result<Digest, ProgramError> {
        Disk.program(path, files)
    }

    fn executable(&self, path: &str) -> Result<(), String> {
        Disk.executable(path)
    }
}

/// Pipeline files as they were; everything else as it is.
struct Kept<'a>(&'a Texts);

impl FileLoader for Kept<'_> {
    fn read(&self, path: &str) -> Result<String, String> {
        self.0.get(path).cloned().unwrap_or_else(|| Disk.read(path))
    }

    fn glob(&self, pattern: &str) -> Result<Listing, String> {
        Disk.glob(pattern)
    }

    fn program(&self, path: &str, files: &[String]) -> Result<Digest, ProgramError> {
        Disk.program(path, files)
    }

    fn executable(&self, path: &str) -> Result<(), String> {
        Disk.executable(path)
    }
}

/// One pipeline file.
struct Pipeline {
    /// Where it is.
    file: PathBuf,
    /// What was read when it was checked last.
    read: Texts,
    /// What was read when it had no errors last.
    good: Option<Texts>,
    /// What it schedules, by what is in force.
    schedules: Vec<Schedule>,
}

/// All pipeline files.
pub(super) struct Pipelines {
    /// Files and folders that were named.
    named: Vec<PathBuf>,
    values: Values,
    volume: Volume,
    all: Vec<Pipeline>,
    /// Whether something else may be in force than at the last [`Pipelines::refresh`].
    changed: bool,
}

impl Pipelines {
    /// Reads files, and all pipeline files of folders.
    ///
    /// # Errors
    /// If a file that was named has errors: they are reported. One that was found in a folder is named in a
    /// warning, and read again when it has changed.
    pub fn open(named: &[PathBuf], values: &Values, volume: Volume) -> Result<Self, CommandError> {
        let files = files(named)?;
        let has_values = !values.set.is_empty() || values.params.is_some();
        if has_values && (files.len() > 1 || named.iter().any(|n| n.is_dir())) {
            return Err(CommandError::input("`--set` and `--params` need one pipeline file")
                .help("write the values into the files, or serve each file with a command of its own"));
        }
        let mut all =
            Self { named: named.to_vec(), values: values.clone(), volume, all: Vec::new(), changed: false };
        for file in files {
            if named.contains(&file) {
                let checked = loader::check(&file, &all.values)?;
                if checked.plan.is_none() {
                    print_diagnostics(&checked, Notes::of(volume));
                    return Err(CommandError::silent(INPUT));
                }
            }
            all.add(file);
        }
        Ok(all)
    }

    /// Each pipeline and schedule that is in force.
    pub fn schedules(&self) -> impl Iterator<Item = (&Path, &Schedule)> {
        self.all.iter().flat_map(|p| p.schedules.iter().map(|s| (p.file.as_path(), s)))
    }

    fn add(&mut self, file: PathBuf) {
        let mut pipeline = Pipeline { file, read: Texts::new(), good: None, schedules: Vec::new() };
        // What is wrong has been said.
        let _ = pipeline.check(&self.values, self.volume);
        self.all.push(pipeline);
    }

    /// Reads what has changed, and finds new files in folders. Gives whether anything has changed since the last call.
    pub fn refresh(&mut self) -> bool {
        let mut changed = std::mem::take(&mut self.changed);
        if let Ok(files) = files(&self.named) {
            for file in files {
                if !self.all.iter().any(|p| p.file == file) {
                    self.add(file);
                    changed = true;
                }
            }
            let before = self.all.len();
            let named = &self.named;
            self.all.retain(|p| named.contains(&p.file) || p.file.exists());
            changed |= self.all.len() != before;
        }
        for pipeline in self.all.iter_mut().filter(|p| p.has_changed()) {
            let _ = pipeline.check(&self.values, self.volume);
            changed = true;
        }
        changed
    }

    /// A plan of a file as its sources are now. Where the file has errors, the text that had none stays in force,
    /// with everything else as it is now.
    ///
    /// # Errors
    /// In words, if there is no plan.
    pub fn plan(&mut self, file: &Path) -> Result<Plan, String> {
        let Some(pipeline) = self.all.iter_mut().find(|p| p.file == file) else {
            return Err(format!("{} is not there any more", file.display()));
        };
        self.changed |= pipeline.has_changed();
        pipeline.check(&self.values, self.volume).or_else(|wrong| {
            let good = pipeline.good.as_ref().ok_or_else(|| wrong.clone())?;
            let checked =
                loader::check_with(file, &self.values, &Kept(good)).map_err(|e| e.message().to_owned())?;
            checked.plan.ok_or(wrong)
        })
    }
}

impl Pipeline {
    /// Whether a text that was read last is another now.
    fn has_changed(&self) -> bool {
        self.read.iter().any(|(path, text)| Disk.read(path) != *text)
    }

    /// Checks the file. What is wrong with it is reported when its text is new.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check(&mut self, values: &Values, volume: Volume) -> Result<Plan, String> {
        let recording = Recording::default();
        let checked = loader::check_with(&self.file, values, &recording);
        let read = recording.read.into_inner();
        let is_new = read != self.read;
        self.read.clone_from(&read);
        let wrong = match checked {
            Ok(checked) => {
                if is_new {
                    print_diagnostics(&checked, Notes::of(volume));
                }
                if let Some(plan) = checked.plan {
                    if is_new && self.good.is_some() && !volume.quiet {
                        errln!("{}: changed, and in force from now on", self.file.display());
                    }
                    self.good = Some(read);
                    self.schedules.clone_from(&plan.schedules);
                    return Ok(plan);
                }
                let first = checked.diagnostics.iter().find(|d| d.severity == headstart_dsl::Severity::Error);
                first.map_or_else(|| "it has errors".to_owned(), |d| d.message.clone())
            }
            Err(e) => e.message().to_owned(),
        };
        if is_new {
            let then = match self.good {
                Some(_) => "what it said before stays in force",
                None => "nothing of it is scheduled",
            };
            errln!("{}: {}: {wrong}; {then}", paint(Ink::Warning, "warning"), self.file.display());
        }
        Err(wrong)
    }
}

/// The pipeline files among what was named, and those in folders among it.
///
/// # Errors
/// If a folder cannot be read.
fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
    let mut all: Vec<PathBuf> = Vec::new();
    for path in named {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| {
            CommandError::input(format!("cannot read {}: {}", path.display(), headstart_disk::reason(&e)))
        })?;
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "pllm") && p.is_file())
            .collect();
        found.sort();
        all.append(&mut found);
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|p| seen.insert(p.clone()));
    Ok(all)
}
