//! The checked plan: every stage instance, expanded, typed, placed. What the engine runs.

use std::collections::BTreeMap;

use headstart_cron::{Catchup, Overlap};
use headstart_protocol::contract::{
    PlannedSources, Proposal, Source, Sources, StageArguments, planned_conditions, stage_name,
};
use headstart_protocol::declared::DeclaredStage;
pub use headstart_protocol::declared::Program;
use headstart_protocol::expr::Expr;
use headstart_protocol::{ArtifactRef, Type, kinds};
use serde::{Deserialize, Serialize};

/// A checked pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Documentation of the file.
    pub doc: String,
    /// What the file declares, in its order: models, datasets, spaces, stages.
    pub items: Vec<Item>,
    /// Every instance, in topological order: an instance refers only to earlier ones.
    pub instances: Vec<Instance>,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// The schedules.
    pub schedules: Vec<Schedule>,
    /// Values of the parameters, as text for people.
    pub params: BTreeMap<String, String>,
    /// Programs, whose custom stages are kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
}

/// A declared model, dataset, space or stage; with `for`, it has several instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name; items of an imported module are prefixed, as in `explain.drift`.
    pub name: String,
    /// What it is declared as.
    pub declared: Declared,
    /// The stage kind.
    pub kind: String,
    /// Type of one instance.
    pub ty: Type,
    /// Its `///` documentation.
    pub doc: String,
    /// Whether it is a fan-out.
    pub keyed: bool,
    /// Where it is declared: file and 1-based line.
    pub file: String,
    /// 1-based line.
    pub line: u32,
}

/// What an item is declared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the four keywords")]
pub enum Declared {
    Model,
    Dataset,
    Space,
    Stage,
}

/// One instance of an item: what is run, cached and retried as a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Index into [`Plan::items`].
    pub item: u32,
    /// Name for people: `said["friendly"]`, or just `plain`.
    pub name: String,
    /// Its key in the fan-out; several variables give `a,b`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The stage kind.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Arguments, defaults filled in; absent ones are left out.
    pub args: BTreeMap<String, Expr>,
    /// Runs only if true; otherwise the output is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expr>,
    /// Where it runs.
    pub place: Place,
    /// How it runs.
    pub policy: Policy,
    /// The device that alone may hold its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_to: Option<String>,
    /// Parts of its private output that an `output … = release(…)` lets out: field paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<Vec<String>>,
}

impl Instance {
    /// Whether this is its name, the key in quotes or not: `said["friendly"]`, `said[friendly]`.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name
            || self.key.as_ref().is_some_and(|key| {
                let item = self.name.split('[').next().unwrap_or_default();
                name.strip_prefix(item).and_then(|n| n.strip_prefix('[')?.strip_suffix(']')) == Some(key)
            })
    }
}

/// Where an instance runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On the engine's machine.
    Server,
    /// On the device of this name.
    Device(String),
}

/// Stages of which only some run at once: `group("gpu", 1)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// Its name, the same in all pipelines of an engine.
    pub name: String,
    /// How many run at once, at least 1.
    pub size: u32,
}

/// How an instance runs: its settings block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// Threads that it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// The group with which it shares something of which there is little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Group>,
    /// Further attempts after the first; transient failures only.
    pub retry: u32,
    /// Attempts lost by what the stage can have done before it is quarantined: at least 1.
    #[serde(skip_serializing_if = "are_the_usual_losses")]
    pub losses: u32,
    /// Pause before the first retry, doubled each time, in milliseconds.
    pub backoff_ms: Option<u64>,
    /// Limit of one attempt in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Limit of waiting for a runner in milliseconds.
    pub wait_ms: Option<u64>,
    /// Conditions of the device: `charging`, `unmetered`, `idle`.
    pub only_when: Vec<String>,
}

/// Losses before a stage is quarantined, unless its settings say otherwise.
const LOSSES: u32 = 5;

/// Left out of plans, so that those of earlier versions stay the same.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn are_the_usual_losses(n: &u32) -> bool {
    *n == LOSSES
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            memory: None,
            threads: None,
            limit: None,
            retry: 0,
            losses: LOSSES,
            backoff_ms: None,
            timeout_ms: None,
            wait_ms: None,
            only_when: Vec::new(),
        }
    }
}

