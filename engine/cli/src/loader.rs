//! Reads pipeline files, and reports what is wrong with them.

use std::path::Path;

use headstart_console::say;
use headstart_disk::read;
use headstart_dsl::plan::Plan;
use headstart_dsl::{Checked, FileLoader, Listing, ProgramError};
use headstart_protocol::Digest;

use crate::Volume;
use crate::args::{Pipeline, Values};
use crate::exit::{CommandError, INPUT};
use crate::params::Params;

/// Files of this machine.
pub struct Disk;

impl FileLoader for Disk {
    fn read(&self, path: &str) -> Result<String, String> {
        read::text(Path::new(path), read::PIPELINE).map_err(|e| e.to_string())
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

/// Checks a file.
///
/// # Errors
/// If the file or a parameter file cannot be read.
pub fn check(file: &Path, values: &Values) -> Result<Checked, CommandError> {
    is_readable(file)?;
    check_with(file, values, &Disk)
}

/// Checks a file that `loader` reads.
///
/// # Errors
/// If a parameter file cannot be read.
pub fn check_with(file: &Path, values: &Values, loader: &dyn FileLoader) -> Result<Checked, CommandError> {
    let params = Params::read(values)?;
    let mut checked = headstart_dsl::check(&file.to_string_lossy(), loader, params.sets());
    params.name_sources(&mut checked.diagnostics);
    Ok(checked)
}

/// Whether a file can be read, for a better answer than that it has no plan.
///
/// # Errors
/// If it cannot.
pub fn is_readable(file: &Path) -> Result<(), CommandError> {
    let what = match read::open(file) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => "is not a file".to_owned(),
        Err(e) => {
            return Err(CommandError::input(format!("{}: {}", file.display(), headstart_disk::reason(&e))));
        }
    };
    let error = CommandError::input(format!("{} {what}", file.display()));
    let folder = if file.is_dir() { file } else { file.parent().unwrap_or(Path::new("")) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = files.map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|n| n.ends_with(".pllm"));
    names.sort();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let names = names.iter().map(String::as_str);
    Err(if names.len() == 0 {
        error.help("`headstart init` writes a first pipeline")
    } else {
        error.help(headstart_console::suggest::help(&name, "pipeline files there", names))
    })
}

/// Checks a file that may be a module: parameters that an import gives may be open. A parameter that
/// can be set must be.
///
/// # Errors
/// As [`check`].
pub fn check_module(file: &Path, values: &Values) -> Result<Checked, CommandError> {
    let checked = check(file, values)?;
    if !checked.diagnostics.iter().any(|d| d.code == headstart_dsl::Code::E0704) {
        return Ok(checked);
    }
    let params = Params::read(values)?;
    let mut checked = headstart_dsl::check_module(&file.to_string_lossy(), &Disk, params.sets());
    params.name_sources(&mut checked.diagnostics);
    Ok(checked)
}

/// Checks a file, reports what is wrong with it, and gives the plan.
///
/// # Errors
/// If there is no plan.
pub fn plan(pipeline: &Pipeline, notes: Notes) -> Result<Plan, CommandError> {
    let checked = check(&pipeline.file, &pipeline.values)?;
    print_diagnostics(&checked, notes);
    checked.plan.ok_or(CommandError::silent(INPUT))
}

/// The part of a plan that `--only` names; the whole where it names nothing.
///
/// # Errors
/// If the plan does not have a name.
pub fn only(plan: Plan, names: &[String]) -> Result<Plan, CommandError> {
    if names.is_empty() {
        return Ok(plan);
    }
    plan.only(names).map_err(|e| {
        let help = headstart_console::suggest::help(&e.0, "it has", plan.names());
        CommandError::input(&e).help(help)
    })
}

/// Whether notes are printed beside errors and warnings, such as what a pattern leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notes {
    /// They are.
    Shown,
    /// They are not: nobody asked for details.
    Hidden,
}

impl Notes {
    /// Shown where somebody asks for details.
    pub fn of(volume: Volume) -> Self {
        if volume.verbose { Self::Shown } else { Self::Hidden }
    }
}

/// Prints diagnostics on standard error.
pub fn print_diagnostics(checked: &Checked, notes: Notes) {
    let mut shown = checked.diagnostics.clone();
    shown.retain(|d| notes == Notes::Shown || d.severity != headstart_dsl::Severity::Note);
    if !shown.is_empty() {
        say(headstart_dsl::render(&shown, &checked.sources, true).trim_end());
    }
}
