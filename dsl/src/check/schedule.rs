//! Schedules.

use headstart_cron::{CronError, Expression};
use headstart_protocol::Value;

use super::params::as_name;
use super::refs::Found;
use super::typed::{OPEN, TypedExprKind};
use super::{Checker, Ctx, Entity};
use crate::ast::{self, Expr, ExprKind, Setting};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::plan::Schedule;
use crate::span::Span;
use crate::words::{self, CATCHUP, ENTRIES, OVERLAP, Word};

impl Checker<'_> {
    /// The root file's schedules; a module's are its own affair.
    pub(super) fn schedules(&mut self) -> Vec<Schedule> {
        let all = self.scopes[0].schedules.clone();
        all.iter().map(|s| self.schedule(s)).collect()
    }

    fn schedule(&mut self, s: &ast::Schedule) -> Schedule {
        let mut out = Schedule {
            name: s.name.text.clone(),
            run: Vec::new(),
            cron: String::new(),
            timezone: String::new(),
            overlap: "skip".to_owned(),
            catchup: "last".to_owned(),
        };
        let mut seen: Vec<&Setting> = Vec::new();
        for e in &s.block.settings {
            if let Some(first) = seen.iter().find(|f| f.name.text == e.name.text) {
                let d = Diagnostic::new(Code::E0105, format!("`{}` is given twice", e.name.text))
                    .at(e.name.span, "given again")
                    .see(first.name.span, "given here first");
                self.report(d);
                continue;
            }
            seen.push(e);
            match e.name.text.as_str() {
                "run" => out.run = self.run(&e.value),
                "cron" => out.cron = self.cron(&e.value).unwrap_or_default(),
                "timezone" => out.timezone = self.timezone(&e.value).unwrap_or_default(),
                "overlap" => out.overlap = self.schedule_word(e, OVERLAP).unwrap_or(out.overlap),
                "catchup" => out.catchup = self.schedule_word(e, CATCHUP).unwrap_or(out.catchup),
                other => {
                    let known = || words::names(ENTRIES);
                    let d = Diagnostic::new(Code::E0110, format!("unknown schedule entry `{other}`"))
                        .at(e.name.span, "unknown entry")
                        .suggest(other, e.name.span, known())
                        .note(format!("its entries are {}", names::quoted(known(), "and")));
                    self.report(d);
                }
            }
        }
        for needed in ["cron", "timezone"] {
            let broken = s.block.broken.iter().any(|b| b.text == needed);
            if !broken && !seen.iter().any(|e| e.name.text == needed) {
                let example = words::find(ENTRIES, needed).map_or("", |w| w.example);
                let d =
                    Diagnostic::new(Code::E0603, format!("missing `{needed}` in schedule `{}`", s.name.text))
                        .at(s.name.span, format!("`{needed}` is missing"))
                        .help(format!("add `{example}`"));
                self.report(d);
            }
        }
        out
    }

    /// One name or a list of names: items, or outputs, which stand for what they are made of.
    fn run(&mut self, e: &Expr) -> Vec<String> {
        let one = std::slice::from_ref(e);
        let all = match &e.bare().kind {
            ExprKind::List(all) => all.as_slice(),
            _ => one,
        };
        let mut out: Vec<usize> = Vec::new();
        for e in all {
            let found = match &e.bare().kind {
                ExprKind::Name(n) => match self.scopes[0].names.get(n) {
                    Some((entity, _)) => Some(Found::Entity(*entity)),
                    None => match self.output_items(n) {
                        Some(items) => {
                            out.extend(items);
                            continue;
                        }
                        None => {
                            self.unknown_name(&Ctx::new(0), n, e.span);
                            continue;
                        }
                    },
                },
                ExprKind::Field(of, name) => self.module(0, of).map(|m| self.member(m, &name.text)),
                ExprKind::Bad => continue,
                _ => None,
            };
            match found {
                Some(Found::Entity(Entity::Item(i))) => {
                    self.items[i].used = true;
                    out.push(i);
                }
                Some(Found::Output(m, n)) => {
                    let value = self.scopes[m].outputs[n].value.clone();
                    out.extend(self.references(m, &[], &[&value]).into_iter().map(|(i, _)| i));
                }
                Some(Found::Entity(Entity::Bad)) => {}
                _ => {
                    let d =
                        Diagnostic::new(Code::E0217, "`run` names items: models, datasets, spaces or stages");
                    self.report(d.at(e.span, "not an item"));
                }
            }
        }
        let mut seen = std::collections::HashSet::new();
        out.retain(|i| seen.insert(*i));
        out.into_iter().map(|i| self.items[i].name.clone()).collect()
    }

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

    fn cron(&mut self, e: &Expr) -> Option<String> {
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

    fn timezone(&mut self, e: &Expr) -> Option<String> {
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

    fn schedule_word(&mut self, s: &Setting, all: &'static [Word]) -> Option<String> {
        match as_name(&s.value) {
            Some(w) if words::find(all, w).is_some() => Some(w.to_owned()),
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
}
