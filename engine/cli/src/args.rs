//! The command line.

mod cache;
mod devices;
mod page;
mod runs;
mod schedules;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use headstart_builtin::backend::Choice;
use headstart_console::generate::Shell;
use headstart_console::{ColorWhen, LogFormat, exit};
use headstart_driver::EngineOptions;
use headstart_host::Limits;

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

pub use cache::{Cache, CacheCommand, Gc, Pin, Unpin};
pub use devices::{DEFAULT_URL, DevicesCommand, Invite};
pub use page::{Logs, PageArgs, TokenRole, TokensCommand};
pub use runs::{Runs, RunsCommand};
pub use schedules::{Backfill, Moment, SchedulesCommand};

/// Headstart: a declarative workflow engine for LLM personalization.
#[derive(Parser)]
#[command(
    name = "headstart",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = exit::TABLE
)]
pub struct Cli {
    /// Folder of runs, artifacts and the cache. By default the nearest `.headstart`, in the pipeline
    /// file's folder or above; commands without a file search from the current folder. `run` and
    /// `serve` create it beside the pipeline file if there is none.
    #[arg(long, global = true, env = "HEADSTART_WORKSPACE", value_name = "DIR", help_heading = GLOBAL)]
    pub workspace: Option<PathBuf>,
    /// Backend that models run on: cpu, cpu:bf16 (products of bf16 weights in bf16), mlx (Apple devices),
    /// cuda, cuda:1 and so on, or metal, of which only those that this command was built with can be used.
    /// By default the best of them in f32.
    #[arg(long, global = true, env = "HEADSTART_BACKEND", value_name = "NAME", default_value_t, help_heading = GLOBAL)]
    pub backend: Choice,
    /// When to use colours.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, help_heading = GLOBAL)]
    pub color: ColorWhen,
    /// How messages on standard error are written.
    #[arg(long, global = true, value_enum, env = "HEADSTART_LOG_FORMAT", value_name = "FORMAT", default_value_t, help_heading = GLOBAL)]
    pub log: LogFormat,
    /// Print more: `-v` each stage instance and notes, `-vv` also debug messages.
    #[arg(long, short, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = GLOBAL)]
    pub verbose: u8,
    /// Print only warnings and errors, and what `--format json` gives.
    #[arg(long, short, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Write a first pipeline with sample data, ready to run.
    Init(Init),
    /// Check a pipeline file and report every error in it.
    Check(Check),
    /// Format pipeline files.
    Fmt(Fmt),
    /// Show what a run would do, and why.
    Plan(PlanArgs),
    /// Run a pipeline.
    Run(Run),
    /// Explain why a stage ran again, or did not.
    Why(Why),
    /// Write the declaration of a custom stage, as its program describes it.
    Describe(Describe),
    /// Draw a pipeline as a graph.
    Graph(Graph),
    /// List runs, show one and why it failed, or remove runs.
    Runs(Runs),
    /// Show the catalog of a run.
    Catalog(Catalog),
    /// Show, clear or collect the cache, and pin results.
    Cache(Cache),
    /// Read the whole workspace and say what of it is damaged.
    Verify(Verify),
    /// Remove what is damaged, so that it is made again, and cut damaged event logs.
    Repair(Verify),
    /// Convert LoRA adapters between formats.
    #[command(subcommand)]
    Adapter(AdapterCommand),
    /// Convert models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Invite, approve, list and revoke the devices that may join.
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Run pipelines on their schedules, and serve devices.
    Serve(Serve),
    /// List and explain schedules; pause, resume, run and backfill them.
    #[command(subcommand)]
    Schedules(SchedulesCommand),
    /// Make, list and revoke the tokens with which people and programs sign in to the page of `headstart serve`.
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Print the secret with which calls of a webhook, or notifications, are signed.
    Webhook {
        /// The webhook, as in `webhook: "new-data"` of a schedule.
        #[arg(value_name = "NAME", required_unless_present = "notifications")]
        name: Option<String>,
        /// The secret of `serve --notify-url`.
        #[arg(long, conflicts_with = "name")]
        notifications: bool,
    },
    /// Print what a stage has written while it ran.
    Logs(Logs),
    /// Start the language server, for editors, on standard input and output.
    Lsp,
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page, or write those of all commands.
    Man(Man),
}

/// A pipeline file and its parameters.
#[derive(Args, Clone)]
pub struct Pipeline {
    /// The pipeline file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub values: Values,
}

