//! Wrong input, of every kind that people bring: each is answered by an error that names the thing
//! and says what is wrong with it, by exit code 2 (or 1 where a device failed), and by nothing that
//! is half written.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Place, Said, device_binary, root, said};
use serde_json::Value as Json;

/// A run that takes in a model and an adapter, and asks them two questions.
const PIPELINE: &str = r#"
param base_folder: Path = "base"
param source: Path = "adapter"
param questions: Path = "probes.jsonl"

model base = local(base_folder)
dataset probes = jsonl(questions)
stage pllm: Pllm = ingest(base: base, source: source)
stage said: Responses = probe(pllm, prompts: probes, max_tokens: 4)
stage report: Responses = probe(base, prompts: probes, max_tokens: 4)
output said = said
output report = report
"#;

const TINY: &str = "examples/models/tiny";
const SASSY: &str = "examples/catalog/elementary-concise-sassy";

/// A place with a pipeline whose input is well, to be broken.
fn well() -> Place {
    let place = Place::new();
    copy(&place, TINY, "base");
    copy(&place, SASSY, "adapter");
    place.write("probes.jsonl", "{\"prompt\":\"What is rain?\"}\n{\"prompt\":\"What is wind?\"}\n");
    place.write("p.pllm", PIPELINE);
    place
}

/// A copy of a folder of the checkout.
fn copy(place: &Place, from: &str, to: &str) {
    for entry in std::fs::read_dir(root().join(from)).expect("the folder is there").flatten() {
        let to = place.path(to).join(entry.file_name());
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("writable");
        std::fs::write(to, std::fs::read(entry.path()).expect("readable")).expect("writable");
    }
}

fn run(place: &Place) -> Said {
    let file = place.path("p.pllm").display().to_string();
    let (out, report) = (place.path("out"), place.path("report.html"));
    let mut command = place.command(&["run", &file, "--quiet"]);
    command.arg("--out").arg(out).arg("--report").arg(report);
    said(command.output().expect("headstart starts"))
}

/// Runs, expects code 2 and all of these words on stderr, and that nothing is half written: no
/// output, nothing unfinished in the store.
fn is_refused(place: &Place, words: &[&str]) {
    let mut refused = run(place).code(2);
    for word in words {
        refused = refused.err_has(word);
    }
    assert!(!refused.err.contains("panicked") && !refused.err.contains("internal"), "{}", refused.err);
    assert!(!place.path("out").exists(), "a failed run writes no outputs");
    assert_eq!(unfinished(&place.path("ws")), Vec::<PathBuf>::new());
}

/// Files that something left behind in a workspace.
fn unfinished(ws: &Path) -> Vec<PathBuf> {
    let all = common::traces::files(ws).into_iter().map(|(path, _)| path);
    let odd = |p: &PathBuf| {
        let text = p.strip_prefix(ws).expect("below").to_string_lossy().into_owned();
        text.starts_with("scratch") || text.contains(".tmp") || text.contains("/.new-")
    };
    all.filter(odd).collect()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Json)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
    edit(&mut json);
    std::fs::write(path, json.to_string()).expect("writable");
}

#[test]
fn a_run_goes_well_once_its_input_does() {
    let place = well();
    place.write("adapter/adapter_config.json", "{}");
    place.write("probes.jsonl", "");
    is_refused(&place, &["adapter_config.json", "probes.jsonl"]);
    copy(&place, SASSY, "adapter");
    place.write("probes.jsonl", "{\"prompt\":\"What is rain?\"}\n");
    run(&place).code(0);
    assert!(place.path("out/said/rows.jsonl").is_file());
}

#[test]
fn weights_that_are_missing() {
    let place = well();
    std::fs::remove_file(place.path("base/model.safetensors")).expect("removable");
    is_refused(&place, &["base", "safetensors"]);
}

#[test]
fn weights_that_are_cut_short() {
    let place = well();
    let weights = place.path("base/model.safetensors");
    let bytes = std::fs::read(&weights).expect("readable");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("writable");
    is_refused(&place, &["model.safetensors"]);
}

#[test]
fn weights_that_are_no_safetensors() {
    let place = well();
    place.write("base/model.safetensors", "<html>not found</html>");
    is_refused(&place, &["model.safetensors"]);
}

