//! `headstart cache`: what the workspace takes up, with its database brought up to date; clearing and collecting.

mod gc;
mod pins;

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_driver::{KeepRules, complete_index, survey};
use headstart_protocol::text::{bytes, counted, grouped, plural};
use headstart_store::Workspace;
use headstart_store::gc::{Collection, choose};

use crate::Volume;
use crate::args::{Cache, CacheCommand, Format};
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
/// If the cache cannot be cleared or collected, or something cannot be pinned.
pub fn run(ws: &Workspace, args: &Cache, volume: Volume) -> Result<(), CommandError> {
    match &args.command {
        Some(CacheCommand::Gc(args)) => return gc::run(ws, args, volume),
        Some(CacheCommand::Pin(args)) => return pins::pin(ws, args, volume),
        Some(CacheCommand::Unpin(args)) => return pins::unpin(ws, args, volume),
        None => {}
    }
    if args.clear {
        ws.cache().clear().map_err(CommandError::input)?;
        if !volume.quiet {
            errln!("cleared every cached stage and row; the next run computes them again");
        }
        return Ok(());
    }
    // What ended while another process had the database is added to it now.
    if let Err(why) = complete_index(ws) {
        errln!("{}: the database is not up to date: {why}", paint(Ink::Warning, "warning"));
    }
    let size = ws.size();
    let pinned = ws.pins()?.len() as u64;
    match args.format {
        Format::Json => outln!(
            "{}",
            serde_json::json!({
                "runs": size.runs, "run_bytes": size.run_bytes, "blobs": size.blobs,
                "blob_bytes": size.blob_bytes, "manifests": size.manifests, "cache_bytes": size.cache_bytes,
                "pinned": pinned, "unused_bytes": unused(ws).map(|c| c.freed),
            })
        )?,
        Format::Text => {
            let line = |n: u64, what: &str, size: &str| {
                format!("{:>8} {:<10} {size}", grouped(n), plural(n, what)).trim_end().to_owned()
            };
            let (runs, files) = (bytes(size.run_bytes), bytes(size.blob_bytes));
            outln!("{}", line(size.runs, "run", &format!("{runs:>9}  plans and logs")))?;
            outln!("{}", line(size.manifests, "artifact", ""))?;
            outln!("{}", line(size.blobs, "file", &format!("{files:>9}  of artifacts, each stored once")))?;
            let at = ws.cache().path().display();
            outln!("{:>8} {:<10} {:>9}  {at}", "", "cache", bytes(size.cache_bytes))?;
            if pinned > 0 {
                outln!("{}", line(pinned, "pin", ""))?;
            }
            if let Some(unused) = unused(ws).filter(|unused| unused.freed > 0) {
                let artifacts = counted(unused.artifacts.len(), "artifact");
                errln!(
                    "{}: no run names {artifacts} and {}, {}: `headstart cache gc` removes them",
                    paint(Ink::Help, "note"),
                    counted(unused.blobs.len(), "file"),
                    bytes(unused.freed)
                );
            }
        }
    }
    Ok(())
}

/// What no run names; `None` where that cannot be found out, because a run cannot be read.
fn unused(ws: &Workspace) -> Option<Collection> {
    let survey = survey(ws, KeepRules::default(), 0).ok()?;
    Some(choose(&ws.inventory().ok()?, &survey.named(), &Default::default(), None))
}
