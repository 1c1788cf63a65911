//! Time as a channel: where nothing may leave, the moment at which a private task is delivered depends on the task
//! alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use headstart_device::history::Ended;
use headstart_device::{Summary, Until, show};
use headstart_protocol::expr::Value;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{ArtifactRef, Failure, FailureClass, Output, Stage, Type};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{stages, task};
use crate::phone::{DIARY, Phone, above, shape, stages as phone_stages};

/// A gate before the long stage: closed, its work takes as long as it likes.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().expect("not poisoned");
        drop(self.0.1.wait_while(open, |open| !*open).expect("not poisoned"));
    }
}

/// The stages of the phone, with a training that takes until the gate opens.
fn gated(gate: &Gate) -> Vec<Box<dyn Stage>> {
    let gate = gate.clone();
    let mut all = phone_stages();
    all.retain(|stage| stage.kind() != "finetune");
    all.push(stages::probe(Arc::default()));
    all.push(stages::fake("finetune", move |_, _| {
        gate.pass();
        Ok(Output::new(Type::Pllm, json!({ "format": "lora" })))
    }));
    all
}

/// A device that runs beside the test.
fn start(
    phone: &Phone,
    stages: Vec<Box<dyn Stage>>,
    until: Until,
) -> (JoinHandle<Summary>, CancellationToken) {
    let mut options = phone.place.options(&phone.engine);
    (options.allowed, options.limits, options.until) = (phone.allowed, phone.limits, until);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let run = async move { headstart_device::run(options, stages, stopped).await.expect("runs") };
    (tokio::spawn(run), stop)
}

/// Waits for as many commits.
async fn committed(phone: &Phone, n: usize) {
    while phone.engine.commits().len() < n {
        tokio::task::yield_now().await;
    }
}

fn probe(phone: &Phone, fence: u64) -> Task {
    let rows = phone.engine.publish(Type::Dataset, &[("rows.jsonl", b"{}\n")], json!({ "rows": 1 }));
    let args = [("model", Value::Artifact(phone.base.clone())), ("prompts", Value::Artifact(rows))];
    task(fence, "probe", Type::Responses, &args)
}

/// Asks sixteen times whether a private number is above a threshold, each time by a stage that takes for ever if
/// it is. What the engine sees before any of them has ended; then how each of them ended.
async fn bisected(diary: &str) -> (Vec<String>, Vec<Ended>) {
    let mut phone = Phone::new(diary).await;
    let mine = phone.diary().await;
    let pick = phone.pick(&mine).await;
    let mut asked = Vec::new();
    for n in 0..16 {
        asked.push(phone.tuned(&mine, Some(above(&pick, "confidence", f64::from(n) / 16.0))));
    }
    asked.push(probe(&phone, 1000));
    let n = asked.len() + 2;
    let gate = Gate::default();
    asked.into_iter().for_each(|t| phone.engine.offer(t));
    let (device, _) = start(&phone, gated(&gate), Until::Idle(std::time::Duration::from_millis(100)));
    committed(&phone, n).await;
    // Every answer is there, the public one too, and no private one has been worked on to its end.
    let seen = phone.engine.commits().iter().map(|c| shape(&c.outcome)).collect();
    let trained =
        |phone: &Phone| phone.history().into_iter().filter(|e| e.kind == "finetune").collect::<Vec<_>>();
    assert!(trained(&phone).iter().all(|e| e.ended == Ended::Skipped), "none is trained");
    let waiting = show::summary(&phone.place.state(), None).expect("prints");
    assert!(waiting.contains("Waits to be worked on here"), "{waiting}");
    gate.open();
    let summary = device.await.expect("ends");
    assert_eq!(summary, Summary { done: n - 2, failed: 0 });
    let ended: Vec<Ended> = trained(&phone).iter().map(|e| e.ended).collect();
    assert_eq!(ended.len(), 16);
    let done = show::summary(&phone.place.state(), None).expect("prints");
    assert!(!done.contains("Waits to be worked on here"), "{done}");
    // What the public task made.
    phone.engine.lock().uploaded.clear();
    phone.assert_silent();
    (seen, ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bisection_by_how_long_a_stage_takes_learns_nothing() {
    let (seen, ended) = bisected(DIARY).await;
    let (other_seen, other_ended) = bisected("{\"prompt\":\"Hello\",\"response\":\"Good day.\"}\n").await;
    assert_eq!(seen, other_seen);
    assert_ne!(ended, other_ended, "the answers differ, or this proves nothing");
    assert!(ended.contains(&Ended::Skipped) && ended.contains(&Ended::Succeeded));
}

/// What was taken over is neither lost nor delivered twice when the device is stopped meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_over_is_worked_on_after_a_restart() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let waits = stages::fake("finetune", move |_, ctx| {
        count.fetch_add(1, Ordering::SeqCst);
        while !ctx.cancelled() {
            std::thread::yield_now();
        }
        Err(Failure::new(FailureClass::Cancelled, "told to stop"))
    });
    let t = phone.tuned(&mine, None);
    phone.engine.offer(t);
    let (device, stop) = start(&phone, vec![waits, stages::evaluate()], Until::Stopped);
    committed(&phone, 2).await;
    // A task that reads the promised result, taken over while that is not made.
    let tuned = phone.engine.output();
    let evaluate = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(tuned))]);
    let evaluate = Task { private: true, ..evaluate };
    while ran.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    device.await.expect("stops");
    assert_eq!(phone.history().len(), 1, "it has not ended");

    phone.engine.offer(evaluate);
    let (device, _) = start(&phone, phone_stages(), Until::Once);
    let summary = device.await.expect("ends");
    assert_eq!((summary.done + summary.failed, phone.engine.commits().len()), (2, 3));
    let names: Vec<_> = phone.history().into_iter().map(|e| (e.kind, e.ended)).collect();
    assert_eq!(names[1], ("finetune".to_owned(), Ended::Succeeded));
    assert_eq!(names[2].0, "evaluate");
    phone.assert_silent();
}

