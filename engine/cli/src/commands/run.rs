//! `headstart run`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use headstart_builtin::backend::Choice;
use headstart_core::event::RunOutcome;
use headstart_driver::{Engine, RunHandle, RunOptions, RunResult};
use headstart_dsl::plan::Plan;
use headstart_protocol::expr::Value;
use headstart_store::Workspace;

use crate::args::{Format, Run};
use crate::commands::runs::{self, Recorded};
use crate::display::Display;
use crate::exit::{CommandError, FAILED, OK};
use crate::stop::StopSignals;
use crate::waits::Waits;
use crate::{listen, loader, summary};

/// Runs the command.
pub fn run(ws: Workspace, backend: Choice, args: &Run) -> Result<ExitCode, CommandError> {
    let mut plan = loader::plan(&args.pipeline)?;
    if !args.only.is_empty() {
        for name in &args.only {
            if !plan.items.iter().any(|i| i.name == *name) {
                return Err(CommandError::input(format!("the pipeline has no stage `{name}`")));
            }
        }
        plan = plan.subset(&args.only);
    }
    if let Some(prefix) = &args.resume {
        // A run goes on as it was created, whatever the file says by now.
        plan = headstart_driver::run::read_plan(&ws, &runs::find(&ws, Some(prefix))?.id)?;
    }
    announce_releases(&plan);
    ws.cache().warm();
    let engine = open_engine(ws.clone(), backend)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::internal)?;
    let outcome = runtime.block_on(drive(&engine, plan, args));
    // The cache is written behind; the next run is to find all of it.
    ws.cache().flush();
    let outcome = outcome?;
    finish(&ws, args, &outcome)
}

/// An engine with all built-in stages, over this backend, which runs the programs that a pipeline
/// names.
pub fn open_engine(ws: Workspace, backend: Choice) -> Result<Engine, CommandError> {
    let backend = backend.open().map_err(CommandError::input)?;
    let stages = headstart_builtin::stages(backend);
    let engine = Engine::open(ws, stages).map_err(CommandError::input)?;
    Ok(engine.with_custom_stages(Arc::new(headstart_host::Trusted)))
}

/// A private model that is to leave its device is worth capitals.
fn announce_releases(plan: &Plan) {
    for output in plan.outputs.iter().filter(|o| o.released) {
        let is_model = output.ty == headstart_protocol::Type::Pllm;
        if is_model {
            anstream::eprintln!(
                "\x1b[1;33mTHE WEIGHTS OF `{}` WILL LEAVE THEIR DEVICE\x1b[0m: they were trained on private data",
                output.name
            );
        }
    }
}

async fn drive(engine: &Engine, plan: Plan, args: &Run) -> Result<RunResult, CommandError> {
    let devices = plan.devices();
    let mut options = RunOptions::new(args.pipeline.file.to_string_lossy(), current_dir()?);
    options.device_wait = Some(Duration::from_secs(args.device_wait));
    let server = if devices.is_empty() {
        None
    } else {
        let server = listen::start(engine.hub().clone(), args.listen).await?;
        options.address = Some(server.url());
        Some(server)
    };
    let handle = match &args.resume {
        Some(id) => {
            let id = runs::find(engine.workspace(), Some(id))?.id;
            engine.resume(&id, options)
        }
        None => engine.run(plan.clone(), options),
    };
    let handle = handle.map_err(CommandError::input)?;
    let result = watch(engine, &handle, &plan, server.as_ref().map(listen::Server::url)).await;
    if let Some(server) = server {
        server.stop().await;
    }
    result
}

/// How often it is looked what a run waits for. A wait that a short `--device-wait` ends must be seen, and
/// have gone on for a while, before that.
const LOOK: Duration = Duration::from_millis(200);

/// Shows the run until it ends, with what it waits for on devices that may join at `url`. The first
/// Ctrl-C or SIGTERM cancels it, the second stops at once.
pub async fn watch(
    engine: &Engine,
    handle: &RunHandle,
    plan: &Plan,
    url: Option<String>,
) -> Result<RunResult, CommandError> {
    let mut events = handle.subscribe();
    let mut display = Display::new(plan);
    let mut waits = Waits::new(url);
    let mut look = tokio::time::interval(LOOK);
    let mut asked = false;
    let mut signals = StopSignals::new().map_err(CommandError::internal)?;
    loop {
        tokio::select! {
            _ = look.tick() => display.waiting(&waits.lines(&engine.hub().device_waits(handle.id()))),
            event = events.recv() => match event {
                Some(event) => display.event(&event),
                None => break,
            },
            () = signals.next() => {
                if asked {
                    return Err(CommandError::failed(format!("stopped; `headstart run --resume {}` goes on", handle.id())));
                }
                asked = true;
                eprintln!("stopping; press Ctrl-C again to stop at once");
                handle.cancel();
            }
        }
    }
    match handle.wait().await {
        Ok(result) => Ok((*result).clone()),
        Err(e) => Err(CommandError::failed(e)),
    }
}

