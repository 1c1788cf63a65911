//! From a recorded run to the report's plain data.

use std::collections::BTreeMap;
use std::path::Path;

use headstart_console::color::{self, Ink, paint};
use headstart_console::errln;
use headstart_core::prepare::output_value;
use headstart_core::{EventKind, Status};
use headstart_disk::read::{Lines, ROW, ROWS};
use headstart_disk::{files, read};
use headstart_dsl::plan::Place;
use headstart_protocol::artifacts::{Artifact, Metrics, Pllm};
use headstart_protocol::expr::Value;
use headstart_protocol::rows::{ROWS_FILE, Row};
use headstart_protocol::{Manifest, Type};
use headstart_report::text::metric;
use headstart_report::{Output, OutputView, RunReport, Sample, StageBar};
use headstart_store::Workspace;

use crate::commands::catalog::found::Found;
use crate::commands::catalog::samples;
use crate::exit::CommandError;
use crate::manifests::Store;
use crate::recorded::{self, Recorded};

/// The summary of a run, for the terminal.
///
/// # Errors
/// As [`report`].
pub fn terminal(ws: &Workspace, run: &Recorded) -> Result<String, CommandError> {
    let report = report(ws, run)?;
    Ok(headstart_report::terminal(&report, headstart_console::width(), color::stdout()))
}

/// Writes the report of a run as one HTML file.
///
/// # Errors
/// As [`report`], and if the file cannot be written.
pub fn write_html(ws: &Workspace, run: &Recorded, path: &Path) -> Result<(), CommandError> {
    let page = headstart_report::html(&report(ws, run)?);
    let disk = &**ws.disk();
    files::create_dir(disk, files::folder_of(path))?;
    Ok(files::replace(disk, path, page.as_bytes())?)
}

/// Counters over all stages that ran.
pub fn counters(run: &Recorded) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (_, status) in run.state.statuses() {
        if let Status::Done(done) = status {
            for (name, n) in &done.usage.counters {
                *sum.entry(name.clone()).or_default() += n;
            }
        }
    }
    sum
}

/// The report of a run.
///
/// # Errors
/// If a manifest of the run cannot be read.
pub fn report(ws: &Workspace, run: &Recorded) -> Result<RunReport, CommandError> {
    let mut outputs = Vec::new();
    for output in &run.plan.outputs {
        // An output that is damaged or gone hides no other.
        let view = match output_view(ws, run, output) {
            Ok(Some(view)) => view,
            Ok(None) => continue,
            Err(e) => OutputView::Text { value: format!("cannot be read: {}", e.message()) },
        };
        outputs.push(Output { name: output.name.clone(), doc: output.doc.clone(), view });
    }
    Ok(RunReport {
        run: run.id.clone(),
        pipeline: run.pipeline.clone(),
        started: recorded::started(run),
        seconds: run.seconds(),
        outcome: run.outcome().to_owned(),
        params: run.plan.params.clone(),
        failures: run.failures(),
        counters: counters(run),
        stages: bars(run),
        outputs,
    })
}

fn output_view(
    ws: &Workspace,
    run: &Recorded,
    output: &headstart_dsl::plan::Output,
) -> Result<Option<OutputView>, CommandError> {
    let value = output_value(&run.state, &output.value, &Store(ws)).map_err(CommandError::internal)?;
    let Some(value) = value else { return Ok(None) };
    let mut view = view(ws, &value, &output.ty)?;
    if let Some(OutputView::Catalog { samples, .. }) = &mut view
        && let Err(e) = add_samples(ws, run, samples)
    {
        errln!("{}: no sample answers of `{}`: {}", paint(Ink::Warning, "warning"), output.name, e.message());
    }
    Ok(view)
}

/// pLLMs of which a report shows answers at most.
const MAX_SAMPLES: usize = 60;

/// Adds an answer of each pLLM of a catalog, beside its base's.
fn add_samples(
    ws: &Workspace,
    run: &Recorded,
    all: &mut BTreeMap<String, Sample>,
) -> Result<(), CommandError> {
    let Some(found) = Found::of(ws, run)? else { return Ok(()) };
    for (place, pllm) in found.pllms.iter().enumerate().take(MAX_SAMPLES) {
        for s in samples::samples(ws, &found, place, 1)? {
            all.insert(pllm.name.clone(), s);
        }
    }
    Ok(())
}

