//! The pipelines that the project ships are right, documented and formatted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_dsl::ast::{ItemKind, Ty};
use headstart_dsl::{FileId, FileLoader, Listing, ProgramError, Severity, check, format, parse, render};
use headstart_protocol::Digest;

/// Files of this machine; every pattern matches two paths, so that no data is needed.
struct Shipped;

impl FileLoader for Shipped {
    fn read(&self, path: &str) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|e| e.to_string())
    }

    fn glob(&self, pattern: &str) -> Result<Listing, String> {
        let folder = pattern.rsplit_once('/').map_or("", |(dir, _)| dir);
        let found = vec![format!("{folder}/one.jsonl"), format!("{folder}/two.jsonl")];
        Ok(Listing { found, left_out: Vec::new() })
    }

    /// Nothing is run, so any digest will do.
    fn program(&self, path: &str, _: &[String]) -> Result<Digest, ProgramError> {
        Ok(Digest::of(path.as_bytes()))
    }
}

fn pipelines() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the project");
    let mut found = Vec::new();
    let mut folders = vec![root.join("pipelines"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "pllm") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Examples that show a mistake, and its code.
const MISTAKEN: &[(&str, &str)] = &[("02-private-data/leak.pllm", "E0503")];

/// A value of a type, as `--set` takes it.
fn some_value(ty: &Ty) -> String {
    let one = |name: &str| match name {
        "Int" => "3",
        "Float" => "0.5",
        "Bool" => "true",
        "Duration" => "30m",
        "Bytes" => "1GiB",
        _ => "value",
    };
    ty.of.as_ref().map_or_else(|| one(&ty.name.text).to_owned(), |of| some_value(of))
}

#[test]
fn shipped_pipelines_are_right() {
    let all = pipelines();
    assert!(all.len() >= 3, "the pipelines of the project are found: {all:?}");
    let mut wrong = String::new();
    for path in all {
        let path = path.to_string_lossy();
        let text = Shipped.read(&path).expect("a readable file");
        let (tree, _) = parse(FileId(0), &text);
        let needed = tree.items.iter().filter_map(|i| match &i.kind {
            ItemKind::Param(p) if p.default.is_none() => Some((p.name.text.clone(), some_value(&p.ty))),
            _ => None,
        });
        let sets: BTreeMap<String, String> = needed.collect();
        let checked = check(&path, &Shipped, &sets);
        if let Some((_, code)) = MISTAKEN.iter().find(|(name, _)| path.ends_with(name)) {
            let errors = checked.diagnostics.iter().filter(|d| d.severity == Severity::Error);
            let found: Vec<String> = errors.map(|d| d.code.to_string()).collect();
            if found != [*code] {
                wrong += &format!("{path}: shows {found:?}, not {code}\n");
            }
        } else if checked.has_errors() {
            wrong += &render(&checked.diagnostics, &checked.sources, false);
        }
        if tree.doc.is_empty() {
            wrong += &format!("{path}: no `//!` says what it is for\n");
        }
        match format(&text) {
            Ok(formatted) if formatted == text => {}
            Ok(formatted) => wrong += &format!("{path}: formatted, it is\n{formatted}\n"),
            Err(_) => wrong += &format!("{path}: cannot be formatted\n"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
