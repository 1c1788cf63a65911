//! Moving parts of a tree: an item whose text stayed the same needs no second parse, wherever it
//! now is.

use std::sync::Arc;

use super::{Block, Decl, Expr, ExprKind, Item, ItemKind, Name, Ty};
use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Span};

/// From one place to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    /// The file that is moved to.
    pub file: FileId,
    /// How many bytes later it now is.
    pub by: i64,
}

/// What holds places.
pub(crate) trait Moved {
    /// Brings every place in it up to date.
    fn moved(&mut self, to: Move);
}

impl Moved for Span {
    fn moved(&mut self, to: Move) {
        let place = |n: u32| u32::try_from(i64::from(n) + to.by).unwrap_or(u32::MAX);
        *self = Span { file: to.file, start: place(self.start), end: place(self.end) };
    }
}

impl<T: Moved> Moved for Vec<T> {
    fn moved(&mut self, to: Move) {
        self.iter_mut().for_each(|t| t.moved(to));
    }
}

impl<T: Moved> Moved for Option<T> {
    fn moved(&mut self, to: Move) {
        self.iter_mut().for_each(|t| t.moved(to));
    }
}

impl<T: Moved> Moved for Box<T> {
    fn moved(&mut self, to: Move) {
        (**self).moved(to);
    }
}

impl Moved for Name {
    fn moved(&mut self, to: Move) {
        self.span.moved(to);
    }
}

impl Moved for Item {
    fn moved(&mut self, to: Move) {
        self.doc.moved(to);
        self.span.moved(to);
        match &mut self.kind {
            ItemKind::Import(i) => {
                let i = Arc::make_mut(i);
                i.path.moved(to);
                i.name.moved(to);
                i.args.moved(to);
            }
            ItemKind::Program(p) => {
                let p = Arc::make_mut(p);
                p.name.moved(to);
                p.path.moved(to);
            }
            ItemKind::Param(p) => {
                let p = Arc::make_mut(p);
                p.name.moved(to);
                p.ty.moved(to);
                p.default.moved(to);
            }
            ItemKind::Decl(d) => Arc::make_mut(d).moved(to),
            ItemKind::Schedule(s) => {
                let s = Arc::make_mut(s);
                s.name.moved(to);
                s.block.moved(to);
            }
            ItemKind::Output(o) => {
                let o = Arc::make_mut(o);
                o.name.moved(to);
                o.value.moved(to);
            }
            ItemKind::Bad(name) => name.moved(to),
        }
    }
}

impl Moved for Decl {
    fn moved(&mut self, to: Move) {
        self.keyword.moved(to);
        self.private.moved(to);
        self.name.moved(to);
        self.ty.moved(to);
        self.value.moved(to);
        self.on.moved(to);
        for b in &mut self.bindings {
            b.name.moved(to);
            b.list.moved(to);
        }
        self.when.moved(to);
        self.settings.moved(to);
    }
}

impl Moved for Block {
    fn moved(&mut self, to: Move) {
        self.span.moved(to);
        for s in &mut self.settings {
            s.name.moved(to);
            s.value.moved(to);
        }
        self.broken.moved(to);
    }
}

impl Moved for Ty {
    fn moved(&mut self, to: Move) {
        self.name.moved(to);
        self.of.moved(to);
        self.span.moved(to);
    }
}

impl Moved for Expr {
    fn moved(&mut self, to: Move) {
        self.span.moved(to);
        match &mut self.kind {
            ExprKind::Name(_)
            | ExprKind::Text(_)
            | ExprKind::Number(..)
            | ExprKind::Bool(_)
            | ExprKind::Bad => {}
            ExprKind::List(all) | ExprKind::Or(all) | ExprKind::Product(all) | ExprKind::Join(all) => {
                all.moved(to);
            }
            ExprKind::Sum(all) => all.iter_mut().for_each(|(_, e)| e.moved(to)),
            ExprKind::Paren(e) | ExprKind::Not(e) | ExprKind::Minus(e) => e.moved(to),
            ExprKind::Call(call) => {
                call.name.moved(to);
                for a in &mut call.args {
                    a.name.moved(to);
                    a.value.moved(to);
                }
            }
            ExprKind::Field(of, name) => {
                of.moved(to);
                name.moved(to);
            }
            ExprKind::Element(a, b) | ExprKind::Compare(a, _, b) => {
                a.moved(to);
                b.moved(to);
            }
        }
    }
}

impl Moved for Diagnostic {
    fn moved(&mut self, to: Move) {
        self.labels.iter_mut().for_each(|l| l.span.moved(to));
        self.fix.iter_mut().for_each(|f| f.span.moved(to));
    }
}
