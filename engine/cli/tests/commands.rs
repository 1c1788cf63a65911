//! The command line as people and scripts see it: output, messages and exit codes.

mod common;

use common::Place;

const PERSONALIZE: &str = "pipelines/personalize.pllm";

#[test]
fn shipped_pipelines_are_ok_and_formatted() {
    let place = Place::new();
    place.headstart(&["check", PERSONALIZE]).code(0).err_has("ok (");
    let nine = ["check", "pipelines/nine-styles.pllm", "--set", "data=examples", "--set", "encoder=examples"];
    // There are no style files here, so the fan-outs are empty, which is only worth a warning.
    place.headstart(&nine).code(0);
    let files = ["fmt", "--check", PERSONALIZE, "pipelines/nine-styles.pllm", "pipelines/train-tiny.pllm"];
    place.headstart(&files).code(0);
}

#[test]
fn a_mistake_has_a_code_a_place_and_a_page() {
    let place = Place::new();
    let file = place.write("p.pllm", "model base = local(\"tiny\")\noutput o = bsae\n");
    let file = file.to_str().expect("a plain path");
    let said = place.headstart(&["check", file]).code(2).err_has("E0101").err_has("did you mean `base`?");
    assert!(said.out.is_empty(), "findings go to stderr");
    let json = place.headstart(&["check", file, "--format", "json"]).code(2).out;
    let findings: serde_json::Value = serde_json::from_str(&json).expect("JSON on stdout");
    assert!(findings.to_string().contains("E0101"), "{findings}");
    place.headstart(&["check", "--explain", "E0101"]).code(0).out_has("E0101");
    place.headstart(&["check", "--explain", "E9999"]).code(2).err_has("there is no diagnostic `E9999`");
}

#[test]
fn a_module_is_checked_by_itself_and_not_run() {
    let place = Place::new();
    let text = "param base: Model\nstage e: Metrics = evaluate(base, data: q)\ndataset q = jsonl(\"q\")\n";
    let file = place.write("m.pllm", text);
    let file = file.to_str().expect("a plain path");
    place
        .headstart(&["check", file])
        .code(0)
        .err_has("ok, as a module: the file that imports it must give `base`");
    place.headstart(&["plan", file]).code(2).err_has("E0704");
}

#[test]
fn files_are_formatted_next_to_broken_ones() {
    let place = Place::new();
    let broken = place.write("a.pllm", "model a = = x\n");
    let plain = place.write("b.pllm", "model  b=local(\"m\")\n");
    let (a, b) = (broken.to_str().expect("a path"), plain.to_str().expect("a path"));
    place.headstart(&["fmt", "--check", b]).code(1).err_has("not formatted");
    place.headstart(&["fmt", a, b]).code(2).err_has("E0001");
    assert_eq!(std::fs::read_to_string(&broken).expect("still there"), "model a = = x\n");
    assert_eq!(std::fs::read_to_string(&plain).expect("still there"), "model b = local(\"m\")\n");
    let files = std::fs::read_dir(plain.parent().expect("a folder")).expect("a folder").count();
    place.headstart(&["fmt", "--check", b]).code(0);
    let after = std::fs::read_dir(plain.parent().expect("a folder")).expect("a folder").count();
    assert_eq!(files, after, "nothing is left behind");
}

#[test]
fn the_command_line_itself_is_input() {
    let place = Place::new();
    place.headstart(&["frobnicate"]).code(2);
    place.headstart(&["check", "no-such.pllm"]).code(2).err_has("no-such.pllm does not exist");
    place.headstart(&["check", PERSONALIZE, "--set", "target"]).code(2).err_has("NAME=VALUE");
    place
        .headstart(&["run", PERSONALIZE, "--only", "nothing"])
        .code(2)
        .err_has("no stage, output or module `nothing`");
    place.headstart(&["runs", "zzz"]).code(2).err_has("there is no workspace").err_has("creates one");
    place.headstart(&["--version"]).code(0).out_has("headstart ");
}

