//! From syntax trees to a checked plan.
//!
//! One pass over everything: files and imports ([`load`]), references and their order ([`refs`]),
//! then every item in that order: types ([`infer`], [`arg`], [`mix`]), settings ([`settings`]),
//! residency ([`residency`]), instances ([`item`], [`lower`]); last outputs and schedules. A value
//! whose error is reported already is `None` from there on, so that no error is reported twice.

mod arg;
mod effect;
mod groups;
mod index;
mod infer;
mod item;
mod load;
mod lower;
mod mix;
mod output;
mod params;
mod path;
mod program;
mod refs;
mod residency;
mod schedule;
mod schedule_values;
mod settings;
mod typed;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use headstart_protocol::Type;
use headstart_protocol::kinds::{Kind, Kinds};

use crate::ast;
use crate::codes::{Code, Severity};
use crate::diagnostic::Diagnostic;
use crate::loader::FileLoader;
use crate::plan::{Instance, Item, Plan};
use crate::span::{FileId, Sources, Span};
use crate::symbols::Index;
use crate::syntax::Parsed;
use typed::{TypedExpr, TypedExprKind, Var};

/// The outcome of a check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The plan; none where there are errors.
    pub plan: Option<Plan>,
    /// Errors and warnings, by place.
    pub diagnostics: Vec<Diagnostic>,
    /// Every file that was read.
    pub sources: Sources,
    /// Parameters without a value, for which [`check_module`] and [`analyze`] took any value; then
    /// there is no plan.
    pub open: Vec<String>,
}

impl Checked {
    /// Whether any diagnostic is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }
}

/// Checks the pipeline file at `path`. `sets` holds parameter values as given on the command line;
/// relative paths among them are taken as they are.
pub fn check(path: &str, loader: &dyn FileLoader, sets: &BTreeMap<String, String>) -> Checked {
    run(path, loader, sets, &mut Trees::default(), Mode::Run, None)
}

/// Checks like [`check`], and says for every name where it is and what it means.
pub fn analyze(path: &str, loader: &dyn FileLoader, sets: &BTreeMap<String, String>) -> (Checked, Index) {
    analyze_again(path, loader, sets, &mut Trees::default())
}

/// Checks a file that may be a module: parameters that only an import can give, such as a `Model`,
/// may be open, and what the module makes may be private. There is a plan only where none is open.
pub fn check_module(path: &str, loader: &dyn FileLoader, sets: &BTreeMap<String, String>) -> Checked {
    run(path, loader, sets, &mut Trees::default(), Mode::Module, None)
}

/// What an analysis leaves for the next one of the same file: then only what changed is parsed.
#[derive(Clone, Debug, Default)]
pub struct Trees(HashMap<String, Parsed>);

/// Analyzes like [`analyze`], faster where `trees` are from an earlier analysis of this file.
pub fn analyze_again(
    path: &str,
    loader: &dyn FileLoader,
    sets: &BTreeMap<String, String>,
    trees: &mut Trees,
) -> (Checked, Index) {
    let mut index = Index::default();
    let checked = run(path, loader, sets, trees, Mode::Module, Some(&mut index));
    (checked, index)
}

fn run(
    path: &str,
    loader: &dyn FileLoader,
    sets: &BTreeMap<String, String>,
    trees: &mut Trees,
    mode: Mode,
    index: Option<&mut Index>,
) -> Checked {
    let mut c = Checker {
        loader,
        mode,
        open: Vec::new(),
        trees: std::mem::take(&mut trees.0),
        parsed: HashMap::new(),
        sources: Sources::default(),
        diags: Vec::new(),
        files: HashMap::new(),
        scopes: Vec::new(),
        params: Vec::new(),
        programs: Vec::new(),
        items: Vec::new(),
        instances: Vec::new(),
        bases: Vec::new(),
        groups: HashMap::new(),
    };
    let plan = c.load_root(path).then(|| c.plan(sets, index));
    trees.0 = std::mem::take(&mut c.parsed);
    c.finish(plan)
}

/// What the root file is checked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// To be run: every parameter needs a value.
    Run,
    /// To be imported, or to be looked at: parameters may be open.
    Module,
}

