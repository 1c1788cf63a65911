//! What a program is made of: its whole folder, and what its declaration names beside it.
//!
//! All of it counts in the program's digest, and all of it is copied before an attempt: the copy is
//! what runs. So a module that is imported late counts, and so does a data file, and a file that is
//! changed while the program runs has no effect on it.
//!
//! Left out are folders whose name begins with a dot, `__pycache__`, and workspaces; unless the
//! declaration names something inside them. Links to files and folders are followed; a link that
//! leads nowhere counts as the text that it is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use headstart_disk::{Disk, DiskError, files, read};
use headstart_protocol::declared::{is_left_out, program_digest};
use headstart_protocol::{Digest, Failure, FailureClass};

/// Bytes that a program may be made of.
pub const MAX_BYTES: u64 = 100_000_000;
/// Files that a program may be made of.
pub const MAX_FILES: usize = 10_000;

/// What is wrong with a program's folder, or with a file that its declaration names.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct FolderError {
    /// What is wrong, where.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The entry of the declaration's `files` that is meant, where it is one.
    pub entry: Option<String>,
    /// Whose fault it is.
    pub class: FailureClass,
}

impl FolderError {
    fn new(message: String) -> Self {
        Self { message, help: None, entry: None, class: FailureClass::Input }
    }

    fn io(at: &Path, e: &io::Error) -> Self {
        Failure::io(at, e).into()
    }

    fn of(self, entry: &str) -> Self {
        Self { entry: Some(entry.to_owned()), ..self }
    }
}

impl From<Failure> for FolderError {
    fn from(f: Failure) -> Self {
        Self { message: f.message, help: f.help, entry: None, class: f.class }
    }
}

impl From<DiskError> for FolderError {
    fn from(e: DiskError) -> Self {
        Failure::from(e).into()
    }
}

impl From<FolderError> for Failure {
    fn from(e: FolderError) -> Self {
        Self { class: e.class, message: e.message, help: e.help }
    }
}

/// A file that a program is made of.
#[derive(Clone, Debug)]
enum Part {
    File(PathBuf),
    /// A link that leads nowhere: where it leads.
    Link(PathBuf),
}

/// Everything that a program is made of.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The real path of the program's folder.
    root: PathBuf,
    /// The program's file name.
    main: String,
    /// By path relative to `root`; what lies outside begins with `../`.
    parts: BTreeMap<String, Part>,
}

/// A copy of a program.
#[derive(Debug)]
pub struct Copied {
    /// The program in the copy.
    pub program: PathBuf,
    /// The digest of the copy.
    pub digest: Digest,
}

/// Digest of all that a program is made of, as it is now. `files` are those that its declaration
/// names, relative to its folder.
///
/// # Errors
/// If something cannot be read, is no file, or the folder is larger than a program may be.
pub fn digest(program: &Path, files: &[String]) -> Result<Digest, FolderError> {
    Folder::open(program, files)?.digest()
}

impl Folder {
    /// Lists what a program is made of.
    ///
    /// # Errors
    /// If something cannot be read, is no file, or the folder is larger than a program may be.
    pub fn open(program: &Path, files: &[String]) -> Result<Self, FolderError> {
        let absolute = std::path::absolute(program).map_err(|e| FolderError::io(program, &e))?;
        let real = absolute.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => FolderError::new(format!("there is no program {}", program.display())),
            _ => FolderError::io(program, &e),
        })?;
        let named = absolute.parent().unwrap_or(Path::new("/"));
        let root = named.canonicalize().map_err(|e| FolderError::io(named, &e))?;
        if real.parent() != Some(&root) {
            let m = format!("{} is a link to {}, in another folder", program.display(), real.display());
            let help =
                format!("name {} itself: a program is made of all files of its folder", real.display());
            return Err(FolderError { help: Some(help), ..FolderError::new(m) });
        }
        let main = text(Path::new(absolute.file_name().unwrap_or_default()))?.to_owned();
        let mut walk = Walk { shown: named, parts: BTreeMap::new(), bytes: 0, largest: (0, String::new()) };
        walk.folder("", &root, &mut vec![root.clone()])?;
        for file in files {
            walk.declared(&root, file).map_err(|e| e.of(file))?;
        }
        Ok(Self { root, main, parts: walk.parts })
    }

    /// The digest of the present contents.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn digest(&self) -> Result<Digest, FolderError> {
        let digests = self.parts.iter().map(|(name, part)| {
            Ok((
                name.clone(),
                match part {
                    Part::File(at) => of_file(at)?,
                    Part::Link(to) => of_link(to),
                },
            ))
        });
        Ok(program_digest(&self.main, &digests.collect::<Result<_, FolderError>>()?))
    }

    /// Copies everything below `to`, an existing folder, and digests the copy. Paths that lead out
    /// of the program's folder lead to the same files in the copy.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn copy(&self, disk: &dyn Disk, to: &Path) -> Result<Copied, FolderError> {
        let up = |name: &String| name.split('/').take_while(|part| *part == "..").count();
        let levels = self.parts.keys().map(up).max().unwrap_or(0);
        let names: Vec<_> = self.root.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        if levels > names.len() {
            return Err(FolderError::new(format!("a file of {} lies above `/`", self.root.display())));
        }
        // As many folders above the program's own as its files need.
        let kept = names.len() - levels.max(1).min(names.len());
        let folder = names[kept..].iter().fold(to.to_owned(), |at, name| at.join(name));
        files::create_dir(disk, &folder)?;
        let mut digests = BTreeMap::new();
        for (name, part) in &self.parts {
            let at = name.split('/').fold(folder.clone(), |mut at, step| {
                if step == ".." {
                    at.pop();
                } else {
                    at.push(step);
                }
                at
            });
            if let Some(parent) = at.parent() {
                files::create_dir(disk, parent)?;
            }
            let digest = match part {
                Part::File(from) => {
                    files::copy(disk, from, &at)?;
                    of_file(&at)?
                }
                Part::Link(target) => {
                    link(disk, target, &at)?;
                    of_link(target)
                }
            };
            digests.insert(name.clone(), digest);
        }
        Ok(Copied { program: folder.join(&self.main), digest: program_digest(&self.main, &digests) })
    }
}

