//! What the runs of a workspace name, and which of it a collection keeps.
//!
//! A run needs what its log names. Kept in any case is what a live run names, what the run needs that the same command
//! would resume, the results of each pipeline's latest run and of its latest that succeeded, each pipeline's newest
//! catalog, and what is pinned. The rules add to that.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use headstart_core::{Event, EventKind, RunOutcome};
use headstart_protocol::task::Released;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest};
use headstart_store::gc::{Collection, Exclusive, Named};
use headstart_store::{StoreError, Workspace};
use serde::Deserialize;

/// Milliseconds of a day.
const DAY_MS: u64 = Duration::from_secs(24 * 3600).as_millis() as u64;

/// What is kept beside what always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepRules {
    /// The latest runs of each pipeline.
    pub runs: Option<NonZeroU32>,
    /// Runs that were written in the last days.
    pub days: Option<u32>,
    /// Whether other runs may lose their results.
    pub others_go: bool,
}

/// Why a run keeps its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// An engine executes it.
    Live,
    /// It was interrupted or cancelled, and is resumed by the same command.
    Resumable,
    /// It is the latest of its pipeline, or the latest that succeeded.
    Latest,
    /// It is one of the latest that the rules keep.
    Recent,
    /// It is as young as the rules keep runs.
    Young,
    /// Nothing that a run names goes.
    All,
}

impl Kept {
    /// In a word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Resumable => "resumable",
            Self::Latest => "latest",
            Self::Recent => "keep_runs",
            Self::Young => "keep_days",
            Self::All => "no_rule",
        }
    }

    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Live => "it is running",
            Self::Resumable => "it can be resumed",
            Self::Latest => "it is the latest of its pipeline, or the latest that succeeded",
            Self::Recent => "--keep-runs",
            Self::Young => "--keep-days",
            Self::All => "every run keeps its results without a rule",
        }
    }
}

/// A run, as far as what it uses is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct RunUse {
    /// Its id.
    pub run: String,
    /// Its pipeline, for people.
    pub pipeline: String,
    /// The folder that the pipeline's paths are relative to.
    source_dir: PathBuf,
    /// What it was created with.
    header: Digest,
    /// When it was last written.
    pub at_ms: u64,
    /// Whether an engine executes it.
    pub live: bool,
    outcome: Option<RunOutcome>,
    /// Artifacts that its log names.
    pub artifacts: BTreeSet<Digest>,
    /// Of these, public catalogs.
    catalogs: BTreeSet<Digest>,
    /// Cache keys, with what was made for each.
    keys: BTreeMap<Digest, Digest>,
    /// Why it keeps them; empty if it need not.
    pub kept: BTreeSet<Kept>,
}

/// What the runs of a workspace name.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The runs, oldest first.
    pub runs: Vec<RunUse>,
    /// Catalogs that stay whatever becomes of their runs: each pipeline's newest.
    pub catalogs: BTreeSet<Digest>,
    /// What is pinned.
    pub pinned: BTreeSet<Digest>,
}

impl Survey {
    /// What names artifacts, for [`headstart_store::gc::choose`].
    pub fn named(&self) -> Vec<Named> {
        let runs = self.runs.iter().map(|run| Named {
            run: run.run.clone(),
            at_ms: run.at_ms,
            keep: !run.kept.is_empty(),
            artifacts: run.artifacts.clone(),
        });
        let always = [&self.catalogs, &self.pinned];
        let always =
            always.map(|artifacts| Named { keep: true, artifacts: artifacts.clone(), ..Named::default() });
        runs.chain(always).collect()
    }
}

/// Only what is needed of a run's plan.
#[derive(Deserialize)]
struct Header {
    pipeline: String,
    source_dir: PathBuf,
}

/// Reads the logs of all runs, and finds out which keep their results.
///
/// # Errors
/// [`StoreError`] where a run or the pins cannot be read: what they name is not known, so that nothing may go.
pub fn survey(ws: &Workspace, rules: KeepRules, now_ms: u64) -> Result<Survey, StoreError> {
    let runs = ws.runs();
    let runs = runs.iter().map(|run| read(ws, &run.id)).collect::<Result<Vec<_>, _>>()?;
    let pinned = ws.pins()?.into_iter().flat_map(|pin| pin.artifacts).collect();
    let mut survey = Survey { runs, pinned, ..Survey::default() };
    survey.decide(rules, now_ms);
    Ok(survey)
}

/// Results that event logs name and that are not in the workspace. A run that needs one makes it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Those that were removed on purpose.
    pub collected: BTreeSet<Digest>,
    /// Others.
    pub missing: BTreeSet<Digest>,
}

/// Looks for results that are gone. A run that cannot be read is left out.
///
/// # Errors
/// [`StoreError`] where the list of what was collected cannot be read.
pub fn gone(ws: &Workspace) -> Result<Gone, StoreError> {
    let on_purpose = ws.collected()?;
    let runs = ws.runs().into_iter().filter_map(|run| read(ws, &run.id).ok());
    let named: BTreeSet<Digest> = runs.flat_map(|run| run.artifacts).collect();
    let absent = named.into_iter().filter(|id| !ws.artifacts().has(id));
    let (collected, missing) = absent.partition(|id| on_purpose.contains(id));
    Ok(Gone { collected, missing })
}

