//! From text to syntax tree. The only module that knows the grammar's rules.

use std::sync::Arc;

use pest::Parser;
use pest::error::{ErrorVariant, InputLocation};
use pest::iterators::Pair;

use crate::ast::*;
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::literal;
use crate::mistakes::{self, Mistake};
use crate::plan::Declared;
use crate::span::{FileId, Span};

mod expr;

mod rules {
    #![allow(missing_docs, reason = "generated; the grammar holds the documentation")]
    #[derive(pest_derive::Parser)]
    #[grammar = "grammar.pest"]
    pub struct Grammar;
}
use rules::{Grammar, Rule};

/// How deep brackets, signs and fields may nest. Keeps every recursive walk of the tree shallow.
pub const MAX_DEPTH: usize = 64;

/// Parses a file. The tree holds every item that was understood.
pub fn parse(file: FileId, text: &str) -> (File, Vec<Diagnostic>) {
    let mut b = Builder { file, diags: Vec::new() };
    if let Some(at) = mistakes::too_deep(text, MAX_DEPTH) {
        b.diags.push(mistakes::too_deep_diagnostic(Span::new(file, at, at + 1), MAX_DEPTH));
        return (File::default(), b.diags);
    }
    let tree = match Grammar::parse(Rule::file, text) {
        Ok(mut pairs) => pairs.next().map(|p| b.file(p, text)).unwrap_or_default(),
        Err(e) => {
            b.diags.push(b.explain(text, 0, text.len(), &e));
            File::default()
        }
    };
    (tree, b.diags)
}

struct Builder {
    file: FileId,
    diags: Vec<Diagnostic>,
}

type P<'t> = Pair<'t, Rule>;

/// The parts of a pair that carry meaning: no punctuation, newlines, comments.
fn parts<'t>(pair: P<'t>) -> impl Iterator<Item = P<'t>> {
    pair.into_inner().filter(|p| !is_trivia(p.as_rule()))
}

fn is_trivia(rule: Rule) -> bool {
    use Rule::*;
    matches!(
        rule,
        nl | comment | comma | colon | equals | dot | lparen | rparen | lbracket | rbracket | lbrace | rbrace
    ) || matches!(
        rule,
        kw_import | kw_as | kw_param | kw_schedule | kw_output | kw_on | kw_for | kw_in | kw_when
    ) || matches!(rule, less | greater | EOI)
}

