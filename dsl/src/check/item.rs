//! Models, datasets, spaces and stages: everything about one item, and its instances.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use headstart_protocol::Type;
use headstart_protocol::kinds::{self, Kind, Role};

use super::lower::Lower;
use super::typed::{TypedExprKind, Var};
use super::{Checker, Ctx};
use crate::ast::{Call, Decl, ExprKind};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::names;
use crate::names::with_article;
use crate::plan::{Declared, Instance, Place, Policy};
use crate::span::Span;

/// Instances of a plan at most: laid out and run they take memory and time in proportion.
const MAX_INSTANCES: usize = 250_000;

impl Declared {
    /// Its keyword.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
            Self::Stage => "stage",
        }
    }

    fn role(self) -> Role {
        match self {
            Self::Model => Role::Model,
            Self::Dataset => Role::Dataset,
            Self::Space => Role::Space,
            Self::Stage => Role::Stage,
        }
    }

    /// The type that the keyword states; a stage states its own.
    fn ty(self) -> Option<Type> {
        match self {
            Self::Model => Some(Type::Model),
            Self::Dataset => Some(Type::Dataset),
            Self::Space => Some(Type::Space),
            Self::Stage => None,
        }
    }

    fn of_role(role: Role) -> Self {
        match role {
            Role::Model => Self::Model,
            Role::Dataset => Self::Dataset,
            Role::Space => Self::Space,
            Role::Stage => Self::Stage,
        }
    }
}

