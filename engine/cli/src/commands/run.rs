//! `headstart run`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use headstart_builtin::backend::Choice;
use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln, print};
use headstart_core::RunOutcome;
use headstart_disk::files;
use headstart_driver::{Engine, EngineError, EngineOptions, RunHandle, RunOptions, RunResult};
use headstart_dsl::plan::Plan;
use headstart_host::{Limits, Trusted};
use headstart_protocol::Stage;
use headstart_protocol::text::{counted, quoted};
use headstart_store::{StoreError, Workspace};
use headstart_worker::{Folders, Workers};

use crate::Volume;
use crate::args::{Format, Run};
use crate::display::Display;
use crate::exit::{CommandError, FAILED, INTERRUPTED, SUCCESS};
use crate::export;
use crate::recorded::{self, Recorded};
use crate::stop::StopSignals;
use crate::waits::Waits;
use crate::workspace::Location;
use crate::{hub_models, listen, loader, summary};

/// Runs the command.
///
/// # Errors
/// If the pipeline cannot be run, or its results cannot be written. A run that failed is an exit code.
pub fn run(
    place: &Location<'_>,
    backend: Choice,
    args: &Run,
    volume: Volume,
) -> Result<ExitCode, CommandError> {
    let mut checked = loader::only(loader::plan(&args.pipeline, loader::Notes::of(volume))?, &args.only)?;
    if args.resume.is_none() {
        hub_models::fetch(&mut checked, volume)?;
    }
    let ws = place.create()?;
    let plan = match &args.resume {
        // A run continues as it was created, whatever the file says by now.
        Some(prefix) => headstart_driver::read_plan(&ws, &recorded::find(&ws, Some(prefix))?.id)?,
        None => checked,
    };
    announce_releases(&plan);
    ws.cache().warm();
    let engine = open_engine(ws.clone(), backend, args.jobs.options(), args.custom.limits())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::internal)?;
    let outcome = runtime.block_on(drive(&engine, plan, args, volume));
    // The cache is written behind; the next run is to find all of it.
    ws.cache().flush();
    // The handle keeps the outputs until they are written.
    let (outcome, _handle) = outcome?;
    finish(&ws, args, &outcome, volume)
}

/// An engine with all built-in stages, over this backend, which runs the custom stages that a pipeline
/// names.
///
/// # Errors
/// If the backend or the workspace cannot be used.
pub fn open_engine(
    ws: Workspace,
    backend: Choice,
    options: EngineOptions,
    limits: Limits,
) -> Result<Engine, CommandError> {
    let stages = isolated_stages(&ws, backend, limits.confined)?;
    engine_over(ws, stages, options, limits)
}

/// An engine with these stages, which runs the custom stages that a pipeline names.
///
/// # Errors
/// If the workspace cannot be used.
pub fn engine_over(
    ws: Workspace,
    stages: Vec<Box<dyn Stage>>,
    options: EngineOptions,
    limits: Limits,
) -> Result<Engine, CommandError> {
    Ok(Engine::with(ws, stages, options)?.with_custom_stages(Arc::new(Trusted { limits })))
}

/// All built-in stages, each attempt of which runs in a worker process over this workspace.
///
/// # Errors
/// If the backend or the workspace cannot be used.
pub fn isolated_stages(
    ws: &Workspace,
    backend: Choice,
    confined: bool,
) -> Result<Vec<Box<dyn Stage>>, CommandError> {
    let stages = headstart_builtin::stages(backend.open().map_err(CommandError::input)?);
    let [open, scratch, resume] = ["open", "scratch", "resume"].map(|name| ws.dir().join(name));
    // A worker is confined to what exists when it starts.
    for folder in [&open, &scratch, &resume] {
        files::create_dir(&**ws.disk(), folder)?;
    }
    let folders = Folders {
        read: vec![open],
        write: vec![scratch, resume],
        // A pipeline may name any file of whoever runs it.
        paths: vec!["/".into()],
        ..Folders::default()
    };
    let workers = Workers { confined, ..Workers::new(backend.to_string(), folders) };
    Ok(headstart_worker::isolate(stages, workers))
}

