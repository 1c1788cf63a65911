//! What is written into the tables that people query: runs, their stages, and catalogs.

use std::time::{Duration, UNIX_EPOCH};

use headstart_core::{RunOutcome, RunState, Status};
use headstart_dsl::plan::Place;
use headstart_protocol::{Digest, Manifest};
use headstart_store::Workspace;
use headstart_store::cache::{CoefficientRow, PllmRow, RunRow, StageRunRow};
use serde::Deserialize;

/// Indexes a run that is about to end.
pub(crate) fn record(
    ws: &Workspace,
    state: &RunState,
    pipeline: &str,
    outcome: RunOutcome,
    finished_ms: u64,
) {
    let counts = state.counts();
    let status = match outcome {
        RunOutcome::Succeeded => "succeeded",
        RunOutcome::Failed => "failed",
        RunOutcome::Cancelled => "cancelled",
    };
    let time = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
    let row = RunRow {
        id: state.run().to_owned(),
        pipeline: pipeline.to_owned(),
        status: status.to_owned(),
        started: time(state.started_ms()),
        finished: Some(time(finished_ms)),
        stages: counts.total(),
        cached: counts.cached,
        ran: counts.succeeded,
        failed: counts.failed,
    };
    let stages = state.statuses().map(|(instance, status)| {
        let inst = state.instance(instance);
        let mut row = StageRunRow {
            instance,
            name: inst.name.clone(),
            kind: inst.kind.clone(),
            place: match &inst.place {
                Place::Server => "server".to_owned(),
                Place::Device(name) => name.clone(),
            },
            outcome: status.name().to_owned(),
            key: state.key(instance),
            attempts: state.attempts(instance),
            ..StageRunRow::default()
        };
        if let Status::Done(done) = status {
            row.output = Some(done.output.id);
            row.seconds = done.usage.seconds;
            row.counters.clone_from(&done.usage.counters);
        }
        row
    });
    ws.cache().record_run(row, stages.collect());
}

/// What a catalog's value says of its pLLMs, as far as it is indexed.
#[derive(Deserialize)]
struct Summary {
    pllms: std::collections::BTreeMap<String, About>,
}

#[derive(Deserialize)]
struct About {
    explained: f64,
    /// Probes that it answered.
    n: Option<u32>,
    words: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    word: String,
    coefficient: f64,
    low: f64,
    high: f64,
}

/// Indexes a catalog. One whose value is of another form is left out: the index is for people.
pub(crate) fn record_catalog(ws: &Workspace, id: &Digest, manifest: &Manifest) {
    let Ok(summary) = serde_json::from_value::<Summary>(manifest.value.clone()) else { return };
    let (mut pllms, mut coefficients) = (Vec::new(), Vec::new());
    for (name, about) in summary.pllms {
        for w in about.words {
            let Word { word: atom, coefficient, low, high } = w;
            coefficients.push(CoefficientRow { name: name.clone(), atom, coefficient, low, high });
        }
        let (Some(pllm), Some(rows)) = (manifest.uses.get(&format!("pllm:{name}")), about.n) else {
            continue;
        };
        let base =
            ws.artifacts().manifest(&pllm.id).ok().flatten().and_then(|m| m.uses.get("base").map(|b| b.id));
        // A pLLM of full weights has no other base.
        let base = base.unwrap_or(pllm.id);
        pllms.push(PllmRow { name, pllm: pllm.id, base, rows, explained: about.explained });
    }
    ws.cache().record_catalog(id, pllms, coefficients);
}
