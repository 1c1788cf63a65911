//! What a program says it made, verified.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use headstart_disk::read::{self, LINE, Lines, ROWS};
use headstart_protocol::artifacts::{Artifact, Format, Metrics, Pllm, Rows};
use headstart_protocol::declared::is_inside;
use headstart_protocol::rows::{ROWS_FILE, Row};
use headstart_protocol::{ArtifactRef, Output, Type};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::message::MadeFile;

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
/// The claim that is wrong, as the end of a sentence about the program.
pub fn verified(
    ty: &Type,
    claim: Claim,
    scratch: &Path,
    known: &BTreeMap<String, ArtifactRef>,
    declared: &[String],
) -> Result<Output, String> {
    let mut files: Vec<(String, PathBuf)> = Vec::with_capacity(claim.files.len());
    for made in &claim.files {
        if files.iter().any(|(name, _)| *name == made.name) {
            return Err(format!("names the file `{}` twice", made.name));
        }
        files.push((made.name.clone(), file(made, scratch)?));
    }
    let mut uses = BTreeMap::new();
    for (name, id) in claim.uses {
        let Some(artifact) = known.get(&id) else {
            return Err(format!("refers to an artifact {id:?} as `{name}` that is not among its arguments"));
        };
        uses.insert(name, artifact.clone());
    }
    let at = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, at)| at.as_path());
    let value = match ty {
        Type::Metrics => {
            let found = metrics(claim.value, declared)?;
            if found.numbers.is_empty() {
                return Err("makes Metrics without a single number".into());
            }
            found.json()
        }
        Type::Dataset | Type::Responses => Rows::dataset(rows(ty, at(ROWS_FILE))?).json(),
        Type::Pllm => pllm(claim.value, &files, &uses, declared)?.json(),
        other => return Err(format!("makes a {other}, which a program cannot")),
    };
    let value = value.map_err(|e| format!("returned what cannot be stored: {e}"))?;
    Ok(Output { ty: ty.clone(), files, value, uses })
}

/// A file that is there, inside the scratch folder, with the content that was stated.
fn file(made: &MadeFile, scratch: &Path) -> Result<PathBuf, String> {
    let name = &made.name;
    if !is_inside(name) {
        return Err(format!("names a file {name:?}, which is not a path below its scratch folder"));
    }
    let at = scratch.join(name);
    let facts = std::fs::symlink_metadata(&at).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            format!("says that it made `{name}`, which is not in its scratch folder")
        }
        _ => format!("made `{name}`, which cannot be read: {e}"),
    })?;
    let inside = |at: &Path| {
        let (at, scratch) = (at.canonicalize().ok()?, scratch.canonicalize().ok()?);
        at.starts_with(scratch).then_some(())
    };
    if !facts.is_file() || inside(&at).is_none() {
        return Err(format!("made `{name}`, which is not a plain file of its scratch folder"));
    }
    if facts.len() != made.size {
        return Err(format!("says that `{name}` has {} bytes, but it has {}", made.size, facts.len()));
    }
    let sha = sha256(&at).map_err(|e| format!("made `{name}`, which cannot be read: {e}"))?;
    if !sha.eq_ignore_ascii_case(&made.sha256) {
        return Err(format!("says that `{name}` has SHA-256 {}, but it has {sha}", made.sha256));
    }
    Ok(at)
}

fn sha256(at: &Path) -> std::io::Result<String> {
    let mut file = read::open(at)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
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
