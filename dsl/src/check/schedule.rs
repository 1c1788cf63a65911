//! Schedules.

use headstart_cron::{Catchup, Overlap};

use super::refs::Found;
use super::{Checker, Ctx, Entity};
use crate::ast::{self, Expr, ExprKind, Setting};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::plan::Schedule;
use crate::words::{self, CATCHUP, ENTRIES, OVERLAP};

impl Checker<'_> {
    /// The root file's schedules; a module's are its own affair.
    pub(super) fn schedules(&mut self) -> Vec<Schedule> {
        let all = self.scopes[0].schedules.clone();
        let out: Vec<Schedule> = all.iter().map(|s| self.schedule(s)).collect();
        self.no_circle(&all, &out);
        out
    }

    fn schedule(&mut self, s: &ast::Schedule) -> Schedule {
        let mut out = Schedule::named(&s.name.text);
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
            self.entry(e, &mut out);
        }
        self.missing_entries(s, &seen);
        out
    }

    fn entry(&mut self, e: &Setting, out: &mut Schedule) {
        let ctx = &mut Ctx::new(0);
        match e.name.text.as_str() {
            "run" => out.run = self.run(&e.value),
            "cron" => out.cron = self.cron(&e.value).unwrap_or_default(),
            "timezone" => out.timezone = self.timezone(&e.value).unwrap_or_default(),
            "overlap" => {
                if let Some(overlap) = self.schedule_word(e, OVERLAP).and_then(Overlap::of) {
                    out.overlap = overlap;
                }
            }
            "catchup" => {
                if let Some(catchup) = self.schedule_word(e, CATCHUP).and_then(Catchup::of) {
                    out.catchup = catchup;
                }
            }
            "catchup_window" => {
                if let Some(ms) = self.duration(ctx, e) {
                    out.catchup_window_ms = ms;
                }
            }
            "catchup_max" => {
                if let Some(count) = self.count(ctx, e, 1) {
                    out.catchup_max = count;
                }
            }
            "jitter" => {
                if let Some(ms) = self.duration(ctx, e) {
                    out.jitter_ms = ms;
                }
            }
            "when_changed" => out.when_changed = self.patterns(&e.value),
            "after" => out.after = self.other_schedules(&e.value),
            "webhook" => out.webhooks = self.webhooks(&e.value),
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

    /// A schedule needs what starts it, and a time needs its zone.
    fn missing_entries(&mut self, s: &ast::Schedule, seen: &[&Setting]) {
        let has = |name: &str| {
            seen.iter().any(|e| e.name.text == name) || s.block.broken.iter().any(|b| b.text == name)
        };
        let triggered = has("when_changed") || has("after") || has("webhook");
        let mut missing = |needed: &str, help: String| {
            let d = Diagnostic::new(Code::E0603, format!("missing `{needed}` in schedule `{}`", s.name.text))
                .at(s.name.span, format!("`{needed}` is missing"))
                .help(help);
            self.report(d);
        };
        let example = |name| words::find(ENTRIES, name).map_or("", |w| w.example);
        if !has("cron") && !triggered {
            missing("cron", format!("add `{}`, `when_changed`, `after` or `webhook`", example("cron")));
        }
        if !has("timezone") && (has("cron") || !triggered) {
            missing("timezone", format!("add `{}`", example("timezone")));
        }
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
}
