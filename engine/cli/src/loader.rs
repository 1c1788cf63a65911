//! Reads pipeline files, and turns `--set` into parameters.

use std::collections::BTreeMap;
use std::path::Path;

use headstart_dsl::plan::Plan;
use headstart_dsl::{Checked, FileLoader, Listing, ProgramError};

use headstart_protocol::Digest;

use crate::args::{Pipeline, Values};
use crate::exit::{CommandError, INPUT};

/// Files of this machine.
pub struct Disk;

impl FileLoader for Disk {
    fn read(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|e| e.to_string())
    }

    fn glob(&self, pattern: &str) -> Result<Listing, String> {
        let listing = headstart_files::list(pattern).map_err(|e| e.to_string())?;
        let left_out = listing.left_out.into_iter().map(|l| (l.path, l.reason.to_string())).collect();
        Ok(Listing { found: listing.found, left_out })
    }

    fn program(&self, path: &str, files: &[String]) -> Result<Digest, ProgramError> {
        headstart_host::folder::digest(Path::new(path), files).map_err(|e| ProgramError {
            message: e.message,
            help: e.help,
            entry: e.entry,
        })
    }

    #[cfg(unix)]
    fn executable(&self, path: &str) -> Result<(), String> {
        use std::os::unix::fs::PermissionsExt;
        match std::fs::metadata(path) {
            Err(e) => Err(e.to_string()),
            Ok(m) if !m.is_file() => Err("it is not a file".to_owned()),
            Ok(m) if m.permissions().mode() & 0o111 == 0 => {
                Err(format!("it may not be executed; `chmod +x {path}` allows it"))
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Values from the parameter file and from `--set NAME=VALUE`, which wins.
pub fn sets(values: &Values) -> Result<BTreeMap<String, String>, CommandError> {
    let mut all = match &values.params {
        None => BTreeMap::new(),
        Some(path) => {
            let wrong = |e: &dyn std::fmt::Display| CommandError::input(format!("{}: {e}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
            headstart_dsl::sets_from_json(&text).map_err(|e| wrong(&e))?
        }
    };
    for given in &values.set {
        match given.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                all.insert(name.trim().to_owned(), value.to_owned());
            }
            _ => return Err(CommandError::input(format!("--set takes NAME=VALUE, not `{given}`"))),
        }
    }
    Ok(all)
}

/// Checks a file.
pub fn check(file: &Path, values: &Values) -> Result<Checked, CommandError> {
    let sets = sets(values)?;
    if !file.is_file() {
        return Err(CommandError::input(format!("there is no pipeline file {}", file.display())));
    }
    Ok(headstart_dsl::check(&file.to_string_lossy(), &Disk, &sets))
}

/// Checks a file that may be a module: parameters that an import gives may be open. A parameter that
/// can be set must be.
pub fn check_module(file: &Path, values: &Values) -> Result<Checked, CommandError> {
    let checked = check(file, values)?;
    if !checked.diagnostics.iter().any(|d| d.code == headstart_dsl::Code::E0704) {
        return Ok(checked);
    }
    Ok(headstart_dsl::check_module(&file.to_string_lossy(), &Disk, &sets(values)?))
}

/// Checks a file, prints what is wrong with it, and gives the plan.
pub fn plan(pipeline: &Pipeline) -> Result<Plan, CommandError> {
    let checked = check(&pipeline.file, &pipeline.values)?;
    print_diagnostics(&checked);
    checked.plan.ok_or(CommandError::silent(INPUT))
}

/// Prints diagnostics on stderr.
pub fn print_diagnostics(checked: &Checked) {
    if !checked.diagnostics.is_empty() {
        anstream::eprint!("{}", headstart_dsl::render(&checked.diagnostics, &checked.sources, true));
    }
}
