//! The `headstart-device` binary: the command line over the built-in stages.

use headstart_builtin::backend::Choice;
use headstart_device::cli::Built;
use headstart_protocol::Stage;

fn main() -> std::process::ExitCode {
    if let Some(code) = headstart_worker::serve_if_asked(worker_stages) {
        return code;
    }
    if let Some(code) = headstart_host::supervise_if_asked() {
        return code;
    }
    headstart_device::cli::main(|backend| {
        let choice = backend.map_or(Ok(Choice::default()), str::parse)?;
        let stages = headstart_builtin::stages(choice.open().map_err(|e| e.to_string())?);
        Ok(Built {
            stages,
            backend: choice.to_string(),
            read: vec![headstart_builtin::hub_cache().root().to_owned()],
        })
    })
}

/// The stages of a worker process, over a backend by name. What they log goes to their runner.
fn worker_stages(backend: &str) -> Result<Vec<Box<dyn Stage>>, String> {
    headstart_console::log::start("warn");
    Ok(headstart_builtin::stages(backend.parse::<Choice>()?.open().map_err(|e| e.to_string())?))
}
