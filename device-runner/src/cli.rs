//! The command line. Data goes to standard output, everything else to standard error.

mod approvals;
mod signals;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use headstart_console::color::{self, ColorWhen, Ink, paint};
use headstart_console::generate::{self, GenerateError, Shell};
use headstart_console::{errln, exit, log, print as put, say};
use headstart_disk::{SystemDisk, files, read};
use headstart_protocol::{Digest, Stage};
use headstart_transport::PublicKey;
use headstart_worker::{Folders, Workers};
use tokio_util::sync::CancellationToken;

use crate::budget::ReleaseLimits;
use crate::contract::Approval;
use crate::error::DeviceError;
use crate::options::{Options, Until};
use crate::pairing::Target;
use crate::residency::Allowed;
use crate::runner;
use crate::state::write_durably;
use crate::{local, show};

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// Bytes that are read of an invitation on standard input.
const LONGEST_INVITATION: u64 = 4096;

/// Runs the stages that are placed on this device, on data that stays here.
#[derive(Parser)]
#[command(
    name = "headstart-device",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = exit::TABLE
)]
struct Cli {
    /// Folder of this device's secret, results and downloads.
    #[arg(long, global = true, default_value = ".headstart-device", value_name = "DIR", help_heading = GLOBAL)]
    state: PathBuf,
    /// Backend that models run on: cpu, cpu:bf16 (products of bf16 weights in bf16), mlx (Apple devices),
    /// cuda, cuda:1 and so on, or metal, of which only those that this command was built with can be used.
    /// By default the best of them in f32.
    #[arg(long, global = true, env = "HEADSTART_BACKEND", value_name = "NAME", help_heading = GLOBAL)]
    backend: Option<String>,
    /// When to use colours.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, help_heading = GLOBAL)]
    color: ColorWhen,
    /// Print debug messages; `-vv` more of them.
    #[arg(long, short, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = GLOBAL)]
    verbose: u8,
    /// Print only results, warnings and errors.
    #[arg(long, short, global = true, help_heading = GLOBAL)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Join an engine and run the stages that it places on this device. The first time with an invitation,
    /// later without: the device stays paired.
    Join(JoinArgs),
    /// Run one task, read as JSON from standard input, on local files, and print its output.
    Run(RunArgs),
    /// Show what only this device knows: your style, the choice, the training. Sends nothing.
    Show(ShowArgs),
    /// Have stages that failed here run again in the next run, quarantined ones too.
    Retry {
        /// Only the stage of this name, as `headstart-device show` prints it; by default all.
        name: Option<String>,
    },
    /// Show which numbers left this device, and how many more may.
    Budget {
        /// Forget what was spent, so that as many numbers may leave again.
        #[arg(long)]
        reset: bool,
    },
    /// Show what may be used over your private data, and what waits for your approval.
    Contract {
        /// Print it as JSON.
        #[arg(long, conflicts_with = "reset")]
        json: bool,
        /// Take back everything that was approved. What the engine proposes next is its first proposal again.
        #[arg(long)]
        reset: bool,
    },
    /// Approve what waits: stages, released fields and models of a run.
    Approve {
        /// The digest of the proposal, as `headstart-device contract` prints it. Without it, show what waits.
        digest: Option<String>,
        /// Also approve this chat template or tokenizer of the proposal, although it may treat texts differently
        /// by what they say. Can be given several times; without a proposal, for a model of this device's own.
        #[arg(long, value_name = "DIGEST")]
        conditional: Vec<Digest>,
    },
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page, or write those of all commands.
    Man {
        /// Write a page for each command into this folder.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct JoinArgs {
    /// An invitation, as `headstart devices invite NAME` prints it, or `-` to read it from standard input;
    /// or the engine's address, such as https://10.0.0.5:7878. Not needed once the device is paired.
    #[arg(value_name = "INVITATION|URL")]
    engine: Option<String>,
    /// This device's name, as in `device("phone")`. With an address only: an invitation holds it.
    #[arg(long, requires = "engine_key")]
    name: Option<String>,
    /// The engine's key, as `headstart devices key` prints it. With an address only: an invitation holds it.
    #[arg(long, value_name = "KEY", requires_all = ["name", "engine"])]
    engine_key: Option<PublicKey>,
    /// Go without TLS to an http:// address. Anybody on the way can read what crosses. The engine needs the
    /// same flag.
    #[arg(long)]
    insecure_plaintext: bool,
    /// Folder at which the pipeline's paths on this device start. Stages can read no other files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Leave the engine after one task, and stop once what was delivered is worked on.
    #[arg(long, conflicts_with = "exit_when_idle")]
    once: bool,
    /// Leave the engine after this many seconds without a new task, and stop once what was delivered is worked on.
    #[arg(long, value_name = "SECONDS")]
    exit_when_idle: Option<u64>,
    /// Conditions that hold, separated by commas, for stages with `only_when`. Mains power (charging) is
    /// detected.
    #[arg(long, value_name = "CONDITIONS", value_delimiter = ',', value_parser = ["charging", "unmetered", "idle"])]
    holds: Vec<String>,
    /// What may leave this device when a pipeline releases it: any of metrics, selection, mix,
    /// pllm (the weights trained on your data), details (counts, and further numbers of a choice),
    /// failures (whether and how stages failed), or none: then private tasks are delivered at once and
    /// worked on later, so that no time tells anything either.
    #[arg(long, value_name = "WHAT", default_value = "metrics,selection,mix")]
    allow_release: Allowed,
    /// Numbers that were computed over fewer rows of your data than this do not leave.
    #[arg(long, value_name = "N", default_value_t = ReleaseLimits::default().min_rows)]
    min_rows: u64,
    /// How many numbers about the data folder may leave in all; `headstart-device budget` shows which did.
    #[arg(long, value_name = "N", default_value_t = ReleaseLimits::default().budget)]
    release_budget: u64,
    /// How much an engine may place on this disk: downloads, public results, and what public stages write while
    /// they run. Less where the disk has no room for both quotas and 1 GiB beside them; decided at the first start.
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "20GiB")]
    disk_quota: u64,
    /// How much private stages may place on this disk: results, progress, and files while they run. At most half
    /// of what the disk has for the device; decided at the first start.
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "10GiB")]
    private_quota: u64,
    /// Who approves what the engine runs over your data: you, with `headstart-device approve` (ask); or, of the
    /// first proposal of the engine, nobody (first): it is taken as it comes, and everything later waits for you.
    #[arg(long, value_enum, value_name = "WHO", default_value_t)]
    approve: Approve,
    /// Have adapters approved too. Without it, an adapter over an approved model may be replaced by another.
    #[arg(long)]
    pin_adapters: bool,
    /// A folder with the program of custom stages, or with a folder for each program, with their
    /// `.stages.json` files. Only these programs run here. On Linux they see only what they are given;
    /// elsewhere they can read what you can read.
    #[arg(long, value_name = "DIR")]
    stages: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