#[test]
fn plan_says_what_would_run_and_where() {
    let place = Place::new();
    let said = place.headstart(&["plan", PERSONALIZE]).code(0);
    for text in ["probe", "on phone, private", "only phone can tell", "leaves its device"] {
        assert!(said.out.contains(text), "lacks {text:?}:\n{}", said.out);
    }
    place.headstart(&["runs"]).code(2).err_has("there is no workspace");
}

#[test]
fn the_server_half_runs_is_cached_and_explained() {
    let place = Place::new();
    let run = ["run", PERSONALIZE, "--only", "catalog", "--format", "json"];
    let first = place.headstart(&run).code(0);
    let again = place.headstart(&run).code(0).err_has("0 forward passes");
    let seconds = |said: &common::Said| -> f64 {
        let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON on stdout");
        json["seconds"].as_f64().expect("seconds")
    };
    assert!(seconds(&again) < 1.0, "{} s, after {} s", seconds(&again), seconds(&first));

    place.headstart(&["why", "drift"]).code(0).out_has("nothing changed since run");
    place.headstart(&["why", "nope"]).code(2).err_has("their stages:");
    let list = place.headstart(&["catalog"]).code(0);
    assert_eq!(list.out.lines().count(), 14, "{}", list.out);
    the_catalog_explains_itself(&place);
    assert_eq!(place.headstart(&["runs"]).code(0).out.lines().count(), 2);
    place.headstart(&["cache"]).code(0).out_has("artifacts");

    // Another question is put to every model, and only that one.
    let probes =
        std::fs::read_to_string(common::root().join("examples/first-light/probes.jsonl")).expect("probes");
    let more =
        place.write("more.jsonl", &format!("{probes}{{\"prompt\":\"Please describe maps again.\"}}\n"));
    let set = format!("probes={}", more.display());
    let changed = place.headstart(&["run", PERSONALIZE, "--only", "catalog", "--set", &set]).code(0);
    let passes: u64 = changed
        .err
        .split(" forward passes")
        .next()
        .and_then(|s| s.rsplit(' ').next())
        .and_then(|n| n.parse().ok())
        .expect("the closing line counts forward passes");
    // 15 models answer one question, and 15 answers are embedded.
    assert!((15..=60).contains(&passes), "{passes} forward passes for one new row");
    place
        .headstart(&["why", "plain"])
        .code(0)
        .out_has("prompts: Dataset of 28 rows → Dataset of 29 rows, from `questions`");
}

/// What `headstart catalog` says of the run before, to people and to programs.
fn the_catalog_explains_itself(place: &Place) {
    let name = "elementary-concise-sassy";
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&place.headstart(args).code(0).out).expect("JSON on stdout")
    };
    let text = place.headstart(&["catalog", "show", name]).code(0);
    for part in [
        name,
        "stays unexplained",
        "its base",
        "Please describe",
        "examples/models/tiny",
        "28 prompts",
        "lexicon",
    ] {
        assert!(text.out.contains(part), "lacks {part:?}:\n{}", text.out);
    }
    let shown = json(&["catalog", "show", name, "--format", "json"]);
    let word = &shown["words"][0];
    assert!(word["low"].as_f64() <= word["coefficient"].as_f64(), "{word}");
    let sample = &shown["samples"][0];
    assert_ne!(sample["answer"], sample["base"], "the prompt where they differ most");
    assert_eq!(shown["provenance"]["probes"]["n"], 28);
    assert_eq!(shown["provenance"]["space"]["kind"], "pooled");
    place.headstart(&["catalog", "show", "nobody"]).code(2).err_has("the catalog has no pLLM `nobody`");

    let near = json(&["catalog", "nearest", name, "--format", "json"]);
    assert_eq!(near["nearest"].as_array().map(Vec::len), Some(5));
    let mine = "examples/first-light/phone/me.jsonl";
    place.headstart(&["catalog", "nearest", mine]).code(0).out_has("40 texts").out_has("distance");
    let near = json(&["catalog", "nearest", mine, "--format", "json"]);
    let names = near["nearest"].as_array().expect("a list");
    assert!(
        names.iter().take(3).any(|n| n["name"].as_str().is_some_and(|n| n.contains("friendly"))),
        "{near}"
    );
    let bad = place.write("bad.jsonl", "{\"prompt\": 3}\n");
    place.headstart(&["catalog", "nearest", bad.to_str().expect("a plain path")]).code(2).err_has("line 1");
    place
        .headstart(&["catalog", "nearest", "nowhere"])
        .code(2)
        .err_has("neither a pLLM")
        .err_has("nor a file");
}

