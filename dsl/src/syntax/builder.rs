//! From the grammar's pairs to a syntax tree, piece by piece.

use std::ops::Range;
use std::sync::Arc;

use pest::Parser;
use pest::iterators::Pair;

use super::places::Places;
use super::rules::{Grammar, Rule};
use super::tokens::{self, MAX_DEPTH};
use super::{diagnostics, recovery};
use crate::ast::moved::{Move, Moved};
use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::literal;
use crate::plan::Declared;
use crate::span::{FileId, Span};

/// An item of a file with the comments and documentation in front of it; the first piece and the last one may
/// hold more or less.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub range: Range<usize>,
    pub doc: Vec<Name>,
    pub items: Vec<Item>,
    pub comments: Vec<Span>,
    pub diags: Vec<Diagnostic>,
}

impl Moved for Piece {
    fn moved(&mut self, to: Move) {
        self.doc.moved(to);
        self.items.moved(to);
        self.comments.moved(to);
        self.diags.moved(to);
    }
}

/// Builds the tree of a piece of a file.
pub(super) struct Builder {
    file: FileId,
    pub(super) diags: Vec<Diagnostic>,
    /// Where the text that is being parsed lies in the text that it was taken from, outermost first.
    places: Vec<(usize, Places)>,
}

pub(super) type P<'t> = Pair<'t, Rule>;

/// The parts of a pair that carry meaning: no punctuation, newlines, comments.
pub(super) fn parts<'t>(pair: P<'t>) -> impl Iterator<Item = P<'t>> {
    pair.into_inner().filter(|p| !is_trivia(p.as_rule()))
}

fn is_trivia(rule: Rule) -> bool {
    use Rule::*;
    matches!(
        rule,
        nl | comment | comma | colon | equals | dot | lparen | rparen | lbracket | rbracket | lbrace | rbrace
    ) || matches!(
        rule,
        kw_import
            | kw_as
            | kw_program
            | kw_param
            | kw_schedule
            | kw_output
            | kw_on
            | kw_for
            | kw_in
            | kw_when
    ) || matches!(rule, less | greater | EOI)
}

