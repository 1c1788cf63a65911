//! A run as its caller sees it.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use headstart_core::{Counts, Event, RunOutcome};
use headstart_dsl::plan::Plan;
use headstart_protocol::expr::Value;
use headstart_protocol::{Failure, Type};
use headstart_store::gc::InUse;
use headstart_store::{StoreError, Workspace};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use crate::error::EngineError;
use crate::journal::Feed;
use crate::message::Message;

/// How a run is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The name for people: the pipeline file or the schedule.
    pub name: String,
    /// The run's id; left out, one is made from the time.
    pub id: Option<String>,
    /// The folder that relative paths of the pipeline are relative to.
    pub source_dir: PathBuf,
    /// What happens to the rest when something fails.
    pub on_failure: OnFailure,
    /// How long stages wait for a device that has not joined, or is not heard of any more. `None`
    /// waits for ever.
    pub device_wait: Option<Duration>,
    /// The address at which devices reach the engine, for messages.
    pub address: Option<String>,
    /// Whether the outputs are going to be written somewhere: a cached one is then read whole first, and
    /// made again where it is damaged.
    pub exports: bool,
}

impl RunOptions {
    /// Keeps going after failures; waits a minute for devices.
    pub fn new(name: impl Into<String>, source_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            id: None,
            source_dir: source_dir.into(),
            on_failure: OnFailure::KeepGoing,
            device_wait: Some(Duration::from_secs(60)),
            address: None,
            exports: false,
        }
    }
}

/// What happens to the rest of a run when something fails for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// What does not depend on the failure still runs.
    KeepGoing,
    /// Nothing new is started; running attempts are asked to stop.
    Stop,
}

/// What a run is created with: the `plan.json` of its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunHeader {
    /// The name for people.
    pub pipeline: String,
    /// The folder that relative paths are relative to.
    pub source_dir: PathBuf,
    /// What happens to the rest when something fails.
    pub on_failure: OnFailure,
    /// The plan.
    pub plan: Plan,
}

/// What a run was created with.
///
/// # Errors
/// [`StoreError`] where there is no such run or its plan cannot be read.
pub fn read_header(ws: &Workspace, id: &str) -> Result<RunHeader, StoreError> {
    ws.read_header(id)
}

/// The plan of a run.
///
/// # Errors
/// As [`read_header`].
pub fn read_plan(ws: &Workspace, id: &str) -> Result<Plan, StoreError> {
    read_header(ws, id).map(|h| h.plan)
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    /// The run's id.
    pub run: String,
    /// How it ended.
    pub outcome: RunOutcome,
    /// The pipeline's outputs, in its order.
    pub outputs: Vec<RunOutput>,
    /// How many instances have each status.
    pub counts: Counts,
    /// What failed for good, in plan order.
    pub failures: Vec<InstanceFailure>,
    /// Wall-clock seconds, of a resumed run since it was resumed.
    pub seconds: f64,
}

/// An output of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutput {
    /// Its name.
    pub name: String,
    /// Its documentation.
    pub doc: String,
    /// Its type.
    pub ty: Type,
    /// Its value; absent where something that it needs has failed.
    pub value: Option<Value>,
}

/// An instance that failed for good.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceFailure {
    /// Its number in the plan.
    pub instance: u32,
    /// Its name.
    pub name: String,
    /// Why.
    pub failure: Failure,
    /// Instances that it blocks.
    pub blocks: u32,
}

/// What the conductor leaves behind.
pub(crate) type Ending = Result<Arc<RunResult>, Arc<EngineError>>;

/// A running run. Dropping the handle does not stop it. As long as there is one after the end, the run's outputs are
/// not collected.
#[derive(Clone)]
pub struct RunHandle {
    pub(crate) id: String,
    pub(crate) feed: Arc<Feed>,
    pub(crate) inbox: Sender<Message>,
    pub(crate) ending: watch::Receiver<Option<Ending>>,
    /// Its outputs are not collected as long as anybody has a handle.
    pub(crate) _outputs: Arc<OnceLock<InUse>>,
}

impl RunHandle {
    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// All events from the first, as they become durable; ends with the run. Progress is sent as
    /// it comes and not repeated to later subscribers.
    pub fn subscribe(&self) -> UnboundedReceiver<Event> {
        self.feed.subscribe()
    }

    /// Asks the run to stop: nothing new starts, running attempts are asked to stop.
    pub fn cancel(&self) {
        // A run that has ended needs no cancelling.
        let _ = self.inbox.send(Message::Cancel);
    }

    /// Waits for the end. Can be called any number of times.
    ///
    /// # Errors
    /// If the engine failed; a run with failed stages is a result.
    pub async fn wait(&self) -> Result<Arc<RunResult>, Arc<EngineError>> {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await.ok().and_then(|e| (*e).clone());
        ended.unwrap_or_else(|| Err(Arc::new(EngineError::Lost(self.id.clone()))))
    }
}
