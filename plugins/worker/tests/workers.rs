//! Stages in worker processes: what they are served, and every way in which they end. This executable is also
//! the worker.

#![cfg(unix)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use headstart_protocol::rows::{Row, text_digest};
use headstart_protocol::{
    Args, ArtifactRef, Context, Failure, FailureClass, Output, Progress, Stage, Type, Value,
};
use headstart_runner::{Call, StageRegistry};
use headstart_testkit::{MemoryContext, assert_within};
use headstart_worker::{Folders, Workers, isolate, serve_if_asked};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value as Json, json};

/// A stage of a kind that the language knows, which does what its argument says.
struct Obedient(&'static str);

impl Stage for Obedient {
    fn kind(&self) -> &str {
        self.0
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let value = match args.text("do")? {
            "nothing" => json!(null),
            "tell" => json!({ "process": std::process::id() }),
            "everything" => everything(args.artifact("rows")?, ctx)?,
            "print" => print(),
            "touch" => touch(args.text("at")?),
            "take" => take(args.count("bytes")?, ctx),
            "ask for" => json!(Vec::<u8>::with_capacity(args.count("bytes")?).capacity()),
            "recurse" => json!(recurse(1)),
            "panic" => panic!("as told"),
            "abort" => std::process::abort(),
            "exit" => std::process::exit(7),
            "end" => end_by_signal(9),
            "spin" => loop {
                std::hint::spin_loop();
            },
            "stop" => {
                end_by_signal(19);
                // Until it has taken effect.
                loop {
                    std::hint::spin_loop();
                }
            }
            "wait" => wait(ctx)?,
            "beat" => beat(ctx)?,
            "fail" => return Err(Failure::input("as told").help("do not tell it")),
            other => panic!("{other}"),
        };
        Ok(Output::new(Type::Dataset, value))
    }
}

fn everything(rows: &ArtifactRef, ctx: &dyn Context) -> Result<Json, Failure> {
    let manifest = ctx.manifest(rows)?;
    let text = std::fs::read_to_string(ctx.open(rows)?.join("rows.jsonl")).expect("readable");
    let own = ctx.scratch().join("own");
    std::fs::write(&own, "written").expect("writable");
    let texts: Vec<_> = (0..3000).map(|n| text_digest(&n.to_string())).collect();
    let new: Vec<_> = texts.iter().step_by(2).map(|t| (*t, vec![0.1, f32::NAN, -0.0])).collect();
    ctx.rows().put_embeddings(&rows.id, &new);
    let known = ctx.rows().embeddings(&rows.id, &texts);
    let exact =
        |v: &Option<Vec<f32>>| v.as_ref().is_some_and(|v| v[0] == 0.1 && v[1].is_nan() && v.len() == 3);
    assert!(known.iter().enumerate().all(|(n, v)| exact(v) == (n % 2 == 0)), "every other one is known");
    ctx.rows().put_responses(&rows.id, &texts[0], &[(texts[1], "answer".into())]);
    let said = ctx.rows().responses(&rows.id, &texts[0], &texts[..2]);
    for n in 1..=1000 {
        ctx.progress(Progress { done: n, total: Some(1000), unit: "rows".into(), ..Progress::default() });
        ctx.count("rows", 2);
    }
    ctx.log("a line");
    let missing = ctx.manifest(&ArtifactRef { id: texts[0], ..rows.clone() }).expect_err("not there");
    Ok(json!({
        "size": manifest.size(), "text": text, "said": said, "path": ctx.path("x/y"), "resume": ctx.resume_dir(),
        "threads": ctx.threads(), "memory": ctx.memory(), "missing": missing.class, "own": own,
        "number": 0.1 + 0.2,
    }))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what a library may do")]
fn print() -> Json {
    println!("\u{4}\0\0\0 not a message");
    eprintln!("to standard error");
    std::io::stdout().flush().expect("there is somewhere to print");
    json!(null)
}

/// What became of using a file, a socket, a program, a thread.
fn touch(at: &str) -> Json {
    let said = |done: std::io::Result<()>| done.err().map(|e| format!("{:?}", e.kind()));
    json!({
        "read": said(std::fs::read_dir(at).map(drop)),
        "write": said(std::fs::write(Path::new(at).join("new"), "x")),
        "connect": said(std::net::TcpStream::connect("127.0.0.1:9").map(drop)),
        "run": said(std::process::Command::new("/bin/true").status().map(drop)),
        "thread": said(std::thread::Builder::new().spawn(|| ()).map(|t| t.join().expect("ends"))),
        "variables": std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}

/// Takes memory a piece at a time and uses it.
fn take(bytes: usize, ctx: &dyn Context) -> Json {
    let mut held: Vec<Vec<u8>> = Vec::new();
    while held.len() << 20 < bytes && !ctx.cancelled() {
        held.push(vec![1; 1 << 20]);
    }
    json!(held.iter().map(|piece| usize::from(piece[piece.len() - 1])).sum::<usize>())
}

#[expect(unconditional_recursion, reason = "it is to run out of stack")]
fn recurse(n: u64) -> u64 {
    let held = std::hint::black_box([n; 64]);
    recurse(held[3] + 1) + held[7]
}

fn end_by_signal(number: i32) -> Json {
    let signal = rustix::process::Signal::from_named_raw(number).expect("a signal");
    rustix::process::kill_process(rustix::process::getpid(), signal).expect("itself");
    json!(null)
}

fn wait(ctx: &dyn Context) -> Result<Json, Failure> {
    while !ctx.cancelled() {
        std::thread::yield_now();
    }
    Err(Failure::new(FailureClass::Cancelled, "stopped"))
}

/// Says again and again that it is there, and as which process.
fn beat(ctx: &dyn Context) -> Result<Json, Failure> {
    for done in 1.. {
        if ctx.cancelled() {
            break;
        }
        ctx.progress(Progress { done, unit: std::process::id().to_string(), ..Progress::default() });
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(Failure::new(FailureClass::Cancelled, "stopped"))
}

/// A kind that depends on its arguments alone, and one that reads paths.
const KINDS: [&str; 2] = ["evaluate", "jsonl"];

fn stages() -> Vec<Box<dyn Stage>> {
    KINDS.iter().map(|kind| -> Box<dyn Stage> { Box::new(Obedient(kind)) }).collect()
}

struct Bench {
    ctx: MemoryContext,
    stages: StageRegistry,
    root: PathBuf,
}

impl Bench {
    fn new() -> Self {
        Self::of(MemoryContext::new())
    }

    fn of(ctx: MemoryContext) -> Self {
        Self::with(ctx, true)
    }

    fn with(ctx: MemoryContext, confined: bool) -> Self {
        Self::started(ctx, |workers| Workers { confined, ..workers })
    }

    fn started(ctx: MemoryContext, how: impl FnOnce(Workers) -> Workers) -> Self {
        let root = ctx.files().parent().expect("below the test's folder").to_owned();
        std::fs::create_dir_all(root.join("secrets")).expect("writable");
        let folders = Folders {
            read: vec![root.join("open")],
            write: vec![ctx.scratch().to_owned()],
            paths: vec![root.join("files")],
            private_read: vec![root.join("secrets")],
            private_write: Vec::new(),
        };
        let workers = how(Workers { grace: Duration::from_millis(200), ..Workers::new("cpu", folders) });
        Self { ctx, stages: StageRegistry::new(isolate(stages(), workers)), root }
    }

    fn run_in(&self, ctx: &dyn Context, kind: &str, args: &[(&str, Value)]) -> Result<Output, Failure> {
        let stage = self.stages.built_in(kind).expect("a stage of this test");
        let args = Args(args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        headstart_runner::run(stage, Call { kind, ty: &Type::Dataset, args: &args }, ctx)
    }

    fn run(&self, what: &str, more: &[(&str, Value)]) -> Result<Output, Failure> {
        let args = [&[("do", Value::Text(what.into()))], more].concat();
        self.run_in(&self.ctx, "evaluate", &args)
    }

    /// That the runner goes on.
    fn works(&self) {
        self.run("nothing", &[]).expect("another attempt is fine");
    }

    fn process(&self) -> u64 {
        self.run("tell", &[]).expect("succeeds").value["process"].as_u64().expect("a number")
    }

    fn touch(&self, ctx: &dyn Context, kind: &str, at: &Path) -> Json {
        let args = [("do", Value::Text("touch".into())), ("at", Value::Text(at.display().to_string()))];
        self.run_in(ctx, kind, &args).expect("it tells").value
    }
}

fn the_context_is_served() {
    let bench = Bench::of(MemoryContext::new().with_memory(1 << 30).with_threads(3));
    let rows = bench.ctx.put_rows(Type::Dataset, &[Row::new("q", "ä")]);
    let output = bench.run("everything", &[("rows", Value::Artifact(rows.clone()))]).expect("succeeds");
    let value = &output.value;
    assert_eq!(value["text"], bench.ctx.read(&rows, "rows.jsonl"));
    assert_eq!(value["said"], json!([null, "answer"]));
    assert_eq!((&value["threads"], &value["memory"]), (&json!(3), &json!(1 << 30)));
    assert_eq!((&value["missing"], &value["resume"]), (&json!("missing_artifact"), &json!(null)));
    assert_eq!(value["path"], json!(bench.ctx.path("x/y")));
    assert_eq!(value["number"], json!(0.1 + 0.2), "every bit of a number");
    let own = bench.ctx.scratch().join("own");
    assert_eq!(
        (value["own"].as_str(), std::fs::read_to_string(&own).ok()),
        (own.to_str(), Some("written".into()))
    );
    assert_eq!((bench.ctx.counter("rows"), bench.ctx.logged()), (2000, vec!["a line".to_owned()]));
    assert_eq!(bench.ctx.reports().last().map(|p| p.done), Some(1000), "the last report is never left out");
    let failed = bench.run("fail", &[]).expect_err("as told");
    assert_eq!((failed.class, failed.help.as_deref()), (FailureClass::Input, Some("do not tell it")));
}

fn what_is_printed_is_no_message() {
    let bench = Bench::new();
    bench.run("print", &[]).expect("succeeds");
    let logged = bench.ctx.logged().join("\n");
    assert!(logged.contains("not a message") && logged.contains("to standard error"), "{logged}");
}

fn an_idle_worker_is_used_again_by_attempts_of_its_sort() {
    let bench = Bench::new();
    let first = bench.process();
    assert_ne!(first, u64::from(std::process::id()));
    assert_eq!(bench.process(), first);
    bench.run("fail", &[]).expect_err("as told");
    assert_eq!(bench.process(), first, "a failure of the input is no reason");
    bench.run("panic", &[]).expect_err("as told");
    let second = bench.process();
    assert_ne!(second, first, "a panic is");
    let tell = [("do", Value::Text("tell".into()))];
    let private = bench.ctx.attempt().with_private();
    let other = bench.run_in(&private, "evaluate", &tell).expect("succeeds").value["process"].as_u64();
    assert!(other.is_some_and(|other| other != second), "what is private is for a process of its own");
    assert!(![Some(second), other].contains(&Some(bench.process())), "and what is public for a new one");
}

#[cfg(target_os = "linux")]
fn a_worker_touches_its_folders_alone() {
    let bench = Bench::new();
    let (root, denied) = (&bench.root, json!("PermissionDenied"));
    let here = bench.touch(&bench.ctx, "evaluate", bench.ctx.scratch());
    assert_eq!((&here["read"], &here["write"], &here["thread"]), (&json!(null), &json!(null), &json!(null)));
    assert_eq!((&here["connect"], &here["run"]), (&denied, &denied));
    let variables = here["variables"].to_string();
    assert!(!variables.contains("CARGO") && !variables.contains("\"PATH\""), "{variables}");
    let open = bench.touch(&bench.ctx, "evaluate", &root.join("open"));
    assert_eq!((&open["read"], &open["write"]), (&json!(null), &denied));
    for at in [root.join("files"), root.join("secrets"), root.clone(), std::env::home_dir().expect("a home")]
    {
        let there = bench.touch(&bench.ctx, "evaluate", &at);
        assert_eq!((&there["read"], &there["write"]), (&denied, &denied), "{}", at.display());
    }
    let files = bench.touch(&bench.ctx, "jsonl", &root.join("files"));
    assert_eq!((&files["read"], &files["write"]), (&json!(null), &denied), "a kind that takes paths");
    let private = bench.ctx.attempt().with_private();
    assert_eq!(bench.touch(&private, "evaluate", &root.join("secrets"))["read"], json!(null));
}

#[cfg(target_os = "linux")]
fn memory_beyond_the_limit_fails_the_attempt_alone() {
    let bench = Bench::of(MemoryContext::new().with_memory(64 << 20));
    let bytes = |n: i64| [("bytes", Value::Int(n))];
    assert_eq!(bench.run("take", &bytes(32 << 20)).expect("fits").value, json!(32));
    for what in ["take", "ask for"] {
        let failure = bench.run(what, &bytes(4 << 30)).expect_err("does not fit");
        assert_eq!(failure.class, FailureClass::Memory, "{failure}");
        assert!(failure.message.contains("64 MiB"), "{failure}");
        assert!(failure.help.is_some_and(|help| help.contains("`memory:`")));
        bench.works();
    }
}

fn a_crash_fails_the_attempt_alone() {
    let bench = Bench::new();
    let crashes = [
        ("panic", FailureClass::Internal, "panicked: as told"),
        ("abort", FailureClass::Internal, "(abort)"),
        ("recurse", FailureClass::Internal, "overflowed its stack"),
        ("exit", FailureClass::Internal, "exit status 7"),
        ("end", FailureClass::Lost, "killed by signal 9"),
    ];
    for (what, class, words) in crashes {
        let failure = bench.run(what, &[]).expect_err(what);
        assert_eq!(failure.class, class, "{what}: {failure}");
        assert!(
            failure.message.contains(words) && failure.message.contains("`evaluate`"),
            "{what}: {failure}"
        );
        bench.works();
    }
}

/// Says that it is cancelled once it was asked a few times.
fn what_does_not_stop_is_killed() {
    for what in ["wait", "spin", "stop"] {
        let bench = Bench::new();
        let failure = std::thread::scope(|scope| {
            let running = scope.spawn(|| bench.run(what, &[]));
            bench.ctx.cancel();
            running.join().expect("the runner goes on")
        });
        let failure = failure.expect_err(what);
        assert_eq!(failure.class, FailureClass::Cancelled, "{what}: {failure}");
        assert_eq!(failure.message.contains("was killed"), what != "wait", "{failure}");
    }
}

#[cfg(target_os = "linux")]
fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain");
        std::thread::yield_now();
    }
}

/// A worker that is held for long gives back what it holds in memory; its attempt begins again.
#[cfg(target_os = "linux")]
fn a_worker_that_is_held_for_long_is_ended() {
    let longest_pause = Duration::from_millis(30);
    let bench = Bench::started(MemoryContext::new(), |workers| Workers { longest_pause, ..workers });
    let left = bench.ctx.scratch().join("left");
    std::fs::create_dir(&left).expect("a folder of the first try");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bench.run("beat", &[]));
        let last = || bench.ctx.reports().last().map(|report| report.unit.clone());
        until(|| last().is_some());
        let first = last().expect("it beats");
        bench.ctx.pause(true);
        until(|| !Path::new("/proc").join(&first).exists());
        assert!(!running.is_finished(), "the attempt goes on");
        bench.ctx.pause(false);
        until(|| last().is_some_and(|process| process != first));
        assert!(!left.exists(), "the second begins in an empty folder");
        bench.ctx.pause(true);
        let second = last().expect("it beats");
        until(|| !Path::new("/proc").join(&second).exists());
        bench.ctx.cancel();
        let failure = running.join().expect("the runner goes on").expect_err("cancelled");
        assert_eq!(failure.class, FailureClass::Cancelled, "also while there is no worker");
    });
}

/// It is held where it is, and goes on from there; it can be cancelled meanwhile.
#[cfg(target_os = "linux")]
fn a_paused_attempt_makes_no_headway() {
    let stopped = |process: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    let bench = Bench::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bench.run("beat", &[]));
        let beats = || bench.ctx.reports();
        until(|| !beats().is_empty());
        let process = beats()[0].unit.clone();
        bench.ctx.pause(true);
        until(|| stopped(&process));
        bench.ctx.pause(false);
        until(|| !stopped(&process));
        let before = beats().len();
        until(|| beats().len() > before);
        bench.ctx.pause(true);
        until(|| stopped(&process));
        bench.ctx.cancel();
        let failure = running.join().expect("the runner goes on").expect_err("cancelled");
        assert_eq!((failure.class, failure.message.as_str()), (FailureClass::Cancelled, "stopped"));
    });
}

