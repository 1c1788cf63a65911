//! Settings: where an item is made, and how.

use headstart_protocol::{Type, Value};

use super::params::as_name;
use super::typed::{TypedExprKind, number};
use super::{Checker, Ctx};
use crate::ast::{Decl, Expr, ExprKind, Setting};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::plan::{Declared, Place, Policy};
use crate::words::{self, CONDITIONS};

impl Checker<'_> {
    /// Reads an item's settings block and `on` clause.
    pub(super) fn settings(&mut self, item: usize, decl: &Decl, ctx: &mut Ctx) -> (Place, Policy) {
        let mut policy = Policy::default();
        let mut place = Place::Server;
        // Settings hold for all instances: loop variables are not seen.
        let mut plain = Ctx::new(ctx.scope);
        let mut seen: Vec<&Setting> = Vec::new();
        for s in decl.settings.iter().flat_map(|b| &b.settings) {
            if let Some(first) = seen.iter().find(|f| f.name.text == s.name.text) {
                let d = Diagnostic::new(Code::E0105, format!("`{}` is set twice", s.name.text))
                    .at(s.name.span, "set again")
                    .see(first.name.span, "set here first");
                self.report(d);
                continue;
            }
            seen.push(s);
            self.setting(&mut plain, s, &mut place, &mut policy);
        }
        let on_setting = seen.iter().find(|s| s.name.text == "on").map(|s| s.name.span);
        if let Some(on) = &decl.on {
            if decl.private.is_none() {
                let d = match decl.declared {
                    Declared::Dataset => {
                        Diagnostic::new(Code::E0506, "a dataset on a device must be private")
                            .at(on.span, "placed here, but not `private`")
                            .help(format!("write `private dataset {} = …`", decl.name.text))
                    }
                    other => {
                        let what = other.keyword();
                        Diagnostic::new(
                            Code::E0216,
                            format!("a {what} is placed by its settings, not by `on`"),
                        )
                        .at(on.span, "only a private dataset has `on`")
                        .help(format!("write `{{ on: {} }}`", self.sources.text(on.span)))
                    }
                };
                self.report(d);
            }
            if let Some(p) = self.place(&mut plain, on) {
                place = p;
            }
            if let Some(span) = on_setting {
                let d = Diagnostic::new(Code::E0105, "`on` is given twice").at(span, "given again");
                self.report(d.see(on.span, "given here first"));
            }
        } else if decl.declared == Declared::Dataset && decl.private.is_none() && place != Place::Server {
            let span = on_setting.unwrap_or(decl.name.span);
            let d = Diagnostic::new(Code::E0506, "a dataset on a device must be private")
                .at(span, "placed on a device, but not `private`")
                .help(format!("write `private dataset {} = … on device(\"…\")`", decl.name.text));
            self.report(d);
        }
        self.check_placement(item, decl, &place, &policy);
        (place, policy)
    }

    fn check_placement(&mut self, item: usize, decl: &Decl, place: &Place, policy: &Policy) {
        if matches!(place, Place::Device(_)) {
            self.only_on_the_server(decl);
        }
        let Place::Device(device) = place else {
            if !policy.only_when.is_empty() {
                let all = decl.settings.iter().flat_map(|b| &b.settings);
                let span = all.filter(|s| s.name.text == "only_when").map(|s| s.name.span).next();
                let d = Diagnostic::new(Code::E0216, "`only_when` has no effect on the server")
                    .at(span.unwrap_or(decl.name.span), "no device")
                    .help("add `on: device(\"…\")`, or remove it");
                self.report(d);
            }
            if let Some(kind) = self.items[item].kind.clone().filter(|k| !k.places.on_server()) {
                let d = Diagnostic::new(Code::E0508, format!("`{}` runs on devices only", kind.name))
                    .at(decl.value.span, "placed on the server");
                self.report(d.help("add `on: device(\"…\")` to its settings"));
            }
            return;
        };
        if let Some(kind) = self.items[item].kind.clone().filter(|k| !k.places.on_device()) {
            let all = decl.settings.iter().flat_map(|b| &b.settings);
            let set = all.filter(|s| s.name.text == "on").map(|s| s.value.span).next();
            let span = decl.on.as_ref().map(|e| e.span).or(set).unwrap_or(decl.name.span);
            let d = Diagnostic::new(Code::E0508, format!("`{}` cannot run on a device", kind.name))
                .at(span, format!("placed on `{device}`"))
                .see(decl.value.span, "runs on the server only");
            self.report(d.help("leave the placement out"));
        }
    }

    fn setting(&mut self, ctx: &mut Ctx, s: &Setting, place: &mut Place, policy: &mut Policy) {
        match s.name.text.as_str() {
            "on" => {
                if let Some(p) = self.place(ctx, &s.value) {
                    *place = p;
                }
            }
            "memory" => policy.memory = self.bytes(ctx, s),
            "threads" => policy.threads = self.count(ctx, s, 1),
            "limit" => policy.limit = self.group(ctx, s),
            "retry" => policy.retry = self.count(ctx, s, 0).unwrap_or(0),
            "losses" => policy.losses = self.count(ctx, s, 1).unwrap_or(policy.losses),
            "backoff" => policy.backoff_ms = self.duration(ctx, s),
            "timeout" => policy.timeout_ms = self.duration(ctx, s),
            "wait" => policy.wait_ms = self.duration(ctx, s),
            "only_when" => policy.only_when = self.conditions(s),
            other => {
                let known = || words::names(words::SETTINGS);
                let d = Diagnostic::new(Code::E0110, format!("unknown setting `{other}`"))
                    .at(s.name.span, "unknown setting")
                    .suggest(other, s.name.span, known())
                    .note(format!("the settings are {}", names::quoted(known(), "and")));
                self.report(d);
            }
        }
    }

    /// `server` or `device("name")`.
    pub(super) fn place(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<Place> {
        let wrong = |text: &str| {
            Diagnostic::new(Code::E0217, "expected a place: `server` or `device(\"…\")`").at(e.span, text)
        };
        match &e.bare().kind {
            ExprKind::Name(n) if n == "server" => Some(Place::Server),
            ExprKind::Name(n) if n == "device" => {
                self.report(wrong("which device?").help("write `device(\"phone\")`"));
                None
            }
            ExprKind::Text(t) => {
                self.report(wrong("a text").help(format!("write `device({t:?})`")));
                None
            }
            ExprKind::Call(call) if call.name.text == "device" => match call.args.as_slice() {
                [one] if one.name.is_none() => {
                    let name = self.infer(ctx, &one.value)?;
                    match name.kind {
                        TypedExprKind::Const(Value::Text(t)) if !t.trim().is_empty() => {
                            Some(Place::Device(t))
                        }
                        _ => {
                            self.report(wrong("a device is named by a text that is not empty"));
                            None
                        }
                    }
                }
                _ => {
                    self.report(wrong("`device` takes one name").help("write `device(\"phone\")`"));
                    None
                }
            },
            ExprKind::Bad => None,
            ExprKind::Name(n) => {
                self.report(wrong("not a place").help(format!("write `device({n:?})`")));
                None
            }
            _ => {
                self.report(wrong("not a place"));
                None
            }
        }
    }

    fn constant(&mut self, ctx: &mut Ctx, s: &Setting, want: Type, example: &str) -> Option<Value> {
        let typed = self.infer(ctx, &s.value)?;
        match typed.kind {
            TypedExprKind::Const(v) if typed.ty == want => Some(v),
            _ => {
                let name = &s.name.text;
                let what = match want {
                    Type::Bytes => "an amount of memory",
                    Type::Duration => "a length of time",
                    _ => "a whole number",
                };
                let d = Diagnostic::new(Code::E0217, format!("`{name}` takes {what}"))
                    .at(typed.span, names::with_article(&typed.ty));
                let quoted = match &typed.kind {
                    TypedExprKind::Const(Value::Text(t)) if typed.literal => {
                        crate::literal::number(t).ok().zip(Some(t))
                    }
                    _ => None,
                };
                let quoted = quoted.filter(|(n, _)| number(*n).1 == want);
                self.report(match quoted {
                    Some((_, t)) => d
                        .help(format!("write numbers without quotes: `{name}: {t}`"))
                        .fix(typed.span, t.clone()),
                    None => d.help(format!("write, for instance, `{name}: {example}`")),
                });
                None
            }
        }
    }

    fn bytes(&mut self, ctx: &mut Ctx, s: &Setting) -> Option<u64> {
        match self.constant(ctx, s, Type::Bytes, "1GiB")? {
            Value::Bytes(b) => Some(b),
            _ => None,
        }
    }

    pub(super) fn duration(&mut self, ctx: &mut Ctx, s: &Setting) -> Option<u64> {
        match self.constant(ctx, s, Type::Duration, "30m")? {
            Value::Duration(ms) => Some(ms),
            _ => None,
        }
    }

    pub(super) fn count(&mut self, ctx: &mut Ctx, s: &Setting, least: u32) -> Option<u32> {
        let Value::Int(n) = self.constant(ctx, s, Type::Int, "2")? else { return None };
        let count = u32::try_from(n).ok().filter(|n| (least..=1000).contains(n));
        if count.is_none() {
            let m = format!("`{}` must be a count from {least} to 1000", s.name.text);
            let d = Diagnostic::new(Code::E0217, m);
            self.report(d.at(s.value.span, format!("{n}")));
        }
        count
    }

    fn conditions(&mut self, s: &Setting) -> Vec<String> {
        let one = std::slice::from_ref(&s.value);
        let all = match &s.value.bare().kind {
            ExprKind::List(all) => all.as_slice(),
            _ => one,
        };
        let mut out: Vec<String> = Vec::new();
        for e in all {
            match as_name(e) {
                Some(w) if words::find(CONDITIONS, w).is_some() => {
                    if !out.iter().any(|o| o == w) {
                        out.push(w.to_owned());
                    }
                }
                other => {
                    let d = Diagnostic::new(Code::E0111, "unknown device condition")
                        .at(e.span, "unknown word")
                        .suggest(other.unwrap_or_default(), e.span, words::names(CONDITIONS))
                        .note(format!(
                            "it is one of {}, or a list of them",
                            names::quoted(words::names(CONDITIONS), "or")
                        ));
                    self.report(d);
                }
            }
        }
        out
    }
}