/// Who approves proposals, as the command line says it.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Approve {
    /// The owner.
    #[default]
    Ask,
    /// Of the first, nobody.
    First,
}

#[derive(clap::Args)]
struct RunArgs {
    /// Folder of this device's data. Stages can read nothing outside it.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    limits: Limits,
}

#[derive(clap::Args)]
struct ShowArgs {
    /// Show every message that ever left this device instead.
    #[arg(long)]
    sent: bool,
    /// Write an HTML report with learning curves and pictures, for this device's owner.
    #[arg(long, value_name = "FILE", conflicts_with = "sent")]
    report: Option<PathBuf>,
    /// Show this run only; by default the newest of everything.
    #[arg(long, conflicts_with = "sent")]
    run: Option<String>,
}

#[derive(clap::Args)]
struct Limits {
    /// Memory that stages may use, such as 1GiB.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// Threads that stages may use; by default all.
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

impl Limits {
    fn threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, Into::into)
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("{unit:?} is not a unit; write bytes, KiB, MiB or GiB, as in 1GiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is not an amount; write it as in 1GiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too much"))
}

/// The built-in stages, and what their worker processes need.
pub struct Built {
    /// The stages.
    pub stages: Vec<Box<dyn Stage>>,
    /// The name of their backend.
    pub backend: String,
    /// Public folders outside of the device's that they read: the cache of a model hub.
    pub read: Vec<PathBuf>,
}