/// That a private model is to leave its device is worth capitals.
fn announce_releases(plan: &Plan) {
    let models = plan.outputs.iter().filter(|o| o.released && o.ty == headstart_protocol::Type::Pllm);
    for output in models {
        let what = format!("THE WEIGHTS OF `{}` WILL LEAVE THEIR DEVICE", output.name);
        errln!("{}: {what}; they were trained on private data", paint(Ink::Warning, "warning"));
    }
}

async fn drive(
    engine: &Engine,
    plan: Plan,
    args: &Run,
    volume: Volume,
) -> Result<(RunResult, RunHandle), CommandError> {
    let devices = plan.devices();
    let mut options = RunOptions::new(args.pipeline.file.to_string_lossy(), current_dir()?);
    options.device_wait = Some(Duration::from_secs(args.device_wait));
    options.exports = args.out.is_some();
    let server = if devices.is_empty() {
        None
    } else {
        let server = listen::start(engine.hub().clone(), args.listen, args.insecure_plaintext).await?;
        options.address = server.url_to_name();
        Some(server)
    };
    let handle = match &args.resume {
        Some(id) => engine.resume(&recorded::find(engine.workspace(), Some(id))?.id, options)?,
        None => begin(engine, &plan, options, args.fresh, volume)?,
    };
    let url = server.as_ref().and_then(listen::Server::url_to_name);
    let result = watch(engine, &handle, &plan, url, volume).await;
    if let Some(server) = server {
        server.stop().await;
    }
    Ok((result?, handle))
}

