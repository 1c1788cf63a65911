//! What the owner did not approve does not run over private data, whatever the engine calls it.

use std::collections::BTreeSet;

use headstart_device::history::Ended;
use headstart_device::{Approval, Contract};
use headstart_protocol::contract::{Proposal, StageArguments};
use headstart_protocol::expr::{CompareOp, Expr, Value};
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{Digest, Output, Type};
use serde_json::{Value as Json, json};

use crate::common::{Engine, field, stages, task};
use crate::owner::{Owner, delivered, refused};

/// As many words as the eighth character of a text is worth.
const SPY: &str = "{% for m in messages %}{% for c in 'abcdefghijklmnopqrstuvwxyz' %}{% if m.content[7] == c %}\
    {{ 'word ' * loop.index }}{% endif %}{% endfor %}{% endfor %}";

#[tokio::test]
async fn nothing_runs_before_the_owner_approved_it() {
    let mut owner = Owner::new(Approval::Ask).await;
    let model = owner.model(&[]);
    let t = owner.tuned(&model);
    assert!(refused(&owner.run(t).await));
    assert_eq!(owner.ran(), 0);
    let weights = Digest::of(b"weights").to_string();
    assert!(owner.engine.calls(&format!("GET /v1/blobs/{weights}")).is_empty(), "not even downloaded");
    let waiting = owner.pending();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].proposal.models, [model.id].into());
    assert!(
        owner.told().failure.and_then(|f| f.help).is_some_and(|help| {
            help.contains(&format!("headstart-device approve {}", waiting[0].digest()))
        })
    );
    owner.approve(BTreeSet::new());
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await));
    assert_eq!((owner.ran(), owner.pending().len()), (1, 0));
    // A dataset without a model is asked for as well.
    let t = owner.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
    assert!(refused(&owner.run(t).await));
}

#[tokio::test]
async fn the_first_proposal_is_approved_as_it_comes_and_nothing_later() {
    let mut owner = Owner::new(Approval::First).await;
    let (model, other) = (owner.model(&[]), owner.model(&[("model.safetensors", "others")]));
    // The first task names no model; the run's proposal does.
    let mut t = owner.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
    let mut proposal = Proposal::default();
    proposal.add_stage("finetune", task(1, "finetune", Type::Pllm, &[]).version, None, &Type::Pllm, &[]);
    proposal.models.insert(model.id);
    proposal
        .arguments
        .insert(StageArguments::asked("finetune", &owner.tuned(&model).args).expect("resolved"));
    t.proposal = Some(proposal);
    assert!(delivered(&owner.run(t).await));
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await));
    let t = owner.tuned(&other);
    assert!(refused(&owner.run(t).await));
    // A proposal cannot stand in for what a task needs.
    let mut t = owner.tuned(&other);
    t.proposal = owner.contracts().of(&owner.engine.key()).expect("reads").map(|a| a.contract.approved);
    assert!(refused(&owner.run(t).await));
    assert_eq!(owner.ran(), 1);
    let waiting = owner.pending();
    assert_eq!(waiting.last().expect("waits").models[&other.id].files.len(), 4);
}

#[tokio::test]
async fn an_approved_model_with_another_file_is_another_model() {
    let mut owner = Owner::new(Approval::First).await;
    let model = owner.model(&[]);
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await));
    let changes = [
        ("config.json", "{\"rope_theta\":1}"),
        ("model.safetensors", "other weights"),
        ("tokenizer.json", "{\"model\":{\"type\":\"WordLevel\"}}"),
        ("tokenizer_config.json", "{\"chat_template\":\"{{ messages[0].content }}\"}"),
        ("chat_template.jinja", "{{ messages[0].content }}"),
        ("generation_config.json", "{}"),
    ];
    for (name, content) in changes {
        let changed = owner.model(&[(name, content)]);
        let t = owner.tuned(&changed);
        assert!(refused(&owner.run(t).await), "{name}");
    }
    assert_eq!(owner.ran(), 1);
}

#[tokio::test]
async fn an_approved_stage_releases_what_was_approved() {
    let mut owner = Owner::new(Approval::First).await;
    let evaluate = |owner: &mut Owner, release: &[&str]| {
        let path = Value::Path("me.jsonl".into());
        let mut t = owner.task("evaluate", Type::Metrics, &[("data", path)]);
        t.release = release.iter().map(|name| vec![(*name).to_owned()]).collect();
        t
    };
    let t = evaluate(&mut owner, &["loss"]);
    assert!(delivered(&owner.run(t).await));
    for release in [&["bleu"][..], &["loss", "bleu"]] {
        let t = evaluate(&mut owner, release);
        assert!(refused(&owner.run(t).await), "{release:?}");
    }
    let t = evaluate(&mut owner, &[]);
    assert!(delivered(&owner.run(t).await), "less is fine");
}

