//! The index of names and places, for editors.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use headstart_protocol::kinds::{Accepts, Arg};
use headstart_protocol::{Type, Value};

use super::typed::{number, show};
use super::{Checker, Entity, ParamValue};
use crate::ast::{self, Block, Call, Decl, Expr, ExprKind, ItemKind, Name, Ty};
use crate::plan::Declared;
use crate::span::{FileId, Span};
use crate::symbols::{Index, Mark, Symbol, SymbolKind, Target};
use crate::words::{self, Word};

struct Build<'a, 'l> {
    c: &'a Checker<'l>,
    out: Index,
    /// Items, parameters and imports of each file.
    names: HashMap<(FileId, String), usize>,
    outputs: HashMap<(FileId, String), usize>,
    /// The file that is being walked, and its scope.
    file: FileId,
    scope: usize,
    /// Loop variables of the item that is being walked.
    vars: Vec<(String, usize)>,
}

impl Checker<'_> {
    /// Names and places of every file. A file that is imported several times counts once.
    pub(super) fn index(&self) -> Index {
        let out = Index::default();
        let (names, outputs) = (HashMap::new(), HashMap::new());
        let mut b = Build { c: self, out, names, outputs, file: FileId(0), scope: 0, vars: Vec::new() };
        b.out.kinds = self.scopes.first().map(|s| s.kinds.clone()).unwrap_or_default();
        let mut seen = BTreeSet::new();
        let scopes = (0..self.scopes.len()).filter_map(|n| Some((n, self.scope_file(n)?)));
        let scopes: Vec<(usize, FileId)> = scopes.filter(|(_, f)| seen.insert(*f)).collect();
        for (scope, file) in &scopes {
            b.file = *file;
            let tree = self.scopes[*scope].tree.clone();
            for item in &tree.items {
                let first = b.out.symbols.len();
                b.declare(*scope, item);
                b.out.symbols[first..].iter_mut().for_each(|s| s.whole = item.span);
            }
        }
        for (scope, file) in &scopes {
            (b.file, b.scope) = (*file, *scope);
            let tree = self.scopes[*scope].tree.clone();
            tree.items.iter().for_each(|i| b.item(i));
        }
        b.out.marks.sort_by_key(|m| m.span);
        b.out
    }

    fn scope_file(&self, scope: usize) -> Option<FileId> {
        self.files.get(&self.scopes[scope].path).map(|(id, _)| *id)
    }
}

impl Build<'_, '_> {
    fn mark(&mut self, span: Span, target: Target) {
        self.out.marks.push(Mark { span, target, definition: false });
    }

    fn symbol(&mut self, name: &Name, kind: SymbolKind, doc: &str) -> &mut Symbol {
        let number = self.out.symbols.len();
        let target = Target::Symbol(number);
        self.out.marks.push(Mark { span: name.span, target, definition: true });
        let key = (self.file, name.text.clone());
        match kind {
            SymbolKind::Output => drop(self.outputs.entry(key).or_insert(number)),
            SymbolKind::Schedule | SymbolKind::Variable => {}
            _ => drop(self.names.entry(key).or_insert(number)),
        }
        self.out.symbols.push(Symbol {
            name: name.text.clone(),
            kind,
            span: name.span,
            whole: name.span,
            ty: None,
            doc: doc.to_owned(),
            made_by: None,
            keys: None,
            place: None,
            private_to: None,
            value: None,
            file: None,
        });
        &mut self.out.symbols[number]
    }

    fn declare(&mut self, scope: usize, item: &ast::Item) {
        let doc = ast::Item::doc_text(&item.doc);
        let entity = |name: &Name| match self.c.scopes[scope].names.get(&name.text) {
            Some((entity, span)) if *span == name.span => Some(*entity),
            _ => None,
        };
        match &item.kind {
            ItemKind::Import(i) => {
                let file = match entity(&i.name) {
                    Some(Entity::Module(m)) => self.c.scope_file(m),
                    _ => None,
                };
                let s = self.symbol(&i.name, SymbolKind::Import, &doc);
                s.file = file;
                s.value = Some(i.path.text.clone());
            }
            ItemKind::Program(p) => {
                let s = self.symbol(&p.name, SymbolKind::Program, &doc);
                s.value = Some(p.path.text.clone());
            }
            ItemKind::Param(p) => {
                let value = match entity(&p.name) {
                    Some(Entity::Param(n)) => match &self.c.params[n].value {
                        ParamValue::Done(Some(v), _) => Some(show(&v.kind)),
                        _ => None,
                    },
                    _ => None,
                };
                let s = self.symbol(&p.name, SymbolKind::Param, &doc);
                s.ty = plain_type(&p.ty);
                s.value = value;
            }
            ItemKind::Decl(d) => {
                let number = match entity(&d.name) {
                    Some(Entity::Item(n)) => Some(n),
                    _ => None,
                };
                self.declare_decl(d, number, &doc);
            }
            ItemKind::Schedule(s) => drop(self.symbol(&s.name, SymbolKind::Schedule, &doc)),
            ItemKind::Output(o) => drop(self.symbol(&o.name, SymbolKind::Output, &doc)),
            ItemKind::Bad(_) => {}
        }
    }

