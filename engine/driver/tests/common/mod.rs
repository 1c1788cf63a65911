//! A workspace, a handful of fake stages, and plans over them.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod phone;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headstart_driver::{Engine, EngineOptions, RunOptions, RunResult};
use headstart_dsl::plan::{Declared, Instance, Item, Output as PlanOutput, Place, Plan, Policy};
use headstart_env::Env;
use headstart_env::simulated::SimulatedClock;
use headstart_protocol::Progress;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::{Args, ArtifactRef, Context, Failure, FailureClass, Output, Stage, Type};
use headstart_store::Workspace;
use serde_json::json;

/// What the stages of a test do, and how often they were called.
#[derive(Default)]
pub struct Script {
    pub calls: Mutex<BTreeMap<String, u32>>,
    pub failures_left: AtomicU32,
    /// How often the process of `probe` and `accuracy` is still to be lost.
    pub losses_left: AtomicU32,
}

impl Script {
    pub fn calls(&self, kind: &str) -> u32 {
        self.calls.lock().expect("not poisoned").get(kind).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u32 {
        self.calls.lock().expect("not poisoned").values().sum()
    }

    /// Loses the process of an attempt, if it is to be.
    fn lose(&self) -> Result<(), Failure> {
        match self.losses_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Err(Failure::new(FailureClass::Lost, "killed by signal 9")),
            Err(_) => Ok(()),
        }
    }

    fn called(&self, kind: &str) {
        *self.calls.lock().expect("not poisoned").entry(kind.to_owned()).or_default() += 1;
    }
}

type Body = Box<dyn Fn(&Script, &Args, &dyn Context) -> Result<Output, Failure> + Send + Sync>;

struct Fake {
    kind: &'static str,
    script: Arc<Script>,
    body: Body,
}

impl Stage for Fake {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        self.script.called(self.kind);
        (self.body)(&self.script, args, ctx)
    }
}

/// The number that an artifact of these stages stands for.
pub fn number(ctx: &dyn Context, a: &ArtifactRef) -> Result<i64, Failure> {
    let text =
        std::fs::read_to_string(ctx.open(a)?.join("n")).map_err(|e| Failure::io(Path::new("n"), &e))?;
    text.parse().map_err(|_| Failure::input(format!("{text:?} is not a number")))
}

pub fn made(ctx: &dyn Context, ty: Type, n: i64) -> Result<Output, Failure> {
    let at = ctx.scratch().join("n");
    std::fs::write(&at, n.to_string()).map_err(|e| Failure::io(&at, &e))?;
    Ok(Output::new(ty, json!({ "n": n, "even": n % 2 == 0 })).file("n", at))
}

