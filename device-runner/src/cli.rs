//! The command line. Data goes to standard output, everything else to standard error.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use headstart_protocol::Stage;
use tokio_util::sync::CancellationToken;

use crate::error::DeviceError;
use crate::residency::Allowed;
use crate::runner::{self, Options, Until};
use crate::state::write_durably;
use crate::{local, show};

/// Runs the stages that are placed on this device, on data that stays here.
#[derive(Parser)]
#[command(name = "headstart-device", version, max_term_width = 100)]
struct Cli {
    /// The folder for this device's secret, results and downloads.
    #[arg(long, global = true, default_value = ".headstart-device")]
    state: PathBuf,
    /// What models run on: cpu, or what is built in of mlx (Apple devices), cuda, cuda:1 and
    /// so on, and metal; left out, the best of those.
    #[arg(long, global = true, env = "HEADSTART_BACKEND", value_name = "NAME")]
    backend: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Join an engine and work for it.
    Join(JoinArgs),
    /// Run one task, read as JSON from standard input, on local files; print what it made.
    Run(RunArgs),
    /// Print what only this device knows: your style, the choice, the training. Sends nothing.
    Show(ShowArgs),
}

#[derive(clap::Args)]
struct JoinArgs {
    /// The engine's address, such as http://10.0.0.5:7878.
    url: String,
    /// This device's name, as in `device("phone")`.
    #[arg(long)]
    name: String,
    /// The folder with this device's own data; stages can read nothing outside it.
    #[arg(long)]
    data: PathBuf,
    /// Stop after one task.
    #[arg(long, conflicts_with = "exit_when_idle")]
    once: bool,
    /// Stop when there was nothing to do for this many seconds.
    #[arg(long, value_name = "SECONDS")]
    exit_when_idle: Option<u64>,
    /// Conditions that hold: charging, unmetered, idle. Mains power is noticed by itself.
    #[arg(long, value_delimiter = ',', value_parser = ["charging", "unmetered", "idle"])]
    holds: Vec<String>,
    /// What may leave this device when a pipeline releases it: any of metrics, selection, mix,
    /// pllm (the weights trained on your data), or none.
    #[arg(long, value_name = "WHAT", default_value = "metrics,selection,mix")]
    allow_release: Allowed,
    /// A folder with programs of custom stages, or with a folder for each, every one with its
    /// `.stages.json`: the device runs these, and no other programs, when a pipeline asks for them by
    /// digest. They can read what you can read.
    #[arg(long, value_name = "DIR")]
    stages: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

#[derive(clap::Args)]
struct RunArgs {
    /// The folder with this device's own data; stages can read nothing outside it.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    limits: Limits,
}

#[derive(clap::Args)]
struct ShowArgs {
    /// Print everything that ever left this device instead.
    #[arg(long)]
    sent: bool,
    /// Write the same as one HTML file, with learning curves and pictures, for this device's owner.
    #[arg(long, value_name = "FILE", conflicts_with = "sent")]
    report: Option<PathBuf>,
    /// Show this run alone, not the newest of everything.
    #[arg(long, conflicts_with = "sent")]
    run: Option<String>,
}

#[derive(clap::Args)]
struct Limits {
    /// Memory that stages may use, such as 1GiB.
    #[arg(long, value_parser = bytes)]
    memory: Option<u64>,
    /// Threads that stages may use; all, if not given.
    #[arg(long)]
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

/// The whole program, for the stages that are given for a backend's name. Exit codes: 0 well, 1 a task
/// failed or results wait to be handed in, 2 the input is wrong, 3 internal.
pub fn main(stages: impl FnOnce(Option<&str>) -> Result<Vec<Box<dyn Stage>>, String>) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEADSTART_LOG");
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).without_time();
    let log = log.with_ansi(std::io::stderr().is_terminal());
    log.with_env_filter(filter.unwrap_or_else(|_| "info".into())).init();
    let stages = || stages(cli.backend.as_deref()).map_err(DeviceError::Input);
    let done = match cli.command {
        Command::Join(args) => stages().and_then(|stages| join(args, cli.state, stages)),
        Command::Run(args) => stages().and_then(|stages| run(&args, &cli.state, stages)),
        Command::Show(args) => print(&args, &cli.state),
    };
    // A stage that did not stop in time may have a program.
    headstart_host::kill_all();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "headstart-device: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn join(args: JoinArgs, state: PathBuf, stages: Vec<Box<dyn Stage>>) -> Result<u8, DeviceError> {
    let until = match (args.once, args.exit_when_idle) {
        (true, _) => Until::Once,
        (false, Some(s)) => Until::Idle(Duration::from_secs(s)),
        (false, None) => Until::Stopped,
    };
    let options = Options {
        url: args.url,
        name: args.name,
        data: args.data,
        state,
        until,
        holds: args.holds,
        allowed: args.allow_release,
        stages: args.stages,
        memory: args.limits.memory,
        threads: args.limits.threads(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| DeviceError::Internal(format!("runtime: {e}")))?;
    let stop = CancellationToken::new();
    runtime.spawn(stop_on_signal(stop.clone()));
    let summary = runtime.block_on(runner::run(options, stages, stop));
    // A stage that was left behind must not keep the process alive.
    runtime.shutdown_background();
    Ok(u8::from(summary?.failed > 0))
}

/// The first Ctrl-C or SIGTERM asks to stop, the second stops at once.
async fn stop_on_signal(stop: CancellationToken) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else { return };
        for second in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            asked_to_stop(&stop, second);
        }
    }
    #[cfg(not(unix))]
    for second in [false, true] {
        let _ = tokio::signal::ctrl_c().await;
        asked_to_stop(&stop, second);
    }
}

