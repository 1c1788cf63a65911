//! What version 0.1 wrote is read by this version: a workspace with a run on a phone, a run of a schedule and
//! a catalog, and the phone's state folder. `fixtures/workspace-0.1.tar.gz` was made by the commands of 0.1
//! themselves, and is not to be made again by a later one.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Place, Said, device_binary, said};
use headstart_protocol::{Digest, RowCache};
use headstart_store::Workspace;

/// The run of a person, and the run of the schedule.
const RUN: &str = "1m8nz8hkf74nd";
const FIRE: &str = "minutely-20261130T1017";

/// The project as 0.1 left it, in a temporary folder.
fn unpacked() -> (Place, PathBuf) {
    let place = Place::new();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/workspace-0.1.tar.gz");
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(place.dir.path()).status();
    assert!(tar.expect("tar starts").success());
    let project = place.path("workspace-0.1");
    (place, project)
}

fn headstart(project: &Path, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    command.current_dir(project).args(["--workspace", "ws"]).args(args).env("NO_COLOR", "1");
    said(command.output().expect("headstart starts"))
}

#[test]
fn its_runs_are_listed_and_shown() {
    let (_place, project) = unpacked();
    headstart(&project, &["runs"]).code(0).out_has(RUN).out_has(FIRE).out_has("succeeded");
    headstart(&project, &["runs", RUN]).code(0).out_has("tuned");
    headstart(&project, &["runs", FIRE]).code(0);
    headstart(&project, &["runs", "zzz"]).code(2).err_has("no run begins with `zzz`");
    headstart(&project, &["why", "plain"]).code(0);
}

#[test]
fn its_catalog_is_shown() {
    let (_place, project) = unpacked();
    headstart(&project, &["catalog"]).code(0).out_has("friendly").out_has("formal");
    headstart(&project, &["catalog", "show", "friendly"]).code(0).out_has("friendly");
}

#[test]
fn its_pipelines_run_on_in_the_same_workspace() {
    let (_place, project) = unpacked();
    headstart(&project, &["plan", "catalog.pllm"]).code(0).out_has("catalog");
    headstart(&project, &["run", "--only", "catalog", "catalog.pllm"]).code(0).err_has("succeeded");
    // Now there are three, and the new one is not hidden by the older ones, nor the other way round.
    let runs = headstart(&project, &["runs"]).code(0).out_has(RUN).out_has(FIRE);
    assert_eq!(runs.out.matches("succeeded").count(), 3, "{}", runs.out);
}

/// Its cache was in DuckDB alone.
#[test]
fn its_cache_keeps_counting() {
    let (_place, project) = unpacked();
    headstart(&project, &["why", "plain"]).code(0);
    let ws = Workspace::open(&project.join("ws")).expect("opens");
    let rows = |sql: &str| ws.cache().query(sql).expect("a query").rows;
    let digest = |text: &Option<String>| -> Digest {
        text.as_deref().expect("a digest").to_lowercase().parse().expect("a digest")
    };
    let stages = rows("SELECT key, entry FROM stage_cache");
    assert!(stages.len() > 5, "{} stages", stages.len());
    let vectors = rows("SELECT hex(space), hex(text) FROM embeddings");
    let answers = rows("SELECT hex(model), hex(settings), hex(prompt), answer FROM responses");
    assert!(!vectors.is_empty() && !answers.is_empty());
    // From now on the database is not needed.
    std::fs::remove_file(ws.cache().path()).expect("removed");
    for row in &stages {
        let entry = serde_json::from_str(row[1].as_deref().expect("an entry")).expect("JSON");
        assert_eq!(ws.cache().stage_get(&digest(&row[0])), Some(entry));
    }
    for row in &vectors {
        assert!(ws.cache().embeddings(&digest(&row[0]), &[digest(&row[1])])[0].is_some());
    }
    for row in &answers {
        let found = ws.cache().responses(&digest(&row[0]), &digest(&row[1]), &[digest(&row[2])]);
        assert_eq!(found, std::slice::from_ref(&row[3]));
    }
    // And it is made again, with the index of runs.
    headstart(&project, &["cache"]).code(0);
    assert_eq!(rows("SELECT key, entry FROM stage_cache").len(), stages.len());
    let runs = rows("SELECT id FROM runs ORDER BY id");
    assert_eq!(runs, [RUN, FIRE].map(|id| vec![Some(id.to_owned())]));
}

#[test]
fn its_device_still_knows_what_it_did() {
    let (_place, project) = unpacked();
    let device = |args: &[&str]| {
        let mut command = Command::new(device_binary());
        command.current_dir(&project).args(["--state", "state"]).args(args).env("NO_COLOR", "1");
        said(command.output().expect("headstart-device starts"))
    };
    device(&["show"]).code(0).out_has("tuned");
    device(&["show", "--sent"]).code(0).out_has("POST commit");
}

/// Its device was known by a secret, and this version knows devices by their keys.
#[test]
fn its_device_must_pair_again_and_is_named() {
    let (_place, project) = unpacked();
    headstart(&project, &["devices", "list"]).code(0).out_has("phone").out_has("must pair again");
    let mut command = Command::new(device_binary());
    command.current_dir(&project).args(["--state", "state", "join", "--data", "."]).env("NO_COLOR", "1");
    let refused = said(command.output().expect("headstart-device starts")).code(2);
    refused.err_has("device `phone`").err_has("earlier version").err_has("headstart devices invite phone");
    let invited = headstart(&project, &["--quiet", "devices", "invite", "phone"]).code(0);
    assert!(invited.out.starts_with("headstart-invite:"), "{}", invited.out);
}