struct Checker<'l> {
    loader: &'l dyn FileLoader,
    mode: Mode,
    /// Parameters of the root file that are open.
    open: Vec<(Span, String)>,
    /// Files as an earlier check parsed them, and as this one does.
    trees: HashMap<String, Parsed>,
    parsed: HashMap<String, Parsed>,
    sources: Sources,
    diags: Vec<Diagnostic>,
    /// Files read so far, by path.
    files: HashMap<String, (FileId, Arc<ast::File>)>,
    /// The root file is scope 0; every import makes another.
    scopes: Vec<Scope>,
    params: Vec<ParamState>,
    programs: Vec<program::ProgramState>,
    /// In file order; those of a module stand where it is imported.
    items: Vec<ItemState>,
    instances: Vec<Instance>,
    /// The model that each instance is or personalizes, as an instance, where the file tells.
    bases: Vec<Option<u32>>,
    /// Sizes of groups, with where each is stated first.
    groups: HashMap<String, (u32, Span)>,
}

/// A file with values for its parameters.
struct Scope {
    tree: Arc<ast::File>,
    /// The file's folder: relative paths start there.
    dir: Arc<str>,
    path: String,
    /// In front of names in the plan: empty, or `explain.`
    prefix: String,
    names: BTreeMap<String, (Entity, Span)>,
    /// What can be called here: the built-in kinds, and those of this file's programs.
    kinds: Kinds,
    outputs: Vec<Arc<ast::Output>>,
    schedules: Vec<Arc<ast::Schedule>>,
    used: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entity {
    Param(usize),
    Item(usize),
    Module(usize),
    Program(usize),
    /// Declared, but with an error that is reported.
    Bad,
}

struct ParamState {
    scope: usize,
    ast: Arc<ast::Param>,
    /// The value that an import gives: the importer's scope, and the expression.
    arg: Option<(usize, ast::Expr)>,
    /// The value that the command line gives.
    set: Option<String>,
    used: bool,
    value: ParamValue,
}

enum ParamValue {
    Pending,
    /// Being worked out: meeting it again is a cycle.
    Busy,
    /// The value, and the items in it.
    Done(Option<TypedExpr>, Vec<usize>),
}

struct ItemState {
    scope: usize,
    decl: Arc<ast::Decl>,
    /// With the module's prefix.
    name: String,
    kind: Option<Arc<Kind>>,
    /// Type of one instance; none where that is not known.
    ty: Option<Type>,
    keyed: bool,
    optional: bool,
    /// Keys and instances of a fan-out, in order.
    keys: Vec<(String, u32)>,
    by_key: HashMap<String, u32>,
    instances: Range<u32>,
    /// Whether it has its instances; not so in cycles, and where its loops have errors.
    done: bool,
    private: Option<Private>,
    used: bool,
    /// What it refers to, with the first place of each.
    refs: Vec<(usize, Span)>,
}

/// Residency of an item.
#[derive(Clone, Debug)]
struct Private {
    device: String,
    /// The private item that makes it private, and where it is used; none for a `private dataset`.
    via: Option<(usize, Span)>,
    /// Whether its residency has an error: then nothing that follows from it is reported.
    reported: bool,
}

/// Where an expression is evaluated.
struct Ctx {
    scope: usize,
    vars: Vec<Var>,
    /// The items that were met.
    uses: Vec<(usize, Span)>,
}

impl Ctx {
    fn new(scope: usize) -> Self {
        Self { scope, vars: Vec::new(), uses: Vec::new() }
    }
}

impl Checker<'_> {
    fn report(&mut self, d: Diagnostic) {
        self.diags.push(d);
    }

    fn plan(&mut self, sets: &BTreeMap<String, String>, index: Option<&mut Index>) -> Plan {
        self.give_sets(sets);
        for item in self.order() {
            self.item(item);
        }
        self.check_params();
        let (outputs, schedules) = (self.outputs(), self.schedules());
        self.report_unused();
        if let Some(index) = index {
            *index = self.index();
        }
        let root = &self.scopes[0];
        let plan = Plan {
            doc: ast::Item::doc_text(&root.tree.doc),
            items: self.items.iter().map(|i| self.plan_item(i)).collect(),
            instances: std::mem::take(&mut self.instances),
            outputs,
            schedules,
            params: self.shown_params(),
            programs: self.programs.iter().map(|p| p.plan.clone()).collect(),
        };
        if self.scopes.len() == 1 { plan } else { self.without_unneeded(plan) }
    }

