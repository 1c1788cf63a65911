//! Plans and events for tests.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use headstart_core::{Event, EventKind};
use headstart_dsl::plan::{Declared, Instance, Item, Place, Plan, Policy};
use headstart_protocol::expr::{Expr, Manifests, ResolveError};
use headstart_protocol::task::Usage;
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Failure, FailureClass, Manifest, Type};

pub fn item(name: &str, kind: &str, ty: Type) -> Item {
    Item {
        name: name.into(),
        declared: Declared::Stage,
        kind: kind.into(),
        ty,
        doc: String::new(),
        keyed: false,
        file: "test.pllm".into(),
        line: 1,
    }
}

pub fn instance(item: u32, name: &str, kind: &str, args: &[(&str, Expr)]) -> Instance {
    Instance {
        item,
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
    }
}

pub fn out(instance: u32) -> Expr {
    Expr::Output { instance }
}

/// A plan in which instance `i` refers to `inputs[i]`.
pub fn graph_plan(inputs: &[Vec<u32>]) -> Arc<Plan> {
    let node = |(i, inputs): (usize, &Vec<u32>)| {
        let items = inputs.iter().map(|j| (j.to_string(), out(*j))).collect();
        instance(0, &format!("d[{i}]"), "concat", &[("datasets", Expr::List { items })])
    };
    Arc::new(Plan {
        items: vec![item("d", "concat", Type::Dataset)],
        instances: inputs.iter().enumerate().map(node).collect(),
        ..Plan::default()
    })
}

pub fn artifact(ty: ArtifactType, n: u64) -> ArtifactRef {
    ArtifactRef { id: Digest::of(&n.to_le_bytes()), ty, private_to: None }
}

pub fn private(ty: ArtifactType, n: u64) -> ArtifactRef {
    ArtifactRef { private_to: Some("phone".into()), ..artifact(ty, n) }
}

pub fn started(plan: &Plan) -> EventKind {
    EventKind::RunStarted {
        run: "r".into(),
        pipeline: "test.pllm".into(),
        plan: Digest::of_json(plan),
        instances: plan.instances.len() as u32,
    }
}

pub fn attempt(instance: u32, attempt: u32, fence: u64) -> EventKind {
    EventKind::AttemptStarted {
        instance,
        attempt,
        fence,
        runner: "local".into(),
        key: None,
        lease_until_ms: None,
    }
}

pub fn committed(instance: u32, fence: u64) -> EventKind {
    EventKind::Committed {
        instance,
        fence,
        output: artifact(ArtifactType::Dataset, fence),
        released: BTreeMap::new(),
        usage: Usage::default(),
    }
}

pub fn failed(instance: u32, fence: u64, retry_at_ms: Option<u64>) -> EventKind {
    let failure = Failure::new(FailureClass::Transient, "the line dropped");
    EventKind::Failed { instance, fence: Some(fence), failure, retry_at_ms }
}

pub fn at(at_ms: u64, kind: EventKind) -> Event {
    Event::new(at_ms, kind)
}

/// Manifests by id.
#[derive(Default)]
pub struct KnownManifests(pub BTreeMap<Digest, Manifest>);

impl Manifests for KnownManifests {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError> {
        assert_eq!(artifact.private_to, None, "the engine asked for a private manifest");
        self.0.get(&artifact.id).cloned().ok_or_else(|| ResolveError::Manifest("not here".into()))
    }
}
