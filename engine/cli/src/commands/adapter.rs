//! `headstart adapter`: LoRA adapters from one format to another.

use headstart_lm::lora::{is_mlx, mlx_to_peft, peft_to_mlx};

use crate::args::{AdapterCommand, AdapterFormat, ConvertAdapter};
use crate::exit::CommandError;

/// Runs the command.
pub fn run(command: &AdapterCommand) -> Result<(), CommandError> {
    let AdapterCommand::Convert(args) = command;
    convert(args)
}

fn convert(args: &ConvertAdapter) -> Result<(), CommandError> {
    let ConvertAdapter { from, out, to } = args;
    let name = match to {
        AdapterFormat::Mlx => "mlx-lm's",
        AdapterFormat::Peft => "PEFT's",
    };
    if is_mlx(from) == (*to == AdapterFormat::Mlx) {
        let message = format!("{} is in {name} format already, or holds no adapter", from.display());
        return Err(CommandError::input(message).help("name the folder that holds adapter_config.json"));
    }
    if out.exists() {
        return Err(CommandError::input(format!("{} exists already", out.display())));
    }
    let done = match to {
        AdapterFormat::Mlx => peft_to_mlx(from, out),
        AdapterFormat::Peft => mlx_to_peft(from, out),
    };
    done.map_err(CommandError::input)?;
    eprintln!("wrote {} in {name} format", out.display());
    Ok(())
}
