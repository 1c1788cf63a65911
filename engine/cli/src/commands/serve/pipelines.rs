//! Pipeline files that are read again as they change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_dsl::plan::{Plan, Schedule};
use headstart_dsl::{Checked, FileLoader, Listing, ProgramError};
use headstart_protocol::Digest;

use crate::Volume;
use crate::args::Values;
use crate::exit::{CommandError, INPUT};
use crate::loader::{self, Disk, Notes, print_diagnostics};

/// What a file system says of a file. As long as it says the same, the file is not read again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    /// Number of the file on its file system, and when that entry changed: a file may be replaced within one tick of
    /// its clock.
    #[cfg(unix)]
    entry: (u64, i64, i64),
}

impl Stamp {
    /// That of a file; none where there is none.
    fn of(path: &str) -> Option<Self> {
        let facts = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: facts.modified().ok(),
            bytes: facts.len(),
            #[cfg(unix)]
            entry: {
                use std::os::unix::fs::MetadataExt;
                (facts.ino(), facts.ctime(), facts.ctime_nsec())
            },
        })
    }
}

/// A text, or why it could not be read.
type Text = Result<String, String>;

/// Texts of files by path, and what the file system said of each just before it was read.
type Texts = BTreeMap<String, (Text, Option<Stamp>)>;

/// This machine's files, of which some are as they were; remembers the texts that were read.
struct Files<'a> {
    kept: Option<&'a Texts>,
    read: RefCell<Texts>,
}

impl<'a> Files<'a> {
    /// All as they are now.
    fn now() -> Self {
        Self { kept: None, read: RefCell::default() }
    }

    /// Those of `texts` as they were, all else as it is now.
    fn kept(texts: &'a Texts) -> Self {
        Self { kept: Some(texts), read: RefCell::default() }
    }
}

impl FileLoader for Files<'_> {
    fn read(&self, path: &str) -> Text {
        if let Some((text, _)) = self.kept.and_then(|kept| kept.get(path)) {
            return text.clone();
        }
        let stamp = Stamp::of(path);
        let text = Disk.read(path);
        self.read.borrow_mut().insert(path.to_owned(), (text.clone(), stamp));
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

/// Whether two lists of texts say the same.
fn same_texts(one: &Texts, other: &Texts) -> bool {
    one.iter().map(|(path, (text, _))| (path, text)).eq(other.iter().map(|(path, (text, _))| (path, text)))
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
                all.add_named(file)?;
            } else {
                all.add(file);
            }
        }
        Ok(all)
    }

    /// Each pipeline and schedule that is in force.
    pub fn schedules(&self) -> impl Iterator<Item = (&Path, &Schedule)> {
        self.all.iter().flat_map(|p| p.schedules.iter().map(|s| (p.file.as_path(), s)))
    }

    fn add(&mut self, file: PathBuf) {
        let mut pipeline = Pipeline::new(file);
        // What is wrong has been said.
        let _ = pipeline.check(&self.values, self.volume);
        self.all.push(pipeline);
    }

    fn add_named(&mut self, file: PathBuf) -> Result<(), CommandError> {
        loader::is_readable(&file)?;
        let mut pipeline = Pipeline::new(file);
        let (checked, _) = pipeline.read_again(&self.values);
        let checked = checked?;
        print_diagnostics(&checked, Notes::of(self.volume));
        if pipeline.adopt(checked).is_err() {
            return Err(CommandError::silent(INPUT));
        }
        self.all.push(pipeline);
        Ok(())
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
        for pipeline in &mut self.all {
            if pipeline.has_changed() {
                let _ = pipeline.check(&self.values, self.volume);
                changed = true;
            }
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
            return Err(format!("{} no longer exists", file.display()));
        };
        self.changed |= pipeline.has_changed();
        pipeline.check(&self.values, self.volume).or_else(|wrong| {
            let good = pipeline.good.as_ref().ok_or_else(|| wrong.clone())?;
            let checked = loader::check_with(file, &self.values, &Files::kept(good))
                .map_err(|e| e.message().to_owned())?;
            checked.plan.ok_or(wrong)
        })
    }
}

impl Pipeline {
    fn new(file: PathBuf) -> Self {
        Self { file, read: Texts::new(), good: None, schedules: Vec::new() }
    }

    /// Whether a text that was read last is another now. Reads only files of which the file system says something
    /// else than then.
    fn has_changed(&mut self) -> bool {
        for (path, (text, stamp)) in &mut self.read {
            let now = Stamp::of(path);
            if now == *stamp {
                continue;
            }
            if Disk.read(path) != *text {
                return true;
            }
            *stamp = now;
        }
        false
    }

    /// Checks the file as it is now. Gives whether its text is another than the last time.
    fn read_again(&mut self, values: &Values) -> (Result<Checked, CommandError>, bool) {
        let files = Files::now();
        let checked = loader::check_with(&self.file, values, &files);
        let read = files.read.into_inner();
        let is_new = !same_texts(&read, &self.read);
        self.read = read;
        (checked, is_new)
    }

    /// What was read last comes into force.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn adopt(&mut self, checked: Checked) -> Result<Plan, String> {
        match checked.plan {
            Some(plan) => {
                self.good = Some(self.read.clone());
                self.schedules.clone_from(&plan.schedules);
                Ok(plan)
            }
            None => {
                let first = checked.diagnostics.iter().find(|d| d.severity == headstart_dsl::Severity::Error);
                Err(first.map_or_else(|| "it has errors".to_owned(), |d| d.message.clone()))
            }
        }
    }

    /// Checks the file. What is wrong with it is reported when its text is new.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check(&mut self, values: &Values, volume: Volume) -> Result<Plan, String> {
        let had_plan = self.good.is_some();
        let (checked, is_new) = self.read_again(values);
        let adopted = checked.map_err(|e| e.message().to_owned()).and_then(|checked| {
            if is_new {
                print_diagnostics(&checked, Notes::of(volume));
            }
            self.adopt(checked)
        });
        match &adopted {
            Ok(_) if is_new && had_plan && !volume.quiet => {
                errln!("{}: changed, and in force from now on", self.file.display());
            }
            Err(wrong) if is_new => {
                let then = if had_plan {
                    "what it said before stays in force"
                } else {
                    "nothing of it is scheduled"
                };
                errln!("{}: {}: {wrong}; {then}", paint(Ink::Warning, "warning"), self.file.display());
            }
            _ => {}
        }
        adopted
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