/// The kinds, borrowed from the registry for their properties:
/// - `jsonl` (a source, never cached) reads a number from the file `path`;
/// - `concat` adds up `datasets`, and reports progress;
/// - `probe` fails transiently as long as the script says so, then gives `model` plus one; it keeps
///   progress, and counts as `progress` each time that it finds some;
/// - `embed` panics;
/// - `evaluate` reports progress once and waits until it is asked to stop;
/// - `merge` has wrong input;
/// - `blend` ignores its inputs and gives `rows`;
/// - `accuracy` gives its argument back as a value, without a file, unless its process is lost;
/// - `local`, `ingest` and `decompose` make a model, a pLLM over `base`, and a catalog that lists
///   the artifacts given to it.
pub fn stages(script: &Arc<Script>) -> Vec<Box<dyn Stage>> {
    let mut out: Vec<Box<dyn Stage>> = Vec::new();
    let mut add = |kind: &'static str, body: Body| {
        out.push(Box::new(Fake { kind, script: Arc::clone(script), body }));
    };
    add(
        "jsonl",
        Box::new(|_, args, ctx| {
            let path = ctx.path(args.text("path")?);
            let text = std::fs::read_to_string(&path).map_err(|e| Failure::io(&path, &e))?;
            let n =
                text.trim().parse().map_err(|_| Failure::input(format!("{}: no number", path.display())))?;
            made(ctx, Type::Dataset, n)
        }),
    );
    add(
        "concat",
        Box::new(|_, args, ctx| {
            let mut sum = 0;
            let all = args.artifacts("datasets")?;
            for (i, (_, a)) in all.iter().enumerate() {
                sum += number(ctx, a)?;
                ctx.count("added", 1);
                let (done, total) = (i as u64 + 1, Some(all.len() as u64));
                ctx.progress(Progress { done, total, unit: "numbers".into(), metrics: BTreeMap::new() });
            }
            made(ctx, Type::Dataset, sum)
        }),
    );
    add(
        "probe",
        Box::new(|script, args, ctx| {
            let progress = ctx.resume_dir().expect("a cached kind has a place for its progress");
            if progress.join("tried").exists() {
                script.called("progress");
            }
            std::fs::create_dir_all(&progress).map_err(|e| Failure::io(&progress, &e))?;
            let tries = vec![b'.'; script.calls("probe") as usize];
            std::fs::write(progress.join("tried"), tries).map_err(|e| Failure::io(&progress, &e))?;
            script.lose()?;
            let left = &script.failures_left;
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                return Err(Failure::new(FailureClass::Transient, "the line dropped"));
            }
            let n = number(ctx, args.artifact("model")?)?;
            made(ctx, Type::Responses, n + 1)
        }),
    );
    add("embed", Box::new(|_, _, _| panic!("a defect, on purpose")));
    add(
        "evaluate",
        Box::new(|_, _, ctx| {
            ctx.progress(Progress { unit: "waits".into(), ..Progress::default() });
            while !ctx.cancelled() {
                std::thread::yield_now();
            }
            Err(Failure::new(FailureClass::Cancelled, "stopped"))
        }),
    );
    add("merge", Box::new(|_, _, _| Err(Failure::input("bases differ"))));
    add(
        "accuracy",
        Box::new(|script, args, _| {
            script.lose()?;
            Ok(Output::new(Type::Metrics, json!({ "n": args.int("n")? })))
        }),
    );
    add("local", Box::new(|_, _, ctx| made(ctx, Type::Model, 0)));
    add(
        "ingest",
        Box::new(|_, args, ctx| {
            let n = i64::try_from(args.text("source")?.len()).unwrap_or(0);
            let source = args.text("source")?.to_owned();
            let mut output = made(ctx, Type::Pllm, n)?.uses("base", args.artifact("base")?.clone());
            output.value = json!({ "source": source });
            Ok(output)
        }),
    );
    add(
        "decompose",
        Box::new(|_, args, ctx| {
            let listed = args.artifacts("divergences")?;
            let named =
                |out: Output, (k, a): &(&str, &ArtifactRef)| out.uses(format!("pllm:{k}"), (*a).clone());
            Ok(listed.iter().fold(made(ctx, Type::Catalog, 1)?, named))
        }),
    );
    add("blend", Box::new(|_, args, ctx| made(ctx, Type::Dataset, args.int("rows")?)));
    out
}

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub script: Arc<Script>,
    pub engine: Engine,
}