#[test]
fn check_and_serve_refuse_the_same_schedules() {
    let place = Place::new();
    place.write("rows.jsonl", "{\"prompt\":\"q\",\"response\":\"a\"}\n");
    for cron in ["*/60 * * * *", "0 */24 * * *", "0 0 * * */8", "1-5/9 * * * *", "+5 * * * *"] {
        let text = format!(
            "dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\nschedule s {{ cron: \"{cron}\", timezone: \"UTC\" }}\n"
        );
        let file = place.write("c.pllm", &text);
        let file = file.to_str().expect("a plain path");
        place.headstart(&["check", file]).code(2).err_has("E0601");
        place.headstart(&["serve", file]).code(2).err_has("E0601");
    }
}

#[test]
fn formatting_leaves_other_files_alone() {
    let place = Place::new();
    let file = place.write("tab.pllm", "dataset rows=jsonl(\"r.jsonl\")\noutput rows=rows\n");
    let beside = ["tab.pllm.new", "tab.pllm.tmp", ".tab.pllm.new"].map(|name| place.write(name, "notes"));
    place.headstart(&["fmt", file.to_str().expect("a plain path")]).code(0);
    assert!(std::fs::read_to_string(&file).expect("the file").starts_with("dataset rows = jsonl"));
    for other in beside {
        assert_eq!(std::fs::read_to_string(&other).expect("the file"), "notes", "{}", other.display());
    }
}

#[test]
fn patterns_leave_out_the_workspace_and_say_so() {
    let place = Place::new();
    let rows = "{\"prompt\":\"q\",\"response\":\"a\"}\n";
    place.write("data/a.jsonl", rows);
    place.write(".git/b.jsonl", rows);
    // The workspace is `ws`, which no rule about dots would leave out.
    let text = "dataset parts = jsonl(f) for f in glob(\"**/*.jsonl\")\noutput parts = parts\n";
    let file = place.write("all.pllm", text);
    let file = file.to_str().expect("a plain path");
    for _ in 0..2 {
        place.headstart(&["run", file]).code(0);
        place.write("ws/open/0/b.jsonl", rows);
        let plan = place.headstart(&["plan", file, "--format", "json"]).code(0);
        assert!(
            plan.out.contains("parts[\\\"a\\\"]") && !plan.out.contains("parts[\\\"b\\\"]"),
            "{}",
            plan.out
        );
        plan.err_has("ws` is left out: part of Headstart's workspace").err_has(".git` is left out: hidden");
        place.headstart(&["check", "-v", file]).code(0).err_has("N0001");
        let plain = place.headstart(&["check", file]).code(0).err_has("ok (1 item, 1 stage instance)");
        assert!(!plain.err.contains("N0001"), "details only where somebody asks for them");
    }
}

#[test]
fn addresses_are_refused_as_such() {
    let place = Place::new();
    let file =
        place.write("p.pllm", "param rows: Path = \"r.jsonl\"\ndataset d = jsonl(rows)\noutput d = d\n");
    let file = file.to_str().expect("a plain path");
    for address in ["https://host/r.jsonl", "s3://bucket/r.jsonl", "hf://datasets/x/r.jsonl"] {
        let said = place.headstart(&["run", file, "--set", &format!("rows={address}")]).code(2);
        assert!(said.err.contains("it is an address"), "{}", said.err);
        let text = format!("dataset d = jsonl(\"{address}\")\noutput d = d\n");
        let literal = place.write("q.pllm", &text);
        place.headstart(&["check", literal.to_str().expect("a plain path")]).code(2).err_has("E0404");
    }
}
