//! The outputs of a run as files, and as JSON.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use headstart_disk::{Mode, files};
use headstart_driver::{RunOutput, RunResult};
use headstart_protocol::expr::Value;
use headstart_protocol::text::{FileNames, bytes, counted};
use headstart_protocol::{ArtifactRef, Manifest, Type};
use headstart_store::Workspace;
use serde_json::{Map, Value as Json, json};

use crate::exit::CommandError;

/// Name of the file that holds a value without a name.
const VALUE: &str = "value.json";

/// Writes every output below `out`: a folder for each, with the artifact's files, and for Metrics and a
/// Selection the value as JSON; for a list a folder for each element. Gives a line for each output that
/// says what was written. Nothing is written elsewhere: links to folders below `out` are not followed.
///
/// # Errors
/// If something cannot be written, or a file is no longer in the workspace.
pub fn write(ws: &Workspace, outputs: &[RunOutput], out: &Path) -> Result<Vec<String>, CommandError> {
    files::create_dir(&**ws.disk(), out)?;
    let _alone = alone_in(out);
    let mut names = FileNames::default();
    let mut lines = Vec::new();
    for output in outputs {
        let dir = out.join(names.name(&output.name));
        let mut writer = Writer { ws, out, cleared: BTreeSet::new(), files: 0, bytes: 0 };
        let said = match &output.value {
            None | Some(Value::Absent) => "nothing: it was skipped".to_owned(),
            Some(value) => {
                writer.value(value, &dir)?;
                format!("{}, {}", counted(writer.files, "file"), bytes(writer.bytes))
            }
        };
        let dir = dir.display();
        lines.push(if writer.files > 0 {
            format!("wrote {dir} ({said})")
        } else {
            format!("wrote no {dir}: {said}")
        });
    }
    Ok(lines)
}

/// Of several processes, one exports into a folder. Where folders cannot be locked, all do: files are still written
/// whole.
fn alone_in(out: &Path) -> Option<File> {
    let folder = File::open(out).ok()?;
    FileExt::lock_exclusive(&folder).ok()?;
    Some(folder)
}