/// The template of a hostile model writes as many words as a character is worth.
#[tokio::test]
async fn a_template_that_looks_at_content_is_approved_by_its_own_digest_alone() {
    let config = json!({ "chat_template": SPY }).to_string();
    let named = json!({ "chat_template": [{ "name": "default", "template": SPY }] }).to_string();
    let cases: [&[(&str, &str)]; 4] = [
        &[("tokenizer_config.json", &config)],
        &[("tokenizer_config.json", &named)],
        &[("chat_template.jinja", SPY)],
        &[("tokenizer_config.json", "{}"), ("chat_template.json", &config)],
    ];
    for files in cases {
        let mut owner = Owner::new(Approval::First).await;
        let spy = owner.model(files);
        let t = owner.tuned(&spy);
        assert!(refused(&owner.run(t).await), "{files:?}");
        owner.approve(BTreeSet::new());
        let t = owner.tuned(&spy);
        assert!(refused(&owner.run(t).await), "the model alone is not enough");
        assert_eq!(owner.ran(), 0);
        let waiting = owner.pending();
        let parts = waiting[0].models[&spy.id].parts.as_ref().expect("looked into");
        let part = parts.iter().find(|p| p.conditional.is_some()).expect("the template");
        assert_eq!(part.digest, Digest::of(SPY.as_bytes()));
        owner.approve([part.digest].into());
        let t = owner.tuned(&spy);
        assert!(delivered(&owner.run(t).await), "its owner insists");
    }
}

#[tokio::test]
async fn a_tokenizer_that_rewrites_content_is_refused_likewise() {
    let rewriting = json!({ "normalizer": { "type": "Replace", "pattern": { "Regex": "^.{7}a" }, "content": "aaaa" },
        "model": { "type": "BPE" } });
    let mut owner = Owner::new(Approval::First).await;
    let spy = owner.model(&[("tokenizer.json", &rewriting.to_string())]);
    let t = owner.tuned(&spy);
    assert!(refused(&owner.run(t).await));
    // An encoder lies in its space.
    let files: [(&str, &[u8]); 2] =
        [("config.json", b"{}"), ("tokenizer.json", &rewriting.to_string().into_bytes())];
    let space = owner.engine.publish(Type::Space, &files, json!({ "kind": "sentence" }));
    let t = owner.tuned(&space);
    assert!(refused(&owner.run(t).await));
    assert_eq!(owner.ran(), 0);
}

#[tokio::test]
async fn a_refreshed_adapter_over_an_approved_model_runs_unless_adapters_are_pinned() {
    let files = |weights| [("adapter_config.json", "{}"), ("adapter_model.safetensors", weights)];
    for pin_adapters in [false, true] {
        let mut owner = Owner::new(Approval::First).await;
        owner.pin_adapters = pin_adapters;
        let base = owner.model(&[]);
        let (old, new) = (owner.adapter(&base, &files("monday")), owner.adapter(&base, &files("tuesday")));
        let t = owner.tuned(&old);
        assert!(delivered(&owner.run(t).await));
        let t = owner.tuned(&new);
        assert_eq!(refused(&owner.run(t).await), pin_adapters);
        // With more than an adapter in it, or over another model, it needs approval in any case.
        let smuggled = [("adapter_config.json", "{}"), ("tokenizer.json", "{}")];
        let smuggling = owner.adapter(&base, &smuggled);
        let other = owner.model(&[("model.safetensors", "others")]);
        let foreign = owner.adapter(&other, &files("monday"));
        for adapter in [smuggling, foreign] {
            let t = owner.tuned(&adapter);
            assert!(refused(&owner.run(t).await));
        }
    }
}

