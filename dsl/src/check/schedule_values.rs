//! The values of a schedule's entries.

use headstart_cron::{CronError, Expression};
use headstart_protocol::Value;

use super::params::as_name;
use super::typed::{OPEN, TypedExprKind};
use super::{Checker, Ctx};
use crate::ast::{self, Expr, ExprKind, Setting};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::names;
use crate::plan::Schedule;
use crate::span::Span;
use crate::words::{self, Word};

impl Checker<'_> {
    /// A text that is known at check time, and the place of its content.
    fn schedule_text(&mut self, e: &Expr, what: &str) -> Option<(String, Option<Span>)> {
        let typed = self.infer(&mut Ctx::new(0), e)?;
        if let (TypedExprKind::Const(Value::Text(t)), true) =
            (&typed.kind, typed.ty == headstart_protocol::Type::Text)
        {
            let raw = self.sources.text(e.span);
            let inside = Span { start: e.span.start + 1, end: e.span.end.saturating_sub(1), ..e.span };
            // Escapes would shift places; nobody needs them here.
            let literal = typed.literal && raw.len() == t.len() + 2;
            return (t != OPEN).then(|| (t.clone(), literal.then_some(inside)));
        }
        let d = Diagnostic::new(Code::E0217, format!("`{what}` takes a text"));
        self.report(d.at(e.span, names::with_article(&typed.ty)));
        None
    }

    pub(super) fn cron(&mut self, e: &Expr) -> Option<String> {
        let (text, inside) = self.schedule_text(e, "cron")?;
        let Err(wrong) = Expression::parse(&text) else { return Some(text) };
        let span = match (inside, wrong.range()) {
            // Where something is missing, the character before it, which may be the quote.
            (Some(s), Some(r)) if r.is_empty() => {
                Span { start: s.start + r.start as u32 - 1, end: s.start + r.end as u32, ..s }
            }
            (Some(s), Some(r)) => Span { start: s.start + r.start as u32, end: s.start + r.end as u32, ..s },
            _ => e.span,
        };
        let d = Diagnostic::new(Code::E0601, wrong.to_string()).at(span, "").help(wrong.help());
        self.report(d);
        None
    }

    pub(super) fn timezone(&mut self, e: &Expr) -> Option<String> {
        let (text, inside) = self.schedule_text(e, "timezone")?;
        let Err(wrong) = headstart_cron::time_zone(&text) else { return Some(text) };
        let d = Diagnostic::new(Code::E0602, wrong.to_string())
            .at(inside.filter(|s| s.start < s.end).unwrap_or(e.span), "unknown time zone")
            .help(wrong.help());
        self.report(match &wrong {
            CronError::Zone { meant: Some(zone), .. } => d.fix(e.span, format!("{zone:?}")),
            _ => d,
        });
        None
    }

    pub(super) fn schedule_word(&mut self, s: &Setting, all: &'static [Word]) -> Option<&'static str> {
        let known = as_name(&s.value).and_then(|w| words::find(all, w));
        match as_name(&s.value) {
            _ if known.is_some() => known.map(|w| w.name),
            other => {
                if matches!(s.value.kind, ExprKind::Bad) {
                    return None;
                }
                let written = self.sources.text(s.value.span);
                let d = Diagnostic::new(Code::E0111, format!("`{}` cannot be `{written}`", s.name.text))
                    .at(s.value.span, "unknown word")
                    .suggest(other.unwrap_or_default(), s.value.span, words::names(all))
                    .note(format!("it is one of {}", names::quoted(words::names(all), "or")));
                self.report(d);
                None
            }
        }
    }

    /// Patterns of paths, relative to the file's folder; one or a list.
    pub(super) fn patterns(&mut self, e: &Expr) -> Vec<String> {
        let one = std::slice::from_ref(e);
        let all = match &e.bare().kind {
            ExprKind::List(all) => all.as_slice(),
            _ => one,
        };
        let dir = self.scopes[0].dir.clone();
        let mut out = Vec::new();
        for e in all {
            let Some((text, _)) = self.schedule_text(e, "when_changed") else { continue };
            if text.trim().is_empty() || loader::scheme(&text).is_some() {
                let d =
                    Diagnostic::new(Code::E0217, "`when_changed` takes patterns of paths on this machine");
                self.report(
                    d.at(e.span, "not a path").help("write, for instance, `when_changed: \"adapters/*\"`"),
                );
                continue;
            }
            out.push(loader::join(&dir, &text));
        }
        out
    }

    /// Names of webhooks; one or a list. They become a part of an address.
    pub(super) fn webhooks(&mut self, e: &Expr) -> Vec<String> {
        let one = std::slice::from_ref(e);
        let all = match &e.bare().kind {
            ExprKind::List(all) => all.as_slice(),
            _ => one,
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut out = Vec::new();
        for e in all {
            let Some((text, _)) = self.schedule_text(e, "webhook") else { continue };
            if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
                let d = Diagnostic::new(Code::E0217, "`webhook` takes names of letters, digits, `-` and `_`")
                    .at(e.span, "not such a name")
                    .help("write, for instance, `webhook: \"new-data\"`");
                self.report(d);
                continue;
            }
            out.push(text);
        }
        out
    }

    /// Schedules of the same file; one or a list.
    pub(super) fn other_schedules(&mut self, e: &Expr) -> Vec<String> {
        let one = std::slice::from_ref(e);
        let all = match &e.bare().kind {
            ExprKind::List(all) => all.as_slice(),
            _ => one,
        };
        let known: Vec<String> = self.scopes[0].schedules.iter().map(|s| s.name.text.clone()).collect();
        let mut out = Vec::new();
        for e in all {
            match as_name(e) {
                Some(name) if known.iter().any(|k| k == name) => out.push(name.to_owned()),
                _ if matches!(e.kind, ExprKind::Bad) => {}
                name => {
                    let d = Diagnostic::new(Code::E0217, "`after` names schedules of this file")
                        .at(e.span, "not a schedule")
                        .suggest(name.unwrap_or_default(), e.span, known.iter().map(String::as_str));
                    self.report(d);
                }
            }
        }
        out
    }

    /// Schedules that start each other would never stop.
    pub(super) fn no_circle(&mut self, written: &[std::sync::Arc<ast::Schedule>], all: &[Schedule]) {
        for (s, schedule) in written.iter().zip(all) {
            let (mut reached, mut open) = (Vec::new(), schedule.after.clone());
            while let Some(name) = open.pop() {
                if reached.contains(&name) {
                    continue;
                }
                open.extend(all.iter().filter(|o| o.name == name).flat_map(|o| o.after.clone()));
                reached.push(name);
            }
            if reached.contains(&schedule.name) {
                let d = Diagnostic::new(Code::E0217, format!("schedule `{}` starts itself", schedule.name))
                    .at(s.name.span, "each run of it would start the next")
                    .help("take a schedule out of the circle of `after`");
                self.report(d);
            }
        }
    }
}
