//! A cached result that is damaged is never handed out: it counts as missing, and is made again.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Bench, Pipeline, field, out};
use headstart_core::RunOutcome;
use headstart_driver::RunOptions;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::{Digest, Manifest, Type};
use headstart_store::Workspace;

/// What can happen to a file.
const DAMAGES: [&str; 4] = ["flipped", "cut", "emptied", "removed"];

fn damage(how: &str, path: &Path) {
    let mut bytes = fs::read(path).expect("readable");
    // Contents are read-only, and links to them are the same file.
    let mut writable = fs::metadata(path).expect("there").permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file of a test")]
    writable.set_readonly(false);
    fs::set_permissions(path, writable).expect("changed");
    match how {
        "flipped" => bytes[0] ^= 1,
        "cut" => drop(bytes.pop()),
        "emptied" => bytes.clear(),
        _ => return fs::remove_file(path).expect("removable"),
    }
    fs::write(path, bytes).expect("writable");
}

fn manifest_path(ws: &Workspace, id: &Digest) -> PathBuf {
    let hex = id.to_string();
    ws.dir().join("manifests").join(&hex[..2]).join(format!("{hex}.json"))
}

/// Runs the plan as `--out` does, and the value of its only output.
async fn exported(bench: &Bench, p: &Pipeline) -> (Digest, Manifest) {
    let options = RunOptions { exports: true, ..bench.run_options() };
    let run = bench.engine.run(p.plan.clone(), options).expect("begins");
    let result = run.wait().await.expect("ends");
    assert_eq!(result.outcome, RunOutcome::Succeeded, "{:?}", result.failures);
    let Some(Value::Artifact(a)) = &result.outputs[0].value else { panic!("no artifact") };
    let ws = bench.engine.workspace();
    let manifest = ws.artifacts().manifest(&a.id).expect("intact").expect("here");
    for (name, file) in &manifest.files {
        let path = ws.blobs().path(&file.digest).unwrap_or_else(|| panic!("{name} is here"));
        assert_eq!(Digest::of(&fs::read(path).expect("readable")), file.digest, "{name}");
    }
    (a.id, manifest)
}

/// Damages the file that `pick` names after a first run; a second gives the same output, intact.
async fn heals(p: &Pipeline, pick: impl Fn(&Workspace, &Digest, &Manifest) -> PathBuf) {
    for how in DAMAGES {
        for opened in [false, true] {
            let bench = Bench::new();
            let (id, manifest) = exported(&bench, p).await;
            let ws = bench.engine.workspace();
            if opened {
                ws.artifacts().materialize(&id).expect("opens");
            }
            damage(how, &pick(ws, &id, &manifest));
            assert_eq!(exported(&bench, p).await, (id, manifest), "{how}, opened before: {opened}");
        }
    }
}

fn only_blob(ws: &Workspace, manifest: &Manifest) -> PathBuf {
    let file = manifest.files.values().next().expect("a file");
    ws.blobs().path(&file.digest).expect("here")
}

#[tokio::test]
async fn an_output_whose_content_is_damaged_is_made_again() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 5);
    let b = p.blend("b", 7);
    let c = p.sum("c", &[a, b]);
    p.output("c", out(c), Type::Dataset);
    heals(&p, |ws, _, manifest| only_blob(ws, manifest)).await;
}

#[tokio::test]
async fn an_output_whose_manifest_is_damaged_is_made_again() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 5);
    let b = p.sum("b", &[a]);
    p.output("b", out(b), Type::Dataset);
    heals(&p, |ws, id, _| manifest_path(ws, id)).await;
}

#[tokio::test]
async fn an_output_that_others_read_is_looked_at_too() {
    let mut p = Pipeline::default();
    let a = p.blend("a", 5);
    p.output("a", out(a), Type::Dataset);
    p.sum("b", &[a]);
    heals(&p, |ws, _, manifest| only_blob(ws, manifest)).await;
    heals(&p, |ws, id, _| manifest_path(ws, id)).await;
}

#[tokio::test]
async fn what_an_output_refers_to_is_made_again_by_its_own_stage() {
    let mut p = Pipeline::default();
    let base = p.add("base", "local", Type::Model, &[]);
    let source = Expr::value(Value::Path("x".to_owned()));
    let pllm = p.add("pllm", "ingest", Type::Pllm, &[("base", out(base)), ("source", source)]);
    p.output("base", field(out(pllm), "base"), Type::Model);
    heals(&p, |ws, _, manifest| only_blob(ws, manifest)).await;
    heals(&p, |ws, id, _| manifest_path(ws, id)).await;
}

#[tokio::test]
async fn a_damaged_input_is_made_again_for_the_stage_that_reads_it() {
    for how in DAMAGES {
        let mut p = Pipeline::default();
        let a = p.blend("a", 5);
        let b = p.sum("b", &[a]);
        p.output("b", out(b), Type::Dataset);
        let bench = Bench::new();
        let first = bench.run(p.plan.clone()).await;
        assert_eq!(bench.number(&first, "b"), Some(5));
        let Some(Value::Artifact(five)) = &first.outputs[0].value else { panic!("no artifact") };
        let ws = bench.engine.workspace();
        let manifest = ws.artifacts().manifest(&five.id).expect("intact").expect("here");
        damage(how, &only_blob(ws, &manifest));
        // Both stages are known; a third reads what is damaged.
        let c = p.sum("c", &[a, b]);
        p.plan.outputs.clear();
        p.output("c", out(c), Type::Dataset);
        let second = bench.run(p.plan.clone()).await;
        assert_eq!(second.outcome, RunOutcome::Succeeded, "{how}: {:?}", second.failures);
        assert_eq!(bench.number(&second, "c"), Some(10), "{how}");
    }
}
