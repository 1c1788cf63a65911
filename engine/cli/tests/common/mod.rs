//! What the tests of the command share: a temporary folder, and the binaries.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod browser;
pub mod phone;
pub mod proxy;
pub mod served;
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

impl Place {
    /// What brings a device to the engine of this place at `url`: an invitation the first time, its key later. Its
    /// owner trusts the first proposal.
    pub fn join(&self, name: &str, url: &str) -> Vec<String> {
        let list = self.headstart(&["devices", "list", "--format", "json"]);
        if list.code == 0 && list.out.contains("approved") {
            let key = self.headstart(&["--quiet", "devices", "key"]).code(0).out.trim().to_owned();
            return ["join", url, "--name", name, "--engine-key", &key, "--approve", "first"]
                .map(str::to_owned)
                .into();
        }
        let invite = self.headstart(&["--quiet", "devices", "invite", name, "--url", url]).code(0);
        ["join", invite.out.trim(), "--approve", "first"].map(str::to_owned).into()
    }
}

/// Copies a folder with everything in it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("the folder is there").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("writable");
        }
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

/// The device's command, freshly built: cargo makes binaries for the tests of their own crate only, and only
/// cargo knows whether one that lies there is up to date.
///
/// # Panics
/// If it does not build.
pub fn device_binary() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT.get_or_init(build_device).clone()
}

fn folder_above(path: &Path) -> &Path {
    path.parent().expect("binaries lie two folders below the target folder")
}

fn build_device() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_headstart")).with_file_name("headstart-device");
    let folder = path.parent().and_then(Path::file_name).expect("binaries lie in a profile's folder");
    let profile = if folder == "debug" { "dev" } else { folder.to_str().expect("profiles have plain names") };
    // The whole workspace: so features are those that the tests were built with, and nothing is built twice.
    let target = folder_above(folder_above(&path));
    let built = Command::new(env!("CARGO"))
        .args(["build", "--workspace", "--bins", "--locked", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    path
}