struct Walk<'a> {
    /// The program's folder, as it was named.
    shown: &'a Path,
    parts: BTreeMap<String, Part>,
    bytes: u64,
    largest: (u64, String),
}

impl Walk<'_> {
    /// Everything in a folder. `inside` are the real paths of the folders on the way to it.
    fn folder(&mut self, prefix: &str, at: &Path, inside: &mut Vec<PathBuf>) -> Result<(), FolderError> {
        let unreadable = |e: io::Error| FolderError::io(at, &e);
        let mut entries =
            fs::read_dir(at).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let at = entry.path();
            let name = format!("{prefix}{}", text(Path::new(&entry.file_name()))?);
            self.entry(name, at, inside, false)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: String,
        at: PathBuf,
        inside: &mut Vec<PathBuf>,
        declared: bool,
    ) -> Result<(), FolderError> {
        let facts = match fs::metadata(&at) {
            Ok(facts) => facts,
            Err(e) => match fs::read_link(&at) {
                Ok(to) if !declared && e.kind() == io::ErrorKind::NotFound => {
                    return self.add(name, Part::Link(to), 0);
                }
                _ => return Err(FolderError::io(&at, &e)),
            },
        };
        if facts.is_file() {
            return self.add(name, Part::File(at), facts.len());
        }
        if !facts.is_dir() {
            let m = format!(
                "{} is neither a file nor a folder, so it cannot be a part of a program",
                at.display()
            );
            return Err(FolderError { help: Some("move it elsewhere".into()), ..FolderError::new(m) });
        }
        let last = name.rsplit('/').next().unwrap_or(&name);
        if !declared && (is_left_out(last) || is_workspace(&at)) {
            return Ok(());
        }
        let real = at.canonicalize().map_err(|e| FolderError::io(&at, &e))?;
        if inside.contains(&real) {
            let m = format!("{} is a link to a folder that it lies in", at.display());
            return Err(FolderError { help: Some("remove the link".into()), ..FolderError::new(m) });
        }
        inside.push(real);
        let done = self.folder(&format!("{name}/"), &at, inside);
        inside.pop();
        done
    }

    /// What a declaration names: a file, or a folder with everything in it.
    fn declared(&mut self, root: &Path, file: &str) -> Result<(), FolderError> {
        let mut steps: Vec<&str> = Vec::new();
        for step in file.split('/').filter(|s| !s.is_empty() && *s != ".") {
            match steps.last() {
                Some(last) if step == ".." && *last != ".." => drop(steps.pop()),
                _ => steps.push(step),
            }
        }
        let at = steps.iter().fold(root.to_owned(), |at, step| at.join(step));
        self.entry(steps.join("/"), at, &mut Vec::new(), true)
    }

    fn add(&mut self, name: String, part: Part, bytes: u64) -> Result<(), FolderError> {
        if self.parts.contains_key(&name) {
            return Ok(());
        }
        if bytes > self.largest.0 {
            self.largest = (bytes, name.clone());
        }
        self.bytes += bytes;
        self.parts.insert(name, part);
        if self.bytes <= MAX_BYTES && self.parts.len() <= MAX_FILES {
            return Ok(());
        }
        let what = if self.bytes > MAX_BYTES {
            let (size, largest) = &self.largest;
            let (most, size) = (MAX_BYTES / 1_000_000, *size as f64 / 1e6);
            format!("more than {most} MB, of which `{largest}` alone is {size:.0} MB")
        } else {
            format!("more than {MAX_FILES} files")
        };
        let m = format!("the program's folder {} holds {what}", self.shown.display());
        Err(FolderError {
            help: Some(
                "all files of its folder are part of a program: put it into its own folder, and give it \
                 data as arguments (`Path`, `Dataset`)"
                    .into(),
            ),
            ..FolderError::new(m)
        })
    }
}

/// Whether a folder is a workspace of an engine.
fn is_workspace(at: &Path) -> bool {
    let text = read::whole(&at.join("workspace.json"), read::SETTINGS).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|json| json["format"].is_u64())
}

fn text(name: &Path) -> Result<&str, FolderError> {
    name.to_str().ok_or_else(|| FolderError::new(format!("{}: the name is not UTF-8", name.display())))
}

fn of_file(at: &Path) -> Result<Digest, FolderError> {
    read::whole(at, read::FACTS).map(|bytes| Digest::of(&bytes)).map_err(|e| FolderError::io(at, &e))
}

fn of_link(to: &Path) -> Digest {
    Digest::of_json(&serde_json::json!({ "link": to.to_string_lossy() }))
}

fn link(disk: &dyn Disk, target: &Path, at: &Path) -> Result<(), FolderError> {
    match disk.symlink(target, at) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Err(FolderError::new(format!(
            "{}: a link that leads nowhere cannot be copied here",
            at.display()
        ))),
        done => done.map_err(|e| FolderError::io(at, &e)),
    }
}
