//! The Python SDK keeps to the protocol: what it declares, what it gives a function, what it makes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_host::folder::digest;
use headstart_host::{CustomStage, Limits, describe};
use headstart_protocol::declared::Declaration;
use headstart_protocol::kinds::{Accepts, DefaultValue, Places};
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Failure, FailureClass, MixTerm, Output, Stage, Type, Value,
};
use headstart_testkit::MemoryContext;
use serde_json::json;

/// A folder with the program, the SDK and a module of the program's own.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir(dir.path().join("stages")).expect("a folder");
    std::fs::write(dir.path().join("words.txt"), "the").expect("written");
    let program = dir.path().join("stages/everything.py");
    std::fs::copy(here.join("tests/programs/everything.py"), &program).expect("copied");
    std::fs::copy(here.join("../python/headstart.py"), dir.path().join("stages/headstart.py"))
        .expect("copied");
    std::fs::write(dir.path().join("stages/helper.py"), "def shout(text):\n    return text.upper()\n")
        .expect("written");
    (dir, program)
}

fn declared(program: &Path) -> Declaration {
    describe(program, Limits::default(), &|line| panic!("said {line:?}")).expect("a declaration")
}

fn run(name: &str, args: &[(&str, Value)], ctx: &MemoryContext) -> Result<Output, Failure> {
    let (_dir, program) = folder();
    let declaration = declared(&program);
    let stage = CustomStage {
        kind: format!("tools.{name}"),
        digest: digest(&program, &declaration.files).expect("a digest"),
        program,
        files: declaration.files.clone(),
        declared: declaration.stage(name).expect("the stage").clone(),
        limits: Limits { grace: Duration::from_secs(2), ..Limits::default() },
    };
    let args = args.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    stage.run(&Args(args), &ctx.attempt())
}

fn metrics(ctx: &MemoryContext, loss: f64) -> ArtifactRef {
    ctx.put(Output::new(Type::Metrics, json!({ "loss": loss })))
}

#[test]
fn a_program_declares_what_its_functions_say() {
    let (_dir, program) = folder();
    let declaration = declared(&program);
    assert_eq!(declaration.program, "everything.py");
    assert_eq!(declaration.files, ["../words.txt"], "its folder counts anyway");
    let read: Declaration = serde_json::from_str(&declaration.to_json()).expect("its own text");
    assert_eq!(read, declaration);

    let kind = declaration.stage("tell").expect("the stage").kind("tools").expect("sound");
    assert_eq!((kind.version, kind.places, kind.returns.clone()), (2, Places::Server, Type::Dataset));
    assert_eq!(kind.doc, "Tells what it was given.\n\nThen some more.");
    let arg = |name: &str| kind.arg(name).expect(name);
    assert_eq!(arg("rows").accepts, [Accepts::Dataset, Accepts::Responses]);
    assert_eq!(arg("rows").doc, "the rows, of any kind");
    assert_eq!(arg("many").accepts, [Accepts::Listed(Type::Metrics)]);
    assert_eq!(arg("words").accepts, [Accepts::Texts]);
    assert_eq!(arg("mode").accepts, [Accepts::Word(vec!["fast".into(), "slow".into()])]);
    assert_eq!((&arg("n").default, &arg("n").doc), (&DefaultValue::Int(3), &"how many".to_owned()));
    assert_eq!(
        (&arg("deep").default, &arg("x").default),
        (&DefaultValue::Bool(false), &DefaultValue::Float(0.5))
    );
    assert_eq!((&arg("other").default, &arg("at").default), (&DefaultValue::Absent, &DefaultValue::Required));
    assert!(!kind.cacheable, "it takes a path");
    let train = declaration.stage("train").expect("the stage").kind("tools").expect("sound");
    assert_eq!(train.metrics.iter().map(|n| n.leaving(1.2345)).collect::<Vec<_>>(), [Some(1.23), None]);
    assert!(!declaration.stage("train").expect("the stage").cached);
}