/// Handles say nothing about content, so the engine asks for all of it every night; the device knows better.
#[tokio::test]
async fn the_same_data_is_not_worked_on_again_and_other_data_is() {
    let mut phone = Phone::new(DIARY).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = |ran: &Arc<AtomicUsize>| {
        let ran = Arc::clone(ran);
        stages::fake("evaluate", move |args, ctx| {
            ran.fetch_add(1, Ordering::SeqCst);
            let rows = ctx.open(args.artifact("data")?)?.join("rows.jsonl");
            let text = std::fs::read(&rows).map_err(|e| Failure::io(&rows, &e))?;
            let at = ctx.scratch().join("answers");
            headstart_disk::files::write(ctx.disk(), &at, &text)?;
            Ok(Output::new(Type::Metrics, json!({ "loss": 1.0, "bytes": text.len() }))
                .file("answers.jsonl", at))
        })
    };
    let mut handles: Vec<ArtifactRef> = Vec::new();
    for (night, diary) in [DIARY.to_owned(), DIARY.to_owned(), DIARY.repeat(2)].iter().enumerate() {
        phone.place.write("me.jsonl", diary);
        let mine = phone.diary().await;
        let mut t = phone.task("evaluate", Type::Metrics, &[("data", Value::Artifact(mine.clone()))]);
        t.private = true;
        handles.extend([mine, phone.handle(t, vec![counted(&ran)]).await]);
        assert_eq!(ran.load(Ordering::SeqCst), [1, 1, 2][night], "night {night}");
    }
    let different: std::collections::BTreeSet<_> = handles.iter().map(|a| a.id).collect();
    assert_eq!(different.len(), handles.len(), "no handle says that something is as it was");
    let loss = |a: &ArtifactRef| {
        let at = phone.place.state().join("private").join(a.id.to_string());
        let held: serde_json::Value =
            serde_json::from_slice(&std::fs::read(at.join("artifact.json")).expect("kept")).expect("JSON");
        assert!(std::fs::read(at.join("files/answers.jsonl")).is_ok_and(|b| !b.is_empty()));
        held["manifest"]["value"]["bytes"].clone()
    };
    assert_eq!(loss(&handles[1]), loss(&handles[3]));
    assert_ne!(loss(&handles[1]), loss(&handles[5]));
    assert!(phone.history().iter().all(|e| e.ended == Ended::Succeeded));
    assert!(phone.engine.commits().iter().all(|c| matches!(c.outcome, Outcome::Succeeded { .. })));
}

/// What cannot be worked on any more fails, and holds nothing up.
#[tokio::test]
async fn a_task_whose_model_is_gone_leaves_the_queue() {
    let mut phone = Phone::new(DIARY).await;
    let mine = phone.diary().await;
    let gate = Gate::default();
    gate.open();
    let t = phone.tuned(&mine, None);
    assert_eq!(t.fence, 2);
    // Taken over by a device that was stopped before it came to it.
    let state = phone.place.state();
    let queued = json!({
        "task": t, "handle": headstart_protocol::Digest::of(b"promised"), "since": "2026-11-30T00:00:00Z",
        "models": [headstart_protocol::Digest::of(b"removed")],
    });
    std::fs::write(state.join("queue/00000000000000000002.json"), queued.to_string()).expect("writes");
    let mut options = phone.place.options(&phone.engine);
    options.allowed = phone.allowed;
    headstart_device::run(options, gated(&gate), CancellationToken::new()).await.expect("runs");
    let lost = phone.history().into_iter().find(|e| e.failure.is_some()).expect("it failed");
    assert_eq!(lost.failure.map(|f| f.class), Some(FailureClass::MissingArtifact));
    assert!(std::fs::read_dir(state.join("queue")).expect("there").next().is_none());
}
