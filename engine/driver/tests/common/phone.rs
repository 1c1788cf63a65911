//! Devices, played by a test through the hub, as the HTTP layer would.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;

use headstart_driver::hub::Session;
use headstart_driver::{Hub, RunHandle};
use headstart_dsl::plan::Plan;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::task::{Outcome, Released, Task, Usage};
use headstart_protocol::wire::{
    Claim, Commit, CommitResult, Committed, Facts, Grant, Hello, Invited, Join, Joined, Renew, Renewal,
    Renewed, Signed, Welcome, WireError,
};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Manifest, Numerics, PROTOCOL_VERSION, Type};
use headstart_transport::proof::JoinClaim;
use headstart_transport::signed::{self, Kind};
use headstart_transport::{Identity, Invitation};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Bench, Pipeline, field, list, out};

pub const SECRET_TEXT: &str = "dear diary, nobody must ever read this";

/// A device: its session, and what it keeps to itself.
pub struct Phone {
    pub hub: Hub,
    pub session: Session,
    /// What names the session.
    pub token: String,
    pub identity: Identity,
    /// Everything that it was ever given or told.
    pub tasks: Vec<Task>,
}

/// The phone's identity.
pub fn phone() -> Identity {
    Identity::from_secret(&[7; 32])
}

/// What a device says of itself; not proven yet.
pub fn plain_join() -> Join {
    Join {
        device: "phone".into(),
        protocol: PROTOCOL_VERSION,
        version: "1.2.3".into(),
        kinds: ["jsonl", "embed", "select", "finetune", "concat"].map(String::from).to_vec(),
        numerics: None,
        facts: Facts { threads: 2, memory: 4 << 30, ..Facts::default() },
        highest_fence: 0,
        granted: None,
        challenge: String::new(),
        nonce: "a number used once".into(),
        proof: String::new(),
        invitation: None,
    }
}

/// A fresh challenge for a device.
pub fn challenge(hub: &Hub, identity: &Identity) -> String {
    let hello = Hello { protocol: PROTOCOL_VERSION, nonce: "first".into() };
    let signed = hub.hello(&identity.public(), &hello).expect("answered");
    read::<Welcome>(hub, identity, &signed, Kind::Welcome).challenge
}

/// A join that proves the device's key, and the invitation if there is one.
pub fn proven(hub: &Hub, identity: &Identity, join: Join, invitation: Option<&Invitation>) -> Join {
    let challenge = challenge(hub, identity);
    let (engine, device) = (hub.identity().public(), identity.public());
    let claim = JoinClaim {
        engine: &engine,
        device: &device,
        challenge: &challenge,
        nonce: &join.nonce,
        name: &join.device,
    };
    let invited = invitation.map(|i| {
        let token = i.token_key();
        Invited { key: token.public().to_string(), proof: claim.sign_invited(&token) }
    });
    let proof = claim.sign(identity);
    Join { proof, invitation: invited, challenge, ..join }
}

/// Invites a device for an hour.
pub fn invite(hub: &Hub, name: &str) -> Invitation {
    let hour = std::time::Duration::from_secs(3600);
    let engine = hub.identity().public();
    hub.registry().invite(engine, name, "https://127.0.0.1:7878", hour).expect("invited")
}

/// Reads what the engine signed for a device.
pub fn read<T: DeserializeOwned>(hub: &Hub, device: &Identity, message: &Signed, kind: Kind) -> T {
    signed::open(message, kind, &hub.identity().public(), &device.public()).expect("signed by the engine").0
}

/// Joins; the session, and what names it.
pub fn join(hub: &Hub, identity: &Identity, join: &Join) -> Result<(Session, String), WireError> {
    let signed = hub.join(&identity.public(), join)?;
    let joined: Joined = read(hub, identity, &signed, Kind::Joined);
    assert_eq!(joined.nonce, join.nonce);
    Ok((hub.authenticate(&identity.public(), &joined.session)?, joined.session))
}

/// What the phone calls its private things elsewhere: nobody can confirm a guess of the content.
pub fn handle(ty: ArtifactType, content: &str) -> ArtifactRef {
    let id = Digest::keyed(&[7; 32], content.as_bytes());
    ArtifactRef { id, ty, private_to: Some("phone".into()) }
}

impl Phone {
    pub fn join(hub: &Hub) -> Self {
        Self::admitted(hub, plain_join())
    }

    /// A phone that says what it computes with.
    pub fn join_with(hub: &Hub, numerics: Numerics) -> Self {
        Self::admitted(hub, Join { numerics: Some(numerics), ..plain_join() })
    }

    /// Joins, and pairs with an invitation before if it has to.
    fn admitted(hub: &Hub, what: Join) -> Self {
        let identity = phone();
        let invitation = (!hub.registry().is_approved(&identity.public())).then(|| invite(hub, &what.device));
        let what = proven(hub, &identity, what, invitation.as_ref());
        let (session, token) = join(hub, &identity, &what).expect("admitted");
        Self { hub: hub.clone(), session, token, identity, tasks: Vec::new() }
    }

    pub fn renew(&self, renew: Renew) -> Result<Renewed, WireError> {
        let signed = self.hub.renew(&self.session, renew)?;
        Ok(read::<Renewal>(&self.hub, &self.identity, &signed, Kind::Renewal).answer)
    }

    pub async fn claim_with(&mut self, holds: &[&str], wait_ms: u64) -> Option<Task> {
        self.claim_after(0, holds, wait_ms).await
    }

    /// Asks for work, once its owner approved something so often.
    pub async fn claim_after(&mut self, approvals: u64, holds: &[&str], wait_ms: u64) -> Option<Task> {
        let holds = holds.iter().map(|h| (*h).to_owned()).collect();
        let facts = Facts { threads: 2, memory: 4 << 30, holds, approvals, ..Facts::default() };
        let claim = Claim { facts, wait_ms, held: None };
        let signed = self.hub.claim(&self.session, claim).await.expect("a known session")?;
        let Grant { task, .. } = read(&self.hub, &self.identity, &signed, Kind::Grant);
        assert_eq!(task.fence, signed.fence);
        self.tasks.push(task.clone());
        Some(task)
    }

    pub async fn claim(&mut self) -> Task {
        self.claim_with(&[], 5000).await.expect("work within five seconds")
    }

    /// Uploads a file as the HTTP layer does.
    pub fn upload(&self, digest: &Digest, content: &[u8]) -> Result<(), WireError> {
        let upload = self.hub.begin_upload(&self.session, digest)?;
        upload.writes(content.len() as u64)?;
        let at = upload.dir().join("incoming");
        std::fs::write(&at, content).expect("writable");
        let taken = upload.finish(&at);
        assert!(!at.exists(), "moved or removed");
        taken
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
        let commit = Commit { fence, outcome, manifests };
        committed(&self.hub, &self.session, &self.identity, commit).await
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

/// Commits; what the engine signed about exactly this commit.
pub async fn committed(
    hub: &Hub,
    session: &Session,
    identity: &Identity,
    commit: Commit,
) -> Result<Committed, WireError> {
    let (fence, digest) = (commit.fence, Digest::of(&serde_json::to_vec(&commit).expect("JSON")));
    let (signed, answer) = hub.commit(session, commit, digest).await?;
    let read: headstart_protocol::wire::CommitAnswer = read(hub, identity, &signed, Kind::Commit);
    assert_eq!((signed.fence, read.commit, &read.answer), (fence, digest, &answer));
    match answer {
        CommitResult::Taken { counts } => Ok(counts),
        CommitResult::Refused { error } => Err(error),
        CommitResult::Waits { run } => Err(WireError { code: "waits".into(), message: run }),
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
