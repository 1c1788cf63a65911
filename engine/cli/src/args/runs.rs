//! The arguments of `headstart runs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;

/// `headstart runs`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Runs {
    /// What to do with runs. By default they are shown.
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// The run to show, or a unique prefix of its id. By default all runs are listed.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Print what `headstart run` printed while the run was running.
    #[arg(long, requires = "run")]
    pub replay: bool,
    /// Have a failed or quarantined stage tried again when the run is resumed: `said`, or `said["friendly"]`.
    #[arg(long, value_name = "STAGE", requires = "run", conflicts_with_all = ["replay", "report"])]
    pub retry: Vec<String>,
    /// Write a self-contained HTML report of the run.
    #[arg(long, value_name = "FILE", requires = "run")]
    pub report: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What to do with runs.
#[derive(Subcommand)]
pub enum RunsCommand {
    /// Remove runs: their plans, logs and what their custom stages printed. Their results stay until
    /// `headstart cache gc`.
    Rm {
        /// The runs, or unique prefixes of their ids.
        #[arg(value_name = "RUN", required = true)]
        runs: Vec<String>,
    },
}