pub(super) fn only(pair: P<'_>) -> P<'_> {
    parts(pair).next().expect("the grammar gives this rule one part")
}

impl Builder {
    pub(super) fn new(file: FileId, start: usize) -> Self {
        Self { file, diags: Vec::new(), places: vec![(start, Places::default())] }
    }

    /// The place in the file.
    fn place(&self, pos: usize) -> usize {
        self.places.iter().rev().fold(pos, |pos, (start, edits)| start + edits.written(pos))
    }

    fn span_of(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, self.place(start), self.place(end))
    }

    pub(super) fn span(&self, p: &P<'_>) -> Span {
        let s = p.as_span();
        self.span_of(s.start(), s.end())
    }

    pub(super) fn name(&self, p: &P<'_>) -> Name {
        Name { text: p.as_str().to_owned(), span: self.span(p) }
    }

    /// Parses a piece; `first` where it is the start of its file.
    pub(super) fn piece(mut self, text: &str, first: bool) -> Piece {
        let mut out = Piece::default();
        if let Some(at) = tokens::too_deep(text, MAX_DEPTH) {
            self.diags.push(diagnostics::too_deep_diagnostic(self.span_of(at, at + 1), MAX_DEPTH));
            let item = Item { doc: Vec::new(), span: self.span_of(at, at + 1), kind: ItemKind::Bad(None) };
            return Piece { items: vec![item], diags: self.diags, ..out };
        }
        match Grammar::parse(if first { Rule::file } else { Rule::part }, text) {
            Ok(mut pairs) => pairs.next().into_iter().for_each(|p| self.lines(p, first, &mut out)),
            // The fallback rule takes any text.
            Err(_) => self.bad_item(text, 0, Vec::new(), &mut out),
        }
        Piece { diags: self.diags, ..out }
    }

    fn lines(&mut self, pair: P<'_>, first: bool, out: &mut Piece) {
        // Most pieces hold none, and looking at every token takes its time.
        if pair.as_str().contains("//") {
            let comments = pair.clone().into_inner().flatten().filter(|p| p.as_rule() == Rule::comment);
            out.comments = comments.map(|p| self.span(&p)).collect();
        }
        let mut docs = Vec::new();
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::file_doc => {
                    let line = self.doc_line(&p);
                    if first && out.items.is_empty() && docs.is_empty() {
                        out.doc.push(line);
                    } else {
                        self.diags.push(diagnostics::late_file_doc(line.span));
                        out.comments.push(line.span);
                    }
                }
                Rule::doc => docs.push(self.doc_line(&p)),
                Rule::item => {
                    let item = self.whole_item(p, std::mem::take(&mut docs));
                    out.items.push(item);
                }
                Rule::bad_item => {
                    self.bad_item(p.as_str(), p.as_span().start(), std::mem::take(&mut docs), out);
                }
                _ => {}
            }
        }
        if let Some(last) = docs.last() {
            self.diags.push(diagnostics::doc_of_nothing(docs[0].span.to(last.span)));
            out.comments.extend(docs.iter().map(|d| d.span));
        }
        out.comments.sort();
    }

    fn whole_item(&mut self, p: P<'_>, doc: Vec<Name>) -> Item {
        let (start, text) = (p.as_span().start(), p.as_str());
        let span = self.span_of(start, start + text.trim_end().len());
        let kind = self.item(only(p), &Item::doc_text(&doc));
        Item { doc, span, kind }
    }

    fn doc_line(&self, p: &P<'_>) -> Name {
        Name { text: p.as_str()[3..].trim_end().to_owned(), span: self.span(p) }
    }

    /// Reports what is wrong with an item. Where that leaves no doubt about what was meant, the item
    /// is taken so; else the name that it would have declared.
    fn bad_item(&mut self, text: &str, start: usize, doc: Vec<Name>, out: &mut Piece) {
        let item = self.recovered(Rule::one_item, text, start, |b, p| {
            parts(p).find(|p| p.as_rule() == Rule::item).map(|p| b.whole_item(p, doc.clone()))
        });
        let item = item.flatten().unwrap_or_else(|| {
            let name = tokens::declared_name(text).map(|r| Name {
                text: text[r.clone()].to_owned(),
                span: self.span_of(start + r.start, start + r.end),
            });
            let span = self.span_of(start, start + text.trim_end().len());
            Item { doc, span, kind: ItemKind::Bad(name) }
        });
        out.items.push(item);
    }

    /// Reports what is wrong with a part of the text, and builds something of it where that leaves no
    /// doubt about what was meant.
    fn recovered<R>(
        &mut self,
        rule: Rule,
        text: &str,
        start: usize,
        build: impl FnOnce(&mut Self, P<'_>) -> R,
    ) -> Option<R> {
        let recovered = recovery::recover(rule, self.file, text);
        for mut d in recovered.diags {
            for span in d.labels.iter_mut().map(|l| &mut l.span).chain(d.fix.iter_mut().map(|f| &mut f.span))
            {
                *span = self.span_of(start + span.start as usize, start + span.end as usize);
            }
            self.diags.push(d);
        }
        let pair = Grammar::parse(rule, &recovered.text).ok()?.next()?;
        let told = self.diags.len();
        self.places.push((start, recovered.places));
        let built = build(self, pair);
        self.places.pop();
        if recovered.whole {
            return Some(built);
        }
        // Of what is inside a guess, such as the arguments in a bracket that was not closed, only
        // common mistakes are reported: the guess may have caused the others.
        let mut n = 0;
        self.diags.retain(|d| {
            n += 1;
            n <= told || d.fix.is_some()
        });
        None
    }

    fn item(&mut self, pair: P<'_>, doc: &str) -> ItemKind {
        let doc = doc.to_owned();
        match pair.as_rule() {
            Rule::import => {
                let mut parts = parts(pair);
                let mut next = || parts.next().expect("an import has a path and a name");
                let path = next();
                let path = Name { text: self.text(&path), span: self.span(&path) };
                let name = self.name(&next());
                let args = parts.next().map(|p| self.block(p));
                ItemKind::Import(Arc::new(Import { path, name, args }))
            }
            Rule::program => {
                let mut parts = parts(pair);
                let mut next = || parts.next().expect("a program has a name and a path");
                let (name, path) = (self.name(&next()), next());
                let path = Name { text: self.text(&path), span: self.span(&path) };
                ItemKind::Program(Arc::new(Program { name, path }))
            }
            Rule::param => {
                let mut parts = parts(pair);
                let mut next = || parts.next().expect("a parameter has a name and a type");
                let (name, ty) = (self.name(&next()), self.ty(next()));
                let default = parts.next().map(|p| self.expr(p));
                ItemKind::Param(Arc::new(Param { name, ty, default, doc }))
            }
            Rule::schedule => {
                let mut parts = parts(pair);
                let mut next = || parts.next().expect("a schedule has a name and a block");
                let (name, block) = (self.name(&next()), self.block(next()));
                ItemKind::Schedule(Arc::new(Schedule { name, block }))
            }
            Rule::output => {
                let mut parts = parts(pair);
                let mut next = || parts.next().expect("an output has a name and a value");
                let (name, value) = (self.name(&next()), self.expr(next()));
                ItemKind::Output(Arc::new(Output { name, value, doc }))
            }
            _ => ItemKind::Decl(Arc::new(self.decl(pair, doc))),
        }
    }

    fn decl(&mut self, pair: P<'_>, doc: String) -> Decl {
        let mut decl = Decl {
            declared: Declared::Stage,
            keyword: Span::default(),
            private: None,
            name: Name { text: String::new(), span: Span::default() },
            ty: None,
            value: Expr { kind: ExprKind::Bad, span: Span::default() },
            on: None,
            bindings: Vec::new(),
            when: None,
            settings: None,
            doc,
        };
        for p in parts(pair) {
            let keyword = match p.as_rule() {
                Rule::kw_model => Declared::Model,
                Rule::kw_dataset => Declared::Dataset,
                Rule::kw_space => Declared::Space,
                Rule::kw_stage => Declared::Stage,
                other => {
                    match other {
                        Rule::kw_private => decl.private = Some(self.span(&p)),
                        Rule::name => decl.name = self.name(&p),
                        Rule::ty => decl.ty = Some(self.ty(p)),
                        Rule::expr => decl.value = self.expr(p),
                        Rule::on_clause => decl.on = Some(self.expr(only(p))),
                        Rule::for_clause => decl.bindings = parts(p).map(|b| self.binding(b)).collect(),
                        Rule::when_clause => decl.when = Some(self.expr(only(p))),
                        Rule::block => decl.settings = Some(self.block(p)),
                        _ => {}
                    }
                    continue;
                }
            };
            decl.declared = keyword;
            decl.keyword = self.span(&p);
        }
        decl
    }

    fn binding(&mut self, pair: P<'_>) -> Binding {
        let mut parts = parts(pair);
        let mut next = || parts.next().expect("a binding has a name and a list");
        Binding { name: self.name(&next()), list: self.expr(next()) }
    }

    fn block(&mut self, pair: P<'_>) -> Block {
        let span = self.span(&pair);
        let (mut settings, mut broken) = (Vec::new(), Vec::new());
        for p in parts(pair) {
            match p.as_rule() {
                Rule::setting => settings.push(self.setting(p)),
                _ => {
                    let before = self.diags.len();
                    let found =
                        self.recovered(Rule::some_settings, p.as_str(), p.as_span().start(), |b, p| {
                            parts(p).map(|p| b.setting(p)).collect::<Vec<_>>()
                        });
                    if self.diags.len() == before {
                        self.diags.push(diagnostics::separator("setting", self.span(&p)));
                    }
                    match found {
                        Some(found) => settings.extend(found),
                        None => broken.extend(self.first_word(&p)),
                    }
                }
            }
        }
        Block { span, settings, broken }
    }

    fn setting(&mut self, p: P<'_>) -> Setting {
        let mut parts = parts(p);
        let mut next = || parts.next().expect("a setting has a name and a value");
        Setting { name: self.name(&next()), value: self.expr(next()) }
    }

    /// The name of a broken argument or setting.
    fn first_word(&self, p: &P<'_>) -> Option<Name> {
        let text = p.as_str();
        let len = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let start = p.as_span().start();
        let span = self.span_of(start, start + len);
        let named = text[len..].trim_start().starts_with([':', '=']) || p.as_rule() == Rule::bad_setting;
        (len > 0 && named).then(|| Name { text: text[..len].to_owned(), span })
    }

    fn ty(&mut self, pair: P<'_>) -> Ty {
        let span = self.span(&pair);
        let mut out = Ty { name: Name { text: String::new(), span }, of: None, optional: false, span };
        for p in parts(pair) {
            match p.as_rule() {
                Rule::name => out.name = self.name(&p),
                Rule::ty => out.of = Some(Box::new(self.ty(p))),
                _ => out.optional = true,
            }
        }
        out
    }

    pub(super) fn primary(&mut self, p: P<'_>) -> Expr {
        let span = self.span(&p);
        let kind = match p.as_rule() {
            Rule::list => ExprKind::List(parts(p).map(|e| self.expr(e)).collect()),
            Rule::paren => ExprKind::Paren(Box::new(self.expr(only(p)))),
            Rule::call => self.call(p),
            Rule::string => ExprKind::Text(self.text(&p)),
            Rule::number => match literal::number(p.as_str()) {
                Ok(n) => ExprKind::Number(n, p.as_str().to_owned()),
                Err(e) => {
                    self.diags.push(e.diagnostic(p.as_str(), span));
                    ExprKind::Bad
                }
            },
            Rule::hole => {
                // An inserted one takes the place of a missing value, which is reported.
                if self.places.len() == 1 {
                    self.diags.push(diagnostics::unprintable(span));
                }
                ExprKind::Bad
            }
            _ => match p.as_str() {
                "true" => ExprKind::Bool(true),
                "false" => ExprKind::Bool(false),
                name => ExprKind::Name(name.to_owned()),
            },
        };
        Expr { kind, span }
    }

    fn call(&mut self, pair: P<'_>) -> ExprKind {
        let mut parts = parts(pair);
        let name = parts.next().map(|p| self.name(&p)).expect("a call has a name");
        let mut args = Vec::new();
        for p in parts {
            if p.as_rule() == Rule::bad_arg {
                self.bad_arg(&p, &mut args);
            } else {
                self.arg(p, &mut args);
            }
        }
        ExprKind::Call(Call { name, args })
    }

    fn arg(&mut self, p: P<'_>, out: &mut Vec<Arg>) {
        let mut name = None;
        for part in parts(p) {
            match part.as_rule() {
                Rule::arg_name => name = Some(self.name(&only(part))),
                _ => out.push(Arg { name: name.take(), value: self.expr(part) }),
            }
        }
    }

    fn bad_arg(&mut self, p: &P<'_>, out: &mut Vec<Arg>) {
        let before = self.diags.len();
        let found = self.recovered(Rule::some_args, p.as_str(), p.as_span().start(), |b, p| {
            let mut found = Vec::new();
            parts(p).for_each(|p| b.arg(p, &mut found));
            found
        });
        if self.diags.len() == before {
            self.diags.push(diagnostics::separator("argument", self.span(p)));
        }
        match found {
            Some(found) => out.extend(found),
            None => {
                let value = Expr { kind: ExprKind::Bad, span: self.span(p) };
                out.push(Arg { name: self.first_word(p), value });
            }
        }
    }

    /// A text literal's text; unknown escapes are reported and kept as written.
    fn text(&mut self, p: &P<'_>) -> String {
        let (start, raw) = (p.as_span().start(), p.as_str());
        let mut out = String::with_capacity(raw.len());
        let mut chars = raw[1..raw.len() - 1].char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                Some((_, c)) => {
                    let at = start + 1 + at;
                    let span = self.span_of(at, at + 1 + c.len_utf8());
                    self.diags.push(diagnostics::unknown_escape(span, c));
                }
                None => {}
            }
        }
        out
    }
}
