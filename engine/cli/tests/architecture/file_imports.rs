//! Which files of a crate use which others, read from the paths in their code.
//!
//! A path is followed through modules, imports and re-exports to the file that defines what it names, so
//! `use crate::Thing` counts for the file of `Thing`, not for `lib.rs`. A re-export alone is no use. What a
//! module uses of the modules that it lies in does not count: they are one room, and the outer one is made of
//! the inner ones. Neither does code for tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;
use syn::{Attribute, Item, UseTree, Visibility};

/// One module, a whole file or inside one.
#[derive(Default)]
struct Module {
    file: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// Names that are defined here.
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths that the code mentions.
    mentions: BTreeSet<Vec<String>>,
}

/// One name that a `use` brings in.
struct Import {
    path: Vec<String>,
    /// What it is called here; everything in the path's module, if it has no name.
    name: Option<String>,
    exported: bool,
}

/// Groups of files that use each other, directly or through others, below a crate's root file.
pub fn circles(root: &Path) -> Vec<BTreeSet<PathBuf>> {
    let mut modules = Modules(Vec::new());
    let folder = root.parent().expect("a file lies in a folder");
    modules.load(root, folder, None);
    let uses = modules.uses();
    let mut circles: Vec<BTreeSet<PathBuf>> = Vec::new();
    for file in uses.keys() {
        let group: BTreeSet<PathBuf> =
            reached(&uses, file).into_iter().filter(|other| reached(&uses, other).contains(file)).collect();
        if !group.is_empty() && !circles.contains(&group) {
            circles.push(group);
        }
    }
    circles
}

/// Every file that `file` uses, directly or through others.
fn reached(uses: &BTreeMap<PathBuf, BTreeSet<PathBuf>>, file: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut left) = (BTreeSet::new(), vec![file]);
    while let Some(next) = left.pop() {
        for used in uses.get(next).into_iter().flatten() {
            if found.insert(used.clone()) {
                left.push(used);
            }
        }
    }
    found
}

/// Imports that are being followed, by module and number.
type Seen = Vec<(usize, usize)>;

struct Modules(Vec<Module>);

impl Modules {
    /// Reads a file and the files of its modules; `folder` is where the latter lie.
    fn load(&mut self, file: &Path, folder: &Path, parent: Option<usize>) -> usize {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.add(parsed.items, file, folder, parent)
    }

    fn add(&mut self, items: Vec<Item>, file: &Path, folder: &Path, parent: Option<usize>) -> usize {
        let at = self.0.len();
        self.0.push(Module { file: file.to_owned(), parent, ..Module::default() });
        for item in items {
            if is_test(attributes(&item)) {
                continue;
            }
            let Item::Mod(inner) = item else {
                let mut reader = Reader { module: &mut self.0[at] };
                reader.define(&item);
                reader.visit_item(&item);
                continue;
            };
            let name = inner.ident.to_string();
            let below = folder.join(&name);
            let child = match inner.content {
                Some((_, items)) => self.add(items, file, &below, Some(at)),
                None => {
                    let flat = folder.join(format!("{name}.rs"));
                    let file = if flat.exists() { flat } else { below.join("mod.rs") };
                    self.load(&file, &below, Some(at))
                }
            };
            self.0[at].children.insert(name, child);
        }
        at
    }

