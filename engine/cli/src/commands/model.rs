//! `headstart model`: converts models.

use std::path::Path;

use headstart_console::errln;
use headstart_disk::SystemDisk;
use headstart_lm::gguf::{QuantType, quantize};
use headstart_protocol::text::bytes;

use crate::Volume;
use crate::args::{ModelCommand, Quantize, WeightPacking};
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
/// If the model cannot be read or converted, or the result cannot be written.
pub fn run(command: &ModelCommand, volume: Volume) -> Result<(), CommandError> {
    let ModelCommand::Quantize(Quantize { model, out, to }) = command;
    if out.exists() {
        let why = format!("{} already exists", out.display());
        return Err(CommandError::input(why).help("name a folder that does not exist yet"));
    }
    let to = match to {
        WeightPacking::Q8_0 => QuantType::Q8_0,
        WeightPacking::Q4K => QuantType::Q4K,
    };
    quantize(&SystemDisk, model, out, to)?;
    if !volume.quiet {
        errln!("wrote {}: {}, from {}", out.display(), bytes(size(out)), bytes(size(model)));
    }
    Ok(())
}

/// Bytes of a folder's files.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}
