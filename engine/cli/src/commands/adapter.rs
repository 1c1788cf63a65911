//! `headstart adapter`: LoRA adapters from one format to another.

use headstart_console::errln;
use headstart_disk::SystemDisk;
use headstart_lm::lora::{is_mlx, mlx_to_peft, peft_to_mlx};

use crate::Volume;
use crate::args::{AdapterCommand, AdapterFormat, ConvertAdapter};
use crate::exit::CommandError;

/// Runs the command.
///
/// # Errors
/// If the adapter cannot be read or converted, or the result cannot be written.
pub fn run(command: &AdapterCommand, volume: Volume) -> Result<(), CommandError> {
    let AdapterCommand::Convert(args) = command;
    convert(args, volume)
}

fn convert(args: &ConvertAdapter, volume: Volume) -> Result<(), CommandError> {
    let ConvertAdapter { from, out, to } = args;
    let name = match to {
        AdapterFormat::Mlx => "mlx-lm's",
        AdapterFormat::Peft => "PEFT's",
    };
    if is_mlx(from) == (*to == AdapterFormat::Mlx) {
        let message = format!("{} is already in {name} format, or is not an adapter", from.display());
        return Err(CommandError::input(message).help("name the folder that has adapter_config.json in it"));
    }
    if out.exists() {
        let why = format!("{} already exists", out.display());
        return Err(CommandError::input(why).help("name a folder that does not exist yet"));
    }
    let done = match to {
        AdapterFormat::Mlx => peft_to_mlx(&SystemDisk, from, out),
        AdapterFormat::Peft => mlx_to_peft(&SystemDisk, from, out),
    };
    done?;
    if !volume.quiet {
        errln!("wrote {} in {name} format", out.display());
    }
    Ok(())
}
