//! Devices, played by a test through the hub, as the HTTP layer would.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, VerifyingKey};
use headstart_driver::{Hub, RunHandle};
use headstart_dsl::plan::Plan;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::wire::{Claim, Commit, Committed, Facts, Join, WireError};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Manifest, Numerics, PROTOCOL_VERSION, Type};
use serde_json::json;

use super::{Bench, Pipeline, field, list, out};

pub const SECRET_TEXT: &str = "dear diary, nobody must ever read this";

/// A device: a token, and what it keeps to itself.
pub struct Phone {
    pub hub: Hub,
    pub token: String,
    pub key: VerifyingKey,
    /// Everything that it was ever given or told.
    pub tasks: Vec<Task>,
}

pub fn unhex<const N: usize>(text: &str) -> [u8; N] {
    data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hexadecimal").try_into().expect("as long")
}

pub fn join_as(secret: &str) -> Join {
    Join {
        device: "phone".into(),
        protocol: PROTOCOL_VERSION,
        version: "1.2.3".into(),
        kinds: ["jsonl", "embed", "select", "finetune"].map(String::from).to_vec(),
        numerics: None,
        facts: Facts { threads: 2, memory: 4 << 30, ..Facts::default() },
        secret: secret.into(),
    }
}

/// What the phone calls its private things elsewhere: nobody can confirm a guess of the content.
pub fn handle(ty: ArtifactType, content: &str) -> ArtifactRef {
    let id = Digest::keyed(&[7; 32], content.as_bytes());
    ArtifactRef { id, ty, private_to: Some("phone".into()) }
}

impl Phone {
    pub fn join(hub: &Hub) -> Self {
        Self::admitted(hub, join_as("a secret of the phone"))
    }

    /// A phone that says what it computes with.
    pub fn join_with(hub: &Hub, numerics: Numerics) -> Self {
        Self::admitted(hub, Join { numerics: Some(numerics), ..join_as("a secret of the phone") })
    }

    fn admitted(hub: &Hub, join: Join) -> Self {
        let joined = hub.join(join).expect("admitted");
        let key = VerifyingKey::from_bytes(&unhex(&joined.key)).expect("a key");
        Self { hub: hub.clone(), token: joined.token, key, tasks: Vec::new() }
    }

    pub async fn claim_with(&mut self, holds: &[&str], wait_ms: u64) -> Option<Task> {
        let holds = holds.iter().map(|h| (*h).to_owned()).collect();
        let facts = Facts { threads: 2, memory: 4 << 30, holds, ..Facts::default() };
        let grant = self.hub.claim(&self.token, Claim { facts, wait_ms }).await.expect("a known token")?;
        let signature = Signature::from_bytes(&unhex(&grant.signature));
        self.key.verify_strict(grant.task.as_bytes(), &signature).expect("signed by the engine");
        let task = grant.task().expect("a task");
        self.tasks.push(task.clone());
        Some(task)
    }

    pub async fn claim(&mut self) -> Task {
        self.claim_with(&[], 5000).await.expect("work within five seconds")
    }

    pub async fn commit(&self, fence: u64, outcome: Outcome) -> Result<Committed, WireError> {
        self.commit_with(fence, outcome, BTreeMap::new()).await
    }

    pub async fn commit_with(
        &self,
        fence: u64,
        outcome: Outcome,
        manifests: BTreeMap<String, Manifest>,
    ) -> Result<Committed, WireError> {
        self.hub.commit(&self.token, Commit { fence, outcome, manifests }).await
    }

    /// Does what it is asked, keeping its output to itself.
    pub async fn work(&mut self, times: usize) {
        for _ in 0..times {
            let task = self.claim().await;
            let mut released = BTreeMap::new();
            if task.release.iter().any(|path| path == &["metrics"]) {
                released.insert("metrics".to_owned(), Released::Json(json!({"loss": 1.25, "steps": 40})));
            }
            let ty = ArtifactType::of(&task.ty).expect("an artifact");
            let output = handle(ty, &format!("{} of {SECRET_TEXT}", task.name));
            let counters = BTreeMap::from([("rows_of_my_diary".to_owned(), 365)]);
            let usage = Usage { seconds: 0.5, counters, ..Usage::default() };
            let done = Outcome::Succeeded { output, released, usage };
            assert_eq!(self.commit(task.fence, done).await.expect("taken"), Committed::Accepted);
        }
    }
}

pub fn done(output: ArtifactRef) -> Outcome {
    Outcome::Succeeded { output, released: BTreeMap::new(), usage: Usage::default() }
}

/// A catalog of two pLLMs on the server; data, its divergence, a choice, a training on the phone.
pub fn personal() -> (Plan, [u32; 5]) {
    let mut p = Pipeline::default();
    let path = |s: &str| Expr::value(Value::Path(s.into()));
    let base = p.add("base", "local", Type::Model, &[("path", path("base"))]);
    let one = p.add("one", "ingest", Type::Pllm, &[("base", out(base)), ("source", path("one"))]);
    let two = p.add("two", "ingest", Type::Pllm, &[("base", out(base)), ("source", path("two"))]);
    let catalog = p.add("catalog", "decompose", Type::Catalog, &[("divergences", list(&[one, two]))]);
    let mine = p.add("mine", "jsonl", Type::Dataset, &[("path", path("me.jsonl"))]);
    p.on_phone(mine);
    let me = p.add("me", "embed", Type::Divergence, &[("responses", out(mine)), ("against", out(base))]);
    p.on_phone(me);
    let pick = p.add("pick", "select", Type::Selection, &[("catalog", out(catalog)), ("user", out(me))]);
    p.on_phone(pick);
    let from = field(out(pick), "pllm");
    let tuned = p.add("tuned", "finetune", Type::Pllm, &[("from", from), ("data", out(mine))]);
    p.on_phone(tuned).release = vec![vec!["metrics".into()]];
    p.output("catalog", out(catalog), Type::Catalog);
    p.output("saved", field(out(tuned), "metrics"), Type::Metrics);
    (p.plan, [catalog, mine, me, pick, tuned])
}

/// One private stage on the phone, and what of it is released.
pub fn single(release: &[&str]) -> Plan {
    let mut p = Pipeline::default();
    let a = p.blend("a", 3);
    let tuned = p.add("tuned", "finetune", Type::Pllm, &[("data", out(a))]);
    p.on_phone(tuned).release = release.iter().map(|r| r.split('.').map(str::to_owned).collect()).collect();
    p.plan
}

pub fn begin(bench: &Bench, plan: Plan) -> RunHandle {
    bench.engine.run(plan, bench.run_options()).expect("begins")
}