    fn declare_decl(&mut self, d: &Arc<Decl>, number: Option<usize>, doc: &str) {
        let kind = match d.declared {
            Declared::Model => SymbolKind::Model,
            Declared::Dataset => SymbolKind::Dataset,
            Declared::Space => SymbolKind::Space,
            Declared::Stage => SymbolKind::Stage,
        };
        let c = self.c;
        let s = self.symbol(&d.name, kind, doc);
        let Some(item) = number.map(|n| &c.items[n]) else { return };
        s.ty = item.ty.clone().map(|t| match (item.keyed, item.optional) {
            (true, _) => t.list(),
            (false, true) => t.optional(),
            (false, false) => t,
        });
        s.made_by = item.kind.clone();
        if item.keyed && item.done {
            let keys = item.keys.iter().take(Symbol::KEYS).map(|(k, _)| k.clone());
            s.keys = Some((keys.collect(), item.keys.len()));
        }
        s.place =
            c.instances.get(item.instances.start as usize).filter(|_| item.done).map(|i| i.place.clone());
        s.private_to = item.private.as_ref().map(|p| p.device.clone());
    }

    fn item(&mut self, item: &ast::Item) {
        self.vars.clear();
        match &item.kind {
            ItemKind::Import(i) => {
                let number = self.names.get(&(self.file, i.name.text.clone()));
                let file = number.and_then(|n| self.out.symbols[*n].file);
                if let Some(file) = file {
                    self.mark(i.path.span, Target::File(file));
                }
                for s in i.args.iter().flat_map(|b| &b.settings) {
                    let param = file.and_then(|f| self.names.get(&(f, s.name.text.clone())).copied());
                    if let Some(p) = param {
                        self.mark(s.name.span, Target::Symbol(p));
                    }
                    self.expr(&s.value);
                }
            }
            ItemKind::Param(p) => {
                self.ty(&p.ty);
                p.default.iter().for_each(|e| self.expr(e));
            }
            ItemKind::Decl(d) => self.decl(d),
            ItemKind::Schedule(s) => self.block(&s.block, words::ENTRIES),
            ItemKind::Output(o) => self.expr(&o.value),
            ItemKind::Program(_) | ItemKind::Bad(_) => {}
        }
    }

    fn decl(&mut self, d: &Decl) {
        d.ty.iter().for_each(|t| self.ty(t));
        d.bindings.iter().for_each(|b| self.expr(&b.list));
        let mut vars = Vec::new();
        for b in &d.bindings {
            let ty = match self.type_of(&b.list) {
                Some(Type::List(t)) => Some(*t),
                _ => None,
            };
            self.symbol(&b.name, SymbolKind::Variable, "").ty = ty;
            vars.push((b.name.text.clone(), self.out.symbols.len() - 1));
        }
        self.vars = vars;
        self.expr(&d.value);
        d.when.iter().for_each(|e| self.expr(e));
        d.on.iter().for_each(|e| self.expr(e));
        d.settings.iter().for_each(|b| self.block(b, words::SETTINGS));
    }

    fn block(&mut self, block: &Block, known: &'static [Word]) {
        for s in &block.settings {
            let Some(word) = words::find(known, &s.name.text) else {
                self.expr(&s.value);
                continue;
            };
            self.mark(s.name.span, Target::Word(word));
            match word.name {
                "only_when" => self.fixed(&s.value, words::CONDITIONS),
                "overlap" => self.fixed(&s.value, words::OVERLAP),
                "catchup" => self.fixed(&s.value, words::CATCHUP),
                // Schedules have names of their own.
                "after" => {}
                _ => self.expr(&s.value),
            }
        }
    }

    /// One or several of some fixed words.
    fn fixed(&mut self, e: &Expr, known: &'static [Word]) {
        match &e.bare().kind {
            ExprKind::Name(n) => {
                if let Some(word) = words::find(known, n) {
                    self.mark(e.bare().span, Target::Word(word));
                }
            }
            ExprKind::List(all) => all.iter().for_each(|e| self.fixed(e, known)),
            _ => {}
        }
    }

    fn ty(&mut self, ty: &Ty) {
        if let Some(t) = Type::from_name(&ty.name.text) {
            self.mark(ty.name.span, Target::Type(t));
        }
        ty.of.iter().for_each(|t| self.ty(t));
    }

    fn named(&self, name: &str) -> Option<usize> {
        let var = self.vars.iter().find(|(n, _)| n == name).map(|(_, s)| *s);
        let here = || self.names.get(&(self.file, name.to_owned())).copied();
        var.or_else(here)
    }

