//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use headstart_builtin::backend::Choice;

/// Headstart: a declarative workflow engine for LLM personalization.
#[derive(Parser)]
#[command(name = "headstart", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Folder of runs, artifacts and the cache.
    #[arg(long, global = true, default_value = ".headstart", value_name = "DIR")]
    pub workspace: PathBuf,
    /// What models run on: cpu, or what is built in of mlx (Apple devices), cuda, cuda:1 and
    /// so on, and metal; left out, the best of those.
    #[arg(long, global = true, env = "HEADSTART_BACKEND", value_name = "NAME", default_value_t)]
    pub backend: Choice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Check a pipeline file and report every mistake in it.
    Check(Check),
    /// Format pipeline files.
    Fmt(Fmt),
    /// Show what a run would do, and why.
    Plan(PlanArgs),
    /// Run a pipeline.
    Run(Run),
    /// Say why a stage ran again, or did not.
    Why(Why),
    /// Ask a program what its custom stages are, and write its declaration.
    Describe(Describe),
    /// Draw a pipeline as a graph.
    Graph(Graph),
    /// List, show and replay runs.
    Runs(Runs),
    /// Look into the catalog of a run.
    Catalog(Catalog),
    /// Show or clear the cache.
    Cache(Cache),
    /// Convert LoRA adapters between formats.
    #[command(subcommand)]
    Adapter(AdapterCommand),
    /// Make other forms of a model.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Keep pipelines fresh on their schedules, and serve devices.
    Serve(Serve),
    /// Serve an editor: the language server, on standard input and output.
    Lsp,
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
    /// A parameter's value; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// A JSON object of parameters' values; `--set` wins over it.
    #[arg(long, value_name = "FILE")]
    pub params: Option<PathBuf>,
}

/// `headstart check`
#[derive(Args)]
pub struct Check {
    /// The pipeline file.
    #[arg(value_name = "FILE", required_unless_present = "explain")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub values: Values,
    /// Explain a code such as E0012.
    #[arg(long, value_name = "CODE")]
    pub explain: Option<String>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart fmt`
#[derive(Args)]
pub struct Fmt {
    /// The files; `-` reads standard input and writes standard output.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Change nothing; fail if a file is not formatted.
    #[arg(long)]
    pub check: bool,
}

/// `headstart plan`
#[derive(Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart run`
#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Address at which devices may join; by default one is opened only if the pipeline places
    /// stages on devices.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7878")]
    pub listen: std::net::SocketAddr,
    /// Seconds to wait for a device that has not joined.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub device_wait: u64,
    /// Write each output's files below this folder, once the run has succeeded.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write a self-contained HTML report.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Only bring these stages up to date, and what they need.
    #[arg(long, value_name = "STAGE")]
    pub only: Vec<String>,
    /// Print one line instead of the summary.
    #[arg(long)]
    pub quiet: bool,
    /// Go on with a run that was cut off.
    #[arg(long, value_name = "RUN", conflicts_with = "only")]
    pub resume: Option<String>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart why`
#[derive(Args)]
pub struct Why {
    /// The stage: `said`, or `said["friendly"]`.
    #[arg(value_name = "STAGE")]
    pub stage: String,
    /// The run; by default the latest. A unique prefix suffices.
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// The run to compare with; by default the one before in which the stage has a key.
    #[arg(long, value_name = "RUN")]
    pub against: Option<String>,
}

/// `headstart describe`
#[derive(Args)]
pub struct Describe {
    /// The programs. `tools.py` gets `tools.stages.json` beside it.
    #[arg(value_name = "PROGRAM", required_unless_present = "sdk")]
    pub programs: Vec<PathBuf>,
    /// Change nothing; fail if a declaration is not up to date.
    #[arg(long)]
    pub check: bool,
    /// Write declarations to standard output instead.
    #[arg(long, conflicts_with = "check")]
    pub print: bool,
    /// Write the Python SDK to standard output: one file, to be kept beside your programs.
    #[arg(long, conflicts_with_all = ["programs", "check", "print"])]
    pub sdk: bool,
}

/// `headstart graph`
#[derive(Args)]
pub struct Graph {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// The notation.
    #[arg(long = "as", value_enum, default_value_t)]
    pub notation: Notation,
}

/// `headstart runs`
#[derive(Args)]
pub struct Runs {
    /// A run to show; a unique prefix suffices. Left out, runs are listed.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Show the run's events as they came.
    #[arg(long, requires = "run")]
    pub replay: bool,
    /// Write a self-contained HTML report of the run.
    #[arg(long, value_name = "FILE", requires = "run")]
    pub report: Option<PathBuf>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart catalog`
#[derive(Args)]
pub struct Catalog {
    /// What to show; left out, all pLLMs are listed.
    #[command(subcommand)]
    pub command: Option<CatalogCommand>,
    /// The run; by default the latest with a catalog.
    #[arg(long, value_name = "RUN", global = true)]
    pub run: Option<String>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t, global = true)]
    pub format: Format,
}

/// What to show of a catalog.
#[derive(Subcommand)]
pub enum CatalogCommand {
    /// Explain a pLLM: its words, answers in which it differs from its base, where it comes from.
    Show {
        /// The pLLM.
        name: String,
    },
    /// Find what is nearest to a pLLM, or to somebody's texts.
    Nearest {
        /// A pLLM, or a JSON Lines file of rows with `prompt` and `response`.
        #[arg(value_name = "NAME|FILE")]
        what: String,
        /// How many to show.
        #[arg(long, default_value = "5")]
        count: std::num::NonZeroUsize,
    },
}

/// `headstart cache`
#[derive(Args)]
pub struct Cache {
    /// Forget every cached stage and row. Runs and artifacts stay.
    #[arg(long)]
    pub clear: bool,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `headstart adapter`
#[derive(Subcommand)]
pub enum AdapterCommand {
    /// Write an adapter in another format.
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
    /// Write a model with quantized weights, as a folder with a GGUF file.
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
    /// How the weights are packed.
    #[arg(long, value_enum, default_value_t)]
    pub to: WeightPacking,
}

/// How weights are packed.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightPacking {
    /// 8.5 bits a weight; hardly to be told from the original.
    #[default]
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight, the output layer 6.6.
    #[value(name = "q4_k")]
    Q4K,
}

/// `headstart serve`
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Address at which devices may join.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7878")]
    pub listen: std::net::SocketAddr,
    /// Run every schedule once at the start.
    #[arg(long)]
    pub now: bool,
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

/// Notation of a graph.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum Notation {
    /// Mermaid, as code forges draw it.
    #[default]
    Mermaid,
    /// Graphviz.
    Dot,
    /// A picture, to paste into a document.
    Svg,
}
