//! Every way in which a program can misbehave is reported precisely, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headstart_host::folder::digest;
use headstart_host::{CustomStage, Limits};
use headstart_protocol::declared::DeclaredStage;
use headstart_protocol::{Args, Failure, FailureClass, Output, Stage};
use headstart_testkit::MemoryContext;
use serde_json::json;

/// A program that misbehaves as `how` says.
fn program(folder: &Path, how: &str) -> PathBuf {
    let at = folder.join(format!("{how}.py"));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/misbehaving.py"), &at)
        .expect("the program can be copied");
    at
}

fn declared() -> DeclaredStage {
    serde_json::from_value(json!({ "name": "bad", "version": 1, "doc": "Misbehaves.", "makes": "Metrics" }))
        .expect("a declaration")
}

fn stage(program: PathBuf) -> CustomStage {
    CustomStage {
        kind: "tools.bad".into(),
        digest: digest(&program, &[]).expect("a digest"),
        program,
        files: Vec::new(),
        declared: declared(),
        limits: Limits {
            hello: Duration::from_secs(20),
            grace: Duration::from_millis(700),
            confined: false,
            ..Limits::default()
        },
    }
}

fn run(how: &str, ctx: &MemoryContext) -> (Result<Output, Failure>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = stage(program(folder.path(), how));
    if how == "silent" {
        stage.limits.hello = Duration::from_millis(700);
    }
    let begun = Instant::now();
    let result = stage.run(&Args::default(), &ctx.attempt());
    assert!(begun.elapsed() < Duration::from_secs(30), "{how} is not waited for");
    (result, folder)
}

#[test]
fn every_misbehaviour_has_its_message_and_class() {
    for (how, class, texts) in [
        (
            "exits_early",
            FailureClass::Transient,
            &["exit status 7 before it said hello", "no module named torch"][..],
        ),
        ("silent", FailureClass::Transient, &["did not say hello within 0.7 s"]),
        ("early", FailureClass::Input, &["something before it said hello"]),
        ("other_version", FailureClass::Input, &["speaks version 9"]),
        ("other_declaration", FailureClass::Input, &["`doc` is declared as \"Misbehaves.\"", "\"Behaves.\""]),
        ("other_stage", FailureClass::Input, &["a stage `bad` that it does not have"]),
        ("half_a_line", FailureClass::Transient, &["in the middle of a message", "{\"headstart\":\"do"]),
        ("garbage", FailureClass::Input, &["not understood", "{\"headstart\":\"count\",\"counter\":3}"]),
        ("too_long", FailureClass::Input, &["more than 1 MiB"]),
        ("no_result", FailureClass::Transient, &["exit status 0 without saying what it made"]),
        ("missing_file", FailureClass::Input, &["`rows.jsonl`, which is not in its scratch folder"]),
        ("wrong_size", FailureClass::Input, &["`a.txt` has 3 bytes, but it has 4"]),
        ("wrong_content", FailureClass::Input, &["`a.txt` has SHA-256 ba7816bf"]),
        ("outside", FailureClass::Input, &["\"../a.txt\", which is not a path below"]),
        ("link", FailureClass::Input, &["`a.txt`, which is not a plain file", "a symbolic link"]),
        ("linked_folder", FailureClass::Input, &["`sub/a.txt`, which is not a plain file"]),
        ("hard_link", FailureClass::Input, &["`a.txt`, which has another name too", "copy the file"]),
        ("fifo", FailureClass::Input, &["`a.txt`, which is not a plain file", "is a FIFO"]),
        ("bad_status", FailureClass::Transient, &["exit status 3 after it said that it was done"]),
        ("lingers", FailureClass::Transient, &["did not end within 0.7 s"]),
        ("text_metric", FailureClass::Input, &["`x` is \"many\", not a number"]),
        ("unknown_use", FailureClass::Input, &["not among its arguments"]),
        ("killed_in_a_shell", FailureClass::Lost, &["exit status 137 before it said hello"]),
        ("killed", FailureClass::Lost, &["killed by signal 9"]),
        ("fails", FailureClass::Transient, &["failed: the moon is in the way", "the last line of the log"]),
    ] {
        let failure = run(how, &MemoryContext::new()).0.expect_err(how);
        assert_eq!(failure.class, class, "{how}: {}", failure.message);
        for text in texts {
            assert!(failure.message.contains(text), "{how}: {}", failure.message);
        }
        assert!(failure.message.contains(how), "the program is named: {}", failure.message);
    }
}

