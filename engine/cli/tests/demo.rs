//! The whole of it, with real processes and real models: a server and a phone.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::phone::{free_port, phone};
use common::{Place, root};

const PERSONALIZE: &str = "pipelines/personalize.pllm";

/// Every file below a folder.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(dir).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Which of the needles, each of at least eight bytes, stand in a haystack. One pass over it: the
/// store is searched for hundreds of them.
fn found<'n>(haystack: &[u8], needles: &'n [Vec<u8>]) -> Vec<&'n [u8]> {
    let mut by_start: HashMap<&[u8], Vec<&'n [u8]>> = HashMap::new();
    for needle in needles {
        by_start.entry(&needle[..8]).or_default().push(needle);
    }
    let mut hits = Vec::new();
    for (at, start) in haystack.windows(8).enumerate() {
        if let Some(candidates) = by_start.get(start) {
            hits.extend(candidates.iter().filter(|n| haystack[at..].starts_with(n)));
        }
    }
    hits
}

/// What only the phone knows: every prompt and response, and the digests of its files and texts.
fn secrets() -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for name in ["me.jsonl", "later.jsonl"] {
        let bytes = std::fs::read(root().join("examples/first-light/phone").join(name)).expect("readable");
        secrets.push(headstart_protocol::Digest::of(&bytes).to_string().into_bytes());
        for line in String::from_utf8(bytes).expect("UTF-8").lines() {
            let row: headstart_protocol::rows::Row = serde_json::from_str(line).expect("a row");
            for text in [row.prompt, row.response] {
                let digest = headstart_protocol::Digest::of(text.as_bytes());
                secrets.push(digest.to_string().into_bytes());
                secrets.push(digest.0.to_vec());
                secrets.push(text.into_bytes());
            }
        }
    }
    secrets
}

#[test]
fn a_phone_personalises_and_its_texts_stay() {
    let place = Place::new();
    let port = free_port();
    let data = root().join("examples/first-light/phone");
    // What is judged by is 14 rows.
    let args = ["--holds", "charging,unmetered,idle", "--min-rows", "10"];
    let _device = phone(&place, &format!("https://127.0.0.1:{port}"), &data, &args);
    let listen = format!("127.0.0.1:{port}");
    let report = place.path("report.html");
    let run = ["run", PERSONALIZE, "--listen", &listen, "--format", "json", "--report"];
    let first = place.command(&run).arg(&report).output().expect("headstart starts");
    let first = common::said(first).code(0);

    let json: serde_json::Value = serde_json::from_str(&first.out).expect("JSON on stdout");
    let steps = |name: &str| {
        json["outputs"][name]["steps"].as_f64().unwrap_or_else(|| panic!("{name} has steps: {json}"))
    };
    assert!(
        steps("tuned") < steps("scratch"),
        "{} steps with a head start, {} without",
        steps("tuned"),
        steps("scratch")
    );
    // What the shipped pLLMs know of their training, the phone uses.
    let trained = root().join("examples/catalog/elementary-concise-sassy/training.json").exists();
    let forecast = &json["outputs"]["choice"]["forecast"];
    assert_eq!(forecast["steps_saved"].as_f64().is_some_and(|saved| saved > 0.0), trained, "{forecast}");
    let loss = |name: &str| json["outputs"][name]["loss"].as_f64().expect("a loss");
    assert!(loss("after") < loss("before"));
    let page = std::fs::read_to_string(report).expect("the report is written");
    assert!(page.contains("<svg") && !page.contains("<script"), "pictures, and nothing that runs");

    // Nothing of the phone's texts is in anything that the server has, or on its screen.
    let secrets = secrets();
    let mut seen: Vec<(String, Vec<u8>)> = files(&place.path("ws"))
        .iter()
        .map(|p| (p.display().to_string(), std::fs::read(p).unwrap_or_default()))
        .collect();
    seen.push(("stdout".into(), first.out.into_bytes()));
    seen.push(("stderr".into(), first.err.into_bytes()));
    seen.push(("report".into(), page.into_bytes()));
    for (name, bytes) in &seen {
        let leaked: Vec<_> = found(bytes, &secrets).into_iter().map(String::from_utf8_lossy).collect();
        assert!(leaked.is_empty(), "{name} holds {leaked:?}");
    }
    // The search would find them: the phone's own folder has them.
    let own = files(&place.path("state"));
    assert!(own.iter().any(|p| !found(&std::fs::read(p).unwrap_or_default(), &secrets).is_empty()));

    // Again: the phone reads its texts, and nothing else happens.
    let again = place.headstart(&["run", PERSONALIZE, "--listen", &listen, "--format", "json"]).code(0);
    let again = again.err_has("0 forward passes");
    let json: serde_json::Value = serde_json::from_str(&again.out).expect("JSON on stdout");
    let seconds = json["seconds"].as_f64().expect("seconds");
    assert!(seconds < 3.0, "{seconds} s, most of it until the phone is back");
}

