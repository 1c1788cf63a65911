//! `headstart init`: a first pipeline with sample data.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use headstart_console::errln;
use headstart_disk::{Disk, DiskError, Mode, Open, SystemDisk, files};
use headstart_protocol::text::quoted;

use crate::Volume;
use crate::args::Init;
use crate::exit::CommandError;

/// The files: name and content.
const FILES: &[(&str, &str)] = &[
    ("first.pllm", include_str!("../starter/first.pllm")),
    ("model.json", include_str!("../starter/model.json")),
    ("plain.jsonl", include_str!("../starter/plain.jsonl")),
    ("mine.jsonl", include_str!("../starter/mine.jsonl")),
];

/// Runs the command.
///
/// # Errors
/// If one of the files exists, or cannot be written. Then nothing of it is left behind.
pub fn run(args: &Init, volume: Volume) -> Result<(), CommandError> {
    let existing: Vec<&str> = FILES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| args.dir.join(name).symlink_metadata().is_ok())
        .collect();
    if !existing.is_empty() {
        let verb = if existing.len() == 1 { "exists" } else { "exist" };
        let message = format!("{} already {verb} in {}", quoted(existing, usize::MAX), args.dir.display());
        return Err(CommandError::input(message)
            .help("nothing is overwritten; name another folder: headstart init DIR"));
    }
    files::create_dir(&SystemDisk, &args.dir)?;
    let mut written: Vec<PathBuf> = Vec::new();
    for (name, text) in FILES {
        let path = args.dir.join(name);
        let done = SystemDisk.open(&path, Open::New).and_then(|mut file| {
            written.push(path.clone());
            file.write_all(text.as_bytes()).and_then(|()| file.set_mode(Mode::Normal))
        });
        if let Err(e) = done {
            // What was not there before is not left half there.
            written.iter().for_each(|path| drop(SystemDisk.remove_file(path)));
            return Err(wrong(&path, e));
        }
    }
    if !volume.quiet {
        let names = quoted(FILES.iter().map(|(name, _)| name), usize::MAX);
        errln!("wrote {names} to {}", args.dir.display());
        let here = args.dir == Path::new(".");
        let cd = if here { String::new() } else { format!("cd {} && ", args.dir.display()) };
        errln!("run it: {cd}headstart run first.pllm");
    }
    Ok(())
}

fn wrong(path: &Path, e: std::io::Error) -> CommandError {
    match e.kind() {
        ErrorKind::AlreadyExists => CommandError::input(format!("{} already exists", path.display())),
        _ => DiskError::at("write", path)(e).into(),
    }
}
