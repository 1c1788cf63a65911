//! The `headstart-device` binary: the command line over the built-in stages.

fn main() -> std::process::ExitCode {
    headstart_device::cli::main(|| headstart_builtin::stages(headstart_lm::default_backend()))
}
