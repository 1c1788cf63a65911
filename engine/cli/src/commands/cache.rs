//! `headstart cache`: what the workspace takes up, with its database brought up to date, and clearing the cache.

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_driver::complete_index;
use headstart_protocol::text::{bytes, grouped, plural};
use headstart_store::Workspace;

use crate::Volume;
use crate::args::{Cache, Format};
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
/// If the cache cannot be cleared.
pub fn run(ws: &Workspace, args: &Cache, volume: Volume) -> Result<(), CommandError> {
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
    match args.format {
        Format::Json => outln!(
            "{}",
            serde_json::json!({
                "runs": size.runs, "run_bytes": size.run_bytes, "blobs": size.blobs,
                "blob_bytes": size.blob_bytes, "manifests": size.manifests, "cache_bytes": size.cache_bytes,
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
        }
    }
    Ok(())
}