fn asked_to_stop(stop: &CancellationToken, second: bool) {
    if second {
        headstart_host::kill_all();
        std::process::exit(130);
    }
    tracing::info!("stopping; once more to stop at once");
    stop.cancel();
}

fn run(args: &RunArgs, state: &Path, stages: Vec<Box<dyn Stage>>) -> Result<u8, DeviceError> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|e| DeviceError::Input(format!("standard input: {e}")))?;
    let limits = (args.limits.threads(), args.limits.memory);
    let made = local::run(&text, &args.data, state, stages, limits)?;
    put(&format!("{made:#}\n"))?;
    Ok(0)
}

fn print(args: &ShowArgs, state: &Path) -> Result<u8, DeviceError> {
    if let Some(file) = &args.report {
        let page = show::page(state, args.run.as_deref())?;
        return write_report(file, &page).map(|()| 0);
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
        std::fs::create_dir_all(folder).map_err(|e| DeviceError::state(folder, e))?;
        write_durably(&file, page.as_bytes())
    };
    write().map_err(|e| DeviceError::Input(format!("{e}; name another file with --report")))
}

fn put(text: &str) -> Result<(), DeviceError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough, as in `… | head`.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|e| DeviceError::Internal(format!("standard output: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let parse = |args: &str| Cli::try_parse_from(args.split_whitespace());
        let join = "headstart-device join http://x --name phone --data d";
        let Command::Join(args) = parse(join).expect("parses").command else { panic!("not a join") };
        assert_eq!(args.allow_release, Allowed::NUMBERS, "weights never leave unless named");
        assert!(parse("headstart-device --state s show --sent").is_ok());
        assert!(parse("headstart-device show --state s --run r --report r.html").is_ok());
        assert!(parse(&format!("{join} --allow-release datasets")).is_err());
        assert!(parse(&format!("{join} --once --exit-when-idle 3")).is_err());
        assert!(parse(&format!("{join} --holds charging,unmetered --memory 1GiB")).is_ok());
        assert_eq!(bytes("3MiB"), Ok(3 << 20));
        assert!(bytes("3 bananas").is_err() && bytes("99999999999GiB").is_err());
    }
}