    fn expr(&mut self, e: &Expr) {
        match &e.kind {
            ExprKind::Name(n) => {
                // `run` of a schedule names outputs too.
                let output = || self.outputs.get(&(self.file, n.clone())).copied();
                if let Some(s) = self.named(n).or_else(output) {
                    self.mark(e.span, Target::Symbol(s));
                }
            }
            ExprKind::Field(of, name) => self.field(of, name),
            ExprKind::Element(a, b) | ExprKind::Compare(a, _, b) => {
                self.expr(a);
                self.expr(b);
            }
            ExprKind::List(all) | ExprKind::Or(all) | ExprKind::Product(all) | ExprKind::Join(all) => {
                all.iter().for_each(|e| self.expr(e));
            }
            ExprKind::Sum(all) => all.iter().for_each(|(_, e)| self.expr(e)),
            ExprKind::Paren(e) | ExprKind::Not(e) | ExprKind::Minus(e) => self.expr(e),
            ExprKind::Call(call) => self.call(call),
            ExprKind::Text(_) | ExprKind::Number(..) | ExprKind::Bool(_) | ExprKind::Bad => {}
        }
    }

    /// The file of a module that an expression names.
    fn module(&self, e: &Expr) -> Option<FileId> {
        let number = match &e.kind {
            ExprKind::Name(n) => self.named(n),
            ExprKind::Field(of, name) => self.names.get(&(self.module(of)?, name.text.clone())).copied(),
            _ => None,
        };
        self.out.symbols[number?].file
    }

    fn field(&mut self, of: &Expr, name: &Name) {
        self.expr(of);
        if let Some(file) = self.module(of) {
            let key = (file, name.text.clone());
            if let Some(s) = self.outputs.get(&key).or(self.names.get(&key)).copied() {
                self.mark(name.span, Target::Symbol(s));
            }
            return;
        }
        if let Some(ty) = self.type_of(of)
            && ty.present().field(&name.text).is_some()
        {
            self.mark(name.span, Target::Field(ty.present().clone(), name.text.clone()));
        }
    }

    fn call(&mut self, call: &Call) {
        let c = self.c;
        let of_program = call.of_program();
        if let Some((program, _)) = &of_program
            && let Some(n) = self.named(&program.text)
        {
            self.mark(program.span, Target::Symbol(n));
        }
        let Some(kind) = c.scopes[self.scope].kinds.find(&call.name.text) else {
            if let Some(word) = words::find(words::FUNCTIONS, &call.name.text) {
                self.mark(call.name.span, Target::Word(word));
            }
            call.args.iter().for_each(|a| self.expr(&a.value));
            return;
        };
        let stage = of_program.map_or(call.name.span, |(_, stage)| stage.span);
        self.mark(stage, Target::Kind(kind.clone()));
        for (n, arg) in call.args.iter().enumerate() {
            let spec = match &arg.name {
                Some(name) => kind.args.iter().position(|a| a.name == name.text),
                None => Some(n),
            };
            if let (Some(name), Some(spec)) = (&arg.name, spec) {
                self.mark(name.span, Target::Argument(kind.clone(), spec));
            }
            self.argument(spec.and_then(|n| kind.args.get(n)), &arg.value);
        }
    }

    /// Bare words and the metric of a condition are no names.
    fn argument(&mut self, spec: Option<&Arg>, value: &Expr) {
        for accepts in spec.iter().flat_map(|s| &s.accepts) {
            match (accepts, &value.bare().kind) {
                (Accepts::Word(words), ExprKind::Name(n)) if words.contains(n) => return,
                (Accepts::Condition, ExprKind::Compare(_, _, bound)) => return self.expr(bound),
                _ => {}
            }
        }
        self.expr(value);
    }

    /// The type of an expression, as far as names tell.
    fn type_of(&self, e: &Expr) -> Option<Type> {
        match &e.bare().kind {
            ExprKind::Name(n) => self.out.symbols[self.named(n)?].ty.clone(),
            ExprKind::Field(of, name) => match self.module(of) {
                Some(file) => self.out.symbols[*self.names.get(&(file, name.text.clone()))?].ty.clone(),
                None => self.type_of(of)?.present().field(&name.text),
            },
            ExprKind::Element(of, _) => match self.type_of(of)? {
                Type::List(t) => Some(*t),
                _ => None,
            },
            ExprKind::List(all) => Some(self.type_of(all.first()?)?.list()),
            ExprKind::Or(all) => self.type_of(all.last()?),
            ExprKind::Call(call) if call.name.text == "glob" => Some(Type::Path.list()),
            ExprKind::Join(_) => Some(Type::Path),
            ExprKind::Text(_) => Some(Type::Text),
            ExprKind::Bool(_) | ExprKind::Compare(..) | ExprKind::Not(_) => Some(Type::Bool),
            ExprKind::Number(n, _) => Some(match number(*n).0 {
                Value::Int(_) => Type::Int,
                Value::Duration(_) => Type::Duration,
                Value::Bytes(_) => Type::Bytes,
                _ => Type::Float,
            }),
            _ => None,
        }
    }
}

/// A type as written, without reports.
fn plain_type(ty: &Ty) -> Option<Type> {
    let plain = match &ty.of {
        Some(of) => plain_type(of)?.list(),
        None => Type::from_name(&ty.name.text)?,
    };
    Some(if ty.optional { plain.optional() } else { plain })
}
