//! The READMEs of `examples/`, replayed: every command of a `console` block is run, one after
//! another in one shell, and prints what is below it. In what is expected, `[..]` stands for
//! anything within a line, and a line `...` for any lines.

mod common;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use common::{Place, device_binary, root};

/// A command of a transcript, and the lines below it.
#[derive(Debug)]
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (i, line) in readme.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { line: i + 1, command: command.to_owned(), expected: Vec::new() });
        } else if inside {
            let last = steps.last_mut().unwrap_or_else(|| panic!("line {}: no command before it", i + 1));
            last.expected.push(line.trim_end().to_owned());
        }
    }
    steps
}

/// Runs the commands in one shell; what each said, both streams together.
fn said(steps: &[Step], folder: &Path, port: u16) -> Vec<String> {
    const MARK: &str = "@@ transcript @@";
    let mut script = String::from("trap 'kill $(jobs -p) 2>/dev/null' EXIT\nexec 2>&1\n");
    for step in steps {
        let command = step.command.replace("7878", &port.to_string());
        // The next command finds the exit code where it looks for it.
        writeln!(script, "{command}\ncode=$?; echo '{MARK}'; (exit $code)")
            .expect("a string takes everything");
    }
    let bins = device_binary();
    let path = format!(
        "{}:{}",
        bins.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .env("PATH", path)
        .env("NO_COLOR", "1")
        .env_remove("COLUMNS")
        .output()
        .expect("bash starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8").replace(&port.to_string(), "7878");
    text.split(&format!("{MARK}\n")).map(str::to_owned).collect()
}

/// Whether lines are as expected.
fn as_expected(expected: &[String], found: &[&str]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=found.len()).any(|skipped| as_expected(rest, &found[skipped..]))
        }
        Some((first, rest)) => {
            found.split_first().is_some_and(|(line, more)| matches(first, line) && as_expected(rest, more))
        }
    }
}

fn matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once("[..]") {
        None => pattern == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| matches(rest, &tail[i..]))
        }),
    }
}

/// A copy of an example's folder, with the demonstration model where the example finds it.
fn copy(place: &Place, example: &str) -> std::path::PathBuf {
    let to = place.path("examples").join(example);
    std::fs::create_dir_all(place.path("examples")).expect("writable");
    let copied = Command::new("cp").arg("-r").arg(root().join("examples").join(example)).arg(&to).status();
    assert!(copied.expect("cp runs").success());
    for shared in ["models", "catalog"] {
        let link = place.path("examples").join(shared);
        std::os::unix::fs::symlink(root().join("examples").join(shared), link).expect("links");
    }
    to
}

fn replays(example: &str) {
    let readme = std::fs::read_to_string(root().join("examples").join(example).join("README.md"));
    let steps = steps(&readme.expect("the example has a README"));
    assert!(!steps.is_empty(), "{example}: a transcript has commands");
    let place = Place::new();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let folder = copy(&place, example);
    let said = said(&steps, &folder, port);
    let mut wrong = String::new();
    for (step, text) in steps.iter().zip(&said) {
        let found: Vec<&str> = text.lines().map(str::trim_end).collect();
        // The blank line before the next command belongs to neither.
        let end = step.expected.iter().rposition(|l| !l.is_empty()).map_or(0, |last| last + 1);
        if !as_expected(&step.expected[..end], &found) {
            let _ = write!(
                wrong,
                "\n{example}/README.md:{}: $ {}\n-- expected\n{}\n-- found\n{text}",
                step.line,
                step.command,
                step.expected.join("\n")
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_first_run() {
    replays("01-first-run");
}

#[test]
fn private_data() {
    replays("02-private-data");
}

#[test]
fn a_stage_of_ones_own() {
    replays("03-custom-stage");
}

#[test]
fn every_example_with_a_readme_is_replayed() {
    let named = ["01-first-run", "02-private-data", "03-custom-stage"];
    for entry in std::fs::read_dir(root().join("examples")).expect("examples").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            assert!(named.contains(&name.as_str()), "{name} has no test here");
        }
    }
}