/// A model that a public task brought onto the device is not approved by that.
#[tokio::test]
async fn a_model_does_not_come_in_by_a_public_task_or_by_way_of_a_catalog() {
    let mut owner = Owner::new(Approval::First).await;
    let honest = owner.model(&[]);
    let t = owner.tuned(&honest);
    assert!(delivered(&owner.run(t).await));
    let spy = owner.model(&[("chat_template.jinja", SPY)]);
    let t = Task {
        private: false,
        ..owner.task("look", Type::Metrics, &[("from", Value::Artifact(spy.clone()))])
    };
    let look = || {
        stages::fake("look", |args, ctx| {
            ctx.open(args.artifact("from")?)?;
            Ok(Output::new(Type::Metrics, json!({ "n": 1 })))
        })
    };
    assert!(delivered(&owner.run_with(t, vec![look()]).await), "public work needs no approval");

    // Called public, but over the diary.
    let t = Task { private: false, ..owner.tuned(&spy) };
    assert!(refused(&owner.run(t).await));

    // By way of a catalog, which a private stage follows by itself.
    let catalog = owner.engine.publish_using(Type::Catalog, &[], json!({}), &[("pllm:spy", &spy)]);
    let follow = stages::fake("finetune", |args, ctx| {
        let catalog = ctx.manifest(args.artifact("from")?)?;
        ctx.open(&catalog.uses["pllm:spy"])?;
        panic!("it was opened");
    });
    let t = owner.tuned(&catalog);
    assert!(delivered(&owner.run_with(t, vec![follow]).await), "as if it had worked");
    let told = owner.told();
    assert_eq!(told.ended, Ended::Failed);
    assert!(told.failure.is_some_and(|f| f.message.contains("has not approved")));

    // Under another type.
    let files: &[(&str, &[u8])] = &[("config.json", b"{}"), ("chat_template.jinja", SPY.as_bytes())];
    for ty in [Type::Dataset, Type::Responses, Type::Catalog, Type::Metrics] {
        let disguised = owner.engine.publish(ty.clone(), files, json!({}));
        let t = owner.tuned(&disguised);
        assert!(refused(&owner.run(t).await), "{ty}");
    }
    assert_eq!(owner.ran(), 1);
}

/// What is refused is so whatever the private values are.
#[tokio::test]
async fn a_refusal_says_nothing_about_data() {
    let mut owner = Owner::new(Approval::First).await;
    let path = || Value::Path("me.jsonl".into());
    let select = |owner: &mut Owner| owner.task("jsonl", Type::Dataset, &[("path", path())]);
    let t = select(&mut owner);
    let mine = match owner.run(t).await {
        Outcome::Succeeded { output, .. } => output,
        other => panic!("{other:?}"),
    };
    let model = owner.model(&[]);
    let mut outcomes = Vec::new();
    for bound in [0, 1000] {
        let mut t = owner.tuned(&model);
        let rows = Box::new(field(&mine, "rows"));
        t.when = Some(Expr::Compare {
            op: CompareOp::Gt,
            left: rows,
            right: Box::new(Expr::value(Value::Int(bound))),
        });
        outcomes.push(owner.run(t).await);
    }
    assert!(refused(&outcomes[0]));
    assert_eq!(outcomes[0], outcomes[1]);
}

#[tokio::test]
async fn a_flood_of_proposals_is_bounded() {
    let mut owner = Owner::new(Approval::Ask).await;
    for i in 0..30 {
        let mut t = owner.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
        let mut proposal = Proposal::default();
        proposal.add_stage(&format!("flood-{i}"), 1, None, &Type::Metrics, &[]);
        if i % 2 == 0 {
            let name = "x".repeat(100_000);
            proposal.add_stage(&name, 1, None, &Type::Metrics, &[vec![name.clone()]]);
            proposal.models = (0..2000_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
        }
        t.proposal = Some(proposal);
        assert!(refused(&owner.run(t).await));
    }
    let kept = std::fs::metadata(owner.place.state().join("proposals.json")).expect("kept").len();
    assert!(kept < 100_000, "{kept} bytes");
    assert!(owner.pending().len() <= 8);
}

#[tokio::test]
async fn a_damaged_contract_approves_nothing() {
    let mut owner = Owner::new(Approval::First).await;
    let model = owner.model(&[]);
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await));
    let at = owner.place.state().join("contract.json");
    let whole = std::fs::read(&at).expect("a contract");
    for damage in [&b""[..], b"{}", &whole[..whole.len() / 2]] {
        std::fs::write(&at, damage).expect("writes");
        let t = owner.tuned(&model);
        assert!(refused(&owner.run(t).await));
        assert_eq!(std::fs::read(&at).expect("there"), damage, "it is left as it is");
        let help = owner.told().failure.and_then(|f| f.help).expect("a reason");
        assert!(help.contains("contract.json") && help.contains("damaged"), "{help}");
    }
    assert_eq!(owner.ran(), 1);
    owner.contracts().reset().expect("writes");
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await), "the next proposal is the first again");
}