/// Values of parameters.
#[derive(Args, Clone, Default)]
pub struct Values {
    /// The value of a parameter; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// A JSON file with an object of parameter values; `--set` overrides it.
    #[arg(long, value_name = "FILE")]
    pub params: Option<PathBuf>,
}

/// What custom stages may do.
#[derive(Args, Clone, Copy)]
pub struct CustomStages {
    /// Run custom stages with all your rights: they can read what you can read and use the network.
    /// By default they see only what they are given (Linux).
    #[arg(long)]
    unconfined_stages: bool,
}

impl CustomStages {
    /// As their runner takes it.
    pub fn limits(self) -> Limits {
        Limits { confined: !self.unconfined_stages, ..Limits::default() }
    }
}

/// How much runs at once.
#[derive(Args, Clone, Copy)]
pub struct Jobs {
    /// Stages that run at once on this machine, as far as their threads and memory allow. By default one for each
    /// processor, and at most one for each GiB of memory.
    #[arg(long, short, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,
}

impl Jobs {
    /// As the engine takes it.
    pub fn options(self) -> EngineOptions {
        EngineOptions {
            jobs: self.jobs.map(std::num::NonZeroUsize::get),
            memory: headstart_worker::memory_for_stages(),
            ..EngineOptions::default()
        }
    }
}

/// An address with its port.
fn address(text: &str) -> Result<std::net::SocketAddr, &'static str> {
    text.parse().map_err(|_| "it takes an IP address and a port, such as 127.0.0.1:7878")
}