pub fn options() -> EngineOptions {
    EngineOptions { grace: Duration::from_secs(2), ..EngineOptions::default() }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: EngineOptions) -> Self {
        Self::in_env(options, Env::system())
    }

    fn in_env(options: EngineOptions, env: Env) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let script = Arc::new(Script::default());
        let ws = Workspace::open(&dir.path().join("ws")).expect("a workspace");
        let engine = Engine::with_env(ws, stages(&script), options, env).expect("an engine");
        Self { dir, script, engine }
    }

    /// A bench whose time stands still until it is moved.
    pub fn simulated(options: EngineOptions) -> (Self, SimulatedClock) {
        let clock = SimulatedClock::new();
        (Self::in_env(options, Env::simulated(&clock, 1)), clock)
    }

    /// A second engine on the same workspace, as after a restart.
    pub fn restarted(&mut self, options: EngineOptions) {
        let ws = self.engine.workspace().clone();
        self.engine = Engine::with(ws, stages(&self.script), options).expect("an engine");
    }

    /// As if the engine had been killed: another engine on the same workspace, and the run as a run that nobody
    /// executes, under the id that is returned (the first engine still holds the lock of the original).
    pub fn interrupted(&mut self, run: &str, id: &str) -> String {
        let runs = self.engine.workspace().dir().join("runs");
        let (from, to) = (runs.join(run), runs.join(id));
        std::fs::create_dir_all(to.join("log")).expect("writable");
        for file in ["plan.json", "log/events"] {
            std::fs::copy(from.join(file), to.join(file)).expect("copied");
        }
        std::fs::rename(from, self.dir.path().join(format!("was-{run}"))).expect("moved");
        self.restarted(options());
        id.to_owned()
    }

    pub fn run_options(&self) -> RunOptions {
        RunOptions::new("test.pllm", self.dir.path())
    }

    pub async fn run(&self, plan: Plan) -> Arc<RunResult> {
        let run = self.engine.run(plan, self.run_options()).expect("begins");
        run.wait().await.expect("ends")
    }

    pub fn write(&self, name: &str, n: i64) {
        std::fs::write(self.dir.path().join(name), n.to_string()).expect("writable");
    }

    /// The number behind an output.
    pub fn number(&self, result: &RunResult, output: &str) -> Option<i64> {
        let output = result.outputs.iter().find(|o| o.name == output).expect("declared");
        let Some(Value::Artifact(a)) = &output.value else { return None };
        let folder = self.engine.workspace().artifacts().materialize(&a.id).expect("stored");
        Some(std::fs::read_to_string(folder.join("n")).expect("a file").parse().expect("a number"))
    }
}

/// Waits until something holds that other threads bring about.
pub async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

/// Builds plans.
#[derive(Default)]
pub struct Pipeline {
    pub plan: Plan,
}

impl Pipeline {
    pub fn add(&mut self, name: &str, kind: &str, ty: Type, args: &[(&str, Expr)]) -> u32 {
        let item = Item {
            name: name.into(),
            declared: Declared::Stage,
            kind: kind.into(),
            ty,
            doc: String::new(),
            keyed: false,
            file: "test.pllm".into(),
            line: 1,
        };
        self.plan.items.push(item);
        let instance = Instance {
            item: self.plan.items.len() as u32 - 1,
            name: name.into(),
            key: None,
            kind: kind.into(),
            version: 1,
            args: args.iter().map(|(k, e)| ((*k).to_owned(), e.clone())).collect(),
            when: None,
            place: Place::Server,
            policy: Policy::default(),
            private_to: None,
            release: Vec::new(),
        };
        self.plan.instances.push(instance);
        self.plan.instances.len() as u32 - 1
    }

    pub fn source(&mut self, name: &str, path: &str) -> u32 {
        self.add(name, "jsonl", Type::Dataset, &[("path", Expr::value(Value::Path(path.into())))])
    }

    pub fn blend(&mut self, name: &str, rows: i64) -> u32 {
        self.add(name, "blend", Type::Dataset, &[("rows", Expr::value(Value::Int(rows)))])
    }

    pub fn sum(&mut self, name: &str, of: &[u32]) -> u32 {
        self.add(name, "concat", Type::Dataset, &[("datasets", list(of))])
    }

    pub fn at(&mut self, i: u32) -> &mut Instance {
        &mut self.plan.instances[i as usize]
    }

    pub fn on_phone(&mut self, i: u32) -> &mut Instance {
        let inst = self.at(i);
        inst.place = Place::Device("phone".into());
        inst.private_to = Some("phone".into());
        inst
    }

    pub fn output(&mut self, name: &str, value: Expr, ty: Type) {
        let released = false;
        self.plan.outputs.push(PlanOutput { name: name.into(), doc: String::new(), value, ty, released });
    }
}

pub fn out(instance: u32) -> Expr {
    Expr::Output { instance }
}

pub fn list(of: &[u32]) -> Expr {
    Expr::List { items: of.iter().map(|i| (i.to_string(), out(*i))).collect() }
}

pub fn field(of: Expr, name: &str) -> Expr {
    Expr::Field { of: Box::new(of), name: name.into() }
}