#[test]
fn weights_of_another_shape_than_the_config_says() {
    let place = well();
    edit_json(&place.path("base/config.json"), |c| c["intermediate_size"] = 640.into());
    is_refused(&place, &["model.layers.0.mlp", "640", "512"]);
}

#[test]
fn a_model_of_a_type_that_is_not_supported() {
    let place = well();
    edit_json(&place.path("base/config.json"), |c| c["model_type"] = "mamba".into());
    is_refused(&place, &["config.json", "mamba"]);
}

#[test]
fn an_adapter_of_another_base() {
    let place = well();
    copy(&place, "models/lm/tests/fixtures/parity/llama-tied/adapter", "adapter");
    is_refused(&place, &["adapter_model.safetensors", "q_proj"]);
}

#[test]
fn an_adapter_that_is_cut_short() {
    let place = well();
    let weights = place.path("adapter/adapter_model.safetensors");
    let bytes = std::fs::read(&weights).expect("readable");
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).expect("writable");
    is_refused(&place, &["adapter_model.safetensors"]);
}

#[test]
fn adapters_with_options_of_peft_that_are_not_supported() {
    for (key, value) in [("use_dora", Json::from(true)), ("bias", "all".into()), ("peft_type", "IA3".into())]
    {
        let place = well();
        edit_json(&place.path("adapter/adapter_config.json"), |c| c[key] = value);
        is_refused(&place, &["adapter_config.json", key]);
    }
}

#[test]
fn a_folder_that_is_no_adapter() {
    let place = well();
    std::fs::remove_dir_all(place.path("adapter")).expect("removable");
    place.write("adapter/README.md", "soon");
    is_refused(&place, &["adapter", "adapter_config.json"]);
}

#[test]
fn a_tokenizer_that_is_missing() {
    let place = well();
    std::fs::remove_file(place.path("base/tokenizer.json")).expect("removable");
    is_refused(&place, &["tokenizer.json"]);
}

#[test]
fn a_tokenizer_without_a_token_that_ends_an_answer() {
    let place = well();
    edit_json(&place.path("base/tokenizer_config.json"), |c| c["eos_token"] = "<|stop|>".into());
    is_refused(&place, &["eos_token", "<|stop|>"]);
}

#[test]
fn rows_that_are_none() {
    for (text, words) in [
        ("", ["probes.jsonl", "no row"]),
        ("{\"prompt\":\"fine\"}\n{\"prompt\": oops}\n", ["probes.jsonl", "line 2"]),
        ("{\"prompt\":\"fine\"}\n{\"question\":\"?\"}\n", ["probes.jsonl", "line 2"]),
        ("[1, 2]\n", ["probes.jsonl", "line 1"]),
    ] {
        let place = well();
        place.write("probes.jsonl", text);
        is_refused(&place, &words);
    }
    let place = well();
    std::fs::write(place.path("probes.jsonl"), b"{\"prompt\":\"\xff\xfe\"}\n").expect("writable");
    is_refused(&place, &["probes.jsonl", "UTF-8"]);
    let place = well();
    std::fs::remove_file(place.path("probes.jsonl")).expect("removable");
    is_refused(&place, &["probes.jsonl"]);
}

#[test]
fn names_that_the_pipeline_does_not_know_stop_it_before_anything_runs() {
    let place = well();
    for (from, to, words) in [
        ("probe(pllm,", "probe(plm,", ["E0101", "did you mean `pllm`?"]),
        ("probe(base,", "prove(base,", ["prove", "did you mean `probe`?"]),
        ("max_tokens: 4)\nstage", "max_token: 4)\nstage", ["max_token", "did you mean `max_tokens`?"]),
    ] {
        place.write("p.pllm", &PIPELINE.replacen(from, to, 1));
        let refused = run(&place).code(2);
        words.into_iter().fold(refused, Said::err_has);
        place.headstart(&["runs"]).code(2).err_has("there is no workspace");
    }
    place.write("p.pllm", PIPELINE);
    let file = place.path("p.pllm").display().to_string();
    place.headstart(&["run", &file, "--set", "bse_folder=x"]).code(2).err_has("bse_folder");
}

const PRIVATE: &str = r#"
private dataset mine = jsonl("me.jsonl") on device("phone")
model base = local("base")
stage before: Metrics = evaluate(base, data: mine, answers: 0) { on: device("phone") }
output before = release(before)
"#;