/// What a call costs: printed, and held to a bound in `make bench-timings`.
fn a_call_of_an_idle_worker_is_cheap() {
    let bench = Bench::new();
    let each = |n: u32, mut call: Box<dyn FnMut() + '_>| {
        let begun = Instant::now();
        (0..n).for_each(|_| call());
        begun.elapsed() / n
    };
    let start = each(1, Box::new(|| bench.works()));
    let free = Bench::with(MemoryContext::new(), false);
    let unconfined = each(1, Box::new(|| free.works()));
    let warm = each(2000, Box::new(|| bench.works()));
    let here = StageRegistry::new(stages());
    let args = Args([("do".to_owned(), Value::Text("nothing".into()))].into());
    let stage = here.built_in("evaluate").expect("a stage");
    let call = Call { kind: "evaluate", ty: &Type::Dataset, args: &args };
    let direct = each(2000, Box::new(|| drop(headstart_runner::run(stage, call, &bench.ctx))));
    assert_within("first attempt, with the start of its worker", start, Duration::from_millis(50));
    assert_within("the same without confinement", unconfined, Duration::from_millis(50));
    assert_within("attempt in an idle worker", warm, Duration::from_micros(100));
    assert_within("the same in this process", direct, Duration::from_micros(10));
}

fn main() -> ExitCode {
    if let Some(code) = serve_if_asked(|_| Ok(stages())) {
        return code;
    }
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        trial("the_context_is_served", the_context_is_served),
        trial("what_is_printed_is_no_message", what_is_printed_is_no_message),
        trial(
            "an_idle_worker_is_used_again_by_attempts_of_its_sort",
            an_idle_worker_is_used_again_by_attempts_of_its_sort,
        ),
        #[cfg(target_os = "linux")]
        trial("a_worker_touches_its_folders_alone", a_worker_touches_its_folders_alone),
        #[cfg(target_os = "linux")]
        trial(
            "memory_beyond_the_limit_fails_the_attempt_alone",
            memory_beyond_the_limit_fails_the_attempt_alone,
        ),
        trial("a_crash_fails_the_attempt_alone", a_crash_fails_the_attempt_alone),
        trial("what_does_not_stop_is_killed", what_does_not_stop_is_killed),
        #[cfg(target_os = "linux")]
        trial("a_paused_attempt_makes_no_headway", a_paused_attempt_makes_no_headway),
        #[cfg(target_os = "linux")]
        trial("a_worker_that_is_held_for_long_is_ended", a_worker_that_is_held_for_long_is_ended),
        trial("a_call_of_an_idle_worker_is_cheap", a_call_of_an_idle_worker_is_cheap),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