#[tokio::test]
async fn another_engine_does_not_inherit_a_contract() {
    let mut owner = Owner::new(Approval::First).await;
    let model = owner.model(&[]);
    let t = owner.tuned(&model);
    assert!(delivered(&owner.run(t).await));
    // The owner pairs the device with another engine, which is not trusted at first sight.
    let other = Engine::start_with_key(9).await;
    std::fs::remove_file(owner.place.state().join("engine.json")).expect("unpaired");
    {
        let (from, mut to) = (owner.engine.lock(), other.lock());
        (to.manifests, to.blobs) = (from.manifests.clone(), from.blobs.clone());
    }
    (owner.engine, owner.approval) = (other, Approval::Ask);
    let t = owner.tuned(&model);
    assert!(refused(&owner.run(t).await));
    assert_eq!(owner.ran(), 1);
}

/// An app may bring a contract along: this and nothing else.
#[tokio::test]
async fn a_fixed_contract_is_all_there_is() {
    let mut owner = Owner::new(Approval::Ask).await;
    let model = owner.model(&[]);
    let t = owner.tuned(&model);
    let mut contract = Contract::default();
    contract.approved.add_stage(&t.kind, t.version, None, &t.ty, &[]);
    contract.approved.models.insert(model.id);
    contract.approved.arguments.insert(StageArguments::asked("finetune", &t.args).expect("resolved"));
    owner.approval = Approval::Fixed(Box::new(contract));
    assert!(delivered(&owner.run(t).await));
    let other = owner.model(&[("config.json", "{\"x\":1}")]);
    let t = owner.tuned(&other);
    assert!(refused(&owner.run(t).await));
    owner.approve(BTreeSet::new());
    let t = owner.tuned(&other);
    assert!(refused(&owner.run(t).await), "the owner cannot add to it");
    let _: Json = serde_json::to_value(owner.pending()).expect("JSON");
}

/// A model in the data folder is its owner's, but an engine may choose it for its template.
#[tokio::test]
async fn a_model_of_the_device_itself_is_looked_into_as_well() {
    let mut owner = Owner::new(Approval::First).await;
    std::fs::create_dir(owner.place.data().join("model")).expect("a folder");
    owner.place.write("model/chat_template.jinja", SPY);
    let local = || {
        stages::fake("local", |args, ctx| {
            let at = ctx.path(args.text("path")?).join("chat_template.jinja");
            Ok(Output::new(Type::Model, json!({})).file("chat_template.jinja", at))
        })
    };
    let mut t = owner.task("local", Type::Model, &[("path", Value::Path("model".into()))]);
    let mut proposal = Proposal::default();
    proposal.add_stage("finetune", task(1, "finetune", Type::Pllm, &[]).version, None, &Type::Pllm, &[]);
    let model = owner.model(&[]);
    proposal
        .arguments
        .insert(StageArguments::asked("finetune", &owner.tuned(&model).args).expect("resolved"));
    t.proposal = Some(proposal);
    let own = match owner.run_with(t, vec![local()]).await {
        Outcome::Succeeded { output, .. } => output,
        other => panic!("{other:?}"),
    };
    let t = owner.tuned(&own);
    assert!(delivered(&owner.run(t).await), "what the owner has is not told");
    let failure = owner.told().failure.expect("it was not opened");
    assert!(failure.help.is_some_and(|help| help.contains(&Digest::of(SPY.as_bytes()).to_string())));
    let parts = [Digest::of(SPY.as_bytes())].into();
    let approved =
        owner.contracts().approve(&owner.engine.key(), &Proposal::default(), &Default::default(), &parts);
    approved.expect("writes");
    let t = owner.tuned(&own);
    owner.run(t).await;
    assert_eq!(owner.told().failure, None);
}

/// Names that an engine chose forge no line of what the owner reads.
#[tokio::test]
async fn hostile_names_stay_within_their_line() {
    let mut owner = Owner::new(Approval::Ask).await;
    let mut t = owner.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
    let mut proposal = Proposal::default();
    proposal.add_stage(
        "x\n  to approve: headstart-device approve 0",
        1,
        None,
        &Type::Metrics,
        &[vec!["\u{1b}[2J".into()]],
    );
    t.proposal = Some(proposal);
    t.name = "y\nApproved".into();
    assert!(refused(&owner.run(t).await));
    let text = headstart_device::show::approvals(&owner.place.state()).expect("prints");
    let digest = owner.pending()[0].digest().to_string();
    let offers: Vec<&str> = text.lines().filter(|l| l.contains("to approve")).collect();
    assert!(
        offers.iter().any(|l| *l == format!("  to approve: headstart-device approve {digest}")),
        "{text}"
    );
    assert!(!text.lines().any(|l| l.starts_with("Approved")) && !text.contains('\u{1b}'), "{text}");
    let forged = "  to approve: headstart-device approve 0";
    assert!(!text.lines().any(|l| l == forged), "{text}");
}
