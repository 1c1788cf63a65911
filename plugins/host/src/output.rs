//! What a program says it made, verified, and put where the program cannot reach it.
//!
//! Each file is opened once, without following links, and copied from that descriptor into a folder that the program
//! was never given: what is stored is what was verified, whatever happens to the file that the program wrote.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use headstart_disk::files;
use headstart_disk::read::{self, LINE, Lines, ROWS, Refusal};
use headstart_disk::{Disk, DiskError, DiskFile, Mode, Open};
use headstart_protocol::artifacts::{Artifact, Format, Metrics, Pllm, Rows};
use headstart_protocol::declared::is_inside;
use headstart_protocol::rows::{ROWS_FILE, Row};
use headstart_protocol::{ArtifactRef, Output, Type};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::message::MadeFile;

/// Bytes that are copied at a time.
const BLOCK: usize = 1 << 16;

/// Where a program wrote, and where what it made goes.
pub struct Folders<'a> {
    /// The disk that they lie on.
    pub disk: &'a dyn Disk,
    /// The program's working folder.
    pub work: &'a Path,
    /// A folder that does not exist yet, and that the program cannot write into.
    pub output: &'a Path,
}

/// Why a program's output does not count.
#[derive(Debug)]
pub enum Refused {
    /// A claim is wrong: the end of a sentence about the program.
    Claim(String),
    /// It cannot be kept.
    Disk(DiskError),
}

impl From<String> for Refused {
    fn from(claim: String) -> Self {
        Self::Claim(claim)
    }
}

impl From<DiskError> for Refused {
    fn from(e: DiskError) -> Self {
        Self::Disk(e)
    }
}

/// Claims of a program about its output.
pub struct Claim {
    /// Files in the scratch folder.
    pub files: Vec<MadeFile>,
    /// The value.
    pub value: Json,
    /// Artifacts that it refers to: by name, their ids.
    pub uses: BTreeMap<String, String>,
}

/// The output of a stage that makes a `ty`, if everything that was claimed is so. `declared` are the
/// names of metrics that the stage declares, if it declares any.
///
/// # Errors
/// The claim that is wrong, or why a file cannot be kept.
pub fn verified(
    ty: &Type,
    claim: Claim,
    folders: &Folders<'_>,
    known: &BTreeMap<String, ArtifactRef>,
    declared: &[String],
) -> Result<Output, Refused> {
    let mut files: Vec<(String, PathBuf)> = Vec::with_capacity(claim.files.len());
    for made in &claim.files {
        if files.iter().any(|(name, _)| *name == made.name) {
            return Err(format!("names the file `{}` twice", made.name).into());
        }
        files.push((made.name.clone(), take(made, folders)?));
    }
    let mut uses = BTreeMap::new();
    for (name, id) in claim.uses {
        let Some(artifact) = known.get(&id) else {
            let m = format!("refers to an artifact {id:?} as `{name}` that is not among its arguments");
            return Err(m.into());
        };
        uses.insert(name, artifact.clone());
    }
    let at = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, at)| at.as_path());
    let value = match ty {
        Type::Metrics => {
            let found = metrics(claim.value, declared)?;
            if found.numbers.is_empty() {
                return Err("makes Metrics without a single number".to_owned().into());
            }
            found.json()
        }
        Type::Dataset | Type::Responses => Rows::dataset(rows(ty, at(ROWS_FILE))?).json(),
        Type::Pllm => pllm(claim.value, &files, &uses, declared)?.json(),
        other => return Err(format!("makes a {other}, which a program cannot").into()),
    };
    let value = value.map_err(|e| format!("returned what cannot be stored: {e}"))?;
    Ok(Output { ty: ty.clone(), files, value, uses })
}

/// Copies a file that is there, below the working folder, with the content that was stated. Gives the copy.
fn take(made: &MadeFile, folders: &Folders<'_>) -> Result<PathBuf, Refused> {
    let name = &made.name;
    if !is_inside(name) {
        return Err(format!("names a file {name:?}, which is not a path below its scratch folder").into());
    }
    let mut from = open(name, folders.work)?;
    let at = folders.output.join(name);
    files::create_dir(folders.disk, files::folder_of(&at))?;
    let mut to = folders.disk.open(&at, Open::New).map_err(DiskError::at("write", &at))?;
    let (size, sha) = copy(&mut from, &mut *to, made, &at)?;
    to.set_mode(Mode::Normal).map_err(DiskError::at("write", &at))?;
    if size != made.size {
        return Err(format!("says that `{name}` has {} bytes, but it has {size}", made.size).into());
    }
    if !sha.eq_ignore_ascii_case(&made.sha256) {
        return Err(format!("says that `{name}` has SHA-256 {}, but it has {sha}", made.sha256).into());
    }
    Ok(at)
}

