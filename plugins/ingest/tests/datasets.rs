//! Reading rows, cutting and joining them, simulated users.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use headstart_ingest::{Blend, Concat, JsonLines};
use headstart_protocol::rows::text_digest;
use headstart_protocol::{ArtifactRef, Failure, FailureClass, Value};
use headstart_testkit::MemoryContext;

fn text(t: &str) -> Value {
    Value::Text(t.into())
}

fn path(p: &str) -> Value {
    Value::Path(p.into())
}

fn list(items: Vec<Value>) -> Value {
    Value::List(items.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect())
}

fn read(ctx: &MemoryContext, more: Vec<(&str, Value)>) -> Result<Vec<(String, String)>, Failure> {
    let args = [("path", path("rows.jsonl"))].into_iter().filter(|_| !more.iter().any(|(n, _)| *n == "path"));
    let dataset = ctx.run(&JsonLines, args.chain(more.clone()))?;
    Ok(ctx.rows_of(&dataset).into_iter().map(|r| (r.prompt, r.response)).collect())
}

fn refusal(ctx: &MemoryContext, content: &[u8], more: Vec<(&str, Value)>) -> String {
    ctx.write("rows.jsonl", content);
    let failure = read(ctx, more).unwrap_err();
    assert_eq!(failure.class, FailureClass::Input);
    failure.message
}

fn pair(p: &str, r: &str) -> (String, String) {
    (p.into(), r.into())
}

#[test]
fn rows_by_the_keys_that_a_file_uses() {
    let ctx = MemoryContext::new();
    let content = "\u{FEFF}{\"instruction\":\"Do\",\"input\":\"this\",\"output\":\"Done.\",\"id\":1}\r\n\r\n\
                   {\"instruction\":\"Say hi\",\"input\":\"\",\"output\":null}";
    ctx.write("rows.jsonl", content);
    let keys = vec![("prompt", list(vec![text("instruction"), text("input")])), ("response", text("output"))];
    assert_eq!(read(&ctx, keys).unwrap(), [pair("Do\nthis", "Done."), pair("Say hi", "")]);

    ctx.write("rows.jsonl", "{\"prompt\":\"bare\"}\n");
    assert_eq!(read(&ctx, vec![]).unwrap(), [pair("bare", "")]);
    let twice = vec![("path", list(vec![path("rows.jsonl"), path("rows.jsonl")]))];
    assert_eq!(read(&ctx, twice).unwrap().len(), 2);
}