struct Writer<'a> {
    ws: &'a Workspace,
    out: &'a Path,
    /// Folders without anything half written.
    cleared: BTreeSet<PathBuf>,
    files: u64,
    bytes: u64,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, dir: &Path) -> Result<(), CommandError> {
        match value {
            Value::Artifact(a) => self.artifact(a, dir),
            Value::List(items) => {
                let mut names = FileNames::default();
                for (key, item) in items {
                    self.value(item, &dir.join(names.name(key)))?;
                }
                // Which folder is which element, where a key cannot be a name.
                let keys: Map<String, Json> = keys(items).into_iter().map(|(n, k)| (n, k.into())).collect();
                let changed = keys.iter().any(|(name, key)| key != name);
                if changed || items.is_empty() {
                    self.json(&Json::Object(keys), &dir.join("keys.json"))
                } else {
                    Ok(())
                }
            }
            Value::Absent => self.json(&Json::Null, &dir.join(VALUE)),
            other => {
                let json = value_json(self.ws, other)?;
                self.json(&json, &dir.join(VALUE))
            }
        }
    }

    fn artifact(&mut self, a: &ArtifactRef, dir: &Path) -> Result<(), CommandError> {
        if a.private_to.is_some() {
            return Ok(());
        }
        let manifest = manifest(self.ws, a)?;
        for (name, file) in &manifest.files {
            let to = dir.join(name);
            self.prepare(&to)?;
            let from = self.ws.blobs().intact(&file.digest)?.ok_or_else(|| {
                CommandError::failed(format!(
                    "file {name} of artifact {} is gone from the workspace",
                    a.id.short()
                ))
                .help("run the pipeline again: it is made again")
            })?;
            // A file of an earlier export may be read-only, as contents of the workspace are: it is replaced.
            files::copy_atomic(&**self.ws.disk(), &from, &to, Mode::Normal)?;
            self.files += 1;
            self.bytes += file.size;
        }
        let name = match manifest.ty {
            Type::Metrics => "metrics.json",
            Type::Selection => "selection.json",
            // Their files say everything.
            _ if !manifest.files.is_empty() => return Ok(()),
            _ => VALUE,
        };
        if manifest.files.contains_key(name) { Ok(()) } else { self.json(&manifest.value, &dir.join(name)) }
    }

    /// Refuses to go through a link below `out`, which somebody else may have put there, and removes what an export
    /// that was killed left beside the file.
    fn prepare(&mut self, to: &Path) -> Result<(), CommandError> {
        let folders = to.ancestors().skip(1).take_while(|folder| *folder != self.out);
        if let Some(dir) = to.parent()
            && self.cleared.insert(dir.to_owned())
            && folders.clone().all(|folder| !folder.is_symlink())
        {
            files::remove_unfinished(&**self.ws.disk(), dir)?;
        }
        match folders.filter(|folder| folder.is_symlink()).last() {
            None => Ok(()),
            Some(link) => Err(CommandError::failed(format!(
                "{} is a link; nothing is written through it",
                link.display()
            ))
            .help("remove the link, or name another folder with --out")),
        }
    }

    fn json(&mut self, value: &Json, to: &Path) -> Result<(), CommandError> {
        self.prepare(to)?;
        let text = format!("{value:#}\n");
        files::write_atomic(&**self.ws.disk(), to, text.as_bytes(), Mode::Normal)?;
        self.files += 1;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Keys of a list by the names of their folders.
fn keys(items: &[(String, Value)]) -> Vec<(String, String)> {
    let mut names = FileNames::default();
    items.iter().map(|(key, _)| (names.name(key), key.clone())).collect()
}

fn manifest(ws: &Workspace, a: &ArtifactRef) -> Result<Manifest, CommandError> {
    ws.artifacts().manifest(&a.id)?.ok_or_else(|| {
        CommandError::failed(format!("artifact {} is gone from the workspace", a.id.short()))
            .help("run the pipeline again: it is made again")
    })
}

/// A run's outputs for programs.
///
/// # Errors
/// If an artifact cannot be read.
pub fn json(ws: &Workspace, result: &RunResult) -> Result<Json, CommandError> {
    let mut outputs = Map::new();
    for output in &result.outputs {
        let value = output.value.as_ref().map(|v| value_json(ws, v)).transpose()?;
        outputs.insert(output.name.clone(), value.unwrap_or_default());
    }
    let failures: Vec<_> = result
        .failures
        .iter()
        .map(|f| json!({ "name": f.name, "message": f.failure.message, "help": f.failure.help }))
        .collect();
    Ok(json!({
        "run": result.run, "outcome": result.outcome, "seconds": result.seconds, "outputs": outputs,
        "failures": failures,
    }))
}

fn value_json(ws: &Workspace, value: &Value) -> Result<Json, CommandError> {
    Ok(match value {
        Value::Absent => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::Float(x) => (*x).into(),
        Value::Text(t) | Value::Path(t) => t.clone().into(),
        Value::Duration(n) | Value::Bytes(n) => (*n).into(),
        Value::Json(j) => j.clone(),
        Value::List(items) => {
            let mut map = Map::new();
            for (key, item) in items {
                map.insert(key.clone(), value_json(ws, item)?);
            }
            map.into()
        }
        Value::Artifact(a) => {
            let manifest = ws.artifacts().manifest(&a.id)?;
            json!({ "artifact": a.id, "value": manifest.map(|m| m.value) })
        }
        Value::Mix(terms) => {
            terms.iter().map(|t| (t.name.clone(), t.weight.into())).collect::<Map<_, _>>().into()
        }
        Value::Condition(_) => value.describe().into(),
    })
}