#[test]
fn every_type_arrives_as_what_it_is() {
    let ctx = MemoryContext::new().with_threads(3);
    let rows = ctx.put_rows(Type::Responses, &[]);
    let (a, b) = (metrics(&ctx, 1.5), metrics(&ctx, 2.5));
    let list =
        |items: &[(&str, Value)]| Value::List(items.iter().map(|(k, v)| ((*k).into(), v.clone())).collect());
    let given = [
        ("rows", Value::Artifact(rows)),
        ("many", list(&[("b", Value::Artifact(b)), ("a", Value::Artifact(a))])),
        ("words", list(&[("x", Value::Text("x".into())), ("y", Value::Text("é".into()))])),
        ("at", Value::Path("data/me.csv".into())),
        ("wait", Value::Duration(1500)),
        ("room", Value::Bytes(1 << 20)),
        ("mode", Value::Text("slow".into())),
        ("deep", Value::Bool(true)),
        ("n", Value::Int(7)),
        ("x", Value::Float(2.0)),
        ("name", Value::Text("a \"quoted\"\nline".into())),
    ];
    let made = ctx.put(run("tell", &given, &ctx).expect("a dataset"));
    let told = ctx.rows_of(&made);
    let told = |key: &str| told.iter().find(|r| r.prompt == key).map(|r| r.response.as_str()).expect("told");
    for (key, text) in [
        ("rows", "[]"),
        ("many", "{'b': 2.5, 'a': 1.5}"),
        ("words", "['x', 'é']"),
        ("at", "me.csv"),
        ("wait", "1.5"),
        ("room", "1048576"),
        ("mode", "slow"),
        ("deep", "True"),
        ("n", "7"),
        ("x", "2.0"),
        ("name", "a \"quoted\"\nline"),
        ("other", "None"),
        ("beside", "the"),
        ("id", "RESPONSES"),
        ("threads", "3"),
    ] {
        assert_eq!(told(key), text, "{key}");
    }
    assert_eq!(ctx.value_of(&made)["rows"], 15);
}

#[test]
fn nothing_that_is_printed_reaches_the_wire() {
    let ctx = MemoryContext::new();
    let output = run("noisy", &[("lines", Value::Int(5))], &ctx).expect("metrics");
    assert_eq!(output.value, json!({ "lines": 5 }));
    let log = ctx.logged();
    for line in ["from print", "from the descriptor", "from C", "from a process"] {
        assert!(log.iter().any(|l| l == line), "{line:?} in {log:?}");
    }
    let report = &ctx.reports()[0];
    assert_eq!(
        (report.done, report.total, report.unit.as_str(), report.metrics["loss"]),
        (1, Some(5), "lines", 0.5)
    );
    assert_eq!(ctx.counter("lines"), 5);
}

#[test]
fn a_model_is_made_and_failures_are_told() {
    let ctx = MemoryContext::new();
    let base = ctx.put(Output::new(Type::Model, json!({})));
    let pllm = ctx.put(Output::new(Type::Pllm, json!({})).uses("base", base.clone()));
    let term = |weight: f64| MixTerm { weight, pllm: pllm.clone(), name: "a".into() };
    let mix = Value::Mix(vec![term(0.75), term(0.5)]);
    let given = [("base", Value::Artifact(base.clone())), ("mix", mix)];
    let output = run("train", &given, &ctx).expect("a pLLM");
    assert_eq!(output.value, json!({ "format": "lora", "metrics": { "loss": 1.25 } }));
    assert_eq!(output.uses["base"], base);
    let made = ctx.put(output);
    assert_eq!(
        (made.ty, ctx.read(&made, "adapter_model.safetensors").as_str()),
        (ArtifactType::Pllm, "weights")
    );

    let failing = |how: &str| {
        let mut given = given.to_vec();
        given.push(("fail", Value::Text(how.into())));
        run("train", &given, &ctx).expect_err(how)
    };
    let raised = failing("raise");
    assert!(raised.message.contains("failed: ValueError at everything.py:"), "{raised}");
    assert!(raised.message.contains("no gradient") && raised.class == FailureClass::Transient, "{raised}");
    assert!(ctx.logged().iter().any(|l| l.starts_with("Traceback")), "{:?}", ctx.logged());
    let said = failing("say");
    assert!(said.message.contains("failed: the data is empty"), "{said}");
    assert_eq!((said.class, said.help.as_deref()), (FailureClass::Transient, Some("fill it")));
    // Only what says so is wrong input: `retry:` tries everything else again.
    for (how, class, text) in [
        ("input", FailureClass::Input, "failed: two bases"),
        ("failure", FailureClass::Input, "failed: no rows"),
        ("memory", FailureClass::Transient, "failed: MemoryError at everything.py:"),
        ("exit", FailureClass::Transient, "ended with exit status 1 without saying what it made"),
        ("disk", FailureClass::Transient, "failed: OSError at everything.py:"),
    ] {
        let failure = failing(how);
        assert_eq!(failure.class, class, "{how}: {failure}");
        assert!(failure.message.contains(text), "{how}: {failure}");
    }
}

#[test]
fn a_stage_that_reports_progress_stops_when_told() {
    let ctx = MemoryContext::new();
    let failure = std::thread::scope(|scope| {
        let running = scope.spawn(|| run("endless", &[], &ctx));
        while ctx.reports().is_empty() && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        ctx.cancel();
        running.join().expect("no panic").expect_err("cancelled")
    });
    assert_eq!(failure.class, FailureClass::Cancelled, "{failure}");
}

#[test]
fn by_hand_a_program_says_what_it_is_for() {
    let (_dir, program) = folder();
    let said = std::process::Command::new(&program).output().expect("it starts");
    assert_eq!(said.status.code(), Some(2));
    assert!(said.stdout.is_empty());
    assert!(String::from_utf8_lossy(&said.stderr).contains("headstart describe"));
}