#[test]
fn conversations_are_rows_with_a_history() {
    let ctx = MemoryContext::new();
    let chat = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
        {"role":"user","content":"c"},{"role":"assistant","content":"d"}],"prompt":"a"}"#;
    ctx.write("rows.jsonl", chat.replace('\n', ""));
    let run = |more: Vec<(&'static str, Value)>| {
        let args = [("path", path("rows.jsonl"))].into_iter().chain(more);
        ctx.run(&JsonLines, args).map(|dataset| ctx.rows_of(&dataset).remove(0))
    };
    let row = run(vec![]).unwrap();
    assert_eq!((row.prompt.as_str(), row.response.as_str(), row.history.len()), ("c", "d", 2));
    let first = run(vec![("turns", text("first"))]).unwrap();
    assert_eq!((first.prompt.as_str(), first.response.as_str(), first.history.len()), ("a", "b", 0));
    ctx.write("rows.jsonl", r#"{"chat":[{"role":"tool","content":"x"}]}"#);
    let failure = run(vec![("messages", text("chat"))]).unwrap_err();
    assert!(failure.message.contains("line 1: `chat`: message 1"), "{failure}");
    ctx.write("rows.jsonl", r#"{"prompt":"how many?","messages":3}"#);
    assert_eq!(run(vec![]).unwrap().prompt, "how many?", "a number is no conversation");
}

#[test]
fn keys_that_match_no_row_are_refused_with_those_there_are() {
    let ctx = MemoryContext::new();
    let plain = "{\"prompt\":\"a\",\"response\":\"b\"}\n";
    let chat = "{\"talk\":[{\"role\":\"user\",\"content\":\"a\"}],\"id\":1}\n";
    let both = [plain, chat].concat();
    let check = |content: &str, more: Vec<(&'static str, Value)>, parts: &[&str]| {
        let message = refusal(&ctx, content.as_bytes(), more);
        for part in ["rows.jsonl"].iter().chain(parts) {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
    };
    let messages = |key: &str| ("messages", text(key));
    check(plain, vec![messages("dialog")], &["`messages`", "`dialog`", "there are: `prompt`, `response`"]);
    check(plain, vec![("turns", text("first"))], &["`turns`", "`messages`", "`prompt`, `response`"]);
    let [asked, answered] = ["question", "answer"].map(text);
    check(chat, vec![messages("talk"), ("prompt", asked)], &["`prompt`", "`question`", "`id`, `talk`"]);
    check(chat, vec![messages("talk"), ("response", answered)], &["`response`", "`answer`", "`id`, `talk`"]);
    // One row that fits is enough, in whichever file it is.
    let fits = |content: &str, more: Vec<(&'static str, Value)>| {
        ctx.write("rows.jsonl", content);
        read(&ctx, more).unwrap().len()
    };
    assert_eq!(fits(&both, vec![messages("talk"), ("turns", text("first"))]), 2);
    ctx.write("plain.jsonl", plain);
    let paths = ("path", list(vec![path("plain.jsonl"), path("rows.jsonl")]));
    assert_eq!(fits(chat, vec![messages("talk"), paths]), 2);
}

#[test]
fn sorting_makes_cuts_alike_in_files_of_the_same_prompts() {
    let ctx = MemoryContext::new();
    let line = |i: usize, r: &str| format!("{{\"prompt\":\"q{i}\",\"response\":\"{r}{i}\"}}\n");
    ctx.write("a.jsonl", (0..9).map(|i| line(i, "a")).collect::<String>());
    ctx.write("b.jsonl", (0..9).rev().map(|i| line(i, "b")).collect::<String>());
    let cut = |file: &str| {
        let more = vec![
            ("path", path(file)),
            ("sort", Value::Bool(true)),
            ("skip", Value::Int(2)),
            ("take", Value::Int(4)),
        ];
        read(&ctx, more).unwrap().into_iter().map(|(p, _)| p).collect::<Vec<_>>()
    };
    let mut sorted: Vec<String> = (0..9).map(|i| format!("q{i}")).collect();
    sorted.sort_by_key(|p| text_digest(p));
    assert_eq!(cut("a.jsonl"), sorted[2..6]);
    assert_eq!(cut("a.jsonl"), cut("b.jsonl"));
}

#[test]
fn bad_rows_are_named_by_file_line_and_key() {
    let ctx = MemoryContext::new();
    let good = "{\"prompt\":\"a\",\"response\":\"b\"}\n";
    let with = |second: &[u8]| [good.as_bytes(), second].concat();
    let check = |content: Vec<u8>, more: Vec<(&str, Value)>, parts: &[&str]| {
        let message = refusal(&ctx, &content, more);
        assert!(message.contains("rows.jsonl"), "{message}");
        for part in parts {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
    };
    check(with(b"{\"prompt\": \"a\""), vec![], &["line 2", "not a JSON object", "column"]);
    check(with(b"[1, 2]"), vec![], &["line 2", "not a JSON object"]);
    check(
        with(b"{\"question\":\"a\",\"answer\":\"b\"}"),
        vec![],
        &["line 2", "`prompt`", "`answer`, `question`"],
    );
    check(with(b"{\"prompt\":7}"), vec![], &["line 2", "`prompt` is a number"]);
    check(with(b"{\"prompt\":\"\"}"), vec![], &["line 2", "empty"]);
    check(with(b"{\"prompt\":\"\xFF\"}"), vec![], &["line 2", "byte 12 is not UTF-8"]);
    check(b"\n \n".to_vec(), vec![], &["no rows"]);
    check(with(b""), vec![("response", text("answer"))], &["`answer`", "`prompt`, `response`"]);
    check(with(b""), vec![("skip", Value::Int(1))], &["no rows are left", "it has 1", "1 are skipped"]);
    assert!(refusal(&ctx, good.as_bytes(), vec![("skip", Value::Int(-1))]).contains("`skip` is -1"));
}

#[test]
fn a_missing_file_is_the_users_fault() {
    let failure = read(&MemoryContext::new(), vec![]).unwrap_err();
    assert_eq!(failure.class, FailureClass::Input);
    assert!(failure.message.contains("rows.jsonl"), "{}", failure.message);
}

#[test]
fn concat_keeps_the_order() {
    let ctx = MemoryContext::new();
    let (a, b) = (ctx.dataset(&[("1", "x"), ("2", "x")]), ctx.dataset(&[("1", "y")]));
    let both = ctx.run(&Concat, [("datasets", list(vec![Value::Artifact(b), Value::Artifact(a)]))]).unwrap();
    let prompts: Vec<_> = ctx.rows_of(&both).into_iter().map(|r| r.prompt + &r.response).collect();
    assert_eq!(prompts, ["1y", "1x", "2x"]);
    assert_eq!(ctx.value_of(&both)["rows"], 3);
    assert!(ctx.run(&Concat, [("datasets", list(vec![]))]).is_err());
}

/// Two datasets that share the prompts p3 … p29, in opposite orders.
fn styles(ctx: &MemoryContext) -> (ArtifactRef, ArtifactRef) {
    let named: Vec<String> = (0..33).map(|i| format!("p{i}")).collect();
    let rows = |range: std::ops::Range<usize>, answer: &'static str| -> Vec<(&str, &str)> {
        range.map(|i| (named[i].as_str(), answer)).collect()
    };
    let mut plain = rows(3..33, "plain");
    plain.reverse();
    (ctx.dataset(&rows(0..30, "styled")), ctx.dataset(&plain))
}

fn blend(ctx: &MemoryContext, share: f64, rows: i64, seed: i64) -> Result<Vec<(String, String)>, Failure> {
    let (styled, plain) = styles(ctx);
    let args = [
        ("styled", Value::Artifact(styled)),
        ("plain", Value::Artifact(plain)),
        ("share", Value::Float(share)),
        ("rows", Value::Int(rows)),
        ("seed", Value::Int(seed)),
    ];
    let user = ctx.run(&Blend, args)?;
    Ok(ctx.rows_of(&user).into_iter().map(|r| (r.prompt, r.response)).collect())
}

#[test]
fn a_simulated_user_has_the_asked_share_of_style_on_distinct_prompts() {
    let ctx = MemoryContext::new();
    let user = blend(&ctx, 0.7, 20, 1).unwrap();
    assert_eq!(user.iter().filter(|(_, r)| r == "styled").count(), 14);
    let mut prompts: Vec<_> = user.iter().map(|(p, _)| p.clone()).collect();
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), 20);
    assert!(!prompts.iter().any(|p| ["p0", "p1", "p2", "p30", "p31", "p32"].contains(&p.as_str())));
    // Shuffled: the styled rows do not all stand first.
    assert!(user[..14].iter().any(|(_, r)| r == "plain"));

    assert_eq!(user, blend(&ctx, 0.7, 20, 1).unwrap());
    assert_ne!(user, blend(&ctx, 0.7, 20, 2).unwrap());
    let styled = |user: &[(String, String)]| -> Vec<String> {
        user.iter().filter(|(_, r)| r == "styled").map(|(p, _)| p.clone()).collect()
    };
    let more = styled(&blend(&ctx, 0.9, 20, 1).unwrap());
    assert!(styled(&user).iter().all(|p| more.contains(p)));
    assert!(blend(&ctx, 1.0, 5, 1).unwrap().iter().all(|(_, r)| r == "styled"));
}

