//! A run on a disk that is full, may not be written, or loses its power, from some write on: every write of the
//! run in turn.
//!
//! Whatever the write is of (the log, a fence, a stage's own file, a blob, an output), the error names the
//! file and says why, nothing half-written is left, no stage is recorded as failed, and
//! the same run on a disk with room gives what an undisturbed one gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use headstart_builtin::backend;
use headstart_core::{Event, EventKind, RunOutcome};
use headstart_disk::Disk;
use headstart_disk::simulated::{Fault, SimulatedDisk};
use headstart_driver::RunOptions;
use headstart_host::Limits;
use headstart_store::Workspace;

use crate::commands::run::engine_over;
use crate::exit::{CommandError, FAILED};
use crate::{export, loader};

const PIPELINE: &str = r#"dataset rows = jsonl("rows.jsonl")
model blank = init("model.json", corpus: rows, vocab: 280)
stage tuned: Pllm = finetune(blank, data: rows, rank: 2, batch: 2, max_steps: 2, eval_every: 1)
stage said: Responses = probe(tuned, prompts: rows, max_tokens: 2)
stage metrics: Metrics = evaluate(tuned, data: rows, answers: 1, max_tokens: 2)

output tuned = tuned
output said = said
output metrics = metrics
"#;

const MODEL: &str = r#"{ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
  "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": true, "vocab_size": 280 }"#;

/// Every file below a folder, with its content.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below it").to_string_lossy().into_owned();
                // One may go while another is read: threads of the engine may still be ending.
                if let Ok(content) = fs::read(&path) {
                    found.insert(name, content);
                }
            }
        }
    }
    found
}

fn prepare(dir: &Path) {
    fs::create_dir_all(dir).expect("writable");
    let row = |i: usize| format!("{{\"prompt\":\"what is {i}?\",\"response\":\"it is {i}.\"}}\n");
    fs::write(dir.join("rows.jsonl"), (0..6).map(row).collect::<String>()).expect("writable");
    fs::write(dir.join("model.json"), MODEL).expect("writable");
    fs::write(dir.join("p.pllm"), PIPELINE).expect("writable");
}

