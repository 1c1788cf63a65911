//! `headstart cache`: what the workspace takes up, and forgetting it.

use headstart_store::Workspace;

use crate::args::{Cache, Format};
use crate::exit::CommandError;

/// Runs the command.
pub fn run(ws: &Workspace, args: &Cache) -> Result<(), CommandError> {
    if args.clear {
        ws.cache().clear().map_err(CommandError::input)?;
        eprintln!("forgot every cached stage and row; the next run computes them again");
        return Ok(());
    }
    let size = ws.size();
    match args.format {
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "runs": size.runs, "run_bytes": size.run_bytes, "blobs": size.blobs,
                "blob_bytes": size.blob_bytes, "manifests": size.manifests, "cache_bytes": size.cache_bytes,
            })
        ),
        Format::Text => {
            let mib = |b: u64| b as f64 / (1 << 20) as f64;
            println!("{:>8} runs       {:>9.1} MiB of plans and logs", size.runs, mib(size.run_bytes));
            println!("{:>8} files      {:>9.1} MiB by content", size.blobs, mib(size.blob_bytes));
            println!("{:>8} artifacts", size.manifests);
            println!(
                "{:>8} cache      {:>9.1} MiB in {}",
                "",
                mib(size.cache_bytes),
                ws.cache().path().display()
            );
        }
    }
    Ok(())
}
