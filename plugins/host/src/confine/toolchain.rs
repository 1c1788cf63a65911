//! Where a program's interpreter and its packages lie.

use std::path::{Path, PathBuf};

/// Folders with the interpreter that a script names in its first line, and with its packages: of
/// `/home/ann/venv/bin/python3`, `/home/ann/venv` and that of the Python it was made from.
pub(super) fn folders(program: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = user_packages().map(|base| base.join("lib")).into_iter().collect();
    if let Some(interpreter) = interpreter(program) {
        let real = interpreter.canonicalize().ok();
        for at in [Some(interpreter), real].into_iter().flatten() {
            all.extend(installation(&at));
        }
    }
    all
}

/// The folder that `pip install --user` writes into, if there is one.
pub(super) fn user_packages() -> Option<PathBuf> {
    if let Some(base) = std::env::var_os("PYTHONUSERBASE").filter(|b| !b.is_empty()) {
        return Some(base.into());
    }
    std::env::home_dir().map(|home| home.join(".local")).filter(|base| base.join("lib").is_dir())
}

/// The interpreter of a script: its path, or what `env` would find.
fn interpreter(program: &Path) -> Option<PathBuf> {
    let line = first_line(program)?;
    let mut words = line.strip_prefix("#!")?.split_whitespace();
    let first = words.next()?;
    if Path::new(first).file_name()? != "env" {
        return Some(first.into());
    }
    let name = words.find(|w| !w.starts_with('-') && !w.contains('='))?;
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|at| at.is_file())
}

fn first_line(program: &Path) -> Option<String> {
    use std::io::Read;
    let mut head = Vec::new();
    headstart_disk::read::open(program).ok()?.take(512).read_to_end(&mut head).ok()?;
    let end = head.iter().position(|b| *b == b'\n')?;
    String::from_utf8(head[..end].to_vec()).ok()
}

/// The folder above `bin`, where an interpreter keeps its libraries. Where it lies otherwise, its own
/// folder; never the root, or a whole home.
fn installation(interpreter: &Path) -> Option<PathBuf> {
    let bin = interpreter.parent()?;
    let named = bin.file_name().is_some_and(|n| n == "bin" || n == "shims");
    let above = bin.parent().filter(|above| named && !holds_a_home(above));
    let at = above.or(Some(bin)).filter(|at| !holds_a_home(at))?;
    Some(at.to_owned())
}

/// Whether a folder is too much to be read whole: the root, a home, and what a home lies in.
pub(super) fn holds_a_home(at: &Path) -> bool {
    at.parent().is_none() || std::env::home_dir().is_some_and(|home| home.starts_with(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_the_folder_above_bin() {
        let of = |at: &str| installation(Path::new(at)).map(|p| p.display().to_string());
        assert_eq!(of("/usr/bin/python3").as_deref(), Some("/usr"));
        assert_eq!(of("/srv/venv/bin/python3").as_deref(), Some("/srv/venv"));
        assert_eq!(of("/bin/sh").as_deref(), Some("/bin"));
        assert_eq!(of("/python3"), None);
        let home = std::env::home_dir().expect("a home");
        let own = home.join("bin/python3");
        assert_eq!(installation(&own), Some(home.join("bin")), "not the whole home");
        assert_eq!(installation(&home.join("python3")), None);
    }

    #[test]
    fn the_first_line_names_the_interpreter() {
        let dir = tempfile::tempdir().expect("a folder");
        let of = |line: &str| {
            let at = dir.path().join("p");
            std::fs::write(&at, format!("{line}\nrest")).expect("writes");
            interpreter(&at)
        };
        assert_eq!(of("#!/opt/x/bin/python3 -u"), Some("/opt/x/bin/python3".into()));
        let sh = of("#!/usr/bin/env -S A=1 sh -e").expect("there is a shell");
        assert!(sh.ends_with("sh") && sh.is_absolute(), "{}", sh.display());
        assert_eq!(of("no script"), None);
        assert_eq!(of("#!/usr/bin/env no-such-interpreter"), None);
    }
}
