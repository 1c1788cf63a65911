//! Writes the tables that people query: runs, their stages, and catalogs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use headstart_core::{Event, RunOutcome, RunState, Status};
use headstart_dsl::plan::Place;
use headstart_protocol::artifacts::{Artifact, Catalog, Coefficient};
use headstart_protocol::{Digest, Manifest};
use headstart_store::Workspace;
use headstart_store::cache::{CoefficientRow, PllmRow, RunRow, StageRunRow};

use crate::run::RunHeader;

/// Puts into the index what it lacks: runs that have ended, and catalogs. For a database that was made again, and
/// for runs that ended while another process had it.
///
/// # Errors
/// Why the database cannot be queried.
pub fn complete_index(ws: &Workspace) -> Result<(), String> {
    let column = |sql: &str| -> Result<BTreeSet<String>, String> {
        Ok(ws.cache().query(sql)?.rows.into_iter().flatten().flatten().collect())
    };
    let known = column("SELECT id FROM runs")?;
    for run in ws.runs().into_iter().filter(|run| !run.live && !known.contains(&run.id)) {
        // What is damaged is for `headstart verify`.
        let (Ok(header), Ok(events)) = (ws.read_header::<RunHeader>(&run.id), ws.read_run::<Event>(&run.id))
        else {
            continue;
        };
        let Ok(state) = RunState::replay(Arc::new(header.plan), &events) else { continue };
        if let (Some(outcome), Some(last)) = (state.outcome(), events.last()) {
            record(ws, &state, &header.pipeline, outcome, last.at_ms);
        }
    }
    let catalogs = "SELECT DISTINCT output FROM stage_cache WHERE type = 'Catalog' AND private_to IS NULL AND \
                    output NOT IN (SELECT catalog FROM pllms)";
    for id in column(catalogs)?.iter().filter_map(|id| id.parse::<Digest>().ok()) {
        if let Ok(Some(manifest)) = ws.artifacts().manifest(&id) {
            record_catalog(ws, &id, &manifest);
        }
    }
    ws.cache().flush();
    Ok(())
}

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
        ran: counts.succeeded + counts.delivered,
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

/// Indexes a catalog. One whose value is of another form is left out: the index is for people.
pub(crate) fn record_catalog(ws: &Workspace, id: &Digest, manifest: &Manifest) {
    let Ok(catalog) = Catalog::of(manifest) else { return };
    let (mut pllms, mut coefficients) = (Vec::new(), Vec::new());
    for (name, about) in catalog.pllms {
        for w in about.words {
            let Coefficient { word: atom, coefficient, low, high, .. } = w;
            coefficients.push(CoefficientRow { name: name.clone(), atom, coefficient, low, high });
        }
        let Some(pllm) = manifest.uses.get(&format!("pllm:{name}")) else { continue };
        let base =
            ws.artifacts().manifest(&pllm.id).ok().flatten().and_then(|m| m.uses.get("base").map(|b| b.id));
        // A pLLM of full weights has no other base.
        let base = base.unwrap_or(pllm.id);
        pllms.push(PllmRow { name, pllm: pllm.id, base, rows: None, explained: about.explained });
    }
    ws.cache().record_catalog(id, pllms, coefficients);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headstart_protocol::artifacts::{Explanation, Format, Pllm, SpaceKind};
    use headstart_protocol::{ArtifactRef, Type};

    use super::*;

    #[test]
    fn a_catalog_is_indexed_with_its_pllms_and_words() {
        let ws = Workspace::temporary().expect("a workspace");
        let put = |ty: Type, value, uses: &[(&str, &ArtifactRef)]| {
            let uses = uses.iter().map(|(name, a)| ((*name).to_owned(), (*a).clone())).collect();
            let manifest = Manifest { ty, files: BTreeMap::new(), value, uses };
            let artifact = ws.artifacts().put_manifest(&manifest).expect("stored");
            (artifact, manifest)
        };
        let pllm = |format| Pllm::new(format).json().expect("finite");
        let (base, _) = put(Type::Model, serde_json::json!({}), &[]);
        let (adapter, _) = put(Type::Pllm, pllm(Format::Lora), &[("base", &base)]);
        let (full, _) = put(Type::Pllm, pllm(Format::Full), &[]);
        let warm = Coefficient { word: "warm".into(), coefficient: 0.75, low: 0.5, high: 1.0 };
        let catalog = Catalog {
            pllms: BTreeMap::from([
                ("a".into(), Explanation { words: vec![warm], explained: 0.5 }),
                ("f".into(), Explanation::default()),
                ("gone".into(), Explanation::default()),
            ]),
            words: 1,
            method: "sparse".into(),
            space: Digest::of(b"space"),
            kind: SpaceKind::Pooled,
        };
        let value = catalog.json().expect("finite");
        let (id, manifest) = put(Type::Catalog, value, &[("pllm:a", &adapter), ("pllm:f", &full)]);
        record_catalog(&ws, &id.id, &manifest);
        let rows = |sql: &str| ws.cache().query(sql).expect("a table").rows;
        let text = |t: String| Some(t);
        assert_eq!(
            rows("SELECT name, pllm, base, explained FROM pllms ORDER BY name"),
            [
                ["a".into(), adapter.id.to_string(), base.id.to_string(), "0.5".into()].map(text),
                ["f".into(), full.id.to_string(), full.id.to_string(), "0.0".into()].map(text),
            ]
        );
        let words = rows("SELECT name, atom, coefficient, low, high FROM coefficients");
        assert_eq!(words, [["a", "warm", "0.75", "0.5", "1.0"].map(|t| Some(t.to_owned()))]);
    }
}