fn current_dir() -> Result<std::path::PathBuf, CommandError> {
    std::env::current_dir().map_err(|e| CommandError::input(format!("the current folder: {e}")))
}

fn finish(ws: &Workspace, args: &Run, result: &RunResult) -> Result<ExitCode, CommandError> {
    let recorded = runs::read(ws, &result.run)?;
    if let Some(out) = &args.out {
        if result.outcome == RunOutcome::Succeeded {
            export(ws, result, out)?;
        } else {
            eprintln!(
                "nothing is written to {}: outputs are written once a run has succeeded",
                out.display()
            );
        }
    }
    if let Some(path) = &args.report {
        summary::write_html(ws, &recorded, path)?;
    }
    if args.format == Format::Json {
        println!("{}", outputs_json(ws, result)?);
    } else if !args.quiet && result.outcome == RunOutcome::Succeeded {
        println!("{}", summary::terminal(ws, &recorded)?);
    }
    closing_line(&recorded, result);
    match result.outcome {
        RunOutcome::Succeeded => Ok(ExitCode::from(OK)),
        RunOutcome::Failed | RunOutcome::Cancelled => Ok(ExitCode::from(failure_code(result))),
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
    let c = result.counts;
    let passes = summary::counters(run).get("forward_passes").copied().unwrap_or(0);
    let blocked = if c.blocked > 0 { format!(", {} blocked", c.blocked) } else { String::new() };
    let failed = if c.failed > 0 { format!(", {} failed{blocked}", c.failed) } else { String::new() };
    anstream::eprintln!(
        "run {} {}: {} ran, {} cached, {} not needed{failed}; {passes} forward passes here; {:.2} s",
        run.id,
        match result.outcome {
            RunOutcome::Succeeded => "\x1b[32msucceeded\x1b[0m",
            RunOutcome::Failed => "\x1b[31mfailed\x1b[0m",
            RunOutcome::Cancelled => "\x1b[33mwas cancelled\x1b[0m",
        },
        c.ran,
        c.cached,
        c.skipped,
        result.seconds,
    );
}

fn outputs_json(ws: &Workspace, result: &RunResult) -> Result<serde_json::Value, CommandError> {
    let mut outputs = serde_json::Map::new();
    for output in &result.outputs {
        let value = output.value.as_ref().map(|v| value_json(ws, v)).transpose()?;
        outputs.insert(output.name.clone(), value.unwrap_or_default());
    }
    Ok(
        serde_json::json!({"run": result.run, "outcome": result.outcome, "seconds": result.seconds, "outputs": outputs}),
    )
}

fn value_json(ws: &Workspace, value: &Value) -> Result<serde_json::Value, CommandError> {
    Ok(match value {
        Value::Absent => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::Float(x) => (*x).into(),
        Value::Text(t) | Value::Path(t) => t.clone().into(),
        Value::Duration(n) | Value::Bytes(n) => (*n).into(),
        Value::Json(j) => j.clone(),
        Value::List(items) => {
            let mut map = serde_json::Map::new();
            for (key, item) in items {
                map.insert(key.clone(), value_json(ws, item)?);
            }
            map.into()
        }
        Value::Artifact(a) => {
            let manifest = ws.artifacts().manifest(&a.id)?;
            serde_json::json!({"artifact": a.id, "value": manifest.map(|m| m.value)})
        }
        Value::Mix(terms) => {
            terms.iter().map(|t| (t.name.clone(), t.weight.into())).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Condition(_) => value.describe().into(),
    })
}

/// Writes the files of every output below `out`: `NAME/FILE`, or `NAME/KEY/FILE` for lists.
fn export(ws: &Workspace, result: &RunResult, out: &Path) -> Result<(), CommandError> {
    for output in &result.outputs {
        match &output.value {
            Some(Value::Artifact(a)) => export_artifact(ws, a, &out.join(&output.name))?,
            Some(Value::List(items)) => {
                for (key, item) in items {
                    if let Value::Artifact(a) = item {
                        export_artifact(ws, a, &out.join(&output.name).join(key))?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn export_artifact(
    ws: &Workspace,
    a: &headstart_protocol::ArtifactRef,
    dir: &Path,
) -> Result<(), CommandError> {
    let Some(manifest) = ws.artifacts().manifest(&a.id)? else { return Ok(()) };
    for (name, file) in &manifest.files {
        let to = dir.join(name);
        let from = ws.blobs().path(&file.digest).ok_or_else(|| {
            CommandError::failed(format!("file {name} of artifact {} is gone from the store", a.id.short()))
        })?;
        let copy = || {
            std::fs::create_dir_all(to.parent().unwrap_or(dir))?;
            // Stored files are read-only; what is written out is the user's own.
            std::fs::write(&to, std::fs::read(&from)?)
        };
        copy().map_err(|e: std::io::Error| CommandError::input(format!("{}: {e}", to.display())))?;
    }
    Ok(())
}
