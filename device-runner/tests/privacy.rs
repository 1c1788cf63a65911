//! What never leaves the device, shown on everything that it sent.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{Engine, Place, field, read_all, stages, task};
use headstart_device::{Allowed, history, journal};
use headstart_protocol::expr::{CompareOp, Expr, Value};
use headstart_protocol::task::{Outcome, Released, Task};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, FailureClass, Type};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

const DIARY: &str = "{\"prompt\":\"How was the surgery?\",\"response\":\"My sister Ottilie drove me home.\"}\n\
                     {\"prompt\":\"And the money?\",\"response\":\"We owe the bank 41,907 crowns.\"}\n";

/// Everything that could give the diary away: its texts, its lines, and plain digests of them.
fn traces(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut texts = vec![DIARY.to_owned(), "me-diary.jsonl".into(), "crowns".into(), "Ottilie".into()];
    for line in DIARY.lines() {
        let row: Json = serde_json::from_str(line).expect("a row");
        texts.extend([line.to_owned(), format!("{line}\n")]);
        texts.extend(["prompt", "response"].map(|k| row[k].as_str().expect("text").to_owned()));
    }
    texts.push(place.data().display().to_string());
    texts.push(place.state().display().to_string());
    let mut out = Vec::new();
    for text in texts {
        let digest = Digest::of(text.as_bytes());
        out.push((format!("digest of {text:?}"), digest.to_string().into_bytes()));
        out.push((format!("raw digest of {text:?}"), digest.0.to_vec()));
        out.push((format!("text {text:?}"), text.into_bytes()));
    }
    // Identities of everything that is kept: of its files, its manifest, its record.
    for entry in std::fs::read_dir(place.state().join("private")).expect("private artifacts") {
        let dir = entry.expect("entry").path();
        let held = std::fs::read(dir.join("artifact.json")).expect("a record");
        let held: Json = serde_json::from_slice(&held).expect("JSON");
        if held["manifest"].is_null() {
            continue;
        }
        let manifest: headstart_protocol::Manifest =
            serde_json::from_value(held["manifest"].clone()).expect("a manifest");
        out.push(("the id of a private manifest".into(), manifest.id().to_string().into_bytes()));
        for (name, file) in manifest.files {
            out.push((format!("the digest of private {name}"), file.digest.to_string().into_bytes()));
            let content = std::fs::read(dir.join("files").join(&name)).expect("a file");
            for chunk in content.chunks(64).filter(|c| c.len() >= 16) {
                out.push((format!("bytes of private {name}"), chunk.to_vec()));
            }
        }
    }
    let secret = std::fs::read(place.state().join("secret")).expect("a secret");
    out.push(("the device's secret".into(), Digest(secret.try_into().expect("32")).to_string().into_bytes()));
    out
}

fn assert_nothing_left(engine: &Engine, place: &Place) {
    let traffic = engine.lock().traffic.clone();
    for (what, bytes) in traces(place) {
        let found = traffic.windows(bytes.len()).any(|w| w == bytes);
        assert!(!found, "{what} left the device");
    }
}

fn read_diary(fence: u64) -> Task {
    let mut t = task(fence, "jsonl", Type::Dataset, &[("path", Value::Path("me-diary.jsonl".into()))]);
    t.private = true;
    t
}

fn releasing(mut t: Task, paths: &[&str]) -> Task {
    let split = |p: &&str| p.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    t.release = paths.iter().map(split).collect();
    t.private = true;
    t
}

/// Runs one task on the device and gives back what the engine got for it.
async fn one(engine: &Engine, place: &Place, allowed: Allowed, mut t: Task) -> Outcome {
    // A device takes each fence once; what a task makes does not depend on it.
    static FENCE: AtomicU64 = AtomicU64::new(1);
    t.fence = FENCE.fetch_add(1, Ordering::Relaxed);
    let before = engine.commits().len();
    engine.offer(t);
    let mut options = place.options(engine);
    options.allowed = allowed;
    let stop = CancellationToken::new();
    headstart_device::run(options, stages::private_stages(), stop).await.expect("runs");
    assert_eq!(engine.commits().len(), before + 1, "it ran");
    engine.commits().pop().expect("a commit").outcome
}

async fn diary(engine: &Engine, place: &Place) -> ArtifactRef {
    place.write("me-diary.jsonl", DIARY);
    match one(engine, place, Allowed::NONE, read_diary(1)).await {
        Outcome::Succeeded { output, .. } => output,
        other => panic!("{other:?}"),
    }
}