/// An output of the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its documentation.
    pub doc: String,
    /// Its value.
    pub value: Expr,
    /// Its type.
    pub ty: Type,
    /// Whether it leaves a device by `release`.
    pub released: bool,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// The items that it brings up to date; empty is all.
    pub run: Vec<String>,
    /// Five-field cron expression; empty where no time starts it.
    pub cron: String,
    /// IANA time zone of `cron`; empty where there is none.
    pub timezone: String,
    /// What happens to a fire while the previous run has not ended.
    pub overlap: Overlap,
    /// What happens to missed fires.
    pub catchup: Catchup,
    /// Fires missed longer ago than this are skipped, in milliseconds.
    #[serde(default = "week", skip_serializing_if = "is_week")]
    pub catchup_window_ms: u64,
    /// Missed fires that are caught up at most.
    #[serde(default = "ten", skip_serializing_if = "is_ten")]
    pub catchup_max: u32,
    /// Runs start up to this long after their fires, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jitter_ms: u64,
    /// Patterns of paths whose changes start it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when_changed: Vec<String>,
    /// Schedules of the same file whose success starts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Webhooks whose signed calls start it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<String>,
}

impl Schedule {
    /// One that nothing is said of.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            run: Vec::new(),
            cron: String::new(),
            timezone: String::new(),
            overlap: Overlap::default(),
            catchup: Catchup::default(),
            catchup_window_ms: week(),
            catchup_max: ten(),
            jitter_ms: 0,
            when_changed: Vec::new(),
            after: Vec::new(),
            webhooks: Vec::new(),
        }
    }

    /// What starts it, for people: `0 3 * * * (UTC)`, ``change of `adapters/*` ``.
    pub fn starts(&self) -> String {
        let time = (!self.cron.is_empty()).then(|| format!("{} ({})", self.cron, self.timezone));
        let changes = self.when_changed.iter().map(|p| format!("change of `{p}`"));
        let after = self.after.iter().map(|s| format!("success of `{s}`"));
        let calls = self.webhooks.iter().map(|name| format!("call of webhook `{name}`"));
        time.into_iter().chain(changes).chain(after).chain(calls).collect::<Vec<_>>().join(", ")
    }
}

fn week() -> u64 {
    7 * 24 * 3600 * 1000
}

fn is_week(ms: &u64) -> bool {
    *ms == week()
}

fn ten() -> u32 {
    10
}

fn is_ten(count: &u32) -> bool {
    *count == ten()
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

impl Plan {
    /// The program that a kind is a stage of, and the stage; none for a built-in kind.
    pub fn program(&self, kind: &str) -> Option<(&Program, &DeclaredStage)> {
        let (program, stage) = kind.rsplit_once('.')?;
        let program = self.programs.iter().find(|p| p.name == program)?;
        Some((program, program.declaration.stage(stage)?))
    }

    /// Whether outputs of a kind depend on its arguments alone.
    pub fn is_cacheable(&self, kind: &str) -> bool {
        match self.program(kind) {
            Some((_, stage)) => stage.cacheable(),
            None => kinds::find(kind).is_some_and(|k| k.cacheable),
        }
    }

    /// Whether a kind computes numbers, so that its results depend on what they are computed with. A
    /// program's stage computes with what the program brings along, which its digest covers.
    pub fn is_numeric(&self, kind: &str) -> bool {
        self.program(kind).is_none() && kinds::find(kind).is_some_and(|k| k.numeric)
    }

    /// The instances that an instance refers to, each once, ascending.
    pub fn inputs(&self, instance: usize) -> Vec<u32> {
        let mut out = Vec::new();
        let i = &self.instances[instance];
        for e in i.args.values().chain(&i.when) {
            e.each_output(&mut |o| out.push(o));
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// What the plan places on a device, for its owner to approve; without the models that it is given, which
    /// only a run knows.
    pub fn proposal(&self, device: &str) -> Proposal {
        let mut proposal = Proposal::default();
        for i in self.instances.iter().filter(|i| matches!(&i.place, Place::Device(d) if d == device)) {
            let program = self.program(&i.kind).map(|(program, _)| &program.digest);
            let ty = &self.items[i.item as usize].ty;
            proposal.add_stage(&i.kind, i.version, program, ty, &i.release);
            if i.private_to.is_some() {
                let of = stage_name(&i.kind, program);
                proposal.arguments.insert(StageArguments::planned(&of, &i.args));
                proposal.conditions.extend(planned_conditions(&of, &i.args, i.when.as_ref(), self));
            }
        }
        proposal
    }

    /// Names of all devices that the plan places work on, sorted.
    pub fn devices(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .instances
            .iter()
            .filter_map(|i| match &i.place {
                Place::Device(d) => Some(d.clone()),
                Place::Server => None,
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Outputs by the stages that make them, as a device knows them too.
impl Sources for Plan {
    fn artifact(&self, artifact: &ArtifactRef) -> Source {
        Source::Public(format!("{:?}", artifact.ty))
    }
}

impl PlannedSources for Plan {
    fn output(&self, instance: u32) -> Source {
        let i = &self.instances[instance as usize];
        match i.private_to {
            Some(_) => Source::Private(stage_name(&i.kind, self.program(&i.kind).map(|(p, _)| &p.digest))),
            None => Source::Public(self.items[i.item as usize].ty.present().to_string()),
        }
    }
}
