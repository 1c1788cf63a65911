//! `headstart check` and `fmt`: commands without a workspace.

use std::path::Path;

use headstart_console::{errln, outln, print, say};
use headstart_disk::{SystemDisk, read};
use headstart_dsl::plan::Plan;
use headstart_protocol::text::{counted, quoted};

use crate::Volume;
use crate::args::{Check, Fmt, Format};
use crate::exit::{CommandError, INPUT};
use crate::loader;

/// `headstart check`
///
/// # Errors
/// If the file has errors or cannot be read, or the result cannot be written.
pub fn check(args: &Check, volume: Volume) -> Result<(), CommandError> {
    if let Some(code) = &args.explain {
        let page = headstart_dsl::explain(code).ok_or_else(|| {
            let help = headstart_dsl::similar_code(code).map(|c| format!("did you mean `{c}`?"));
            CommandError::input(format!("there is no diagnostic `{code}`"))
                .help(help.unwrap_or_else(|| "codes look like E0101 or W0003".to_owned()))
        })?;
        return Ok(print(&without_fences(page))?);
    }
    let file = args.file.as_deref().unwrap_or(Path::new(""));
    let checked = loader::check_module(file, &args.values)?;
    match args.format {
        Format::Json => outln!("{}", headstart_dsl::to_json(&checked.diagnostics, &checked.sources))?,
        Format::Text => loader::print_diagnostics(&checked, loader::Notes::of(volume)),
    }
    match &checked.plan {
        None if !checked.has_errors() => {
            if args.format == Format::Text && !volume.quiet {
                errln!("{}: {}", file.display(), describe_open(&checked.open));
            }
            Ok(())
        }
        None => Err(CommandError::silent(INPUT)),
        Some(plan) if args.format == Format::Text && !volume.quiet => {
            errln!("{}: {}", file.display(), describe(plan));
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

/// A page for a terminal: examples are indented instead of fenced.
fn without_fences(page: &str) -> String {
    let mut fenced = false;
    let mut out = String::new();
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced && !line.is_empty() {
            out.push_str("    ");
            out.push_str(line);
            out.push('\n');
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// A module: its diagnostics were printed already.
fn describe_open(open: &[String]) -> String {
    format!("ok, as a module: the file that imports it must give {}", quoted(open, usize::MAX))
}

fn describe(plan: &Plan) -> String {
    let devices = plan.devices();
    let places = match devices.len() {
        0 => String::new(),
        _ => format!("; on the server and on {}", devices.join(", ")),
    };
    let items = counted(plan.items.len() as u64, "item");
    format!("ok ({items}, {}{places})", counted(plan.instances.len() as u64, "stage instance"))
}

/// `headstart fmt`: a file with errors stays as it is, and the others are formatted.
///
/// # Errors
/// If a file cannot be read, has errors, or cannot be written; with `--check`, if one is not formatted.
pub fn fmt(args: &Fmt, volume: Volume) -> Result<(), CommandError> {
    let (mut unformatted, mut broken) = (Vec::new(), false);
    for file in &args.files {
        let text = read(file)?;
        let formatted = match headstart_dsl::format(&text) {
            Ok(formatted) => formatted,
            Err(diagnostics) => {
                let mut sources = headstart_dsl::Sources::default();
                sources.add(&file.to_string_lossy(), &text);
                say(headstart_dsl::render(&diagnostics, &sources, true).trim_end());
                broken = true;
                continue;
            }
        };
        if args.check {
            if formatted != text {
                unformatted.push(file.display().to_string());
            }
        } else if file == Path::new("-") {
            print(&formatted)?;
        } else if formatted != text {
            headstart_disk::files::replace(&SystemDisk, file, formatted.as_bytes())?;
            if !volume.quiet {
                errln!("formatted {}", file.display());
            }
        }
    }
    match unformatted.as_slice() {
        _ if broken => Err(CommandError::silent(INPUT)),
        [] => Ok(()),
        files => Err(CommandError::failed(format!("not formatted: {}", files.join(", ")))
            .help("`headstart fmt FILE` formats them")),
    }
}

fn read(file: &Path) -> Result<String, CommandError> {
    if file == Path::new("-") {
        return read::stream_text(std::io::stdin(), read::PIPELINE)
            .map_err(|e| CommandError::input(format!("standard input: {e}")));
    }
    read::text(file, read::PIPELINE).map_err(|e| CommandError::input(format!("{}: {e}", file.display())))
}