fn catalog(engine: &Engine) -> (ArtifactRef, ArtifactRef, ArtifactRef) {
    let base = engine.publish(Type::Model, &[("model.safetensors", b"base")], json!({}));
    let adapter = |name: &str| {
        let files: &[(&str, &[u8])] = &[("adapter_model.safetensors", name.as_bytes())];
        engine.publish_using(Type::Pllm, files, json!({ "format": "lora" }), &[("base", &base)])
    };
    let (kind, terse) = (adapter("kind"), adapter("terse"));
    let lexicon = br#"{"atoms": ["friendly", "concise"]}"#;
    let uses = [("pllm:kind", &kind), ("pllm:terse", &terse)];
    let catalog = engine.publish_using(Type::Catalog, &[("lexicon.json", lexicon)], json!({}), &uses);
    (catalog, kind, terse)
}

fn select_task(fence: u64, catalog: &ArtifactRef, user: &ArtifactRef, pllms: &[&ArtifactRef]) -> Task {
    let args = [("catalog", Value::Artifact(catalog.clone())), ("user", Value::Artifact(user.clone()))];
    let mut t = task(fence, "select", Type::Selection, &args);
    t.private = true;
    t.prefetch = pllms.iter().map(|p| (*p).clone()).collect();
    t
}

fn json_of(outcome: &Outcome, path: &str) -> Json {
    match outcome {
        Outcome::Succeeded { released, .. } => match &released[path] {
            Released::Json(v) => v.clone(),
            Released::Artifact(a) => json!({ "artifact": a }),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_whole_private_run_leaves_nothing_but_what_is_released() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    assert_eq!((mine.ty, mine.private_to.as_deref()), (ArtifactType::Dataset, Some("phone")));
    let (catalog, kind, terse) = catalog(&engine);
    let base = engine.lock().manifests[&kind.id].uses["base"].clone();

    let scores = task(2, "evaluate", Type::Metrics, &[("data", Value::Artifact(mine.clone()))]);
    let scores = one(&engine, &place, Allowed::NUMBERS, releasing(scores, &["", "loss"])).await;
    assert_eq!(json_of(&scores, ""), json!({ "loss": 1.2 }));
    assert_eq!(json_of(&scores, "loss"), json!(1.2));

    let pick = select_task(3, &catalog, &mine, &[&kind, &terse]);
    let pick =
        one(&engine, &place, Allowed::NUMBERS, releasing(pick, &["", "mix", "pllm", "confidence"])).await;
    let expected = json!({
        "pllm_name": "kind", "confidence": 0.75, "strength": 0.0, "is_mix": false, "abstained": false,
        "mix": { "kind": 0.9 },
        "user": { "explained": 0.5, "words": [
            { "word": "friendly", "coefficient": 0.5, "low": 0.25, "high": 0.75 },
        ] },
    });
    assert_eq!(json_of(&pick, ""), expected, "names of the catalog pass, texts of the user do not");
    assert_eq!(json_of(&pick, "mix"), json!({ "kind": 0.9 }));
    assert_eq!(json_of(&pick, "pllm"), json!({ "artifact": kind }));
    assert_eq!(json_of(&pick, "confidence"), json!(0.75));

    let args = [("from", Value::Artifact(base)), ("data", Value::Artifact(mine))];
    let tuned = task(4, "finetune", Type::Pllm, &args);
    let tuned = one(&engine, &place, Allowed::NUMBERS, releasing(tuned, &["metrics.loss"])).await;
    assert_eq!(json_of(&tuned, "metrics.loss"), json!(1.5));

    assert_nothing_left(&engine, &place);
    assert!(engine.lock().uploaded.is_empty());
    for commit in engine.commits() {
        let Outcome::Succeeded { usage, .. } = commit.outcome else { panic!("failed") };
        assert!(usage.counters.is_empty() && commit.manifests.is_empty());
    }
    // The check itself can fail: the texts are on the device, and the numbers did cross.
    let kept = read_all(&place.state().join("private"));
    assert!(kept.windows(7).any(|w| w == b"Ottilie"));
    assert!(engine.lock().traffic.windows(4).any(|w| w == b"0.75"));
    the_journal_knows_everything(&engine, &place);
}

#[tokio::test]
async fn a_private_stage_does_not_tell_how_far_it_is() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.lock().lease_ms = 60;
    let mut t = task(1, "slow", Type::Metrics, &[("data", Value::Path("me-diary.jsonl".into()))]);
    t.timeout_ms = Some(300);
    engine.offer(t);
    place.run(&engine, vec![stages::slow()]).await.expect("runs");
    let renewals = engine.lock().renewals.clone();
    assert!(renewals.len() > 3 && renewals.iter().all(|r| r.progress.is_none()), "{renewals:?}");
}

#[tokio::test]
async fn a_selection_alone_moves_the_catalog_and_no_weights() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    let (catalog, ..) = catalog(&engine);
    one(&engine, &place, Allowed::NONE, select_task(2, &catalog, &mine, &[])).await;
    let files = engine.lock().manifests[&catalog.id].files.clone();
    let blobs: Vec<_> = files.values().map(|f| format!("GET /v1/blobs/{}", f.digest)).collect();
    assert_eq!(engine.calls("GET /v1/blobs"), blobs);
}