/// What `headstart run p.pllm --out out` does in `dir`, on a disk.
fn run(dir: &Path, disk: &SimulatedDisk) -> Result<(), CommandError> {
    let file = dir.join("p.pllm");
    let checked = headstart_dsl::check(&file.to_string_lossy(), &loader::Disk, &BTreeMap::new());
    let plan = checked.plan.unwrap_or_else(|| panic!("{:?}", checked.diagnostics));
    let ws = Workspace::open_on(&dir.join("ws"), disk.shared())?;
    // In this process: a worker would write to the system's disk.
    let stages = headstart_builtin::stages(backend::cpu());
    let engine =
        engine_over(ws.clone(), stages, headstart_driver::EngineOptions::default(), Limits::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run = engine.run(plan, RunOptions::new("p.pllm", dir))?;
    let result = runtime.block_on(run.wait()).map_err(|e| CommandError::of_run(&e))?;
    if result.outcome != RunOutcome::Succeeded {
        return Err(CommandError::failed(format!("a stage failed: {:?}", result.failures)));
    }
    export::write(&ws, &result.outputs, &dir.join("out"))?;
    ws.sync()?;
    Ok(())
}

/// Nothing temporary is left, and no stage is recorded as failed.
fn check_left(dir: &Path, at: u64) {
    let temporary = |part: &str| [".tmp-", ".new-", ".old-"].iter().any(|t| part.starts_with(t));
    let left = || tree(dir).into_keys().find(|name| name.split('/').any(temporary));
    // Threads of the engine may still be ending, and writing.
    let begun = Instant::now();
    while let Some(name) = left() {
        assert!(begun.elapsed() < Duration::from_secs(20), "write {at}: {name} is left");
        std::thread::sleep(Duration::from_millis(5));
    }
    let ws = Workspace::open(&dir.join("ws")).expect("opens");
    for info in ws.runs() {
        let events: Vec<Event> = ws.read_run(&info.id).expect("readable");
        let failed = events.iter().find(|e| matches!(e.kind, EventKind::Failed { .. }));
        assert!(failed.is_none(), "write {at}: {failed:?}");
    }
}

/// What a run leaves that nothing happens to, and how many writes it has.
fn undisturbed(dir: &Path) -> (u64, BTreeMap<String, Vec<u8>>) {
    prepare(dir);
    let disk = SimulatedDisk::new();
    run(dir, &disk).unwrap_or_else(|e| panic!("{e:?}"));
    (disk.writes(), tree(&dir.join("out")))
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_behind() {
    is_named_and_leaves_nothing_behind(Fault::Full, "the disk is full", "free some space");
}

#[test]
fn a_disk_that_may_not_be_written_is_named_and_leaves_nothing_behind() {
    is_named_and_leaves_nothing_behind(Fault::Denied, "permission denied", "allow this user to write there");
}

fn is_named_and_leaves_nothing_behind(fault: Fault, says: &str, helps: &str) {
    let top = tempfile::tempdir().expect("a folder");
    let (writes, expected) = undisturbed(&top.path().join("undisturbed"));
    assert!(expected.len() > 4 && writes > 50, "{writes} writes of {:?}", expected.keys());
    let full = u32::try_from(writes).expect("a small run");
    let sample = u64::from(headstart_testkit::cases(12, full).clamp(1, full));
    for at in (0..sample).map(|i| 1 + i * writes / sample) {
        let dir = top.path().join(format!("at-{at}"));
        prepare(&dir);
        let disk = SimulatedDisk::new();
        disk.fail_from(at, fault);
        match run(&dir, &disk) {
            // What is written at the very end may only be lost time, such as the removal of what is spare.
            Ok(()) => assert_eq!(tree(&dir.join("out")), expected, "write {at} of {writes}"),
            Err(e) => {
                assert_eq!(e.code(), FAILED, "write {at} of {writes}: {e:?}");
                let said = e.message();
                assert!(said.to_lowercase().contains(says), "write {at} of {writes}: {said}");
                assert!(said.contains(&*dir.to_string_lossy()), "write {at} of {writes}: {said}");
                assert!(format!("{e:?}").contains(helps), "write {at} of {writes}: {e:?}");
            }
        }
        disk.repair();
        check_left(&dir, at);
        for (name, content) in tree(&dir.join("out")) {
            assert_eq!(expected.get(&name), Some(&content), "write {at} of {writes}: {name} is half-written");
        }
        run(&dir, &disk).unwrap_or_else(|e| panic!("write {at} of {writes}, with room again: {e:?}"));
        assert_eq!(tree(&dir.join("out")), expected, "write {at} of {writes}");
    }
}

/// Everything that the log of a run says was committed is there, byte for byte.
fn check_committed(ws: &Workspace, at: u64) {
    for info in ws.runs() {
        let events: Vec<Event> = ws.read_run(&info.id).unwrap_or_else(|e| panic!("write {at}: {e}"));
        for event in events {
            let EventKind::Committed { output, .. } = event.kind else { continue };
            let manifest = ws.artifacts().manifest(&output.id);
            let manifest =
                manifest.expect("intact").unwrap_or_else(|| panic!("write {at}: a manifest is gone"));
            for (name, file) in &manifest.files {
                let intact = ws.blobs().intact(&file.digest).expect("readable");
                assert!(intact.is_some(), "write {at}: {name}");
            }
        }
    }
}

#[test]
fn a_power_cut_loses_nothing_that_the_log_speaks_of() {
    let top = tempfile::tempdir().expect("a folder");
    let (writes, expected) = undisturbed(&top.path().join("undisturbed"));
    let full = u32::try_from(writes).expect("a small run");
    let sample = u64::from(headstart_testkit::cases(8, full).clamp(1, full));
    for at in (0..sample).map(|i| 1 + i * writes / sample + writes / (2 * sample)) {
        let dir = top.path().join(format!("at-{at}"));
        prepare(&dir);
        let disk = SimulatedDisk::new();
        // Nothing more reaches the disk, then the power is gone, and the system starts again.
        disk.fail_from(at, Fault::Broken);
        let _ = run(&dir, &disk);
        disk.lose_unsynced().expect("a folder");
        if let Ok(ws) = Workspace::open_on(&dir.join("ws"), disk.shared()) {
            check_committed(&ws, at);
        }
        run(&dir, &disk).unwrap_or_else(|e| panic!("write {at} of {writes}, after a restart: {e:?}"));
        assert_eq!(tree(&dir.join("out")), expected, "write {at} of {writes}");
    }
}
