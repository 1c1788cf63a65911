//! Arguments on their way to a program.
//!
//! | type | JSON |
//! | --- | --- |
//! | `Bool`, `Int`, `Float`, `Text`, a word | as it is |
//! | `Path` | the path in this place |
//! | `Duration` | milliseconds |
//! | `Bytes` | bytes |
//! | an artifact | `{"type", "id", "folder", "files": {NAME: {"size", "digest"}}, "value", "uses": {NAME: artifact}}` |
//! | `List<T>` | `[[KEY, value], …]` in order |
//! | `Mix` | `[{"weight", "name", "pllm": artifact}, …]` |
//!
//! The pLLMs of a catalog or a selection have no `folder`, `files` and `value`: they are named, not
//! opened. Folders are read-only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use headstart_protocol::{Args, ArtifactRef, ArtifactType, Context, Failure, FailureClass, Value};
use serde_json::{Map, Value as Json, json};

/// How deep artifacts that others refer to are followed.
const DEPTH: usize = 3;

/// Arguments as JSON, and every artifact that a program can refer to by its id.
pub struct Arguments {
    /// By name.
    pub json: Json,
    /// By id.
    pub known: BTreeMap<String, ArtifactRef>,
    /// Files and folders that they name.
    pub opened: Vec<PathBuf>,
}

impl Arguments {
    /// Opens every artifact among the arguments.
    ///
    /// # Errors
    /// If an artifact is not there.
    pub fn of(args: &Args, ctx: &dyn Context) -> Result<Self, Failure> {
        let mut writer = Writer { ctx, known: BTreeMap::new(), opened: Vec::new() };
        let mut json = Map::new();
        for (name, value) in &args.0 {
            if !value.is_absent() {
                json.insert(name.clone(), writer.value(value)?);
            }
        }
        Ok(Self { json: json.into(), known: writer.known, opened: writer.opened })
    }
}

struct Writer<'a> {
    ctx: &'a dyn Context,
    known: BTreeMap<String, ArtifactRef>,
    opened: Vec<PathBuf>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<Json, Failure> {
        Ok(match value {
            Value::Absent => Json::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(x) => (*x).into(),
            Value::Text(t) => t.clone().into(),
            Value::Path(p) => {
                let at = self.ctx.path(p);
                // Relative to the folder in which the runner works, which is not the program's.
                let at = std::path::absolute(&at).map_err(|e| Failure::io(&at, &e))?;
                let json = text(&at)?.into();
                self.opened.push(at);
                json
            }
            Value::Duration(n) | Value::Bytes(n) => (*n).into(),
            Value::List(items) => {
                let items = items.iter().map(|(key, v)| Ok(json!([key, self.value(v)?])));
                items.collect::<Result<Vec<_>, Failure>>()?.into()
            }
            Value::Artifact(a) => self.artifact(a, DEPTH)?,
            Value::Mix(terms) => {
                let terms = terms.iter().map(|t| {
                    let pllm = self.artifact(&t.pllm, DEPTH)?;
                    Ok(json!({ "weight": t.weight, "name": t.name, "pllm": pllm }))
                });
                terms.collect::<Result<Vec<_>, Failure>>()?.into()
            }
            Value::Condition(c) => json!({ "metric": c.metric, "op": c.op.symbol(), "bound": c.bound }),
            Value::Json(j) => j.clone(),
        })
    }

    fn artifact(&mut self, artifact: &ArtifactRef, depth: usize) -> Result<Json, Failure> {
        let id = artifact.id.to_string();
        self.known.insert(id.clone(), artifact.clone());
        let named = json!({ "type": format!("{:?}", artifact.ty), "id": id });
        if depth == 0 {
            return Ok(named);
        }
        let manifest = self.ctx.manifest(artifact)?;
        let folder = self.ctx.open(artifact)?;
        let folder = std::path::absolute(&folder).map_err(|e| Failure::io(&folder, &e))?;
        let many = matches!(artifact.ty, ArtifactType::Catalog | ArtifactType::Selection);
        let mut uses = Map::new();
        for (name, used) in &manifest.uses {
            let pllm = matches!(used.ty, ArtifactType::Pllm | ArtifactType::Model);
            let depth = if many && pllm { 0 } else { depth - 1 };
            uses.insert(name.clone(), self.artifact(used, depth)?);
        }
        let mut out = named;
        out["folder"] = text(&folder)?.into();
        self.open(folder)?;
        out["files"] = serde_json::to_value(&manifest.files)
            .map_err(|e| Failure::new(FailureClass::Internal, e.to_string()))?;
        out["value"] = manifest.value;
        out["uses"] = uses.into();
        Ok(out)
    }
}

impl Writer<'_> {
    /// Notes a folder, and the files that links in it lead to: a store has links where it can.
    fn open(&mut self, folder: PathBuf) -> Result<(), Failure> {
        for entry in std::fs::read_dir(&folder).map_err(|e| Failure::io(&folder, &e))? {
            let entry = entry.map_err(|e| Failure::io(&folder, &e))?;
            if entry.file_type().is_ok_and(|t| t.is_symlink()) {
                self.opened.extend(entry.path().canonicalize().ok());
            }
        }
        self.opened.push(folder);
        Ok(())
    }
}

/// A path as text: JSON has no other.
///
/// # Errors
/// [`FailureClass::Input`] for a path that is not UTF-8.
pub fn text(path: &std::path::Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::input(format!("{}: the path is not UTF-8", path.display())))
}
