//! Data residency: what is made from private data stays on its device.

use super::typed::TypedExprKind;
use super::{Checker, Ctx, Private};
use crate::ast::Decl;
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::plan::{Declared, Place};
use crate::span::Span;

/// Steps from a private dataset that a diagnostic marks.
const SHOWN_STEPS: usize = 3;

impl Checker<'_> {
    /// Decides whether an item is private, and reports where it is made elsewhere.
    pub(super) fn residency(&mut self, i: usize, decl: &Decl, ctx: &Ctx, place: &Place) {
        let source = self.private_source(decl, place);
        self.report_globs(decl, place, ctx);
        let uses = self.private_uses(ctx);
        if let Some((first, first_span)) = uses.first().copied() {
            let device = self.device_of(first);
            if let Some((other, span)) = uses.iter().copied().find(|(u, _)| self.device_of(*u) != device) {
                let d = Diagnostic::new(Code::E0505, "this combines private values of two devices")
                    .at(span, format!("private to `{}`", self.device_of(other)))
                    .see(first_span, format!("private to `{device}`"));
                self.report(d.help("release numbers of them as outputs, and bring those together"));
                self.set_private(i, device, Some((first, first_span)), true);
                return;
            }
            let reported = *place != Place::Device(device.clone());
            if reported {
                let d = self.off_device(i, decl, first, first_span, &device, place);
                self.report(d);
            }
            let via = if source.is_some() { None } else { Some((first, first_span)) };
            self.set_private(i, device, via, reported);
        } else if let Some(device) = source.or_else(|| self.device_of_program(i, place)) {
            self.set_private(i, device, None, false);
        }
    }

    /// A program can read what its device holds, so what it makes there is private.
    fn device_of_program(&self, i: usize, place: &Place) -> Option<String> {
        let Place::Device(device) = place else { return None };
        let kind = self.items[i].kind.as_ref()?;
        kind.name.contains('.').then(|| device.clone())
    }

    fn set_private(&mut self, i: usize, device: String, via: Option<(usize, Span)>, reported: bool) {
        self.items[i].private = Some(Private { device, via, reported });
    }

    fn device_of(&self, i: usize) -> String {
        self.items[i].private.as_ref().map(|p| p.device.clone()).unwrap_or_default()
    }

    /// The private items among what an expression uses.
    pub(super) fn private_uses(&self, ctx: &Ctx) -> Vec<(usize, Span)> {
        let private = |i: &usize| self.items[*i].private.as_ref().is_some_and(|p| !p.reported);
        ctx.uses.iter().copied().filter(|(i, _)| private(i)).collect()
    }

    /// The device of a `private dataset`.
    fn private_source(&mut self, decl: &Decl, place: &Place) -> Option<String> {
        let private = decl.private?;
        if decl.declared != Declared::Dataset {
            let what = decl.declared.keyword();
            let d = Diagnostic::new(Code::E0507, format!("a {what} cannot be declared private"))
                .at(private, "only a dataset can be")
                .help("remove `private`: what is made from a private dataset is private by itself");
            self.report(d);
            return None;
        }
        match place {
            Place::Device(d) => Some(d.clone()),
            Place::Server => {
                let d = Diagnostic::new(
                    Code::E0506,
                    format!("the private dataset `{}` has no device", decl.name.text),
                )
                .at(private, "private, but not placed on a device")
                .help("add `on device(\"…\")` behind the call");
                self.report(d);
                None
            }
        }
    }

    /// The engine cannot list a device's files.
    fn report_globs(&mut self, decl: &Decl, place: &Place, ctx: &Ctx) {
        let Place::Device(device) = place else { return };
        for v in &ctx.vars {
            let globbed = |t: &TypedExprKind| matches!(t, TypedExprKind::Path(p) if p.globbed);
            if v.elements.iter().any(|(_, t)| globbed(t)) {
                let binding = decl.bindings.iter().find(|b| b.name.text == v.name.text);
                let d = Diagnostic::new(Code::E0509, "`glob` cannot list files of a device")
                    .at(binding.map_or(v.name.span, |b| b.list.span), "paths of the engine's machine")
                    .note(format!(
                        "`{}` is made on `{device}`, whose files the engine cannot list",
                        decl.name.text
                    ))
                    .help("name the device's files in a list: `[\"a.jsonl\", \"b.jsonl\"]`");
                self.report(d);
                return;
            }
        }
    }

    fn off_device(
        &self,
        i: usize,
        decl: &Decl,
        used: usize,
        span: Span,
        device: &str,
        place: &Place,
    ) -> Diagnostic {
        let at = match place {
            Place::Server => "the server".to_owned(),
            Place::Device(d) => format!("`{d}`"),
        };
        let name = &self.items[i].name;
        let d = Diagnostic::new(Code::E0501, format!("`{name}` would take private data off `{device}`"))
            .at(span, format!("private to `{device}`, used on {at}"));
        let d = self.private_origin(d, used);
        let flow = self.flow(used).into_iter().chain([name.clone()]).collect::<Vec<_>>();
        let d = d.note(format!("the data flows {}", flow.join(" → ")));
        if decl.declared == Declared::Dataset {
            return d.help(format!("write `private dataset {} = … on device({device:?})`", decl.name.text));
        }
        d.help(format!("make it there: `{{ on: device({device:?}) }}`"))
    }

    /// Points to the private dataset that a value comes from, and to the steps in between.
    pub(super) fn private_origin(&self, mut d: Diagnostic, used: usize) -> Diagnostic {
        let mut at = used;
        let mut steps = 0;
        while let Some((via, span)) = self.items[at].private.as_ref().and_then(|p| p.via) {
            // Of a long way, the notes tell the rest.
            if steps < SHOWN_STEPS {
                d = d.see(span, format!("`{}` is made from `{}`", self.items[at].name, self.items[via].name));
            }
            at = via;
            steps += 1;
        }
        let decl = &self.items[at].decl;
        let text = match decl.private {
            Some(_) => format!("`{}` is private", decl.name.text),
            None => format!("`{}` is made on the device", decl.name.text),
        };
        d.see(decl.private.unwrap_or(decl.keyword).to(decl.name.span), text)
    }

    /// The way from the private dataset to an item.
    pub(super) fn flow(&self, item: usize) -> Vec<String> {
        let mut out = vec![self.items[item].name.clone()];
        let mut at = item;
        while let Some((via, _)) = self.items[at].private.as_ref().and_then(|p| p.via) {
            at = via;
            out.push(self.items[at].name.clone());
        }
        out.reverse();
        out
    }

    /// The flow in words, for notes.
    pub(super) fn flow_note(&self, item: usize) -> String {
        let flow: Vec<String> = self.flow(item).into_iter().map(|n| format!("`{n}`")).collect();
        match flow.len() {
            1 => format!("{} is private", flow[0]),
            _ => format!("it is made from private data: {}", flow.join(" → ")),
        }
    }
}
