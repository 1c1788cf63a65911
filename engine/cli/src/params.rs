//! Values of parameters, from `--params` and `--set`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_disk::read;

use headstart_dsl::{Code, Diagnostic};

use crate::args::Values;
use crate::exit::CommandError;

/// Values by parameter, and which of them are from the file.
pub struct Params {
    sets: BTreeMap<String, String>,
    file: Option<PathBuf>,
    from_file: BTreeMap<String, String>,
}

impl Params {
    /// Reads the parameter file, if there is one; `--set` overrides it.
    ///
    /// # Errors
    /// If the file is not a JSON object of values, or a `--set` is not `NAME=VALUE`.
    pub fn read(values: &Values) -> Result<Self, CommandError> {
        let mut from_file = match &values.params {
            None => BTreeMap::new(),
            Some(path) => read_file(path)?,
        };
        let mut sets = from_file.clone();
        for given in &values.set {
            match given.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    from_file.remove(name.trim());
                    sets.insert(name.trim().to_owned(), value.to_owned());
                }
                _ => return Err(CommandError::input(format!("--set takes NAME=VALUE, not `{given}`"))),
            }
        }
        Ok(Self { sets, file: values.params.clone(), from_file })
    }

    /// The values.
    pub fn sets(&self) -> &BTreeMap<String, String> {
        &self.sets
    }

    /// Diagnostics of values that are from the file name the file instead of `--set`.
    pub fn name_sources(&self, diagnostics: &mut [Diagnostic]) {
        let Some(file) = &self.file else { return };
        for d in diagnostics.iter_mut() {
            for (name, text) in &self.from_file {
                let told = format!("`--set {name}={text}`");
                if d.message.contains(&told) {
                    d.message = d.message.replace(&told, &format!("`{name}: {text}` in {}", file.display()));
                } else if d.code == Code::E0702 && d.message.contains(&format!("`{name}`")) {
                    d.notes.push(format!("`{name}` is given in {}", file.display()));
                }
            }
        }
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, CommandError> {
    let wrong = |e: &dyn std::fmt::Display| CommandError::input(format!("{}: {e}", path.display()));
    let text = read::text(path, read::SETTINGS).map_err(|e| match read::Refusal::of(&e) {
        Some(read::Refusal::NotText { .. }) => wrong(&e).help("save it as UTF-8"),
        _ => wrong(&e),
    })?;
    headstart_dsl::sets_from_json(&text).map_err(|e| wrong(&e))
}