#[test]
fn noise_and_unknown_messages_are_tolerated_and_logged() {
    let ctx = MemoryContext::new();
    let output = run("noisy", &ctx).0.expect("a result");
    assert_eq!(output.value, json!({ "x": 1 }));
    let log = ctx.logged();
    for line in ["loading weights: 100%", "{\"loss\": 0.5}", "half a line, then ", "a line of its own"] {
        assert!(log.iter().any(|l| l == line), "{line:?} in {log:?}");
    }
    assert!(log.iter().any(|l| l.contains("stretch")), "{log:?}");
    assert_eq!((ctx.counter("rows"), ctx.reports()[0].total), (2, Some(2)));
}

/// What is stored is what was verified, though a process that the program left behind replaces the file.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_replaced_while_it_is_read_is_not_stored() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("secret"), "key").expect("written");
        let ctx = MemoryContext::new();
        let attempt = ctx.attempt();
        // Counts as a part of the program.
        let output =
            stage(program(folder.path(), "swaps")).run(&Args::default(), &attempt).expect("a result");
        let (name, at) = output.files.first().expect("a file");
        let found = std::fs::symlink_metadata(at).expect("it is there");
        assert!(name == "a.txt" && found.is_file(), "{found:?}");
        assert_eq!(std::fs::read_to_string(at).expect("it is there"), "abc");
        let scratch = headstart_protocol::Context::scratch(&attempt);
        let work = scratch.canonicalize().expect("a folder").join("work");
        assert!(!at.starts_with(&work), "the program could write {}", at.display());
        assert!(!work.exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_with_too_many_processes_is_ended_with_all_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = stage(program(folder.path(), "crowd"));
    stage.limits.processes = 20;
    let failure = stage.run(&Args::default(), &MemoryContext::new().attempt()).expect_err("too many");
    assert!(failure.message.contains("processes, and may have 20"), "{failure}");
}

#[test]
fn programs_that_cannot_be_started_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let failure = |name: &str, text: Option<&str>, executable: bool| {
        let at = folder.path().join(name);
        if let Some(text) = text {
            std::fs::write(&at, text).expect("writes");
            use std::os::unix::fs::PermissionsExt;
            let mode = if executable { 0o755 } else { 0o644 };
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).expect("mode");
        }
        let good = stage(program(folder.path(), "good"));
        let digest = match digest(&at, &[]) {
            Ok(digest) => digest,
            Err(e) => return e.message,
        };
        let stage = CustomStage { digest, ..good };
        let stage = CustomStage { program: at, ..stage };
        stage.run(&Args::default(), &MemoryContext::new().attempt()).expect_err(name).message
    };
    assert!(failure("absent.py", None, true).contains("there is no program"));
    assert!(failure("locked.py", Some("#!/bin/sh\n"), false).contains("may not be executed"));
    assert!(failure("lost.py", Some("#!/no/such/interpreter\n"), true).contains("interpreter"));
    assert!(
        failure("text.py", Some("plain words\n"), true).contains("no program that this machine can execute")
    );
    let changed = CustomStage {
        digest: headstart_protocol::Digest::of(b"something else"),
        ..stage(program(folder.path(), "good"))
    };
    let failure = changed.run(&Args::default(), &MemoryContext::new().attempt()).expect_err("changed");
    assert!(failure.message.contains("is not what it was when the run was planned"), "{failure}");
}

#[cfg(target_os = "linux")]
mod group {
    use super::*;

    fn child_of(folder: &Path, how: &str) -> u32 {
        let pid = std::fs::read_to_string(folder.join(format!("{how}.child"))).expect("a child was started");
        pid.parse().expect("a number")
    }