#[test]
fn an_engine_that_was_killed_goes_on_where_it_was() {
    let place = Place::new();
    let mut engine = place
        .command(&["run", PERSONALIZE, "--only", "catalog"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("headstart starts");
    // Kill it when the first stage of the middle is done.
    let stderr = BufReader::new(engine.stderr.take().expect("piped"));
    let begun = Instant::now();
    for line in stderr.lines().map_while(Result::ok) {
        if line.contains("plain") || begun.elapsed() > Duration::from_secs(60) {
            break;
        }
    }
    engine.kill().expect("it was running");
    engine.wait().expect("it ended");
    let runs = place.headstart(&["runs"]).code(0);
    assert!(runs.out.contains("interrupted"), "{}", runs.out);
    let id = runs.out.split_whitespace().next().expect("a run").to_owned();
    let run = ["run", PERSONALIZE, "--only", "catalog", "--quiet", "--resume", &id];
    // `--only` belongs to a new run; a resumed one is as it was created.
    place.headstart(&run).code(2);
    place
        .headstart(&["run", PERSONALIZE, "--listen", "127.0.0.1:0", "--resume", &id])
        .code(0)
        .err_has("succeeded");
    assert_eq!(place.headstart(&["runs"]).code(0).out.lines().count(), 1, "the same run, not another");
    assert_eq!(place.headstart(&["catalog"]).code(0).out.lines().count(), 14);
}

/// A choice of somebody who writes in one of the catalog's styles, on one machine.
const CHOOSE: &str = r#"
model base = local("out/tiny")
space style = pooled(base)
dataset questions = jsonl("probes.jsonl")
dataset mine = jsonl("me.jsonl")
stage pllm: Pllm = ingest(base: base, source: a) for a in glob("out/catalog/*")
stage plain: Responses = probe(base, prompts: questions, max_tokens: 12)
stage said: Responses = probe(p, prompts: questions, max_tokens: 12) for p in pllm
stage drift: Divergence = embed(r, against: plain, space: style) for r in said
stage catalog: Catalog = decompose(drift)
stage me: Divergence = embed(mine, against: base, space: style, max_tokens: 12)
stage pick: Selection = select(catalog, user: me, verify: mine)
output catalog = catalog
output choice = pick
"#;

/// A few rows of the demonstration corpus, in the folder of a place: three styles, and a user of one.
fn small_corpus(place: &Place) {
    let whole = place.path("corpus");
    headstart_corpus::files::write(&whole, 7).expect("writable");
    let rows = |name: &str, skip: usize, take: usize| -> String {
        let text = std::fs::read_to_string(whole.join(name)).expect("a file of the corpus");
        text.lines().skip(skip).take(take).flat_map(|line| [line, "\n"]).collect()
    };
    place.write("base.jsonl", &rows("base.jsonl", 0, 120));
    place.write("more.jsonl", &rows("wordings.jsonl", 0, 24));
    place.write("probes.jsonl", &rows("probes.jsonl", 0, 8));
    for style in ["expert-informative-friendly", "expert-concise-sarcastic", "elementary-informative-poetic"]
    {
        place.write(&format!("styles/{style}.jsonl"), &rows(&format!("catalog/{style}.jsonl"), 0, 40));
    }
    place.write("me.jsonl", &rows("catalog/expert-informative-friendly.jsonl", 40, 20));
}

#[test]
fn what_is_saved_is_foreseen_from_how_the_catalog_was_trained() {
    let place = Place::new();
    small_corpus(&place);
    let set = |name: &str, file: &str| format!("{name}={}", place.path(file).display());
    let (corpus, more) = (set("corpus", "base.jsonl"), set("more", "more.jsonl"));
    let (styles, out) = (set("styles", "styles/*"), place.path("out").display().to_string());
    let mut train = vec!["run", "pipelines/train-tiny.pllm", "--quiet", "--out", &out];
    for value in [&corpus, &more, &styles, "steps=6", "more_steps=1", "adapter_steps=12"] {
        train.extend(["--set", value]);
    }
    place.headstart(&train).code(0);

    // What was copied out is a catalog that knows how it was trained, on any other machine.
    let file = place.write("choose.pllm", CHOOSE);
    let choose = ["run", file.to_str().expect("a plain path"), "--format", "json"];
    let chosen = place.headstart(&choose).code(0);
    let json: serde_json::Value = serde_json::from_str(&chosen.out).expect("JSON on stdout");
    let choice = &json["outputs"]["choice"]["value"];
    let x = |name: &str| choice["forecast"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {choice}"));
    assert!(x("steps_saved_low") <= x("steps_saved") && x("steps_saved") <= x("steps_scratch"), "{choice}");
    assert!((x("share_saved") - x("steps_saved") / x("steps_scratch")).abs() < 2e-3, "{choice}");
    assert_eq!((x("learning_rate"), x("rows_a_step")), (0.004, 16.0));
    assert!(x("steps_saved") > 0.0 && x("steps_scratch") <= 12.0 && x("bytes") > 0.0, "{choice}");
    let sentence = choice["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains("it should save about"), "{sentence}");

    let again = place.headstart(&choose[..2]).code(0);
    again.out_has("fewer steps than from the base").out_has("it should save about");
    let show = ["catalog", "show", "expert-concise-sarcastic"];
    place.headstart(&show).code(0).out_has("12 steps; held-back loss").out_has("from 3 trainings");
}
