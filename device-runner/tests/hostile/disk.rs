//! A disk that private work fills: whether it does may depend on private values, so the device goes on.

use headstart_device::history::Ended;
use headstart_device::{Allowed, Options, show};
use headstart_disk::Disk;
use headstart_disk::simulated::SimulatedDisk;
use headstart_env::Env;
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{ArtifactRef, Digest, FailureClass, FileRef, Manifest, Output, Stage, Type};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::{stages, task};
use crate::phone::{DIARY, Phone, above, stages as phone_stages};
use crate::proof::normalised;

/// A training that writes until there is no room left, or as much as it is told to.
fn filling(bytes: usize) -> Vec<Box<dyn Stage>> {
    let mut all = phone_stages();
    all.retain(|stage| stage.kind() != "finetune");
    all.push(stages::probe(Default::default()));
    all.push(stages::fake("finetune", move |_, ctx| {
        let mut output = Output::new(Type::Pllm, json!({ "format": "lora" }));
        for part in 0..bytes >> 20 {
            let at = ctx.scratch().join(format!("{part}.safetensors"));
            headstart_disk::files::write(ctx.disk(), &at, &vec![1; 1 << 20])?;
            output = output.file(format!("{part}.safetensors"), at);
        }
        Ok(output)
    }));
    all
}

async fn run(options: Options, stages: Vec<Box<dyn Stage>>, disk: &SimulatedDisk) {
    let env = Env { disk: disk.shared(), ..Env::system() };
    headstart_device::run_in(options, stages, CancellationToken::new(), env)
        .await
        .expect("the device goes on");
}

/// A stage that fills the disk if a private number is above a threshold, then other work. What the engine sees,
/// and how it ended.
async fn filled(diary: &str, allowed: Allowed) -> (Vec<String>, Vec<Ended>) {
    let mut phone = Phone::new(diary).await;
    phone.allowed = allowed;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let disk = SimulatedDisk::new();
    disk.set_room(7 << 20);
    let fills = phone.tuned(&mine, Some(above(&pick, "confidence", 0.5)));
    let mut reads = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(mine.clone()))]);
    reads.private = true;
    let rows = phone.engine.publish(Type::Dataset, &[("rows.jsonl", b"{}\n")], json!({ "rows": 1 }));
    let args = [("model", Value::Artifact(phone.base.clone())), ("prompts", Value::Artifact(rows))];
    let public = task(1000, "probe", Type::Responses, &args);
    for t in [fills, reads, public] {
        phone.engine.offer(t);
        let mut options = phone.place.options(&phone.engine);
        options.allowed = phone.allowed;
        run(options, filling(64 << 20), &disk).await;
    }
    assert!(std::fs::read_dir(phone.place.state().join("scratch")).expect("there").next().is_none());
    let messages = phone.engine.lock().messages.clone();
    let host = phone.engine.url.replace("https://", "");
    (normalised(&messages, &host), phone.history().iter().map(|e| e.ended).collect())
}

#[tokio::test]
async fn a_disk_that_a_private_condition_fills_does_not_show() {
    for allowed in [Allowed::NONE, Allowed::NUMBERS] {
        let (seen, ended) = filled(DIARY, allowed).await;
        let (other_seen, other_ended) =
            filled("{\"prompt\":\"Hello\",\"response\":\"Good day.\"}\n", allowed).await;
        assert_eq!(seen, other_seen);
        assert_eq!(ended[2], Ended::Skipped);
        assert_eq!(
            other_ended[2..],
            [Ended::Failed, Ended::Succeeded, Ended::Succeeded],
            "it filled the disk"
        );
    }
}