    /// Whether a process is there and not just waiting to be collected.
    fn lives(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    fn is_gone(pid: u32) -> bool {
        let by = Instant::now() + Duration::from_secs(5);
        while lives(pid) && Instant::now() < by {
            std::thread::sleep(Duration::from_millis(20));
        }
        !lives(pid)
    }

    /// Runs a program until it has left a process behind, then cancels it. Gives the failure and
    /// whether the process is gone.
    fn cancelled(how: &str, args: &Args) -> (Failure, bool) {
        let folder = tempfile::tempdir().expect("a folder");
        let stage = stage(program(folder.path(), how));
        let ctx = MemoryContext::new();
        let mark = folder.path().join(format!("{how}.child"));
        let failure = std::thread::scope(|scope| {
            let running = scope.spawn(|| stage.run(args, &ctx.attempt()));
            let by = Instant::now() + Duration::from_secs(20);
            while !mark.exists() && Instant::now() < by {
                std::thread::sleep(Duration::from_millis(20));
            }
            ctx.cancel();
            running.join().expect("no panic").expect_err("cancelled")
        });
        (failure, is_gone(child_of(folder.path(), how)))
    }

    #[test]
    fn a_hanging_program_is_killed_with_all_its_processes() {
        let (failure, gone) = cancelled("hangs", &Args::default());
        assert_eq!(failure.class, FailureClass::Cancelled);
        assert!(gone);
    }

    /// More than a pipe holds: writing it blocks on a program that never reads.
    #[test]
    fn a_program_that_never_reads_its_input_is_killed_too() {
        let pad = headstart_protocol::Value::Text("x".repeat(1 << 20));
        let (failure, gone) = cancelled("deaf", &Args([("pad".to_owned(), pad)].into()));
        assert_eq!(failure.class, FailureClass::Cancelled);
        assert!(gone);
    }

    #[test]
    fn a_chatty_child_neither_hangs_the_run_nor_throws_work_away() {
        let (result, folder) = run("chatty_child", &MemoryContext::new());
        assert_eq!(result.expect("a result").value, json!({ "x": 1 }));
        assert!(is_gone(child_of(folder.path(), "chatty_child")));
        let (result, folder) = run("dead_with_chatty_child", &MemoryContext::new());
        let failure = result.expect_err("it died");
        assert!(failure.message.contains("exit status 3 without saying what it made"), "{failure}");
        assert!(is_gone(child_of(folder.path(), "dead_with_chatty_child")));
    }

    /// A process that left the group is not followed, and does not hold up its stage either.
    #[test]
    fn a_process_that_left_the_group_is_not_waited_for() {
        let (result, folder) = run("escaped_child", &MemoryContext::new());
        let child = child_of(folder.path(), "escaped_child");
        assert!(lives(child), "it would be followed");
        let pid = rustix::process::Pid::from_raw(child.cast_signed()).expect("a number");
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).expect("its own group");
        assert_eq!(result.expect("a result").value, json!({ "x": 1 }));
    }

    #[test]
    fn a_program_that_never_stops_talking_is_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let stage = stage(program(folder.path(), "floods"));
        let ctx = MemoryContext::new();
        let failure = std::thread::scope(|scope| {
            let running = scope.spawn(|| stage.run(&Args::default(), &ctx.attempt()));
            while ctx.logged().is_empty() && !running.is_finished() {
                std::thread::sleep(Duration::from_millis(20));
            }
            ctx.cancel();
            running.join().expect("no panic").expect_err("cancelled")
        });
        assert_eq!(failure.class, FailureClass::Cancelled, "{failure}");
    }

    #[test]
    fn processes_left_behind_are_killed_too() {
        let (result, folder) = run("leaves_a_child", &MemoryContext::new());
        assert_eq!(result.expect("a result").value, json!({ "x": 1 }));
        assert!(is_gone(child_of(folder.path(), "leaves_a_child")));
    }

    #[test]
    fn a_memory_limit_holds_whatever_a_program_prints() {
        for how in ["heavy", "heavy_and_loud"] {
            let failure = run(how, &MemoryContext::new().with_memory(64 << 20)).0.expect_err("too much");
            assert_eq!(failure.class, FailureClass::Memory, "{how}: {failure}");
            assert!(failure.message.contains("may use 64 MiB"), "{failure}");
        }
    }
}