/// Resumes the run that the same command began before, or begins a new one.
fn begin(
    engine: &Engine,
    plan: &Plan,
    options: RunOptions,
    fresh: bool,
    volume: Volume,
) -> Result<RunHandle, CommandError> {
    let found = if fresh { None } else { engine.resumable(plan, &options) };
    if let Some(found) = found {
        match engine.resume(&found.run, options.clone()) {
            Ok(handle) => {
                if !volume.quiet {
                    let all = counted(found.instances, "stage instance");
                    errln!("resuming run {}: {} of {all} finished", found.run, found.finished);
                }
                return Ok(handle);
            }
            // Another process was faster.
            Err(EngineError::Store(StoreError::RunBusy { .. }) | EngineError::Ended(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(engine.run(plan.clone(), options)?)
}

/// How often to check what a run waits for: more often than the shortest `--device-wait`, so that a wait
/// is shown before it ends.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Shows the run until it ends, with what it waits for on devices that can join at `url`. The first
/// Ctrl-C or SIGTERM cancels it, the second stops at once.
///
/// # Errors
/// If the engine cannot continue, or somebody stopped it at once.
pub async fn watch(
    engine: &Engine,
    handle: &RunHandle,
    plan: &Plan,
    url: Option<String>,
    volume: Volume,
) -> Result<RunResult, CommandError> {
    let mut events = handle.subscribe();
    let mut display = Display::new(plan, volume, Arc::clone(&engine.env().clock));
    let mut waits = Waits::new(url, Arc::clone(&engine.env().clock));
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    let mut asked = false;
    let mut signals = StopSignals::new().map_err(CommandError::internal)?;
    loop {
        tokio::select! {
            _ = poll.tick() => {
                let (devices, runs) = (engine.hub().device_waits(handle.id()), engine.stage_waits(handle.id()));
                display.waiting(&waits.lines(&devices, &runs));
            }
            event = events.recv() => match event {
                Some(event) => display.event(&event),
                None => break,
            },
            () = signals.next() => {
                if asked {
                    let help = format!("the same command resumes run {}; `--fresh` starts a new one", handle.id());
                    return Err(CommandError::interrupted("stopped at once by a second Ctrl-C or SIGTERM").help(help));
                }
                asked = true;
                errln!("cancelling; press Ctrl-C again to stop at once");
                handle.cancel();
            }
        }
    }
    match handle.wait().await {
        Ok(result) => Ok((*result).clone()),
        // What the run itself says of its end is a failed run, whatever the cause.
        Err(e) => Err(CommandError::of_run(&e)),
    }
}

fn current_dir() -> Result<std::path::PathBuf, CommandError> {
    std::env::current_dir().map_err(|e| CommandError::input(format!("the current folder: {e}")))
}

fn finish(ws: &Workspace, args: &Run, result: &RunResult, volume: Volume) -> Result<ExitCode, CommandError> {
    let recorded = recorded::read(ws, &result.run)?;
    let succeeded = result.outcome == RunOutcome::Succeeded;
    if let Some(out) = &args.out {
        if succeeded {
            let written = export::write(ws, &result.outputs, out)?;
            if !volume.quiet {
                written.iter().for_each(|line| errln!("{line}"));
            }
        } else {
            errln!(
                "{}: nothing written to {}: outputs are written only when the run has succeeded",
                paint(Ink::Warning, "warning"),
                out.display()
            );
        }
    }
    if let Some(path) = &args.report {
        summary::write_html(ws, &recorded, path)?;
        if !volume.quiet {
            errln!("wrote the report {}", path.display());
        }
    }
    if args.format == Format::Json {
        outln!("{}", export::json(ws, result)?)?;
    } else if !volume.quiet && succeeded {
        print(&summary::terminal(ws, &recorded)?)?;
    }
    if !volume.quiet {
        closing_line(&recorded, result);
    }
    why_not(&recorded, result, volume);
    Ok(ExitCode::from(match result.outcome {
        RunOutcome::Succeeded => SUCCESS,
        RunOutcome::Failed => failure_code(result),
        RunOutcome::Cancelled => INTERRUPTED,
    }))
}

/// Says after a run that did not succeed why, and what to do.
fn why_not(run: &Recorded, result: &RunResult, volume: Volume) {
    match result.outcome {
        RunOutcome::Succeeded => {}
        RunOutcome::Cancelled => {
            errln!("{}: run {} cancelled by Ctrl-C or SIGTERM", paint(Ink::Error, "error"), run.id);
            errln!("  {}: the same command resumes it; `--fresh` starts a new run", paint(Ink::Help, "help"));
        }
        RunOutcome::Failed if volume.quiet => {}
        RunOutcome::Failed => {
            let failed = quoted(result.failures.iter().map(|f| &f.name), 3);
            errln!("{}: failed: {failed}", paint(Ink::Error, "error"));
            errln!("  {}: `headstart runs {}` shows why", paint(Ink::Help, "help"), run.id);
        }
    }
}

/// 2 where everything that failed did so because of its input.
fn failure_code(result: &RunResult) -> u8 {
    use headstart_protocol::FailureClass as C;
    let input = |f: &headstart_driver::InstanceFailure| f.failure.class == C::Input;
    match result.failures.as_slice() {
        [] => FAILED,
        all if all.iter().all(input) => crate::exit::INPUT,
        all if all.iter().any(|f| f.failure.class == C::Internal) => crate::exit::INTERNAL,
        _ => FAILED,
    }
}

fn closing_line(run: &Recorded, result: &RunResult) {
    let passes = summary::counters(run).get("forward_passes").copied().unwrap_or(0);
    let (word, ink) = match result.outcome {
        RunOutcome::Succeeded => ("succeeded", Ink::Good),
        RunOutcome::Failed => ("failed", Ink::Error),
        RunOutcome::Cancelled => ("cancelled", Ink::Warning),
    };
    errln!(
        "run {} {}: {}; {} here; {:.2} s",
        run.id,
        paint(ink, word),
        run.tally(),
        counted(passes, "forward pass"),
        result.seconds,
    );
    if run.state.counts().delivered > 0 {
        errln!(
            "{}: only the devices know what came of the stages that they delivered, and whether they still work on \
             them: `headstart-device show` prints it there, and why a stage failed",
            paint(Ink::Help, "note")
        );
    }
}