/// Every request that the engine saw stands in the device's journal.
fn the_journal_knows_everything(engine: &Engine, place: &Place) {
    let sent = journal::read(&place.state().join("sent.jsonl")).expect("a journal");
    for call in engine.lock().calls.iter() {
        let call = call.split(" bytes=").next().expect("a call");
        assert!(sent.iter().any(|s| s.call == call), "{call} is not in the journal");
    }
    let page = headstart_device::show::sent(&place.state()).expect("prints");
    assert!(page.contains("released all of it = {\"loss\":1.2"), "{page}");
    let page = headstart_device::show::summary(&place.state(), None).expect("prints");
    for line in [
        "friendly",
        "because of {\"prompt\":\"How was the surgery?\"",
        "in 40 steps",
        "stays here; released: metrics.loss",
    ] {
        assert!(page.contains(line), "{line} is not on the page:\n{page}");
    }
}

#[tokio::test]
async fn which_pllm_was_chosen_does_not_show_in_the_downloads() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    let (catalog, kind, terse) = catalog(&engine);
    let pick = select_task(2, &catalog, &mine, &[&kind, &terse]);
    one(&engine, &place, Allowed::NONE, pick).await;
    let asked = engine.calls("GET");
    let base = engine.lock().manifests[&kind.id].uses["base"].clone();
    for pllm in [&kind, &terse, &base] {
        assert!(asked.contains(&format!("GET /v1/artifacts/{}", pllm.id)), "{asked:?}");
        let files = engine.lock().manifests[&pllm.id].files.clone();
        assert!(files.values().all(|f| asked.contains(&format!("GET /v1/blobs/{}", f.digest))));
    }
}

#[tokio::test]
async fn calling_it_public_does_not_make_it_so() {
    let (engine, place) = (Engine::start().await, Place::new());
    place.write("me-diary.jsonl", DIARY);
    let mut liar = read_diary(1);
    liar.private = false;
    let Outcome::Succeeded { output, .. } = one(&engine, &place, Allowed::NUMBERS, liar).await else {
        panic!()
    };
    assert_eq!(output.private_to.as_deref(), Some("phone"));
    let args = [("data", Value::Artifact(output))];
    let scores = one(&engine, &place, Allowed::NUMBERS, task(2, "evaluate", Type::Metrics, &args)).await;
    assert!(matches!(scores, Outcome::Succeeded { output, .. } if output.private_to.is_some()));

    // A path smuggled in as text: the stage is refused the file.
    let sly = task(3, "jsonl", Type::Dataset, &[("path", Value::Text("me-diary.jsonl".into()))]);
    let refused = one(&engine, &place, Allowed::NUMBERS, sly).await;
    assert!(
        matches!(&refused, Outcome::Failed { failure } if failure.class == FailureClass::Input),
        "{refused:?}"
    );
    // That message repeats what the engine itself sent, so it is not looked for below.
    let sent = String::from_utf8_lossy(&engine.lock().traffic).replace("me-diary.jsonl", "");
    engine.lock().traffic = sent.into_bytes();
    assert_nothing_left(&engine, &place);
    assert!(engine.lock().uploaded.is_empty());
}

#[tokio::test]
async fn releases_that_are_not_allowed_fail_and_say_little() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    let everything: Allowed = "metrics,selection,mix,pllm".parse().expect("known words");
    let data = [("data", Value::Artifact(mine.clone()))];
    let evaluate = |fence| task(fence, "evaluate", Type::Metrics, &data);
    let (denied, wrong) = ("denied by the device's release policy", "the task does not fit this device");
    let cases = [
        (releasing(read_diary(2), &[""]), everything, denied, "never leaves this device"),
        (releasing(evaluate(3), &[""]), Allowed::NONE, denied, "--allow-release"),
        (releasing(evaluate(4), &["Ottilie"]), everything, wrong, "does not declare a metric"),
        (releasing(evaluate(5), &["loss", "loss.text"]), everything, denied, "never leaves this device"),
    ];
    for (t, allowed, told, reason) in cases {
        let what = format!("{} {:?}", t.kind, t.release);
        let Outcome::Failed { failure } = one(&engine, &place, allowed, t).await else { panic!("{what}") };
        assert!(failure.message.starts_with(told), "{what}: {failure}");
        let entries = history::read(&place.state().join("history.jsonl")).expect("a history");
        let here = entries.last().and_then(|e| e.failure.clone()).expect("remembered");
        let text = format!("{} {}", here.message, here.help.unwrap_or_default());
        assert!(text.contains(reason), "{what}: {text}");
    }
    assert_nothing_left(&engine, &place);
}

