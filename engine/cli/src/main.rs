//! The `headstart` command: rendering and exit codes; everything else is below.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 well, 1 the run
//! failed, 2 the input is wrong, 3 a defect in Headstart.
//!
//! # Layout
//! - [`args`]: the command line. [`exit`]: how it ends.
//! - [`loader`]: pipeline files and parameters.
//! - [`commands`]: one module a command.
//! - [`display`]: a run while it goes on. [`waits`]: what it waits for. [`summary`]: a run that has ended.
//! - [`listen`]: the port at which devices join. [`stop`]: signals.

mod args;
mod commands;
mod display;
mod exit;
mod listen;
mod loader;
mod stop;
mod summary;
mod waits;

use std::process::ExitCode;

use clap::Parser;
use headstart_store::Workspace;

use crate::args::{Cli, Command};
use crate::exit::CommandError;

/// Checking a long file makes and drops many small trees: it takes a quarter less time with this.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::INPUT } else { exit::OK });
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("HEADSTART_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .without_time()
        .init();
    let result = dispatch(&cli);
    // Stages may still run, after a second Ctrl-C: their programs must not outlive the command.
    headstart_host::kill_all();
    match result {
        Ok(code) => code,
        Err(e) => e.report(),
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode, CommandError> {
    let ws = || Workspace::open(&cli.workspace).map_err(CommandError::from);
    let done = |result: Result<(), CommandError>| result.map(|()| ExitCode::from(exit::OK));
    match &cli.command {
        Command::Check(args) => done(commands::check::check(args)),
        Command::Fmt(args) => done(commands::check::fmt(args)),
        Command::Describe(args) => done(commands::describe::run(args)),
        Command::Graph(args) => done(commands::graph::run(args)),
        Command::Plan(args) => done(commands::plan::run(ws()?, cli.backend, args)),
        Command::Run(args) => commands::run::run(ws()?, cli.backend, args),
        Command::Why(args) => done(commands::why::run(&ws()?, args)),
        Command::Runs(args) => done(commands::runs::run(&ws()?, args)),
        Command::Catalog(args) => done(commands::catalog::run(&ws()?, args)),
        Command::Cache(args) => done(commands::cache::run(&ws()?, args)),
        Command::Adapter(command) => done(commands::adapter::run(command)),
        Command::Model(command) => done(commands::model::run(command)),
        Command::Serve(args) => done(commands::serve::run(ws()?, cli.backend, args)),
        Command::Lsp => done(commands::lsp::run()),
    }
}
