//! The `headstart-device` binary: the command line over the built-in stages.

use headstart_builtin::backend::Choice;

fn main() -> std::process::ExitCode {
    headstart_device::cli::main(|backend| {
        let choice = backend.map_or(Ok(Choice::default()), str::parse)?;
        Ok(headstart_builtin::stages(choice.open().map_err(|e| e.to_string())?))
    })
}