#[test]
fn a_user_that_cannot_be_drawn_is_refused() {
    let ctx = MemoryContext::new();
    let message = blend(&ctx, 0.5, 28, 0).unwrap_err().message;
    assert!(message.contains("both answer 27 prompts") && message.contains("28"), "{message}");
    assert!(blend(&ctx, 1.5, 5, 0).unwrap_err().message.contains("`share`"));
    assert!(blend(&ctx, 0.5, 0, 0).unwrap_err().message.contains("`rows`"));
}

/// What has no end would be read for ever, and a FIFO waited for.
#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let ctx = MemoryContext::new();
    let fifo = ctx.files().join("fifo.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    std::fs::create_dir(ctx.files().join("folder.jsonl")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", ctx.files().join("zero.jsonl")).unwrap();
    for (name, what) in [("fifo.jsonl", "a FIFO"), ("folder.jsonl", "a folder"), ("zero.jsonl", "a device")] {
        let failure = read(&ctx, vec![("path", path(name))]).unwrap_err();
        assert_eq!(failure.class, FailureClass::Input);
        let expected = format!("{name}: is {what}, not a regular file");
        assert!(failure.message.contains(&expected), "{}", failure.message);
    }
}

/// A line that is too long is not held in memory, and the message names it.
#[test]
fn a_line_has_a_largest_length() {
    let ctx = MemoryContext::new();
    let row = |n: usize| format!("{{\"prompt\":\"{}\"}}\n", "x".repeat(n));
    let most = usize::try_from(headstart_disk::read::LINE).unwrap();
    let longest = row(most - "{\"prompt\":\"\"}".len());
    ctx.write("rows.jsonl", row(1) + &longest);
    assert_eq!(read(&ctx, vec![]).unwrap().len(), 2);
    let message = refusal(&ctx, (row(1) + &row(1) + &row(most)).as_bytes(), vec![]);
    assert!(
        message.ends_with("rows.jsonl: line 3 is longer than 16777216 bytes, the most that a line may have"),
        "{message}"
    );
}
