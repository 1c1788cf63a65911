//! A disk that private work fills: whether it does may depend on private values, so the device goes on.

use headstart_device::history::Ended;
use headstart_device::{Allowed, Options};
use headstart_disk::Disk;
use headstart_disk::simulated::SimulatedDisk;
use headstart_env::Env;
use headstart_protocol::expr::Value;
use headstart_protocol::task::Task;
use headstart_protocol::{FailureClass, Output, Stage, Type};
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