    fn plan_item(&self, i: &ItemState) -> Item {
        let d = &i.decl;
        Item {
            name: i.name.clone(),
            declared: d.declared,
            kind: i.kind.as_ref().map(|k| k.name.clone()).unwrap_or_default(),
            ty: i.ty.clone().unwrap_or(Type::Text),
            doc: d.doc.clone(),
            keyed: i.keyed,
            file: self.sources.file(d.name.span.file).path.clone(),
            line: self.sources.line(d.name.span),
        }
    }

    /// A module's items are made only where the root file needs them.
    fn without_unneeded(&self, plan: Plan) -> Plan {
        let mut needed: Vec<String> =
            self.items.iter().filter(|i| i.scope == 0).map(|i| i.name.clone()).collect();
        for o in &plan.outputs {
            o.value.each_output(&mut |n| {
                if let Some(i) = plan.instances.get(n as usize) {
                    needed.push(plan.items[i.item as usize].name.clone());
                }
            });
        }
        needed.extend(plan.schedules.iter().flat_map(|s| s.run.iter().cloned()));
        let kept = plan.subset(&needed);
        Plan { schedules: plan.schedules, ..kept }
    }

    fn finish(mut self, plan: Option<Plan>) -> Checked {
        // A module that is imported twice reports everything twice.
        let mut seen: Vec<Diagnostic> = Vec::new();
        self.diags.sort_by_key(|d| d.span().map(|s| (s.file, s.start, s.end)));
        for d in self.diags {
            if !seen.iter().rev().take_while(|s| s.span() == d.span()).any(|s| *s == d) {
                seen.push(d);
            }
        }
        let bad = seen.iter().any(|d| d.severity == Severity::Error);
        let plan = plan.filter(|_| !bad && self.open.is_empty());
        self.open.sort();
        let open = self.open.into_iter().map(|(_, name)| name).collect();
        Checked { plan, diagnostics: seen, sources: self.sources, open }
    }

    fn item_ref(&mut self, ctx: &mut Ctx, item: usize, span: Span) -> Option<TypedExpr> {
        ctx.uses.push((item, span));
        let i = &self.items[item];
        let ty = i.ty.clone()?;
        if !i.done && !i.keyed {
            return None;
        }
        let (t, ty) = match (i.keyed, i.optional) {
            (true, _) => (TypedExprKind::All(item), ty.list()),
            (false, true) => (TypedExprKind::Item(item), ty.optional()),
            (false, false) => (TypedExprKind::Item(item), ty),
        };
        Some(TypedExpr { kind: t, ty, span, literal: false })
    }

    /// Names that may be referred to.
    fn known_names<'a>(&'a self, ctx: &'a Ctx) -> impl Iterator<Item = &'a str> {
        let vars = ctx.vars.iter().map(|v| v.name.text.as_str());
        vars.chain(self.scopes[ctx.scope].names.keys().map(String::as_str))
    }

    fn unknown_name(&mut self, ctx: &Ctx, name: &str, span: Span) {
        let d = Diagnostic::new(Code::E0101, format!("cannot find `{name}` in this file"));
        let d = d.at(span, "not found");
        let outputs = &self.scopes[ctx.scope].outputs;
        let d = match outputs.iter().find(|o| o.name.text == name) {
            Some(o) => d
                .see(o.name.span, "this is an output")
                .help("outputs cannot be referred to; name the item that it outputs"),
            None => match name.to_ascii_lowercase().as_str() {
                word @ ("true" | "false") => d.suggest(word, span, [word]),
                "none" | "null" | "nil" => d.help("there is no such value: leave out what is absent"),
                _ => d.suggest(name, span, self.known_names(ctx)),
            },
        };
        self.report(d);
    }
}
