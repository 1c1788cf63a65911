//! A phone with a diary, and what an engine gets for the tasks that it gives to it.

use headstart_device::{Allowed, ReleaseLimits, history};
use headstart_protocol::expr::{CompareOp, Expr, Value};
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{ArtifactRef, Output, Stage, Type};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::{Engine, Place, field, stages, task};

/// Texts that stand nowhere else.
pub const DIARY: &str = "{\"prompt\":\"How was the surgery?\",\"response\":\"My sister Ottilie drove me home.\"}\n\
                         {\"prompt\":\"And the money?\",\"response\":\"We owe the bank 41,907 crowns.\"}\n";

/// An engine and its victim.
pub struct Phone {
    pub engine: Engine,
    pub place: Place,
    pub allowed: Allowed,
    pub limits: ReleaseLimits,
    pub base: ArtifactRef,
    pub catalog: ArtifactRef,
    fence: u64,
}

impl Phone {
    /// A phone whose owner lets nothing leave.
    pub async fn new(diary: &str) -> Self {
        let (engine, place) = (Engine::start().await, Place::new());
        place.write("me.jsonl", diary);
        let base = engine.publish(Type::Model, &[("model.safetensors", b"base")], json!({}));
        let adapter = |name: &str| {
            let files: &[(&str, &[u8])] = &[("adapter_model.safetensors", name.as_bytes())];
            engine.publish_using(Type::Pllm, files, json!({ "format": "lora" }), &[("base", &base)])
        };
        let (kind, terse) = (adapter("kind"), adapter("terse"));
        let uses = [("pllm:kind", &kind), ("pllm:terse", &terse)];
        let catalog = engine.publish_using(Type::Catalog, &[("lexicon.json", b"{}")], json!({}), &uses);
        Self {
            engine,
            place,
            allowed: Allowed::NONE,
            limits: ReleaseLimits::default(),
            base,
            catalog,
            fence: 0,
        }
    }

    /// A task of its own fence.
    pub fn task(&mut self, kind: &str, ty: Type, args: &[(&str, Value)]) -> Task {
        self.fence += 1;
        task(self.fence, kind, ty, args)
    }

    /// What the engine gets for a task, run with these stages.
    pub async fn run(&self, t: Task, stages: Vec<Box<dyn Stage>>) -> Outcome {
        self.engine.offer(t);
        let mut options = self.place.options(&self.engine);
        (options.allowed, options.limits) = (self.allowed, self.limits);
        headstart_device::run(options, stages, CancellationToken::new()).await.expect("runs");
        self.engine.commits().pop().expect("a commit").outcome
    }

    /// The handle of what a task made.
    pub async fn handle(&self, t: Task, stages: Vec<Box<dyn Stage>>) -> ArtifactRef {
        match self.run(t, stages).await {
            Outcome::Succeeded { output, .. } => output,
            other => panic!("{other:?}"),
        }
    }

    pub async fn diary(&mut self) -> ArtifactRef {
        let mut t = self.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
        t.private = true;
        self.handle(t, stages()).await
    }

    pub async fn pick(&mut self, mine: &ArtifactRef) -> ArtifactRef {
        let args =
            [("catalog", Value::Artifact(self.catalog.clone())), ("user", Value::Artifact(mine.clone()))];
        let mut t = self.task("select", Type::Selection, &args);
        t.private = true;
        self.handle(t, stages()).await
    }

    /// A training on the diary that is run only where `when` holds.
    pub fn tuned(&mut self, mine: &ArtifactRef, when: Option<Expr>) -> Task {
        let args = [("from", Value::Artifact(self.base.clone())), ("data", Value::Artifact(mine.clone()))];
        let mut t = self.task("finetune", Type::Pllm.optional(), &args);
        (t.private, t.when) = (true, when);
        t
    }

    /// What the owner of the phone is told, newest last.
    pub fn history(&self) -> Vec<history::Entry> {
        history::read(&self.place.state().join("history.jsonl")).expect("a history")
    }

    /// Nothing of the diary is in anything that the engine got.
    pub fn assert_silent(&self) {
        let traffic = String::from_utf8_lossy(&self.engine.lock().traffic).into_owned();
        for text in ["Ottilie", "crowns", "surgery", "41,907"] {
            assert!(!traffic.contains(text), "{text} left the device");
        }
        assert!(self.engine.lock().uploaded.is_empty());
    }
}

/// The stages of the phone; what `select` and `finetune` do depends on the diary.
pub fn stages() -> Vec<Box<dyn Stage>> {
    vec![stages::jsonl(), stages::evaluate(), select(), stages::finetune()]
}

/// A choice that is as sure as the diary has crowns.
fn select() -> Box<dyn Stage> {
    stages::fake("select", |args, ctx| {
        let at = ctx.open(args.artifact("user")?)?.join("rows.jsonl");
        let text = std::fs::read_to_string(at).expect("rows");
        let catalog = ctx.manifest(args.artifact("catalog")?)?;
        let name = if text.contains("crowns") { "kind" } else { "terse" };
        let chosen = catalog.uses[&format!("pllm:{name}")].clone();
        let value = json!({
            "pllm_name": name, "is_mix": text.contains("crowns"), "abstained": false,
            "confidence": if text.contains("crowns") { 0.419_07 } else { 0.9 },
            "mix": { name: 1.0 },
        });
        Ok(Output::new(Type::Selection, value)
            .uses("pllm", chosen.clone())
            .uses(format!("pllm:{name}"), chosen))
    })
}

/// `artifact.name > bound`.
pub fn above(artifact: &ArtifactRef, name: &str, bound: f64) -> Expr {
    Expr::Compare {
        op: CompareOp::Gt,
        left: Box::new(field(artifact, name)),
        right: Box::new(Expr::value(Value::Float(bound))),
    }
}

/// An outcome, with handles and seconds taken out.
pub fn shape(outcome: &Outcome) -> String {
    let mut outcome = outcome.clone();
    let mut handle = String::new();
    if let Outcome::Succeeded { output, usage, .. } = &mut outcome {
        handle = output.id.to_string();
        usage.seconds = 0.0;
    }
    let text = serde_json::to_string(&outcome).expect("serializes");
    if handle.is_empty() { text } else { text.replace(&handle, "HANDLE") }
}