/// The whole program, for the stages that are given for a backend's name. Each attempt of them runs in a
/// worker process. Exit codes are those of [`headstart_console::exit`]; 1 also if results could not be
/// delivered.
pub fn main(stages: impl FnOnce(Option<&str>) -> Result<Built, String>) -> ExitCode {
    let given: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    color::set_from(given.iter().skip(1).map(String::as_str));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return not_parsed(&e),
    };
    // What happens on the device is its output, but for `-q`.
    let level =
        if cli.verbose == 0 && !cli.quiet { "info" } else { log::level("warn", cli.verbose + 1, false) };
    log::start(if cli.quiet { "warn" } else { level });
    let stages = |data: &Path| {
        let built = stages(cli.backend.as_deref()).map_err(DeviceError::Input)?;
        let folders = folders(&cli.state, data, built.read)?;
        Ok(headstart_worker::isolate(built.stages, Workers::new(built.backend, folders)))
    };
    let done = match cli.command {
        Command::Join(args) => stages(&args.data).and_then(|stages| join(args, cli.state, stages)),
        Command::Run(args) => stages(&args.data).and_then(|stages| run(&args, &cli.state, stages)),
        Command::Show(args) => show(&args, &cli.state, cli.quiet),
        Command::Retry { name } => approvals::retry(&cli.state, name.as_deref(), cli.quiet),
        Command::Budget { reset } => approvals::budget(&cli.state, reset, cli.quiet),
        Command::Contract { json, reset } => approvals::contract(&cli.state, json, reset, cli.quiet),
        Command::Approve { digest, conditional } => {
            approvals::approve(&cli.state, digest.as_deref(), &conditional, cli.quiet)
        }
        Command::Completions { shell } => {
            generate::completions(Cli::command(), shell).map(|()| 0).map_err(DeviceError::from)
        }
        Command::Man { out } => man(out.as_deref(), cli.quiet),
    };
    // A stage that did not stop in time may have a program.
    headstart_host::kill_all();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => fails(&e),
    }
}

/// What worker processes may touch: of what is private only those whose attempts are.
fn folders(state: &Path, data: &Path, mut read: Vec<PathBuf>) -> Result<Folders, DeviceError> {
    let absolute = |at: &Path| std::path::absolute(at).map_err(|e| DeviceError::state(at, e));
    let (state, data) = (absolute(state)?, absolute(data)?);
    read.push(state.join("public"));
    Ok(Folders {
        read,
        write: vec![state.join("scratch-public"), state.join("resume-public")],
        paths: Vec::new(),
        private_read: vec![state.join("private"), data],
        private_write: vec![state.join("scratch"), state.join("resume")],
    })
}

fn fails(e: &DeviceError) -> ExitCode {
    errln!("{}: {e}", paint(Ink::Error, "error"));
    if let Some(help) = e.help() {
        errln!("  {}: {help}", paint(Ink::Help, "help"));
    }
    ExitCode::from(e.exit_code())
}

/// Help and the version are results; anything else is an error in the command line.
fn not_parsed(e: &clap::Error) -> ExitCode {
    let text = e.render().ansi().to_string();
    if e.use_stderr() {
        say(text.trim_end());
        return ExitCode::from(exit::INPUT);
    }
    match put(&text) {
        Ok(()) => ExitCode::from(exit::SUCCESS),
        Err(e) => fails(&e.into()),
    }
}

fn man(out: Option<&Path>, quiet: bool) -> Result<u8, DeviceError> {
    generate::man(Cli::command(), out).map_err(|e| match e {
        GenerateError::Output(e) => e.into(),
        e @ GenerateError::File { .. } => DeviceError::Input(e.to_string()),
    })?;
    if let Some(out) = out.filter(|_| !quiet) {
        errln!("wrote man pages to {}", out.display());
    }
    Ok(0)
}