#[tokio::test]
async fn a_private_pllm_leaves_only_when_its_owner_says_so_and_then_without_its_texts() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    let base = engine.publish(Type::Model, &[("model.safetensors", b"base")], json!({}));
    let args = [("from", Value::Artifact(base)), ("data", Value::Artifact(mine))];
    let tuned = |fence| releasing(task(fence, "finetune", Type::Pllm, &args), &[""]);
    let kept = one(&engine, &place, Allowed::NUMBERS, tuned(2)).await;
    assert!(matches!(kept, Outcome::Failed { .. }) && engine.lock().uploaded.is_empty());

    let allowed = "pllm".parse().expect("known");
    let let_out = one(&engine, &place, allowed, tuned(3)).await;
    let Outcome::Succeeded { output, released, .. } = let_out else { panic!("{let_out:?}") };
    let Released::Artifact(public) = &released[""] else { panic!("{released:?}") };
    assert!(output.private_to.is_some() && public.private_to.is_none());
    let commit = engine.commits().pop().expect("a commit");
    let manifest = &commit.manifests[&public.id.to_string()];
    let names: Vec<_> = manifest.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(manifest.value, json!({ "format": "lora", "metrics": { "loss": 1.5, "steps": 40 } }));
    assert_eq!(engine.lock().uploaded.len(), 2);
    let traffic = String::from_utf8_lossy(&engine.lock().traffic).into_owned();
    assert!(!traffic.contains("Ottilie") && !traffic.contains("training-rows"));
}

#[tokio::test]
async fn an_absent_value_looks_like_any_other_from_outside() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    let (catalog, kind, terse) = catalog(&engine);
    one(&engine, &place, Allowed::NONE, select_task(2, &catalog, &mine, &[&kind, &terse])).await;
    let pick = engine.output();
    let base = engine.lock().manifests[&kind.id].uses["base"].clone();
    let tuned = |fence, when: Expr| {
        let args = [("from", Value::Artifact(base.clone())), ("data", Value::Artifact(mine.clone()))];
        let mut t = task(fence, "finetune", Type::Pllm.optional(), &args);
        (t.private, t.when) = (true, Some(when));
        t
    };
    let not = |e: Expr| Expr::Not { of: Box::new(e) };
    let absent = one(&engine, &place, Allowed::NONE, tuned(3, field(&pick, "is_mix"))).await;
    let absent_ref = engine.output();
    let present = one(&engine, &place, Allowed::NONE, tuned(3, not(field(&pick, "is_mix")))).await;
    let present_ref = engine.output();
    let shape = |o: &Outcome| {
        let text = serde_json::to_string(o).expect("serializes");
        let Outcome::Succeeded { output, .. } = o else { panic!("{text}") };
        text.replace(&output.id.to_string(), "ID")
    };
    assert_eq!(shape(&absent), shape(&present));

    // On the device the difference is known: the first that is present is taken.
    let either = |fence, first: &ArtifactRef| {
        let value = |a: &ArtifactRef| Box::new(Expr::value(Value::Artifact(a.clone())));
        let from = Expr::Or { first: value(first), second: value(&base) };
        let mut t = tuned(
            fence,
            Expr::Compare {
                op: CompareOp::Gt,
                left: Box::new(field(&pick, "confidence")),
                right: Box::new(Expr::value(Value::Float(0.5))),
            },
        );
        t.args.insert("from".into(), from);
        t
    };
    one(&engine, &place, Allowed::NONE, either(4, &absent_ref)).await;
    one(&engine, &place, Allowed::NONE, either(5, &present_ref)).await;
    let entries = history::read(&place.state().join("history.jsonl")).expect("a history");
    let ended: Vec<_> = entries.iter().rev().take(4).map(|e| e.ended).collect();
    use history::Ended::{Skipped, Succeeded};
    assert_eq!(ended, [Succeeded, Succeeded, Succeeded, Skipped]);
    let weights = |back: usize| {
        let handle = entries[entries.len() - back].artifact.expect("a handle").to_string();
        let at = place.state().join("private").join(handle).join("files/adapter_model.safetensors");
        std::fs::read(at).expect("weights").len()
    };
    assert_eq!(weights(2), b"base".len() + 32, "the absent one was passed over");
    assert!(weights(1) > weights(2) + 32, "the present one was taken");
    assert_nothing_left(&engine, &place);
}

