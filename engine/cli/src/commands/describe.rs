//! `headstart describe`: declarations of custom stages, as their programs describe them.

use std::path::{Path, PathBuf};

use headstart_console::{errln, print};
use headstart_disk::{SystemDisk, read};
use headstart_host::Limits;
use headstart_protocol::declared::Declaration;

use crate::Volume;
use crate::args::Describe;
use crate::exit::CommandError;

/// The Python SDK, to be kept beside a program.
const SDK: &str = include_str!("../../../../plugins/python/headstart.py");

/// Runs the command.
///
/// # Errors
/// If the program cannot be started or its declaration is invalid, or the file cannot be written.
pub fn run(args: &Describe, volume: Volume) -> Result<(), CommandError> {
    if args.sdk {
        return Ok(print(SDK)?);
    }
    let mut stale = Vec::new();
    for program in &args.programs {
        let declaration = ask(program, args.custom.limits())?;
        let beside = PathBuf::from(Declaration::path_for(&program.to_string_lossy()));
        let text = declaration.to_json();
        if args.print {
            print(&text)?;
            continue;
        }
        // Compared by meaning: how the file is indented is nobody's business.
        let before = read::text(&beside, read::SETTINGS).ok();
        let before = before.and_then(|t| serde_json::from_str::<Declaration>(&t).ok());
        if before.as_ref() == Some(&declaration) {
            say(volume, &format!("{}: up to date", beside.display()));
        } else if args.check {
            stale.push(beside.display().to_string());
        } else {
            write(&beside, &text)?;
            let names: Vec<&str> = declaration.stages.iter().map(|s| s.name.as_str()).collect();
            say(volume, &format!("wrote {}: {}", beside.display(), names.join(", ")));
        }
    }
    match stale.as_slice() {
        [] => Ok(()),
        files => Err(CommandError::failed(format!("out of date: {}", files.join(", ")))
            .help("`headstart describe PROGRAM` updates them")),
    }
}

fn say(volume: Volume, line: &str) {
    if !volume.quiet {
        headstart_console::say(line);
    }
}

fn ask(program: &Path, limits: Limits) -> Result<Declaration, CommandError> {
    let log = |line: &str| errln!("{line}");
    headstart_host::describe(program, limits, &log).map_err(|failure| {
        let error = CommandError::input(&failure.message);
        match failure.help {
            Some(help) => error.help(help),
            None => error,
        }
    })
}

/// Writes a file whole or not at all. What is written is made by the program, so that it goes nowhere else than
/// beside it.
fn write(at: &Path, text: &str) -> Result<(), CommandError> {
    if at.is_symlink() {
        let m = format!("{} is a link; the declaration is not written through it", at.display());
        return Err(CommandError::failed(m).help("remove the link"));
    }
    Ok(headstart_disk::files::replace(&SystemDisk, at, text.as_bytes())?)
}
