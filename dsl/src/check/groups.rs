//! Groups: `limit: group("gpu", 1)`.

use headstart_protocol::Value;

use super::typed::TypedExprKind;
use super::{Checker, Ctx};
use crate::ast::{Decl, Expr, ExprKind, Setting};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::plan::Group;

impl Checker<'_> {
    /// `group("name", size)`: the same size wherever the name is used.
    pub(super) fn group(&mut self, ctx: &mut Ctx, s: &Setting) -> Option<Group> {
        let e = &s.value;
        let wrong = |text: &str| {
            Diagnostic::new(Code::E0217, "`limit` takes a group: its name, and how many of it run at once")
                .at(e.span, text)
                .help("write, for instance, `limit: group(\"gpu\", 1)`")
        };
        let call = match &e.bare().kind {
            ExprKind::Bad => return None,
            ExprKind::Call(call) if call.name.text == "group" => call,
            ExprKind::Text(_) => {
                self.report(wrong("a text"));
                return None;
            }
            _ => {
                self.report(wrong("not a group"));
                return None;
            }
        };
        let [name, size] = call.args.as_slice() else {
            self.report(wrong("`group` takes two arguments"));
            return None;
        };
        if let Some(named) = [name, size].into_iter().find_map(|arg| arg.name.as_ref()) {
            let d = Diagnostic::new(Code::E0217, "the arguments of `group` have no names");
            self.report(d.at(named.span, "a name").help("write, for instance, `limit: group(\"gpu\", 1)`"));
            return None;
        }
        let name = self.group_name(ctx, &name.value);
        let at = size.value.span;
        let size = self.group_size(ctx, &size.value);
        let (name, size) = (name?, size?);
        match self.groups.get(&name) {
            Some((known, first)) if *known != size => {
                let d = Diagnostic::new(Code::E0221, format!("group {name:?} has two sizes"));
                let d = d.at(at, format!("{size} here")).see(*first, format!("{known} here"));
                self.report(d.help("give the group one size, or one of them another name"));
                return None;
            }
            Some(_) => {}
            None => drop(self.groups.insert(name.clone(), (size, at))),
        }
        Some(Group { name, size })
    }

    fn group_name(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<String> {
        let typed = self.infer(ctx, e)?;
        match typed.kind {
            TypedExprKind::Const(Value::Text(t)) if !t.trim().is_empty() => Some(t),
            _ => {
                let d = Diagnostic::new(Code::E0217, "a group is named by a text that is not empty");
                self.report(d.at(e.span, "not such a text").help("write, for instance, `group(\"gpu\", 1)`"));
                None
            }
        }
    }

    fn group_size(&mut self, ctx: &mut Ctx, e: &Expr) -> Option<u32> {
        let typed = self.infer(ctx, e)?;
        let size = match typed.kind {
            TypedExprKind::Const(Value::Int(n)) => u32::try_from(n).ok().filter(|n| (1..=1000).contains(n)),
            _ => None,
        };
        if size.is_none() {
            let d = Diagnostic::new(Code::E0217, "the size of a group must be a count from 1 to 1000");
            self.report(d.at(e.span, "not such a count"));
        }
        size
    }

    /// Devices run one stage at a time.
    pub(super) fn only_on_the_server(&mut self, decl: &Decl) {
        let all = decl.settings.iter().flat_map(|b| &b.settings);
        let set: Vec<&Setting> =
            all.filter(|s| ["threads", "limit"].contains(&s.name.text.as_str())).collect();
        for s in set {
            let name = &s.name.text;
            let d = Diagnostic::new(Code::E0216, format!("`{name}` has no effect on a device"));
            let d = d.at(s.name.span, "a device runs one stage at a time");
            self.report(d.help(format!("remove `{name}`, or run the stage on the server")));
        }
    }
}
