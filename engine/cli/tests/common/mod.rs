//! What the tests of the command share: a folder of its own, and the binaries.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod proxy;
pub mod traces;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The checkout's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout is there")
}

/// A workspace in a temporary folder.
pub struct Place {
    pub dir: tempfile::TempDir,
}

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("writable");
        std::fs::write(&path, text).expect("writable");
        path
    }

    /// The command, run in the checkout's root with this place's workspace.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        command.current_dir(root()).arg("--workspace").arg(self.path("ws")).args(args).env("NO_COLOR", "1");
        command
    }

    pub fn headstart(&self, args: &[&str]) -> Said {
        said(self.command(args).output().expect("headstart starts"))
    }
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Said {
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n-- stdout\n{}\n-- stderr\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn err_has(self, text: &str) -> Self {
        assert!(self.err.contains(text), "stderr lacks {text:?}:\n{}", self.err);
        self
    }

    #[track_caller]
    pub fn out_has(self, text: &str) -> Self {
        assert!(self.out.contains(text), "stdout lacks {text:?}:\n{}", self.out);
        self
    }
}

/// The device's binary. `cargo test --workspace` builds it beside the command's, as it has tests too.
///
/// # Panics
/// If it is not there, or is older than what it is made from.
pub fn device_binary() -> PathBuf {
    const BUILD: &str =
        "build it first: cargo build --workspace --bins --locked (`make test` does by itself)";
    let path = Path::new(env!("CARGO_BIN_EXE_headstart")).with_file_name("headstart-device");
    let modified = |at: &Path| at.metadata().and_then(|m| m.modified());
    let Ok(built) = modified(&path) else { panic!("there is no {}; {BUILD}", path.display()) };
    // Cargo writes down what a binary is made from, as a rule of make.
    let rule = std::fs::read_to_string(path.with_extension("d")).expect("cargo's list of sources");
    let sources = rule.split_once(": ").expect("a rule of make").1.replace("\\ ", "\0");
    for source in sources.split_whitespace().map(|s| s.replace('\0', " ")) {
        let fresh = modified(Path::new(&source)).is_ok_and(|at| at <= built);
        assert!(fresh, "{} is older than {source}; {BUILD}", path.display());
    }
    path
}