fn only(pair: P<'_>) -> P<'_> {
    parts(pair).next().expect("the grammar gives this rule one part")
}

impl Builder {
    fn span(&self, p: &P<'_>) -> Span {
        let s = p.as_span();
        Span::new(self.file, s.start(), s.end())
    }

    fn name(&self, p: &P<'_>) -> Name {
        Name { text: p.as_str().to_owned(), span: self.span(p) }
    }

    fn file(&mut self, pair: P<'_>, text: &str) -> File {
        let mut out = File::default();
        out.comments = pair
            .clone()
            .into_inner()
            .flatten()
            .filter(|p| p.as_rule() == Rule::comment)
            .map(|p| self.span(&p))
            .collect();
        let mut docs = Vec::new();
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::file_doc => {
                    let line = self.doc_line(&p);
                    if out.items.is_empty() && docs.is_empty() {
                        out.doc.push(line);
                    } else {
                        self.diags.push(mistakes::late_file_doc(line.span));
                        out.comments.push(line.span);
                    }
                }
                Rule::doc => docs.push(self.doc_line(&p)),
                Rule::item => {
                    let span = trimmed(self.span(&p), text);
                    let doc = std::mem::take(&mut docs);
                    let kind = self.item(only(p), &Item::doc_text(&doc));
                    out.items.push(Item { doc, span, kind });
                }
                Rule::bad_item => {
                    let span = trimmed(self.span(&p), text);
                    let name = self.bad_item(&p, text);
                    out.items.push(Item { doc: std::mem::take(&mut docs), span, kind: ItemKind::Bad(name) });
                }
                _ => {}
            }
        }
        if let Some(last) = docs.last() {
            self.diags.push(mistakes::doc_of_nothing(docs[0].span.to(last.span)));
            out.comments.extend(docs.iter().map(|d| d.span));
        }
        out.comments.sort();
        out
    }

    fn doc_line(&self, p: &P<'_>) -> Name {
        Name { text: p.as_str()[3..].trim_end().to_owned(), span: self.span(p) }
    }

    /// Reports what is wrong with an item, and finds the name that it would have declared.
    fn bad_item(&mut self, p: &P<'_>, text: &str) -> Option<Name> {
        let start = p.as_span().start();
        let diagnostic = match Grammar::parse(Rule::one_item, p.as_str()) {
            Err(e) => self.explain(text, start, p.as_span().end(), &e),
            // Cannot happen: the item would have been taken. Still no reason to fall over.
            Ok(_) => Diagnostic::new(Code::E0001, "this item is not understood").at(self.span(p), ""),
        };
        self.diags.push(diagnostic);
        mistakes::declared_name(p.as_str()).map(|r| Name {
            text: p.as_str()[r.clone()].to_owned(),
            span: Span::new(self.file, start + r.start, start + r.end),
        })
    }

    fn explain(&self, text: &str, start: usize, end: usize, e: &pest::error::Error<Rule>) -> Diagnostic {
        let at = start
            + match e.location {
                InputLocation::Pos(p) => p,
                InputLocation::Span((s, _)) => s,
            };
        let mut expected: Vec<&'static str> = Vec::new();
        if let ErrorVariant::ParsingError { positives, .. } = &e.variant {
            for s in positives.iter().filter_map(|r| symbol(*r)) {
                if !expected.contains(&s) {
                    expected.push(s);
                }
            }
        }
        Mistake { file: self.file, text, start, end, at, expected }.diagnose()
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
                Rule::setting => {
                    let mut parts = parts(p);
                    let mut next = || parts.next().expect("a setting has a name and a value");
                    settings.push(Setting { name: self.name(&next()), value: self.expr(next()) });
                }
                _ => {
                    let or = |span| mistakes::separator("setting", span);
                    self.reparsed(Rule::one_setting, &p, or);
                    broken.extend(self.first_word(&p));
                }
            }
        }
        Block { span, settings, broken }
    }

    /// Reports what is wrong with a part, by parsing it alone; `or` where it is fine alone.
    fn reparsed(&mut self, rule: Rule, p: &P<'_>, or: impl Fn(Span) -> Diagnostic) {
        let s = p.as_span();
        let diagnostic = match Grammar::parse(rule, p.as_str()) {
            Err(e) => self.explain(s.get_input(), s.start(), s.end(), &e),
            Ok(_) => or(self.span(p)),
        };
        self.diags.push(diagnostic);
    }

    /// The name that a broken argument or setting starts with, where something follows it.
    fn first_word(&self, p: &P<'_>) -> Option<Name> {
        let text = p.as_str();
        let len = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let start = p.as_span().start();
        let span = Span::new(self.file, start, start + len);
        (len > 0).then(|| Name { text: text[..len].to_owned(), span })
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
        out.span = trimmed(span, "");
        out
    }

    fn primary(&mut self, p: P<'_>) -> Expr {
        let span = self.span(&p);
        let kind = match p.as_rule() {
            Rule::list => ExprKind::List(parts(p).map(|e| self.expr(e)).collect()),
            Rule::paren => ExprKind::Paren(Box::new(self.expr(only(p)))),
            Rule::call => self.call(p),
            Rule::string => ExprKind::Text(self.text(&p)),
            Rule::number => match literal::number(p.as_str()) {
                Ok(n) => ExprKind::Number(n, p.as_str().to_owned()),
                Err(e) => {
                    self.diags.push(e.diagnostic(span));
                    ExprKind::Bad
                }
            },
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
                self.reparsed(Rule::one_arg, &p, |span| mistakes::separator("argument", span));
                let value = Expr { kind: ExprKind::Bad, span: self.span(&p) };
                args.push(Arg { name: self.first_word(&p), value });
                continue;
            }
            let mut arg_name = None;
            for part in self::parts(p) {
                match part.as_rule() {
                    Rule::arg_name => arg_name = Some(self.name(&only(part))),
                    _ => args.push(Arg { name: arg_name.take(), value: self.expr(part) }),
                }
            }
        }
        ExprKind::Call(Call { name, args })
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
                    let span = Span::new(self.file, at, at + 1 + c.len_utf8());
                    self.diags.push(mistakes::unknown_escape(span, c));
                }
                None => {}
            }
        }
        out
    }
}

/// A span without trailing white space.
fn trimmed(span: Span, text: &str) -> Span {
    match text.get(span.range()) {
        Some(t) => Span::new(span.file, span.start as usize, span.start as usize + t.trim_end().len()),
        None => span,
    }
}

/// What a rule is called in messages. Rules that only structure the grammar have no name: their
/// parts are named instead. Exhaustive, so that a new rule must decide.
fn symbol(rule: Rule) -> Option<&'static str> {
    use Rule::*;
    Some(match rule {
        kw_import => "`import`",
        kw_as => "`as`",
        kw_param => "`param`",
        kw_private => "`private`",
        kw_model => "`model`",
        kw_dataset => "`dataset`",
        kw_space => "`space`",
        kw_stage => "`stage`",
        kw_schedule => "`schedule`",
        kw_output => "`output`",
        kw_on | on_clause => "`on`",
        kw_for | for_clause => "`for`",
        kw_in => "`in`",
        kw_when | when_clause => "`when`",
        kw_or => "`or`",
        kw_not => "`not`",
        plus | minus | times | slash => "an operator",
        compare_op => "a comparison",
        question => "`?`",
        colon => "`:`",
        equals => "`=`",
        comma => "`,`",
        dot | field => "`.`",
        less => "`<`",
        greater => "`>`",
        lparen => "`(`",
        rparen => "`)`",
        lbracket | element => "`[`",
        rbracket => "`]`",
        lbrace | block => "`{`",
        rbrace => "`}`",
        name | binding => "a name",
        string => "a text in double quotes",
        number => "a number",
        ty => "a type",
        setting => "a setting",
        arg => "an argument",
        expr | operand | list | paren | call => "a value",
        EOI => "the end of the line",
        item | import | param | schedule | output | decl => "an item",
        file | one_item | one_setting | one_arg | arg_name | nl | comment | doc | file_doc => return None,
        bad_item | bad_setting | bad_arg | item_head | item_start | item_keyword => return None,
        exponent | word_char | blank | line_end | setting_end | arg_end | any_arg | gap | primary
        | byte_order_mark | WHITESPACE => return None,
    })
}