fn listening(place: &Place, wait: &str) -> std::process::Command {
    let file = place.path("p.pllm").display().to_string();
    place.command(&["run", &file, "--listen", "127.0.0.1:0", "--device-wait", wait])
}

#[test]
fn a_device_that_never_joins() {
    let place = well();
    place.write("p.pllm", PRIVATE);
    let waited = said(listening(&place, "4").output().expect("headstart starts")).code(1);
    // While it waits it says for whom, and what to do; then it gives up and says so.
    let at = |text: &str| waited.err.find(text).unwrap_or_else(|| panic!("lacks {text:?}:\n{}", waited.err));
    assert!(at("`mine` waits for device phone, which is not paired") < at("did not join within 4s"));
    assert!(waited.err.contains("headstart devices invite phone --url https://127.0.0.1:"), "{}", waited.err);
}

/// What came of it is the device's own business; the run fails only if the owner of the device lets failures
/// be told, and even then without a path.
#[test]
fn a_device_without_the_file_tells_its_owner_why() {
    let place = well();
    place.write("p.pllm", PRIVATE);
    std::fs::create_dir_all(place.path("phone")).expect("writable");
    let device = |args: &[&str]| {
        let mut command = std::process::Command::new(device_binary());
        command.arg("--state").arg(place.path("state")).args(args);
        command
    };
    let run = |allow: &str, more: &[&str]| {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let url = format!("https://127.0.0.1:{port}");
        let mut phone = device(&[])
            .args(place.join("phone", &url))
            .args(["--allow-release", allow, "--data"])
            .arg(place.path("phone"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the device starts");
        let file = place.path("p.pllm").display().to_string();
        let listen = format!("127.0.0.1:{port}");
        let said = place.headstart(&[&["run", &file, "--listen", &listen], more].concat());
        phone.kill().expect("it was running");
        phone.wait().expect("it ended");
        let folder = place.path("phone").display().to_string();
        assert!(!said.err.contains(&folder) && !said.out.contains(&folder), "{}", said.err);
        said
    };
    let hidden = run("metrics", &[]).code(0);
    hidden.err_has("delivered").err_has("only the devices know").err_has("headstart-device show");
    let shown = said(device(&["show"]).output().expect("shows")).code(0);
    shown.out_has("me.jsonl").out_has("failed").out_has("blocked: an input failed");

    let failed = run("metrics,failures", &["--quiet"]);
    assert!(failed.code == 1 || failed.code == 2, "{}", failed.err);
    failed.err_has("mine: on device `phone`").err_has("headstart-device show");
}

/// Every place where a command takes a path: what is no regular file is refused by name, and nothing waits for it.
#[cfg(unix)]
#[test]
fn files_that_are_none() {
    let place = well();
    let fifo = |name: &str| {
        let at = place.path(name);
        let _ = std::fs::remove_file(&at);
        assert!(std::process::Command::new("mkfifo").arg(&at).status().expect("mkfifo starts").success());
        at.display().to_string()
    };
    let (pipeline, rows, params) = (fifo("fifo.pllm"), fifo("fifo.jsonl"), fifo("fifo.json"));
    let good = place.path("p.pllm").display().to_string();
    let (from, zero) = (format!("questions={rows}"), "questions=/dev/zero".to_owned());
    for (args, name, what) in [
        (vec!["check", pipeline.as_str()], "fifo.pllm", "is a FIFO"),
        (vec!["fmt", &pipeline], "fifo.pllm", "is a FIFO"),
        (vec!["run", &pipeline], "fifo.pllm", "is a FIFO"),
        (vec!["run", &good, "--params", &params], "fifo.json", "is a FIFO"),
        (vec!["run", &good, "--set", &from], "fifo.jsonl", "is a FIFO"),
        (vec!["run", &good, "--set", &zero], "/dev/zero", "is a device"),
    ] {
        let said = said(place.command(&args).output().expect("headstart starts"));
        assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        assert!(said.err.contains(name) && said.err.contains(what), "{args:?}: {}", said.err);
    }
}

#[test]
fn a_pipeline_file_has_a_largest_size() {
    let place = well();
    place.write("p.pllm", &format!("{PIPELINE}{}", " ".repeat(16 << 20)));
    run(&place).code(2).err_has("p.pllm").err_has("at most 16777216 are read");
}
