//! Files, imports, and what they declare.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use headstart_protocol::kinds::Kinds;

use super::path::wrong_path;
use super::{Checker, Entity, ItemState, ParamState, ParamValue, Scope};
use crate::ast::{self, ItemKind, Name};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::names;
use crate::span::{FileId, Span};

/// How deep imports may nest.
const MAX_IMPORTS: usize = 32;

impl Checker<'_> {
    /// Loads the root file and everything that it imports. False where the root cannot be read.
    pub(super) fn load_root(&mut self, path: &str) -> bool {
        match self.read(path) {
            Ok((_, tree)) => {
                self.declare(path, tree, String::new(), &mut vec![(loader::clean(path), None)]);
                true
            }
            Err(why) => {
                self.report(Diagnostic::new(Code::E0403, format!("cannot read `{path}`: {why}")));
                false
            }
        }
    }

    fn read(&mut self, path: &str) -> Result<(FileId, Arc<ast::File>), String> {
        if let Some((id, tree)) = self.files.get(path) {
            return Ok((*id, tree.clone()));
        }
        let text = self.loader.read(path)?;
        if u32::try_from(text.len()).is_err() {
            return Err("it is larger than 4 GiB".to_owned());
        }
        let id = self.sources.add(path, &text);
        let text = self.sources.file(id).text.clone();
        let parsed = self.trees.remove(path).unwrap_or_default().again(id, text);
        let (tree, diags) = parsed.tree();
        self.parsed.insert(path.to_owned(), parsed);
        self.diags.extend(diags);
        let tree = Arc::new(tree);
        self.files.insert(path.to_owned(), (id, tree.clone()));
        Ok((id, tree))
    }

    /// Declares a file's items in a new scope. `chain` holds the files being imported, with
    /// the places of their imports.
    fn declare(
        &mut self,
        path: &str,
        tree: Arc<ast::File>,
        prefix: String,
        chain: &mut Vec<(String, Option<Span>)>,
    ) -> usize {
        let scope = self.scopes.len();
        self.scopes.push(Scope {
            tree: tree.clone(),
            dir: loader::folder(path).into(),
            path: path.to_owned(),
            prefix,
            names: BTreeMap::new(),
            kinds: Kinds::default(),
            outputs: Vec::new(),
            schedules: Vec::new(),
            used: scope == 0,
        });
        for item in &tree.items {
            match &item.kind {
                ItemKind::Import(import) => {
                    let entity = match self.import(scope, import, chain) {
                        Some(module) => Entity::Module(module),
                        None => Entity::Bad,
                    };
                    self.declare_name(scope, &import.name, entity);
                }
                ItemKind::Program(p) => {
                    let entity = match self.program(scope, p) {
                        Some(program) => Entity::Program(program),
                        None => Entity::Bad,
                    };
                    self.declare_name(scope, &p.name, entity);
                }
                ItemKind::Param(p) => {
                    self.declare_name(scope, &p.name, Entity::Param(self.params.len()));
                    self.params.push(ParamState {
                        scope,
                        ast: p.clone(),
                        arg: None,
                        set: None,
                        used: false,
                        value: ParamValue::Pending,
                    });
                }
                ItemKind::Decl(d) => {
                    self.declare_name(scope, &d.name, Entity::Item(self.items.len()));
                    self.items.push(self.new_item(scope, d));
                }
                ItemKind::Schedule(s) => self.scopes[scope].schedules.push(s.clone()),
                ItemKind::Output(o) => self.scopes[scope].outputs.push(o.clone()),
                ItemKind::Bad(Some(name)) => {
                    self.scopes[scope].names.entry(name.text.clone()).or_insert((Entity::Bad, name.span));
                }
                ItemKind::Bad(None) => {}
            }
        }
        self.report_same_names(scope);
        scope
    }

    fn new_item(&self, scope: usize, decl: &Arc<ast::Decl>) -> ItemState {
        ItemState {
            scope,
            decl: decl.clone(),
            name: format!("{}{}", self.scopes[scope].prefix, decl.name.text),
            kind: None,
            ty: None,
            keyed: !decl.bindings.is_empty(),
            optional: decl.when.is_some(),
            keys: Vec::new(),
            by_key: HashMap::new(),
            instances: 0..0,
            done: false,
            private: None,
            used: false,
            refs: Vec::new(),
        }
    }

    fn declare_name(&mut self, scope: usize, name: &Name, entity: Entity) {
        let names = &mut self.scopes[scope].names;
        match names.get(&name.text) {
            None => {
                names.insert(name.text.clone(), (entity, name.span));
            }
            Some((_, first)) => {
                let d = declared_twice(name, *first, "name");
                self.report(d);
            }
        }
    }

    /// Outputs and schedules each have their own namespace.
    fn report_same_names(&mut self, scope: usize) {
        let s = &self.scopes[scope];
        let outputs = s.outputs.iter().map(|o| o.name.clone()).collect::<Vec<_>>();
        let schedules = s.schedules.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        for (what, list) in [("output", outputs), ("schedule", schedules)] {
            let mut seen: BTreeMap<String, Span> = BTreeMap::new();
            for name in list {
                match seen.get(&name.text) {
                    Some(first) => self.report(declared_twice(&name, *first, what)),
                    None => {
                        seen.insert(name.text, name.span);
                    }
                }
            }
        }
    }

    fn import(
        &mut self,
        scope: usize,
        import: &ast::Import,
        chain: &mut Vec<(String, Option<Span>)>,
    ) -> Option<usize> {
        if let Some(d) = wrong_path(&import.path.text) {
            self.report(d.at(import.path.span, "imported here"));
            return None;
        }
        let path = loader::join(&self.scopes[scope].dir, &import.path.text);
        if let Some(at) = chain.iter().position(|(p, _)| *p == path) {
            let mut d = Diagnostic::new(Code::E0402, format!("`{path}` imports itself"))
                .at(import.path.span, "closes the cycle");
            for (p, span) in &chain[at + 1..] {
                if let Some(span) = span {
                    d = d.see(*span, format!("`{p}` is imported here"));
                }
            }
            self.report(d.help("move what both need into a third file"));
            return None;
        }
        if chain.len() > MAX_IMPORTS {
            let d = Diagnostic::new(Code::E0402, format!("imports nest deeper than {MAX_IMPORTS} files"));
            self.report(d.at(import.path.span, ""));
            return None;
        }
        let tree = match self.read(&path) {
            Ok((_, tree)) => tree,
            Err(why) => {
                let d = Diagnostic::new(Code::E0403, format!("cannot read `{path}`: {why}"))
                    .at(import.path.span, "imported here")
                    .note("a relative path starts at the folder of the importing file");
                self.report(d);
                return None;
            }
        };
        let prefix = format!("{}{}.", self.scopes[scope].prefix, import.name.text);
        chain.push((path.clone(), Some(import.path.span)));
        let module = self.declare(&path, tree, prefix, chain);
        chain.pop();
        self.give_args(scope, module, import);
        Some(module)
    }

    /// Hands an import's values to the parameters of the module.
    fn give_args(&mut self, scope: usize, module: usize, import: &ast::Import) {
        let known = self.params_of(module);
        for setting in import.args.iter().flat_map(|b| &b.settings) {
            let name = &setting.name;
            let Some(p) = known.get(&name.text) else {
                let path = &self.scopes[module].path;
                let d = Diagnostic::new(Code::E0104, format!("`{path}` has no parameter `{}`", name.text))
                    .at(name.span, "unknown parameter")
                    .suggest(&name.text, name.span, known.keys().map(String::as_str));
                self.report(match known.is_empty() {
                    true => d.note("it declares no parameters"),
                    false => d.note(names::list_of("its parameter", known.keys().map(String::as_str))),
                });
                continue;
            };
            if self.params[*p].arg.is_some() {
                let d = Diagnostic::new(Code::E0105, format!("parameter `{}` is given twice", name.text));
                self.report(d.at(name.span, "given again"));
                continue;
            }
            self.params[*p].arg = Some((scope, setting.value.clone()));
        }
        for (name, p) in known {
            let p = &mut self.params[p];
            let needed = p.ast.default.is_none() && !p.ast.ty.optional;
            if p.arg.is_none() && needed {
                p.value = ParamValue::Done(None, Vec::new());
                if import.args.iter().flat_map(|b| &b.broken).any(|b| b.text == name) {
                    continue;
                }
                let d = Diagnostic::new(Code::E0701, format!("the import gives no value for `{name}`"))
                    .at(import.name.span, format!("`{name}` is missing"))
                    .see(p.ast.name.span, "this parameter has no default")
                    .help(format!("write `as {} {{ {name}: … }}`", import.name.text));
                self.report(d);
            }
        }
    }
}

fn declared_twice(name: &Name, first: Span, what: &str) -> Diagnostic {
    Diagnostic::new(Code::E0102, format!("the {what} `{}` is declared twice", name.text))
        .at(name.span, "declared again")
        .see(first, "declared here first")
}