    /// For each file, the other files that it uses.
    fn uses(&self) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
        let mut uses: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for (at, module) in self.0.iter().enumerate() {
            let imported = module.imports.iter().filter(|i| !i.exported && i.name.is_some()).map(|i| &i.path);
            for path in module.mentions.iter().chain(imported) {
                let mut files = BTreeSet::new();
                self.start(at, path, &mut Vec::new(), &mut files);
                files.remove(&module.file);
                for file in self.around(at) {
                    files.remove(file);
                }
                uses.entry(module.file.clone()).or_default().extend(files);
            }
        }
        uses
    }

    /// The files of the modules that a module lies in.
    fn around(&self, at: usize) -> impl Iterator<Item = &Path> {
        let outward = std::iter::successors(self.0[at].parent, |at| self.0[*at].parent);
        outward.map(|at| self.0[at].file.as_path())
    }

    /// The files that a path in the module `at` leads to.
    fn start(&self, at: usize, path: &[String], seen: &mut Seen, files: &mut BTreeSet<PathBuf>) {
        let Some((first, rest)) = path.split_first() else { return };
        match first.as_str() {
            "crate" => self.follow(0, rest, seen, files),
            "self" => self.follow(at, rest, seen, files),
            "super" => {
                if let Some(parent) = self.0[at].parent {
                    // `super::super`
                    match rest.first().map(String::as_str) {
                        Some("super") => self.start(parent, rest, seen, files),
                        _ => self.follow(parent, rest, seen, files),
                    }
                }
            }
            _ => self.follow(at, path, seen, files),
        }
    }

    /// As [`Modules::start`], for a path whose first part is a name in the module. A name can be a module and a
    /// function at once.
    fn follow(&self, at: usize, path: &[String], seen: &mut Seen, files: &mut BTreeSet<PathBuf>) {
        let Some((name, rest)) = path.split_first() else { return };
        let module = &self.0[at];
        if module.items.contains(name) {
            files.insert(module.file.clone());
        }
        if let Some(child) = module.children.get(name) {
            self.follow(*child, rest, seen, files);
        }
        for (number, import) in module.imports.iter().enumerate() {
            // `use log::log` is of another crate.
            if seen.contains(&(at, number)) {
                continue;
            }
            let whole: Vec<String> = match &import.name {
                Some(known) if known == name => import.path.iter().chain(rest).cloned().collect(),
                Some(_) => continue,
                None => import.path.iter().chain(path).cloned().collect(),
            };
            seen.push((at, number));
            self.start(at, &whole, seen, files);
            seen.pop();
        }
    }
}

/// Collects what one module defines, imports and mentions.
struct Reader<'a> {
    module: &'a mut Module,
}

impl Reader<'_> {
    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(i) => &i.ident,
            Item::Enum(i) => &i.ident,
            Item::Fn(i) => &i.sig.ident,
            Item::Static(i) => &i.ident,
            Item::Struct(i) => &i.ident,
            Item::Trait(i) => &i.ident,
            Item::TraitAlias(i) => &i.ident,
            Item::Type(i) => &i.ident,
            Item::Union(i) => &i.ident,
            Item::Macro(syn::ItemMacro { ident: Some(ident), .. }) => ident,
            _ => return,
        };
        self.module.items.insert(name.to_string());
    }

    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, exported: bool) {
        match tree {
            UseTree::Path(p) => {
                path.push(p.ident.to_string());
                self.import(&p.tree, path, exported);
            }
            UseTree::Group(g) => g.items.iter().for_each(|t| self.import(t, path.clone(), exported)),
            UseTree::Glob(_) => self.module.imports.push(Import { path, name: None, exported }),
            UseTree::Name(n) if n.ident == "self" => {
                let name = path.last().cloned();
                self.module.imports.push(Import { path, name, exported });
            }
            UseTree::Name(n) => {
                path.push(n.ident.to_string());
                self.module.imports.push(Import { path, name: Some(n.ident.to_string()), exported });
            }
            UseTree::Rename(r) => {
                path.push(r.ident.to_string());
                self.module.imports.push(Import { path, name: Some(r.rename.to_string()), exported });
            }
        }
    }

    /// The paths in a macro's arguments, which are not parsed: names joined by `::`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.mention(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(p) if p.as_char() == ':' => colons += 1,
                other => {
                    self.mention(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.mention(path);
    }

    fn mention(&mut self, path: Vec<String>) {
        if !path.is_empty() {
            self.module.mentions.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.mention(path.segments.iter().map(|s| s.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, Vec::new(), !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        self.visit_path(&found.path);
        self.tokens(found.tokens.clone());
    }

    // Attributes name derives and settings.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// Whether an item exists in test builds only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("test")
            || a.path().is_ident("cfg")
                && a.meta.require_list().is_ok_and(|list| {
                    let words = list.tokens.to_string();
                    !words.contains("not") && words.split(|c: char| !c.is_alphanumeric()).any(|w| w == "test")
                })
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}