/// Removes what was chosen. The cache forgets it first, so that a run which needs it does not find out only when it
/// opens it.
///
/// # Errors
/// As [`Workspace::collect`].
pub fn collect(
    ws: &Workspace,
    locked: &Exclusive,
    survey: &Survey,
    what: &Collection,
) -> Result<(), StoreError> {
    let keys = survey.runs.iter().flat_map(|run| &run.keys);
    let gone: BTreeSet<&Digest> =
        keys.filter(|(_, output)| what.artifacts.contains(output)).map(|(key, _)| key).collect();
    for key in gone {
        // Another run may have made something else for it since.
        if ws.cache().stage_get(key).is_some_and(|entry| what.artifacts.contains(&entry.output.id)) {
            ws.cache().stage_forget(key);
        }
    }
    ws.cache().sync()?;
    ws.collect(locked, what)
}

/// What a run uses.
///
/// # Errors
/// [`StoreError`] where it cannot be read.
pub fn read(ws: &Workspace, id: &str) -> Result<RunUse, StoreError> {
    let header: Header = ws.read_header(id)?;
    // Before its log: a run that ends in between has written all of it then.
    let live = ws.is_live(id);
    let events: Vec<Event> = ws.read_run(id)?;
    let mut found = RunUse {
        run: id.to_owned(),
        pipeline: header.pipeline,
        source_dir: header.source_dir,
        header: ws.header_digest(id)?,
        at_ms: events.last().map_or(0, |e| e.at_ms),
        live,
        outcome: None,
        artifacts: BTreeSet::new(),
        catalogs: BTreeSet::new(),
        keys: BTreeMap::new(),
        kept: BTreeSet::new(),
    };
    let mut named = Outputs::new();
    let mut begun = BTreeMap::new();
    for event in &events {
        found.fold(&event.kind, &mut named);
        found.fold_key(&event.kind, &mut begun);
    }
    for output in named.into_values().flatten() {
        if output.ty == ArtifactType::Catalog {
            found.catalogs.insert(output.id);
        }
        found.artifacts.insert(output.id);
    }
    Ok(found)
}

/// Public artifacts that instances made or released.
type Outputs = BTreeMap<u32, Vec<ArtifactRef>>;

impl RunUse {
    fn fold(&mut self, event: &EventKind, named: &mut Outputs) {
        match event {
            EventKind::CacheHit { instance, output, released, .. }
            | EventKind::Committed { instance, output, released, .. } => {
                let parts = released.values().filter_map(|part| match part {
                    Released::Artifact(a) => Some(a),
                    Released::Json(_) => None,
                });
                // What is private to a device is not here.
                let here = parts.chain([output]).filter(|a| a.private_to.is_none());
                named.insert(*instance, here.cloned().collect());
            }
            EventKind::Invalidated { instance } => drop(named.remove(instance)),
            EventKind::RunFinished { outcome } => self.outcome = Some(*outcome),
            EventKind::RunResumed {} | EventKind::RetryRequested { .. } => self.outcome = None,
            _ => {}
        }
    }

    fn fold_key(&mut self, event: &EventKind, begun: &mut BTreeMap<u32, Digest>) {
        match event {
            EventKind::CacheHit { key, output, .. } => drop(self.keys.insert(*key, output.id)),
            EventKind::AttemptStarted { instance, key: Some(key), .. } => drop(begun.insert(*instance, *key)),
            EventKind::Committed { instance, output, .. } => {
                if let Some(key) = begun.get(instance) {
                    self.keys.insert(*key, output.id);
                }
            }
            _ => {}
        }
    }

    fn pipeline(&self) -> (&str, &PathBuf) {
        (&self.pipeline, &self.source_dir)
    }

    fn has_ended(&self) -> bool {
        matches!(self.outcome, Some(RunOutcome::Succeeded | RunOutcome::Failed))
    }
}

impl Survey {
    /// From the latest run to the oldest, so that what came later is known.
    fn decide(&mut self, rules: KeepRules, now_ms: u64) {
        let mut ended: BTreeSet<Digest> = BTreeSet::new();
        let mut seen: BTreeMap<(String, PathBuf), Seen> = BTreeMap::new();
        for run in self.runs.iter_mut().rev() {
            let (pipeline, folder) = run.pipeline();
            let seen = seen.entry((pipeline.to_owned(), folder.clone())).or_default();
            let has_ended = run.has_ended();
            let mut keep = |if_so: bool, why| {
                if if_so {
                    run.kept.insert(why);
                }
            };
            let succeeded = run.outcome == Some(RunOutcome::Succeeded);
            keep(run.live, Kept::Live);
            keep(!run.live && !has_ended && !ended.contains(&run.header), Kept::Resumable);
            keep(seen.runs == 0 || succeeded && !seen.succeeded, Kept::Latest);
            keep(rules.runs.is_some_and(|n| seen.runs < n.get()), Kept::Recent);
            let age = now_ms.saturating_sub(run.at_ms);
            keep(rules.days.is_some_and(|days| age <= u64::from(days) * DAY_MS), Kept::Young);
            keep(!rules.others_go, Kept::All);
            seen.runs += 1;
            seen.succeeded |= succeeded;
            if !seen.catalog && !run.catalogs.is_empty() {
                seen.catalog = true;
                self.catalogs.extend(&run.catalogs);
            }
            if has_ended {
                ended.insert(run.header);
            }
        }
    }
}

/// What later runs of a pipeline there are.
#[derive(Default)]
struct Seen {
    runs: u32,
    succeeded: bool,
    catalog: bool,
}