impl Checker<'_> {
    /// Checks an item and makes its instances.
    pub(super) fn item(&mut self, i: usize) {
        let decl = self.items[i].decl.clone();
        let mut ctx = Ctx::new(self.items[i].scope);
        let call = self.kind(i, &decl);
        self.items[i].ty = self.item_type(i, &decl);
        let looped = self.bindings(&mut ctx, &decl);
        let args = match call {
            Some((kind, call)) => self.args(&mut ctx, &kind, call),
            None => BTreeMap::new(),
        };
        let when = self.when(&mut ctx, &decl);
        let (place, policy) = self.settings(i, &decl, &mut ctx);
        self.residency(i, &decl, &ctx, &place);
        if looped {
            self.instances(i, &decl, ctx, Made { args, when, place, policy });
        }
    }

    /// The kind that is called, and the call.
    fn kind<'d>(&mut self, i: usize, decl: &'d Decl) -> Option<(Arc<Kind>, &'d Call)> {
        let ExprKind::Call(call) = &decl.value.bare().kind else {
            if !matches!(decl.value.kind, ExprKind::Bad) {
                let keyword = decl.declared.keyword();
                let example =
                    kinds::all().find(|k| k.role == decl.declared.role()).map_or("", |k| &k.example);
                let d = Diagnostic::new(Code::E0212, format!("a {keyword} must be made by a stage kind"))
                    .at(decl.value.span, "no call of a kind")
                    .help(format!("write, for instance, `{example}`"));
                self.report(d);
            }
            return None;
        };
        let Some(kind) = self.kind_called(self.items[i].scope, call) else {
            if self.report_no_stage(self.items[i].scope, call) {
                return None;
            }
            let role = decl.declared.role();
            let of_role = || kinds::all().filter(move |k| k.role == role).map(|k| k.name.as_str());
            let keyword = decl.declared.keyword();
            let d = Diagnostic::new(Code::E0103, format!("cannot find stage kind `{}`", call.name.text))
                .at(call.name.span, "unknown kind")
                .suggest(
                    &call.name.text,
                    call.name.span,
                    of_role().chain(kinds::all().map(|k| k.name.as_str())),
                )
                .note(format!("a `{keyword}` can be made by {}", names::quoted(of_role(), "or")));
            self.report(d);
            return None;
        };
        self.items[i].kind = Some(kind.clone());
        if kind.role != decl.declared.role() {
            let right = Declared::of_role(kind.role);
            let ty = if right == Declared::Stage { format!(": {}", kind.returns) } else { String::new() };
            let d = Diagnostic::new(
                Code::E0211,
                format!("`{}` makes {}", kind.name, with_article(&kind.returns)),
            )
            .at(decl.keyword, format!("says `{}`", decl.declared.keyword()))
            .see(call.name.span, format!("makes {}", with_article(&kind.returns)))
            .help(format!(
                "write `{} {}{ty} = {}(…)`",
                right.keyword(),
                decl.name.text,
                call.name.text
            ));
            self.report(d);
        }
        Some((kind, call))
    }

    /// The type of one instance: as stated, or as the kind makes it.
    fn item_type(&mut self, i: usize, decl: &Decl) -> Option<Type> {
        let kind = self.items[i].kind.clone();
        if let Some(ty) = decl.declared.ty() {
            if let Some(stated) = &decl.ty {
                let d = Diagnostic::new(
                    Code::E0216,
                    format!("`{}` says the type already", decl.declared.keyword()),
                )
                .at(stated.span, "not needed")
                .help("remove the type");
                self.report(d);
            }
            return Some(ty);
        }
        let makes = kind.as_ref().map(|k| k.returns.clone());
        let Some(stated) = &decl.ty else {
            let d = Diagnostic::new(Code::E0007, "missing type of this stage");
            let d = d.at(decl.name.span, "no type");
            let d = match &makes {
                Some(ty) => d.help(format!("write `stage {}: {ty} = …`", decl.name.text)),
                None => d.help(format!("write `stage {}: Type = …`", decl.name.text)),
            };
            self.report(d);
            return makes;
        };
        let Some(ty) = self.ty(stated) else { return makes };
        let (Some(kind), Some(makes)) = (kind, makes) else { return Some(ty) };
        if ty == makes || kind.role != Role::Stage {
            return Some(makes);
        }
        let d = Diagnostic::new(
            Code::E0202,
            format!("`{}` makes {}, not {}", kind.name, with_article(&makes), with_article(&ty)),
        )
        .at(stated.span, format!("says {}", with_article(&ty)))
        .see(decl.value.span, format!("makes {}", with_article(&makes)));
        self.report(match &ty {
            Type::List(t) if **t == makes => {
                d.help(format!("write `{makes}`: the type is that of one element, `for` makes the list"))
            }
            Type::Optional(t) if **t == makes => {
                d.help(format!("write `{makes}`: `when` makes it optional by itself"))
            }
            _ => d.help(format!("write `{makes}`")),
        });
        // What reads it was written for the stated type: one error, one message.
        match ty {
            Type::List(t) | Type::Optional(t) if *t == makes => Some(makes),
            other => Some(other),
        }
    }

    /// The loop variables. False where a list is not known.
    fn bindings(&mut self, ctx: &mut Ctx, decl: &Decl) -> bool {
        let mut vars: Vec<Var> = Vec::new();
        for b in &decl.bindings {
            let known = self.scopes[ctx.scope].names.get(&b.name.text).map(|(_, span)| *span);
            let earlier = vars.iter().find(|v| v.name.text == b.name.text).map(|v| v.name.span);
            if let Some(first) = earlier.or(known) {
                let d = Diagnostic::new(Code::E0102, format!("the name `{}` is already used", b.name.text))
                    .at(b.name.span, "a loop variable of the same name")
                    .see(first, "declared here")
                    .help("give the variable another name");
                self.report(d);
            }
            let mut var = self.binding(ctx, b);
            // What the name means is open: nothing that follows from it is reported.
            var.known &= earlier.or(known).is_none();
            vars.push(var);
        }
        ctx.vars = vars;
        ctx.vars.iter().all(|v| v.known)
    }

    fn binding(&mut self, ctx: &mut Ctx, b: &crate::ast::Binding) -> Var {
        let mut var = Var {
            name: b.name.clone(),
            ty: Type::Text,
            literal: false,
            elements: Arc::default(),
            as_path: false,
            known: false,
        };
        let Some(list) = self.infer(ctx, &b.list) else { return var };
        let Type::List(element) = &list.ty else {
            let d = Diagnostic::new(
                Code::E0205,
                format!("`for` loops over a list, not {}", with_article(&list.ty)),
            )
            .at(list.span, with_article(&list.ty));
            self.report(d.help("remove the `for`, or loop over a list"));
            return var;
        };
        var.ty = (**element).clone();
        var.literal = list.literal;
        match list.kind {
            TypedExprKind::All(i) => {
                let item = &self.items[i];
                if item.optional {
                    var.ty = var.ty.optional();
                }
                if item.done {
                    let each = item.keys.iter().map(|(k, n)| (k.clone(), TypedExprKind::Instance(*n)));
                    var.elements = Arc::new(each.collect());
                    var.known = true;
                }
            }
            TypedExprKind::List(items) => {
                var.elements = Arc::new(items);
                var.known = true;
            }
            _ => {
                let d =
                    Diagnostic::new(Code::E0205, "the elements of this list are known only during the run");
                self.report(d.at(list.span, "").note("a fan-out is expanded before the run"));
            }
        }
        var
    }

    fn when(&mut self, ctx: &mut Ctx, decl: &Decl) -> Option<TypedExprKind> {
        let when = decl.when.as_ref()?;
        if decl.declared != Declared::Stage {
            let d = Diagnostic::new(Code::E0216, format!("a {} has no `when`", decl.declared.keyword()))
                .at(when.span, "only stages have conditions");
            self.report(d.help("put the condition on the stages that use it"));
            return None;
        }
        let typed = self.infer(ctx, when)?;
        let typed = self.plain(typed)?;
        if typed.ty != Type::Bool {
            let d = Diagnostic::new(
                Code::E0206,
                format!("`when` takes true or false, not {}", with_article(&typed.ty)),
            )
            .at(typed.span, with_article(&typed.ty));
            self.report(d.help("compare it, as in `… > 0.5`"));
            return None;
        }
        Some(typed.kind)
    }

    fn instances(&mut self, i: usize, decl: &Decl, ctx: Ctx, made: Made) {
        let first = self.instances.len() as u32;
        let lists: Option<Vec<Vec<String>>> =
            ctx.vars.iter().zip(&decl.bindings).map(|(v, b)| self.keys(v, b.list.span)).collect();
        let Some(lists) = lists else { return };
        let total = lists.iter().try_fold(1usize, |n, l| n.checked_mul(l.len()));
        let left = MAX_INSTANCES.saturating_sub(self.instances.len());
        let Some(total) = total.filter(|n| *n <= left) else {
            let sizes: Vec<String> = lists.iter().map(|l| l.len().to_string()).collect();
            let label =
                if sizes.is_empty() { "one more".into() } else { format!("{} elements", sizes.join(" × ")) };
            let name = &self.items[i].name;
            let d = Diagnostic::new(
                Code::E0302,
                format!("with `{name}` the plan has more than {MAX_INSTANCES} instances"),
            );
            self.report(d.at(decl.name.span, label));
            return;
        };
        let mut clashes = HashSet::new();
        let mut at = vec![0usize; lists.len()];
        for n in 0..total {
            // The first variable is the outermost.
            let mut rest = n;
            for (place, list) in at.iter_mut().zip(&lists).rev() {
                *place = rest % list.len();
                rest /= list.len();
            }
            let parts: Vec<&str> = at.iter().zip(&lists).map(|(at, l)| l[*at].as_str()).collect();
            let key = (!lists.is_empty()).then(|| parts.join(","));
            let (instance, clash) = self.instance(i, key, &ctx.vars, &at, &made);
            if let Some((span, d)) = clash {
                // One diagnostic a term, however many instances show it.
                if clashes.insert(span) {
                    self.report(d);
                }
            }
            if let Some(key) = &instance.key {
                let number = self.instances.len() as u32;
                self.items[i].keys.push((key.clone(), number));
                if self.items[i].by_key.insert(key.clone(), number).is_some() {
                    let span = decl.bindings.first().map_or(decl.name.span, |b| b.list.span);
                    self.report(same_key(key, span));
                    return;
                }
            }
            self.bases.push(self.base(
                self.items[i].kind.as_deref(),
                self.instances.len() as u32,
                &instance.args,
            ));
            self.instances.push(instance);
        }
        self.items[i].instances = first..self.instances.len() as u32;
        self.items[i].done = true;
    }

    /// One instance, and a diagnostic where it mixes pLLMs of different bases.
    fn instance(
        &self,
        i: usize,
        key: Option<String>,
        vars: &[Var],
        at: &[usize],
        made: &Made,
    ) -> (Instance, Option<(Span, Diagnostic)>) {
        let item = &self.items[i];
        let lower = Lower { checker: self, vars, at, device: made.place != Place::Server };
        let args = made.args.iter().map(|(n, t)| (n.clone(), lower.expr(t)));
        let args: BTreeMap<_, _> = args.filter(|(_, e)| !lower.absent(e)).collect();
        let clash = made.args.values().find_map(|t| lower.base_clash(t));
        let instance = Instance {
            item: i as u32,
            name: match &key {
                Some(k) => format!("{}[{k:?}]", item.name),
                None => item.name.clone(),
            },
            key,
            kind: item.kind.as_ref().map(|k| k.name.clone()).unwrap_or_default(),
            version: item.kind.as_ref().map_or(0, |k| k.version),
            args,
            when: made.when.as_ref().map(|t| lower.expr(t)),
            place: made.place.clone(),
            policy: made.policy.clone(),
            private_to: item.private.as_ref().map(|p| p.device.clone()),
            release: Vec::new(),
        };
        (instance, clash)
    }

    /// The keys of a variable's elements, each once.
    fn keys(&mut self, var: &Var, span: Span) -> Option<Vec<String>> {
        let mut seen = HashSet::new();
        let mut keys = Vec::with_capacity(var.elements.len());
        for (key, _) in var.elements.iter() {
            let key = if var.as_path { loader::stem(key).to_owned() } else { key.clone() };
            if !seen.insert(key.clone()) {
                self.report(same_key(&key, span));
                return None;
            }
            keys.push(key);
        }
        Some(keys)
    }
}

/// What every instance of an item has in common.
struct Made {
    args: BTreeMap<String, TypedExprKind>,
    when: Option<TypedExprKind>,
    place: Place,
    policy: Policy,
}

fn same_key(key: &str, span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0301, format!("two elements have the key {key:?}"))
        .at(span, "in this list")
        .note("an element is known by its key: a path by its last part without the extension, anything else by its text")
        .help("rename one of them, or list what is meant once")
}