fn bars(run: &Recorded) -> Vec<StageBar> {
    let origin = run.events.first().map_or(0, |e| e.at_ms);
    let since = |at: u64| at.saturating_sub(origin) as f64 / 1000.0;
    let mut start: BTreeMap<u32, f64> = BTreeMap::new();
    let mut took: BTreeMap<u32, f64> = BTreeMap::new();
    for event in &run.events {
        let at = since(event.at_ms);
        match &event.kind {
            EventKind::AttemptStarted { instance, .. } => {
                start.insert(*instance, at);
            }
            EventKind::Committed { instance, .. } | EventKind::Failed { instance, .. } => {
                let from = *start.entry(*instance).or_insert(at);
                took.insert(*instance, at - from);
            }
            EventKind::CacheHit { instance, .. } | EventKind::Skipped { instance, .. } => {
                start.insert(*instance, at);
            }
            _ => {}
        }
    }
    let bar = |(i, status): (u32, &Status)| {
        let inst = run.state.instance(i);
        StageBar {
            name: inst.name.clone(),
            kind: inst.kind.clone(),
            place: match &inst.place {
                Place::Server => "server".to_owned(),
                Place::Device(d) => d.clone(),
            },
            start: start.get(&i).copied().unwrap_or(0.0),
            seconds: took.get(&i).copied().unwrap_or(0.0),
            state: run.stage_state(i, status),
        }
    };
    run.state.statuses().map(bar).collect()
}

fn view(ws: &Workspace, value: &Value, ty: &Type) -> Result<Option<OutputView>, CommandError> {
    Ok(match value {
        Value::Artifact(a) => ws.artifacts().manifest(&a.id)?.map(|m| artifact_view(ws, &m)),
        Value::Json(value) => Some(OutputView::of(ty, value)),
        Value::List(items) => Some(OutputView::Text { value: list_text(ws, items)? }),
        Value::Absent => None,
        other => Some(OutputView::Text { value: other.describe() }),
    })
}

fn artifact_view(ws: &Workspace, m: &Manifest) -> OutputView {
    match m.ty {
        Type::Catalog | Type::Selection | Type::Pllm | Type::Model => OutputView::of(&m.ty, &m.value),
        // A study's table is written for people already.
        Type::Metrics => match (file(ws, m, "table.md"), OutputView::of(&m.ty, &m.value)) {
            (Some(value), _) => OutputView::Text { value },
            (None, OutputView::Metrics { value, .. }) => {
                OutputView::Metrics { value, samples: samples(ws, m) }
            }
            (None, unreadable) => unreadable,
        },
        Type::Responses | Type::Dataset => rows_view(ws, m),
        _ => {
            let files: Vec<&str> = m.files.keys().map(String::as_str).collect();
            OutputView::Text { value: format!("{}: {}", m.ty, files.join(", ")) }
        }
    }
}

/// Rows that a summary shows of a dataset or of answers.
const SHOWN_ROWS: usize = 3;

/// The first rows of a dataset or of answers, and how many there are.
fn rows_view(ws: &Workspace, m: &Manifest) -> OutputView {
    let (mut rows, mut samples) = (0, Vec::new());
    let path = m.files.get(ROWS_FILE).and_then(|file| ws.blobs().path(&file.digest));
    let mut lines = path.and_then(|path| Lines::open(&path, ROW, ROWS).ok());
    while let Some(Ok(Some(line))) = lines.as_mut().map(Lines::next_line) {
        rows += 1;
        if rows <= SHOWN_ROWS
            && let Ok(row) = serde_json::from_slice::<Row>(line)
        {
            samples.push(Sample { prompt: row.prompt, reference: String::new(), answer: row.response });
        }
    }
    OutputView::Rows { rows: rows as u64, samples }
}

/// Sample answers that an evaluation kept beside its numbers.
fn samples(ws: &Workspace, m: &Manifest) -> Vec<Sample> {
    let text = file(ws, m, "samples.jsonl").unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// The text of an artifact's file, if it has one of this name and it is here.
fn file(ws: &Workspace, m: &Manifest, name: &str) -> Option<String> {
    let path = ws.blobs().intact(&m.files.get(name)?.digest).ok()??;
    read::text(&path, read::FACTS).ok()
}

fn list_text(ws: &Workspace, items: &[(String, Value)]) -> Result<String, CommandError> {
    let mut lines = Vec::new();
    for (key, item) in items {
        let text = match item {
            Value::Artifact(a) => match ws.artifacts().manifest(&a.id)? {
                Some(m) => one_line(&m),
                None => a.id.short(),
            },
            Value::Json(j) => j.to_string(),
            other => other.describe(),
        };
        lines.push(format!("{key}: {text}"));
    }
    Ok(lines.join("\n"))
}

/// An artifact in a line: its metrics where it has some.
fn one_line(m: &Manifest) -> String {
    let metrics = match m.ty {
        Type::Metrics => Metrics::of(m).ok(),
        Type::Pllm => Pllm::of(m).ok().map(|p| p.metrics),
        _ => None,
    };
    let shown: Vec<String> = metrics
        .iter()
        .flat_map(Metrics::all)
        .take(6)
        .map(|(name, x)| format!("{name} {}", metric(x)))
        .collect();
    if shown.is_empty() { m.ty.to_string() } else { shown.join(", ") }
}