/// Opens a file of a program's folder: a regular one of a single name, to which no link leads.
fn open(name: &str, work: &Path) -> Result<File, String> {
    let unreadable = |e: std::io::Error| match (e.kind(), Refusal::of(&e)) {
        (std::io::ErrorKind::NotFound, _) => {
            format!("says that it made `{name}`, which is not in its scratch folder")
        }
        (_, Some(_)) => format!("made `{name}`, which is not a plain file of its scratch folder: it {e}"),
        _ => format!("made `{name}`, which cannot be read: {e}"),
    };
    let file = read::open_below(work, Path::new(name)).map_err(unreadable)?;
    match read::names(&file.metadata().map_err(unreadable)?) {
        // By another name, it could be a file that the program may not read, or be changed by somebody else.
        2.. => Err(format!("made `{name}`, which has another name too (a hard link): copy the file instead")),
        _ => Ok(file),
    }
}

/// Copies no more than was stated, and one byte that shows that there is more. Gives how many bytes the file has, and the
/// SHA-256 of what was copied.
fn copy(
    from: &mut File,
    to: &mut dyn DiskFile,
    made: &MadeFile,
    at: &Path,
) -> Result<(u64, String), Refused> {
    let unreadable = |e: std::io::Error| format!("made `{}`, which cannot be read: {e}", made.name);
    let size = from.metadata().map_err(unreadable)?.len();
    if size != made.size {
        return Ok((size, String::new()));
    }
    let mut from = from.take(made.size.saturating_add(1));
    let (mut hash, mut buffer, mut size) = (Sha256::new(), vec![0u8; BLOCK], 0);
    loop {
        match from.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok((size, hash.finalize().iter().map(|b| format!("{b:02x}")).collect())),
            n => {
                hash.update(&buffer[..n]);
                to.write_all(&buffer[..n]).map_err(DiskError::at("write", at))?;
                size += n as u64;
            }
        }
    }
}

/// Named numbers. Where names are declared, there are no others.
fn metrics(value: Json, declared: &[String]) -> Result<Metrics, String> {
    let Json::Object(named) = value else { return Err("makes Metrics, but its value is no object".into()) };
    let wrong = named.iter().find(|(_, v)| !(v.is_number() || v.is_boolean()));
    if let Some((name, v)) = wrong {
        return Err(format!("makes Metrics, of which `{name}` is {v}, not a number"));
    }
    if !declared.is_empty()
        && let Some(name) = named.keys().find(|name| !declared.contains(name))
    {
        return Err(format!(
            "returned the metric `{name}`, which it does not declare; it declares {}",
            declared.join(", ")
        ));
    }
    Metrics::try_from(named)
}

/// Counts rows, every one of which is read.
fn rows(ty: &Type, at: Option<&Path>) -> Result<usize, String> {
    let Some(at) = at else { return Err(format!("makes {ty}, but no file `{ROWS_FILE}`")) };
    let unreadable = |e: std::io::Error| format!("made `{ROWS_FILE}`, which cannot be read: {e}");
    let mut n = 0usize;
    let mut lines = Lines::open(at, LINE, ROWS).map_err(unreadable)?;
    let mut number = 0;
    while let Some(line) = lines.next_line().map_err(unreadable)? {
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Err(e) = serde_json::from_slice::<Row>(line) {
            return Err(format!("made `{ROWS_FILE}`, whose line {number} is not a row: {e}"));
        }
        n += 1;
    }
    Ok(n)
}

fn pllm(
    value: Json,
    files: &[(String, PathBuf)],
    uses: &BTreeMap<String, ArtifactRef>,
    declared: &[String],
) -> Result<Pllm, String> {
    let has = |wanted: &str| files.iter().any(|(name, _)| name == wanted);
    let weights = files.iter().any(|(name, _)| name.ends_with(".safetensors"));
    let format = match (has("adapter_config.json"), has("config.json")) {
        (true, _) => Format::Lora,
        (false, true) => Format::Full,
        (false, false) => return Err("makes a Pllm without `adapter_config.json` or `config.json`".into()),
    };
    if !weights {
        return Err("makes a Pllm without a file of weights (`.safetensors`)".into());
    }
    if !uses.contains_key("base") {
        return Err("makes a Pllm without saying which model is its `base`".into());
    }
    let metrics = match value.get("metrics") {
        None => Metrics::default(),
        Some(named) => metrics(named.clone(), declared)?,
    };
    Ok(Pllm { metrics, ..Pllm::new(format) })
}
