//! Models of the Hugging Face hub that a plan names: branches become commits, and what is missing is downloaded
//! before a run begins, since the processes of stages have no network.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use headstart_console::errln;
use headstart_dsl::plan::{Instance, Place, Plan};
use headstart_env::Env;
use headstart_huggingface::{Commit, Downloaded, Hub, HubError, Repo, Settings};
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::text::bytes;

use crate::Volume;
use crate::exit::CommandError;

/// How often it is said how far a download is.
const SAID: Duration = Duration::from_secs(5);

/// Whether a plan names any of them.
pub fn are_named(plan: &Plan) -> bool {
    plan.instances.iter().any(|i| i.kind == "hf")
}

/// Replaces branches and tags by the commits that they stand for now, and downloads what the engine's machine
/// needs.
///
/// # Errors
/// If the hub does not give a model.
pub fn fetch(plan: &mut Plan, volume: Volume) -> Result<(), CommandError> {
    with_hub(plan, async |hub, plan| {
        for instance in plan.instances.iter_mut().filter(|i| i.kind == "hf") {
            let Some((repo, revision)) = named(instance)? else { continue };
            let commit = if instance.place == Place::Server {
                let said = Said::new(&instance.name, volume);
                hub.download(&repo, &revision, &|far| said.hear(&far)).await?.commit
            } else {
                hub.resolve(&repo, &revision).await?
            };
            pin(instance, &commit);
        }
        Ok(())
    })
}

/// Replaces branches and tags by commits, and downloads nothing.
///
/// # Errors
/// If the hub does not know a model.
pub fn pin_only(plan: &mut Plan) -> Result<(), CommandError> {
    with_hub(plan, async |hub, plan| {
        for instance in plan.instances.iter_mut().filter(|i| i.kind == "hf") {
            let Some((repo, revision)) = named(instance)? else { continue };
            let commit = hub.resolve(&repo, &revision).await?;
            pin(instance, &commit);
        }
        Ok(())
    })
}

/// Calls `f` with the hub if a plan names any of its models.
fn with_hub(
    plan: &mut Plan,
    f: impl AsyncFnOnce(&Hub, &mut Plan) -> Result<(), HubError>,
) -> Result<(), CommandError> {
    if !are_named(plan) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CommandError::internal)?;
    let hub = Settings::from_env().and_then(|settings| Hub::new(settings, Env::system()));
    let done = match hub {
        Ok(hub) => runtime.block_on(f(&hub, plan)),
        Err(e) => Err(e),
    };
    done.map_err(|e| {
        let error = match &e {
            HubError::Unreachable { .. } | HubError::Disk(_) | HubError::NoRoom { .. } => {
                CommandError::failed(&e)
            }
            HubError::Internal(_) => CommandError::internal(&e),
            _ => CommandError::input(&e),
        };
        e.help().into_iter().fold(error, CommandError::help)
    })
}

/// The model that an instance names. What is not known before the run is left to the stage, which refuses what
/// is no commit.
fn named(instance: &Instance) -> Result<Option<(Repo, String)>, HubError> {
    let text = |name: &str| match instance.args.get(name) {
        Some(Expr::Value { value: Value::Text(text) }) => Some(text.clone()),
        _ => None,
    };
    let (Some(repo), Some(revision)) = (text("repo"), text("revision")) else { return Ok(None) };
    Ok(Some((repo.parse()?, revision)))
}

/// Names the commit in the place of the revision, so that it is part of the stage's key.
fn pin(instance: &mut Instance, commit: &Commit) {
    let commit = Value::Text(commit.as_str().to_owned());
    instance.args.insert("revision".to_owned(), Expr::value(commit));
}

/// Says now and then how far a download is.
struct Said {
    stage: String,
    quiet: bool,
    last: Mutex<Option<Instant>>,
}

impl Said {
    fn new(stage: &str, volume: Volume) -> Self {
        Self { stage: stage.to_owned(), quiet: volume.quiet, last: Mutex::new(None) }
    }

    fn hear(&self, far: &Downloaded) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= SAID);
        if self.quiet || !due || far.of == 0 {
            return;
        }
        *last = Some(Instant::now());
        errln!("{}: downloading {}: {} of {}", self.stage, far.repo, bytes(far.bytes), bytes(far.of));
    }
}