/// Private work has a part of the disk, and more of it fails, which only the owner is told.
#[tokio::test]
async fn private_work_has_a_quota_that_the_engine_does_not_learn() {
    for (quota, ended) in [(1 << 20, Ended::Failed), (64 << 20, Ended::Succeeded)] {
        let mut phone = Phone::new(DIARY).await;
        let mine = phone.diary().await;
        let t: Task = phone.tuned(&mine, None);
        phone.engine.offer(t);
        let mut options = phone.place.options(&phone.engine);
        (options.allowed, options.private_quota) = (phone.allowed, quota);
        // It is looked at when the stage has ended, at the latest.
        run(options, filling(4 << 20), &SimulatedDisk::new()).await;
        let told = phone.history().pop().expect("an entry");
        assert_eq!(told.ended, ended, "{told:?}");
        if ended == Ended::Failed {
            let failure = told.failure.expect("a reason");
            assert_eq!(failure.class, FailureClass::DiskFull);
            assert!(failure.help.is_some_and(|help| help.contains("--private-quota")));
        }
        assert_eq!(phone.engine.commits().len(), 2);
        phone.assert_silent();
    }
}

const MIB: u64 = 1 << 20;

/// A small disk: 24 MiB for public work, as many for private work, and the gigabyte beside both.
fn small() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.set_free((1 << 30) + 48 * MIB);
    disk
}

/// The stages of the phone, a training that writes 8 MiB, and a public stage that writes what it is told to.
fn writing() -> Vec<Box<dyn Stage>> {
    let mut all = filling(8 << 20);
    all.retain(|stage| stage.kind() != "probe");
    all.push(stages::fake("probe", |args, ctx| {
        let asked = ctx.manifest(args.artifact("prompts")?)?.value["writes"].as_u64().unwrap_or(0);
        let at = ctx.scratch().join("rows.jsonl");
        headstart_disk::files::write(ctx.disk(), &at, &vec![b'x'; usize::try_from(asked).expect("small")])?;
        Ok(Output::new(Type::Responses, json!({ "rows": 1 })).file("rows.jsonl", at))
    }));
    all
}

/// A public task whose stage writes so much, with these downloads.
fn public(phone: &Phone, fence: u64, writes: u64, prefetch: Vec<ArtifactRef>) -> Task {
    let rows = phone.engine.publish(
        Type::Dataset,
        &[("rows.jsonl", b"{}\n")],
        json!({ "rows": 1, "writes": writes }),
    );
    let args = [("model", Value::Artifact(phone.base.clone())), ("prompts", Value::Artifact(rows))];
    Task { prefetch, ..task(fence, "probe", Type::Responses, &args) }
}

/// An artifact of which the engine has the description alone: how much of it there is room for shows in whether
/// the device asks for it.
fn described(phone: &Phone, size: u64) -> ArtifactRef {
    let file = FileRef { digest: Digest::of(format!("{size}").as_bytes()), size };
    let files = [("model.safetensors".to_owned(), file)].into();
    let manifest = Manifest { ty: Type::Model, files, value: json!({}), uses: Default::default() };
    let reference = ArtifactRef::public(&manifest);
    phone.engine.lock().manifests.insert(reference.id, manifest);
    reference
}

