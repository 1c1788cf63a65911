//! Drives a run: folds events, looks up the cache, hands tasks to runners.
//!
//! ```no_run
//! # async fn example(plan: headstart_dsl::plan::Plan) -> Result<(), Box<dyn std::error::Error>> {
//! use headstart_driver::{Engine, RunOptions};
//! use headstart_store::Workspace;
//!
//! let engine = Engine::open(Workspace::open(".headstart".as_ref())?, Vec::new())?;
//! let run = engine.run(plan, RunOptions::new("personalize.pllm", "."))?;
//! let mut events = run.subscribe();
//! while let Some(event) = events.recv().await {
//!     println!("{event:?}");
//! }
//! println!("{:?}", run.wait().await?.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//! - [`engine`]: the engine over a workspace.
//! - [`run`]: a run as its caller sees it: options, handle, result.
//! - [`mod@preview`]: what a run would do, and why.
//! - [`hub`]: what devices are given and hand in. [`devices`]: which devices there are.
//! - `refusal`: what a device is told that is refused. `hosts`: hosts of addresses.
//! - [`error`]: what can go wrong with a run as a whole.
//! - `resume`: which run the same command resumes. `retry`: when a failed attempt is tried again.
//! - `conductor`: one run, decided by one thread.
//! - `journal`: log first, then act.
//! - `pool`, `local`: threads for stages, and a stage's view of the world. `capacity`: which stage starts next.
//! - `shared`: what an engine shares with its runs.
//! - `message`: what threads and devices tell a conductor.
//! - `fence`: numbers that only rise.
//! - `manifest_cache`: manifests in memory.
//! - `reuse`: whether what the cache remembers serves an instance.
//! - `index`: tables for people.
//! - [`mod@collect`]: what the runs of a workspace name, and which of it is kept.

mod attempt_log;
mod capacity;
pub mod collect;
mod conductor;
pub mod devices;
mod engine;
mod error;
mod fence;
mod hosts;
pub mod hub;
mod index;
mod journal;
mod local;
mod manifest_cache;
mod message;
mod pool;
mod preview;
mod refusal;
mod resume;
mod retry;
mod reuse;
mod run;
mod shared;

pub use collect::{Gone, KeepRules, Kept, RunUse, Survey, gone, survey};
pub use conductor::StageWait;
pub use devices::{Devices, DevicesError};
pub use engine::{Engine, preview};
pub use error::EngineError;
pub use hub::{DeviceInfo, DeviceWait, Hub, WaitReason};
pub use index::complete_index;
pub use preview::Preview;
pub use resume::{Resumable, request_retry};
pub use run::{
    InstanceFailure, OnFailure, RunHandle, RunHeader, RunOptions, RunOutput, RunResult, read_header,
    read_plan,
};
pub use shared::EngineOptions;
