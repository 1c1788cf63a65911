//! Which files read whole files, or open them, other than through `headstart_disk::read`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, Expr, ImplItemFn, ItemFn, ItemImpl, ItemMod};

/// What reads a file to its end, however long it is, or opens whatever lies at a path. Ends of paths.
const CALLS: [&str; 8] = [
    "fs::read",
    "fs::read_to_string",
    "File::open",
    "File::options",
    "io::read_to_string",
    "serde_json::from_reader",
    "BufRead::lines",
    "OpenOptions::new",
];
/// Methods that do.
const METHODS: [&str; 2] = ["read_to_end", "read_to_string"];

/// The calls of a source file, code for tests aside.
pub fn in_source(text: &str) -> BTreeSet<String> {
    let mut found = Found::default();
    found.visit_file(&syn::parse_file(text).expect("source parses"));
    found.0
}

/// Source files below a folder that are part of a program: no tests and what only they use, no examples, no fuzz targets.
pub fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if !["tests", "examples", "benches", "fuzz", "testkit", "target"].contains(&name.as_str()) {
                found.extend(sources(&path));
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    found
}

#[derive(Default)]
struct Found(BTreeSet<String>);

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| {
        let text = match &a.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        a.path().is_ident("test") || (a.path().is_ident("cfg") && text == "test")
    })
}

impl<'ast> Visit<'ast> for Found {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            Expr::Path(path) => {
                let parts: Vec<String> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
                let end = parts[parts.len().saturating_sub(2)..].join("::");
                if CALLS.contains(&end.as_str()) {
                    self.0.insert(end);
                }
            }
            Expr::MethodCall(call) if METHODS.contains(&call.method.to_string().as_str()) => {
                self.0.insert(call.method.to_string());
            }
            _ => {}
        }
        syn::visit::visit_expr(self, expr);
    }
}