fn join(args: JoinArgs, state: PathBuf, stages: Vec<Box<dyn Stage>>) -> Result<u8, DeviceError> {
    let until = match (args.once, args.exit_when_idle) {
        (true, _) => Until::Once,
        (false, Some(s)) => Until::Idle(Duration::from_secs(s)),
        (false, None) => Until::Stopped,
    };
    let options = Options {
        target: target(args.engine.as_deref(), args.name, args.engine_key)?,
        insecure_plaintext: args.insecure_plaintext,
        data: args.data,
        state,
        until,
        holds: args.holds,
        allowed: args.allow_release,
        disk_quota: args.disk_quota,
        private_quota: args.private_quota,
        limits: ReleaseLimits { min_rows: args.min_rows, budget: args.release_budget },
        approval: match args.approve {
            Approve::Ask => Approval::Ask,
            Approve::First => Approval::First,
        },
        pin_adapters: args.pin_adapters,
        stages: args.stages,
        memory: args.limits.memory,
        threads: args.limits.threads(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| DeviceError::Internal(format!("runtime: {e}")))?;
    let stop = CancellationToken::new();
    runtime.spawn(signals::stop_on_signal(stop.clone()));
    let summary = runtime.block_on(runner::run(options, stages, stop));
    // A stage that was left behind must not keep the process alive.
    runtime.shutdown_background();
    Ok(u8::from(summary?.failed > 0))
}

/// Which engine the command line names.
fn target(engine: Option<&str>, name: Option<String>, key: Option<PublicKey>) -> Result<Target, DeviceError> {
    let Some(engine) = engine else { return Ok(Target::Paired) };
    let mut text = engine.to_owned();
    if engine == "-" {
        text = read::stream_text(std::io::stdin(), LONGEST_INVITATION)
            .map_err(|e| DeviceError::Input(format!("standard input: {e}")))?;
    }
    match (text.trim(), name, key) {
        (url, Some(name), Some(key)) if url.contains("://") => {
            Ok(Target::Key { url: url.to_owned(), name, key })
        }
        (url, ..) if url.contains("://") => Err(DeviceError::Input(format!(
            "{url}: an address alone does not say which engine is there; ask for an invitation (`headstart devices \
             invite NAME` on the engine's machine), or name its key with --engine-key KEY and this device with \
             --name NAME"
        ))),
        (_, None, None) => {
            let invitation = text.parse().map_err(|e| DeviceError::Input(format!("{e}")));
            invitation.map(|i| Target::Invitation(Box::new(i)))
        }
        _ => Err(DeviceError::Input(
            "an invitation holds the name and the engine's key: leave them out".into(),
        )),
    }
}

fn run(args: &RunArgs, state: &Path, stages: Vec<Box<dyn Stage>>) -> Result<u8, DeviceError> {
    let text = read::stream_text(std::io::stdin(), read::SETTINGS)
        .map_err(|e| DeviceError::Input(format!("standard input: {e}")))?;
    let limits = (args.limits.threads(), args.limits.memory);
    let made = local::run(&text, &args.data, state, stages, limits)?;
    put(&format!("{made:#}\n"))?;
    Ok(0)
}

fn show(args: &ShowArgs, state: &Path, quiet: bool) -> Result<u8, DeviceError> {
    if let Some(file) = &args.report {
        let page = show::page(state, args.run.as_deref())?;
        write_report(file, &page)?;
        if !quiet {
            errln!("wrote the report {}", file.display());
        }
        return Ok(0);
    }
    let page = if args.sent { show::sent(state)? } else { show::summary(state, args.run.as_deref())? };
    put(&page)?;
    Ok(0)
}

/// Writes the page, whole and readable by its owner only, or not at all.
fn write_report(file: &Path, page: &str) -> Result<(), DeviceError> {
    let write = || {
        let file = std::path::absolute(file).map_err(|e| DeviceError::state(file, e))?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        files::create_dir(&SystemDisk, folder)?;
        write_durably(&SystemDisk, &file, page.as_bytes())
    };
    write().map_err(|e| DeviceError::Input(format!("{e}; name another file with --report")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let parse = |args: &str| Cli::try_parse_from(args.split_whitespace());
        let join = "headstart-device join --data d";
        let Command::Join(args) = parse(join).expect("parses").command else { panic!("not a join") };
        assert_eq!(args.allow_release, Allowed::NUMBERS, "weights never leave unless named");
        assert_eq!(target(None, None, None).expect("no engine named"), Target::Paired);
        assert!(parse(&format!("{join} https://x --name phone")).is_err(), "a name needs a key");
        assert!(parse(&format!("{join} https://x --name phone --engine-key 12")).is_err(), "not a key");
        let refused = |engine| target(Some(engine), None, None).expect_err("refused").to_string();
        assert!(refused("https://10.0.0.5:7878").contains("headstart devices invite"));
        assert!(refused("headstart-invite:abc").contains("incomplete or mistyped"));
        assert!(refused("phone").contains("not an invitation"));
        assert!(parse("headstart-device --state s show --sent").is_ok());
        assert!(parse("headstart-device show --state s --run r --report r.html").is_ok());
        assert!(matches!(args.approve, Approve::Ask) && !args.pin_adapters, "nothing runs unasked");
        assert!(parse(&format!("{join} --approve first --pin-adapters")).is_ok());
        assert!(parse(&format!("{join} --approve all")).is_err());
        assert!(parse("headstart-device contract --json --reset").is_err());
        assert!(parse("headstart-device approve 00 --conditional zz").is_err(), "not a digest");
        assert!(parse(&format!("{join} --allow-release datasets")).is_err());
        assert!(parse(&format!("{join} --once --exit-when-idle 3")).is_err());
        assert!(parse(&format!("{join} --holds charging,unmetered --memory 1GiB")).is_ok());
        assert_eq!(bytes("3MiB"), Ok(3 << 20));
        assert!(bytes("3 bananas").is_err() && bytes("99999999999GiB").is_err());
    }
}