/// `headstart init`
#[derive(Args)]
pub struct Init {
    /// The folder to write into; created if it does not exist. Nothing in it is overwritten.
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// `headstart man`
#[derive(Args)]
pub struct Man {
    /// Write a page for each command into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `headstart check`
#[derive(Args)]
pub struct Check {
    /// The pipeline file.
    #[arg(value_name = "FILE", required_unless_present = "explain")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub values: Values,
    /// Explain a diagnostic code, such as E0101.
    #[arg(long, value_name = "CODE")]
    pub explain: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart fmt`
#[derive(Args)]
pub struct Fmt {
    /// The files; `-` reads standard input and writes standard output.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Write nothing; fail if a file is not formatted.
    #[arg(long)]
    pub check: bool,
}

/// `headstart plan`
#[derive(Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Plan only these and what they need: stages, instances, outputs or modules; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart run`
#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Address at which devices can join, such as 0.0.0.0:7878 for those of other machines. Opened only if
    /// the pipeline places stages on devices.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7878", value_parser = address)]
    pub listen: std::net::SocketAddr,
    /// Serve devices without TLS. Anybody on the way can read what crosses; devices need the same flag. For
    /// a recording proxy in a test.
    #[arg(long)]
    pub insecure_plaintext: bool,
    /// How long to wait for a device that has not joined, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub device_wait: u64,
    /// Write every output into this folder when the run has succeeded.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write a self-contained HTML report.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Run only these and what they need: stages, instances, outputs or modules; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Resume this run. Without it, the latest interrupted or cancelled run of the same plan is resumed, if its
    /// sources have not changed.
    #[arg(long, value_name = "RUN", conflicts_with = "only")]
    pub resume: Option<String>,
    /// Start a new run, also where one could be resumed.
    #[arg(long, conflicts_with = "resume")]
    pub fresh: bool,
    #[command(flatten)]
    pub jobs: Jobs,
    #[command(flatten)]
    pub custom: CustomStages,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart why`
#[derive(Args)]
pub struct Why {
    /// The stage: `said`, or `said["friendly"]`.
    #[arg(value_name = "STAGE")]
    pub stage: String,
    /// The run, or a unique prefix of its id. By default the latest that has the stage.
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// The run to compare with. By default the last one before of the same pipeline that has the stage.
    #[arg(long, value_name = "RUN")]
    pub against: Option<String>,
}

/// `headstart describe`
#[derive(Args)]
pub struct Describe {
    /// The programs. The declaration of `tools.py` is `tools.stages.json` beside it.
    #[arg(value_name = "PROGRAM", required_unless_present = "sdk")]
    pub programs: Vec<PathBuf>,
    /// Write nothing; fail if a declaration is out of date.
    #[arg(long)]
    pub check: bool,
    /// Write declarations to standard output instead.
    #[arg(long, conflicts_with = "check")]
    pub print: bool,
    /// Write the Python SDK to standard output: one file, kept beside your programs.
    #[arg(long, conflicts_with_all = ["programs", "check", "print"])]
    pub sdk: bool,
    #[command(flatten)]
    pub custom: CustomStages,
}

/// `headstart graph`
#[derive(Args)]
pub struct Graph {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Output format.
    #[arg(long = "as", value_enum, default_value_t)]
    pub notation: Notation,
}

/// `headstart catalog`
#[derive(Args)]
pub struct Catalog {
    /// What to show. By default all pLLMs are listed.
    #[command(subcommand)]
    pub command: Option<CatalogCommand>,
    /// The run, or a unique prefix of its id. By default the latest with a catalog.
    #[arg(long, value_name = "RUN", global = true)]
    pub run: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t, global = true)]
    pub format: Format,
}

/// What to show of a catalog.
#[derive(Subcommand)]
pub enum CatalogCommand {
    /// Explain a pLLM: its style in words, answers beside its base's, and its provenance.
    Show {
        /// The pLLM.
        name: String,
    },
    /// Find the pLLMs nearest to a pLLM, or to texts of a user.
    Nearest {
        /// A pLLM, or a JSON Lines file whose rows have `prompt` and `response`.
        #[arg(value_name = "NAME|FILE")]
        what: String,
        /// Number of pLLMs to show.
        #[arg(long, default_value = "5")]
        count: std::num::NonZeroUsize,
    },
}

/// `headstart verify` and `headstart repair`
#[derive(Args)]
pub struct Verify {
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart adapter`
#[derive(Subcommand)]
pub enum AdapterCommand {
    /// Convert an adapter to another format.
    Convert(ConvertAdapter),
}

/// `headstart adapter convert`
#[derive(Args)]
pub struct ConvertAdapter {
    /// The adapter's folder.
    #[arg(value_name = "IN")]
    pub from: PathBuf,
    /// The folder to write, which must not exist yet.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// The format to write.
    #[arg(long, value_enum)]
    pub to: AdapterFormat,
}

/// Format of an adapter.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum AdapterFormat {
    /// PEFT's: adapter_model.safetensors and its configuration.
    Peft,
    /// mlx-lm's: adapters.safetensors and its configuration.
    Mlx,
}

/// `headstart model`
#[derive(Subcommand)]
pub enum ModelCommand {
    /// Quantize the weights of a model; writes a folder with a GGUF file.
    Quantize(Quantize),
}

/// `headstart model quantize`
#[derive(Args)]
pub struct Quantize {
    /// The model's folder.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The folder to write, which must not exist yet.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Format of the weights.
    #[arg(long, value_enum, default_value_t)]
    pub to: WeightPacking,
}

/// How weights are packed.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightPacking {
    /// 8.5 bits per weight; close to the original.
    #[default]
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits per weight, 6.6 in the output layer.
    #[value(name = "q4_k")]
    Q4K,
}

/// `headstart serve`
#[derive(Args)]
pub struct Serve {
    /// Pipeline files, or folders of them. They are read again whenever they change.
    #[arg(value_name = "FILE|FOLDER", required = true)]
    pub pipelines: Vec<PathBuf>,
    #[command(flatten)]
    pub values: Values,
    /// Address at which devices can join, such as 0.0.0.0:7878 for those of other machines.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7878", value_parser = address)]
    pub listen: std::net::SocketAddr,
    /// Serve devices without TLS. Anybody on the way can read what crosses; devices need the same flag. For
    /// a recording proxy in a test.
    #[arg(long)]
    pub insecure_plaintext: bool,
    /// Run every schedule once at start.
    #[arg(long)]
    pub now: bool,
    /// Post what happens to runs of schedules to this address, signed: failures, recoveries, new catalogs. May be
    /// repeated. The variable keeps an address that holds a secret out of the list of processes.
    #[arg(long, value_name = "URL", env = "HEADSTART_NOTIFY_URL", hide_env_values = true)]
    pub notify_url: Vec<String>,
    /// Run this program when something happens to runs of schedules, with the same on standard input. May be repeated.
    #[arg(long, value_name = "PROGRAM")]
    pub notify_command: Vec<PathBuf>,
    #[command(flatten)]
    pub page: PageArgs,
    #[command(flatten)]
    pub jobs: Jobs,
    #[command(flatten)]
    pub custom: CustomStages,
}

/// Form of data on standard output.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Format of a graph.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum Notation {
    /// Mermaid.
    #[default]
    Mermaid,
    /// Graphviz DOT.
    Dot,
    /// SVG.
    Svg,
}