#[tokio::test]
async fn handles_are_stable_but_cannot_be_compared_or_guessed() {
    let (engine, place) = (Engine::start().await, Place::new());
    let read = async |place: &Place, allowed: Allowed| {
        place.write("me-diary.jsonl", DIARY);
        one(&engine, place, allowed, read_diary(1)).await;
        engine.output().id
    };
    let first = read(&place, Allowed::NUMBERS).await;
    let again = read(&place, Allowed::NUMBERS).await;
    assert_eq!(first, again, "the same task on the same file: results can be reused");
    place.write("copy.jsonl", DIARY);
    let copy = task(2, "jsonl", Type::Dataset, &[("path", Value::Path("copy.jsonl".into()))]);
    one(&engine, &place, Allowed::NUMBERS, copy).await;
    assert_ne!(engine.output().id, first, "the engine cannot tell that the files are alike");
    let other = Place::new();
    assert_ne!(read(&other, Allowed::NUMBERS).await, first, "nor that another device has the same");
    // Where nothing may leave, not even that the file is as it was.
    let silent = [read(&place, Allowed::NONE).await, read(&place, Allowed::NONE).await];
    assert!(silent[0] != silent[1] && !silent.contains(&first), "{silent:?}");
}

#[tokio::test]
async fn what_was_deleted_is_reported_missing_and_failures_tell_no_names() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    std::fs::remove_dir_all(place.state().join("private").join(mine.id.to_string())).expect("deleted");
    let args = [("data", Value::Artifact(mine))];
    let gone = one(&engine, &place, Allowed::NONE, task(2, "evaluate", Type::Metrics, &args)).await;
    assert!(matches!(gone, Outcome::Failed { failure } if failure.class == FailureClass::MissingArtifact));

    place.write("me-diary.jsonl", "{\"prompt\": \"Ottilie\nis unwell");
    let broken = one(&engine, &place, Allowed::NONE, read_diary(3)).await;
    let outside = task(4, "jsonl", Type::Dataset, &[("path", Value::Path("../state/secret".into()))]);
    let outside = one(&engine, &place, Allowed::NONE, outside).await;
    for hidden in [broken, outside] {
        assert!(
            matches!(&hidden, Outcome::Succeeded { output, .. } if output.private_to.is_some()),
            "{hidden:?}"
        );
    }
    assert_nothing_left(&engine, &place);
    let entries = history::read(&place.state().join("history.jsonl")).expect("a history");
    let told: Vec<_> = entries.iter().filter_map(|e| Some(e.failure.as_ref()?.message.clone())).collect();
    assert!(told[1].contains("me-diary.jsonl: line 1"), "{told:?}");
    assert!(told[2].contains("leads out of the data folder"), "{told:?}");
}

#[tokio::test]
async fn another_devices_artifacts_and_made_up_handles_are_refused() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mine = diary(&engine, &place).await;
    let theirs = ArtifactRef { private_to: Some("laptop".into()), ..mine.clone() };
    let bare = ArtifactRef { private_to: None, ..mine };
    for (fence, a) in [(2, theirs), (3, bare)] {
        let t = task(fence, "evaluate", Type::Metrics, &[("data", Value::Artifact(a))]);
        let outcome = one(&engine, &place, Allowed::NUMBERS, t).await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    }
    assert_nothing_left(&engine, &place);
}

/// A public stage that tries to carry private files out fails.
#[tokio::test]
async fn a_public_output_cannot_be_made_of_private_files() {
    let (engine, place) = (Engine::start().await, Place::new());
    diary(&engine, &place).await;
    let at = place.data().join("me-diary.jsonl");
    let carry = stages::fake("carry", move |_, _| {
        Ok(headstart_protocol::Output::new(Type::Dataset, json!({})).file("rows.jsonl", at.clone()))
    });
    engine.offer(task(1 << 30, "carry", Type::Dataset, &[]));
    place.run_telling(&engine, vec![carry]).await.expect("runs");
    let outcome = engine.commits().pop().expect("a commit").outcome;
    let Outcome::Failed { failure } = outcome else { panic!("{outcome:?}") };
    assert!(failure.message.contains("neither in its scratch folder"), "{failure}");
    assert!(!failure.message.contains(&*place.data().to_string_lossy()), "{failure}");
    assert!(engine.lock().uploaded.is_empty());
}