/// A training that a private condition decides on, while the engine fills its part of the disk and asks how much
/// is left of it. What the engine sees; how the training ended; at which sizes it was refused.
async fn measured(diary: &str) -> (Vec<String>, Ended, Vec<bool>) {
    let mut phone = Phone::new(diary).await;
    let disk = small();
    let once = |phone: &Phone| {
        let mut options = phone.place.options(&phone.engine);
        options.allowed = phone.allowed;
        options
    };
    let mine = phone.task("jsonl", Type::Dataset, &[("path", Value::Path("me.jsonl".into()))]);
    phone.engine.offer(Task { private: true, ..mine });
    run(once(&phone), writing(), &disk).await;
    let mine = phone.engine.output();
    let args = [("catalog", Value::Artifact(phone.catalog.clone())), ("user", Value::Artifact(mine.clone()))];
    let pick = phone.task("select", Type::Selection, &args);
    phone.engine.offer(Task { private: true, ..pick });
    run(once(&phone), writing(), &disk).await;
    let pick = phone.engine.output();

    // The question, with a long list of downloads that names one thing.
    let mut asks = phone.tuned(&mine, Some(above(&pick, "confidence", 0.5)));
    asks.prefetch = vec![phone.base.clone(); 20_000];
    phone.engine.offer(asks);
    run(once(&phone), writing(), &disk).await;
    // Real downloads of most of what there is, then sizes around the rest.
    let filler = vec![7; 20 << 20];
    let filler = phone.engine.publish(Type::Model, &[("model.safetensors", &filler)], json!({ "n": 1 }));
    phone.engine.offer(public(&phone, 1000, 10, vec![filler]));
    for n in 0..48 {
        let stated = described(&phone, 3 * MIB + n * (MIB / 32));
        phone.engine.offer(public(&phone, 1001 + n, 10, vec![stated]));
    }
    // A public stage that writes more than there is for public work, with and without a result.
    phone.engine.offer(public(&phone, 2000, 30 * MIB, vec![]));
    phone.engine.offer(public(&phone, 2001, 10, vec![]));
    run(once(&phone), writing(), &disk).await;

    let host = phone.engine.url.replace("https://", "");
    let seen = normalised(&phone.engine.lock().messages.clone(), &host);
    let refused = |fence: u64| {
        let commit = phone.engine.commits().into_iter().find(|c| c.fence == fence).expect("answered");
        match commit.outcome {
            Outcome::Failed { failure } => Some(failure.class),
            _ => None,
        }
    };
    let steps: Vec<bool> = (1001..1049).map(|fence| refused(fence) == Some(FailureClass::Input)).collect();
    assert_eq!([1000, 2000, 2001].map(refused), [None, Some(FailureClass::Input), None]);
    let ended = phone.history().into_iter().find(|e| e.kind == "finetune").expect("worked on").ended;
    (seen, ended, steps)
}

/// To the byte, what the engine may place on a device is the same whatever private work wrote there.
#[tokio::test]
async fn how_much_room_there_is_for_public_work_says_nothing_of_private_work() {
    let (seen, ended, steps) = measured(DIARY).await;
    let (other_seen, other_ended, other_steps) =
        measured("{\"prompt\":\"Hello\",\"response\":\"Good day.\"}\n").await;
    assert_eq!(
        (ended, other_ended),
        (Ended::Skipped, Ended::Succeeded),
        "one wrote 8 MiB, the other nothing"
    );
    assert!(!steps[0] && steps[47] && steps.is_sorted(), "the limit is among the sizes: {steps:?}");
    assert_eq!(steps, other_steps);
    for (a, b) in seen.iter().zip(&other_seen) {
        assert_eq!(a, b);
    }
    assert_eq!(seen.len(), other_seen.len());
}

/// Whether the queue had room for a task shows to the owner alone.
#[tokio::test]
async fn a_full_queue_looks_like_any_other() {
    let mut seen = Vec::new();
    for waiting in [0, 1000] {
        let mut phone = Phone::new(DIARY).await;
        let mine = phone.diary().await;
        for n in 0..waiting {
            let at = phone.place.state().join(format!("queue/before-{n}"));
            std::fs::write(at, "{}").expect("writes");
        }
        let t = phone.tuned(&mine, None);
        phone.engine.offer(t);
        let mut options = phone.place.options(&phone.engine);
        options.allowed = phone.allowed;
        run(options, filling(1 << 20), &SimulatedDisk::new()).await;
        let ended = phone.history().pop().expect("an entry");
        assert_eq!(ended.ended, if waiting == 0 { Ended::Succeeded } else { Ended::Failed });
        let page = show::summary(&phone.place.state(), None).expect("prints");
        assert_eq!(page.contains("tasks were waiting"), waiting > 0, "{page}");
        let host = phone.engine.url.replace("https://", "");
        seen.push(normalised(&phone.engine.lock().messages.clone(), &host));
    }
    assert_eq!(seen[0], seen[1]);
}
