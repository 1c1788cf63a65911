//! What a stage may do wrong, and what its runner says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headstart_protocol::declared::{CustomStages, ProgramRef};
use headstart_protocol::{Args, Context, Digest, Failure, FailureClass, Output, Stage, Type, Value};
use headstart_runner::{Call, StageRegistry, TimeLimit, run};
use headstart_testkit::MemoryContext;
use serde_json::json;

type Body = Box<dyn Fn(&Args, &dyn Context) -> Result<Output, Failure> + Send + Sync>;

struct Fake(&'static str, Body);

impl Stage for Fake {
    fn kind(&self) -> &str {
        self.0
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        (self.1)(args, ctx)
    }
}

fn attempt(
    kind: &'static str,
    ty: Type,
    ctx: &MemoryContext,
    args: &Args,
    body: impl Fn(&Args, &dyn Context) -> Result<Output, Failure> + Send + Sync + 'static,
) -> Result<Output, Failure> {
    run(&Fake(kind, Box::new(body)), Call { kind, ty: &ty, args }, &ctx.attempt())
}

fn metrics(value: serde_json::Value) -> Result<Output, Failure> {
    attempt("evaluate", Type::Metrics, &MemoryContext::new(), &Args::default(), move |_, _| {
        Ok(Output::new(Type::Metrics, value.clone()))
    })
}

#[test]
fn a_panic_is_a_failure_with_its_text() {
    let ctx = MemoryContext::new();
    for (text, said) in [(Some(7), "out of range: 7"), (None, "a plain text")] {
        let failure = attempt("embed", Type::Divergence, &ctx, &Args::default(), move |_, _| match text {
            Some(n) => panic!("out of range: {n}"),
            None => panic!("a plain text"),
        })
        .expect_err("it panicked");
        assert_eq!(failure.class, FailureClass::Internal);
        assert!(failure.message.contains("`embed` panicked") && failure.message.contains(said), "{failure}");
    }
}

#[test]
fn an_output_has_the_declared_type() {
    let ctx = MemoryContext::new();
    let made = |ty: Type| {
        attempt("evaluate", ty, &ctx, &Args::default(), |_, _| Ok(Output::new(Type::Metrics, json!({}))))
    };
    assert!(made(Type::Metrics).is_ok());
    assert!(made(Type::Optional(Box::new(Type::Metrics))).is_ok());
    let failure = made(Type::Catalog).expect_err("another type");
    assert!(failure.message.contains("made a Metrics, but promised a Catalog"), "{failure}");
}

#[test]
fn metrics_are_finite() {
    assert!(metrics(json!({ "loss": 1.5, "better": true, "table": { "rows": [[null]] } })).is_ok());
    let failure = metrics(json!({ "loss": f64::NAN, "n": 1 })).expect_err("not finite");
    assert_eq!(failure.class, FailureClass::Input);
    assert!(failure.message.contains("metric `loss` is not a finite number"), "{failure}");
}

/// What becomes of a stage that makes a file of what `place` names.
fn made_of(
    kind: &'static str,
    place: impl Fn(&Args, &dyn Context) -> PathBuf + Send + Sync + 'static,
) -> Result<Output, Failure> {
    let ctx = MemoryContext::new().with_resume_dir();
    let input = ctx.dataset(&[("a", "b")]);
    ctx.write("data/mine.txt", "mine");
    ctx.write("other.txt", "not given");
    let args = Args([("rows".to_owned(), Value::Artifact(input))].into());
    attempt(kind, Type::Dataset, &ctx, &args, move |args, ctx| {
        Ok(Output::new(Type::Dataset, json!({})).file("rows.jsonl", place(args, ctx)))
    })
}

#[test]
fn files_are_of_the_scratch_folder_or_of_what_was_given() {
    let in_scratch = |_: &Args, ctx: &dyn Context| {
        let at = ctx.scratch().join("rows.jsonl");
        std::fs::write(&at, "").expect("writes");
        at
    };
    let of_input = |args: &Args, ctx: &dyn Context| {
        ctx.open(args.artifact("rows").expect("rows")).expect("open").join("rows.jsonl")
    };
    let of_path = |_: &Args, ctx: &dyn Context| ctx.path("data").join("mine.txt");
    // The folder beside the one that was given.
    let of_other =
        |_: &Args, ctx: &dyn Context| ctx.path("data").parent().expect("a parent").join("other.txt");
    let up = |_: &Args, ctx: &dyn Context| ctx.path("data").join("../other.txt");
    for (what, result) in [
        ("scratch", made_of("probe", in_scratch)),
        ("input", made_of("probe", of_input)),
        ("path", made_of("probe", of_path)),
    ] {
        assert!(result.is_ok(), "{what}: {result:?}");
    }
    for (what, result) in [("other", made_of("probe", of_other)), ("up", made_of("probe", up))] {
        let failure = result.expect_err(what);
        assert!(failure.message.contains("nor in anything that it was given"), "{what}: {failure}");
    }
    assert!(made_of("jsonl", of_other).is_ok(), "a source reads what its place has");
}

#[cfg(unix)]
#[test]
fn links_out_of_the_scratch_folder_are_followed() {
    let failure = made_of("probe", |_, ctx| {
        let at = ctx.scratch().join("rows.jsonl");
        let other = ctx.scratch().parent().expect("a parent").join("files/other.txt");
        std::os::unix::fs::symlink(other, &at).expect("a link");
        at
    })
    .expect_err("a link");
    assert!(failure.message.contains("`rows.jsonl`"), "{failure}");
}

/// A stage can write the folder in which it keeps its progress.
#[cfg(unix)]
#[test]
fn links_out_of_the_folder_of_progress_are_followed_too() {
    let other = tempfile::NamedTempFile::new().expect("a file");
    let at = other.path().to_owned();
    let resumed = move |_: &Args, ctx: &dyn Context| {
        let folder = ctx.resume_dir().expect("a folder of progress");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::os::unix::fs::symlink(&at, folder.join("rows.jsonl")).expect("a link");
        folder.join("rows.jsonl")
    };
    let failure = made_of("probe", resumed).expect_err("a link");
    assert!(failure.message.contains("nor in anything that it was given"), "{failure}");
}

#[cfg(unix)]
#[test]
fn paths_of_files_come_resolved() {
    let output = made_of("probe", |_, ctx| {
        let at = ctx.scratch().join("rows.jsonl");
        std::fs::write(&at, "").expect("writes");
        std::os::unix::fs::symlink(&at, ctx.scratch().join("link")).expect("a link");
        ctx.scratch().join("link")
    })
    .expect("inside");
    assert!(output.files[0].1.ends_with("rows.jsonl"), "{:?}", output.files);
}

#[test]
fn file_names_are_safe_and_unique() {
    let ctx = MemoryContext::new();
    for (names, why) in [(["../a", "b"], "not a path below"), (["a", "a"], "`a` twice")] {
        let failure = attempt("concat", Type::Dataset, &ctx, &Args::default(), move |_, ctx| {
            let at = ctx.scratch().join("a");
            std::fs::write(&at, "").expect("writes");
            let output = Output::new(Type::Dataset, json!({}));
            Ok(names.into_iter().fold(output, |output, name| output.file(name, at.clone())))
        })
        .expect_err(why);
        assert!(failure.message.contains(why), "{failure}");
    }
}

#[test]
fn a_cancellation_by_the_time_limit_is_a_timeout() {
    let begun = Duration::from_secs(7);
    let limit = TimeLimit::new(begun, Some(Duration::from_secs(3)));
    let late = begun + Duration::from_secs(4);
    let cancelled = || Failure::new(FailureClass::Cancelled, "stopped");
    assert!(!limit.passed(begun) && limit.passed(late));
    let explained = limit.explain("slow", cancelled(), false, late);
    assert_eq!(explained.class, FailureClass::Timeout);
    assert!(explained.message.contains("`slow` ran past its time limit of 3s"), "{explained}");
    assert_eq!(limit.explain("slow", cancelled(), true, late), cancelled(), "somebody asked");
    assert_eq!(limit.explain("slow", cancelled(), false, begun), cancelled(), "there was time left");
    assert_eq!(TimeLimit::default().explain("slow", cancelled(), false, late), cancelled());
    assert!(!TimeLimit::new(begun, Some(Duration::MAX)).passed(late), "an endless limit");
}

struct Custom;

impl CustomStages for Custom {
    fn find(&self, kind: &str, program: ProgramRef<'_>) -> Result<(Box<dyn Stage>, u32), Failure> {
        match program {
            ProgramRef::Digest(d) if *d == Digest::of(b"allowed") => {
                Ok((Box::new(Fake("tools.length", Box::new(|_, _| Err(Failure::input("ran"))))), 3))
            }
            _ => Err(Failure::input(format!("{kind} is not allowed"))),
        }
    }

    fn allowed(&self) -> Vec<Digest> {
        vec![Digest::of(b"allowed")]
    }
}

#[test]
fn stages_are_found_built_in_and_custom() {
    let fake = |kind| Box::new(Fake(kind, Box::new(|_, _| Err(Failure::input("ran"))))) as Box<dyn Stage>;
    let registry = StageRegistry::new(vec![fake("probe"), fake("embed")]);
    assert_eq!(registry.kinds().collect::<Vec<_>>(), ["embed", "probe"]);
    assert!(registry.find("probe", None).is_ok_and(|f| f.version().is_some()));
    let missing = registry.find("merge", None).expect_err("not built in");
    assert!(missing.message.contains("no stage kind `merge`; it has embed, probe"), "{missing}");

    let (allowed, other) = (Digest::of(b"allowed"), Digest::of(b"other"));
    let custom = |digest| registry.find("tools.length", Some(ProgramRef::Digest(digest)));
    assert!(custom(&allowed).expect_err("none").message.contains("runs no custom stages"));
    assert!(!registry.has("tools.length", true) && registry.has("probe", false));
    registry.set_custom(Arc::new(Custom));
    assert!(registry.has("tools.length", true) && !registry.has("tools.length", false));
    assert_eq!(custom(&allowed).expect("allowed").version(), Some(3));
    assert!(custom(&other).expect_err("refused").message.contains("not allowed"));
    assert_eq!(registry.allowed_programs(), [allowed]);
}
