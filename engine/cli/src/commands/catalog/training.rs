//! How a pLLM was trained, and what that lets expect of it. Both are said without its weights.

use headstart_console::{OutputError, outln};
use headstart_protocol::artifacts::{Artifact, Metrics, Pllm, Training as TrainingFacts};
use headstart_protocol::text::{bytes, counted};
use headstart_protocol::{Digest, Failure, Manifest};
use headstart_select::forecast::{Forecast, Range};
use headstart_store::Workspace;
use serde_json::{Value, json};

use super::found::Found;
use crate::exit::CommandError;

/// The share of the way that a shown forecast assumes to be left: it is made for nobody in particular.
const HALFWAY: Range = [0.5; 3];

/// A pLLM's training, and the forecast for starting from it.
pub struct Training {
    /// Metrics of the training, where they are known.
    metrics: Option<Metrics>,
    trainings: usize,
    halfway: Option<Forecast>,
}

impl Training {
    /// Reads what the run's workspace knows of a pLLM of its catalog.
    ///
    /// # Errors
    /// If the pLLM's manifest cannot be read.
    pub fn read(ws: &Workspace, found: &Found<'_>, place: usize) -> Result<Self, CommandError> {
        let pllm = manifest(ws, found.about(place).pllm)?;
        let pllm = pllm.map(|m| Pllm::of(&m)).transpose().map_err(Failure::from)?;
        Ok(Self {
            metrics: pllm.filter(|p| p.training().is_some()).map(|p| p.metrics),
            trainings: found.catalog.about.pace.as_ref().map_or(0, |p| p.trainings),
            halfway: expected(ws, found, place, HALFWAY)?,
        })
    }

    /// `training` and `forecast` for programs; null is not known.
    pub fn json(&self) -> (Value, Value) {
        let halfway =
            self.halfway.as_ref().map(|f| json!({ "trainings": self.trainings, "halfway": f.expected() }));
        (json!(self.metrics), halfway.unwrap_or_default())
    }

    /// Two lines for people.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn print(&self) -> Result<(), OutputError> {
        match self.metrics.as_ref().and_then(TrainingFacts::of) {
            Some(TrainingFacts { steps, start_loss: Some(start), loss: Some(end), .. }) => {
                outln!("  training  {steps:.0} steps; held-back loss {start:.3} → {end:.3} nats per token")?;
            }
            Some(t) => outln!("  training  {:.0} steps", t.steps)?,
            None => outln!("  training  not known: its folder has no training.json (`finetune` writes one)")?,
        }
        match &self.halfway {
            Some(f) => outln!(
                "  forecast  {:.0} % fewer steps for a user whom it brings halfway to the target ({:.0} of {:.0}; \
                 95 %: {:.0}–{:.0}, from {} with {}); downloads {}",
                f.share[1] * 100.0,
                f.saved[1],
                f.scratch[1],
                f.saved[0],
                f.saved[2],
                counted(self.trainings as u64, "training"),
                f.unit,
                bytes(f.bytes)
            )?,
            None => outln!(
                "  forecast  not known: too few of the catalog's pLLMs have a record of their training"
            )?,
        }
        Ok(())
    }
}

/// What starting from a pLLM is expected to save a user for whom the share `left` of the way is left.
/// None where the catalog does not know how its pLLMs were trained.
///
/// # Errors
/// If the pLLM's manifest cannot be read.
pub fn expected(
    ws: &Workspace,
    found: &Found<'_>,
    place: usize,
    left: Range,
) -> Result<Option<Forecast>, CommandError> {
    let Some(pace) = &found.catalog.about.pace else { return Ok(None) };
    let bytes = manifest(ws, found.about(place).pllm)?.map_or(0, |m| m.size());
    Ok(Some(Forecast::new(pace, left, None, bytes, 0.0)))
}

fn manifest(ws: &Workspace, id: Option<Digest>) -> Result<Option<Manifest>, CommandError> {
    Ok(match id {
        Some(id) => ws.artifacts().manifest(&id)?,
        None => None,
    })
}
