//! The `headstart` command: rendering and exit codes; everything else is below.
//!
//! Data goes to standard output, everything else to standard error. Exit codes are those of
//! [`headstart_console::exit`].
//!
//! # Layout
//! - [`args`]: the command line. [`exit`]: how it ends.
//! - [`workspace`]: which workspace a command uses.
//! - [`loader`]: pipeline files. [`params`]: values of their parameters.
//! - [`commands`]: one module a command.
//! - [`recorded`]: runs, read from their logs. [`manifests`]: what an expression over artifacts needs.
//! - [`display`]: a run while it is running. [`waits`]: what it waits for. [`summary`]: a run that has
//!   ended. [`export`]: its outputs as files.
//! - [`listen`]: the port at which devices join. [`stop`]: signals.

// One writer: `headstart_console`. The others panic when a pipe is closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod commands;
mod display;
mod exit;
mod export;
#[cfg(test)]
mod full_disk;
mod hub_models;
mod listen;
mod loader;
mod manifests;
mod params;
mod recorded;
mod stop;
mod summary;
mod waits;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use headstart_builtin::backend::Choice;
use headstart_console::{color, generate, log, say};
use headstart_protocol::Stage;

use crate::args::{Cli, Command};
use crate::exit::CommandError;
use crate::workspace::Location;

/// Checking a long file makes and drops many small trees: it takes a quarter less time with this.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = headstart_worker::serve_if_asked(worker_stages) {
        return code;
    }
    if let Some(code) = headstart_host::supervise_if_asked() {
        return code;
    }
    let given: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    color::set_from(given.iter().skip(1).map(String::as_str));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_parsed(&e),
    };
    headstart_console::set_log_format(cli.log);
    log::start(log::level("warn", cli.verbose, false));
    let result = dispatch(&cli);
    // Stages may still run, after a second Ctrl-C: their programs must not outlive the command.
    headstart_host::kill_all();
    match result {
        Ok(code) => code,
        Err(e) => e.report(),
    }
}

/// The stages of a worker process, over a backend by name. What they log goes to their runner.
fn worker_stages(backend: &str) -> Result<Vec<Box<dyn Stage>>, String> {
    log::start("warn");
    let backend = backend.parse::<Choice>()?.open().map_err(|e| e.to_string())?;
    Ok(headstart_builtin::stages(backend))
}

/// Help and the version are results; anything else is an error in the command line.
fn not_parsed(e: &clap::Error) -> ExitCode {
    let text = e.render().ansi().to_string();
    if e.use_stderr() {
        say(text.trim_end());
        return ExitCode::from(exit::INPUT);
    }
    match headstart_console::print(&text) {
        Ok(()) => ExitCode::from(exit::SUCCESS),
        Err(e) => CommandError::from(e).report(),
    }
}

/// How much a command prints on standard error.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Only results, warnings and errors.
    pub quiet: bool,
    /// Each stage instance.
    pub verbose: bool,
}

fn dispatch(cli: &Cli) -> Result<ExitCode, CommandError> {
    let volume = Volume { quiet: cli.quiet, verbose: cli.verbose > 0 };
    let named = cli.workspace.as_deref();
    let place = |file| Location::new(named, file, cli.quiet);
    let done = |result: Result<(), CommandError>| result.map(|()| ExitCode::from(exit::SUCCESS));
    match &cli.command {
        Command::Init(args) => done(commands::init::run(args, volume)),
        Command::Check(args) => done(commands::check::check(args, volume)),
        Command::Fmt(args) => done(commands::check::fmt(args, volume)),
        Command::Describe(args) => done(commands::describe::run(args, volume)),
        Command::Graph(args) => done(commands::graph::run(args)),
        Command::Plan(args) => {
            done(commands::plan::run(&place(Some(&args.pipeline.file)), cli.backend, args))
        }
        Command::Run(args) => {
            commands::run::run(&place(Some(&args.pipeline.file)), cli.backend, args, volume)
        }
        Command::Devices(command) => done(commands::devices::run(&place(None), command, volume)),
        Command::Serve(args) => {
            // A folder's workspace lies in the folder.
            let first = args.pipelines.first().map(|p| if p.is_dir() { p.join("_") } else { p.clone() });
            done(commands::serve::run(&place(first.as_deref()), cli.backend, args, volume))
        }
        Command::Schedules(command) => {
            done(commands::schedules::run(&place(None).existing()?, command, volume))
        }
        Command::Tokens(command) => done(commands::tokens::run(&place(None), command, volume)),
        Command::Webhook { name, .. } => {
            done(commands::tokens::webhook(&place(None).existing()?, name.as_deref()))
        }
        Command::Logs(args) => done(commands::logs::run(&place(None).existing()?, args)),
        Command::Why(args) => done(commands::why::run(&place(None).existing()?, args)),
        Command::Runs(args) => done(commands::runs::run(&place(None).existing()?, args, volume)),
        Command::Catalog(args) => done(commands::catalog::run(&place(None).existing()?, args)),
        Command::Cache(args) => done(commands::cache::run(&place(None).existing()?, args, volume)),
        Command::Verify(args) => commands::verify::verify(&place(None).existing()?, args, volume),
        Command::Repair(args) => commands::verify::repair(&place(None).existing()?, args, volume),
        Command::Adapter(command) => done(commands::adapter::run(command, volume)),
        Command::Model(command) => done(commands::model::run(command, volume)),
        Command::Lsp => done(commands::lsp::run()),
        Command::Completions { shell } => {
            done(generate::completions(Cli::command(), *shell).map_err(Into::into))
        }
        Command::Man(args) => done(commands::man::run(args, volume)),
    }
}
