//! The one style of pipeline files.
//!
//! Lines hold up to [`WIDTH`] characters. What does not fit breaks at the outermost bracket or
//! clause, one part a line. Blank lines between items are kept, at most one. Comments stay between
//! the tokens in their place: at the end of a line or on separate lines; where a line cannot
//! break they move to a line above. Formatting refuses to give a result that lost or changed a
//! token or a comment.

mod doc;

use crate::ast::*;
use crate::codes::Code;
use crate::codes::Severity;
use crate::diagnostic::Diagnostic;
use crate::plan::Declared;
use crate::span::{FileId, Span};
use doc::{Doc, INDENT};

/// Characters of a line at most, where it can be broken.
pub const WIDTH: usize = 100;

/// Formats a file.
///
/// # Errors
/// The errors of a file that does not parse; their spans are of file 0.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    let (tree, diags) = crate::syntax::parse(FileId(0), text);
    let errors: Vec<Diagnostic> = diags.into_iter().filter(|d| d.severity == Severity::Error).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let out = Formatter { text, comments: &tree.comments, next: 0, hoisted: Vec::new() }.file(&tree);
    if essence(text) != essence(&out) {
        let d = Diagnostic::new(
            Code::E0001,
            "the formatter would have changed this file's content, so it did nothing",
        )
        .note("this is a bug in the formatter; please report it with the file");
        return Err(vec![d]);
    }
    Ok(out)
}

/// Tokens and comments of a text: all that a formatter must keep. Commas are left out, as those at
/// the end of a list come and go. Comments are compared as a multiset, the rest in order.
fn essence(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut tokens, mut comments) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let len = if rest.starts_with("//") {
            let line = rest.split(['\n', '\r']).next().unwrap_or(rest);
            comments.push(line.trim_end());
            line.len()
        } else if rest.starts_with('"') {
            let len = string_len(rest);
            tokens.push(&rest[..len]);
            len
        } else {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let len = word.max(rest.chars().next().map_or(1, char::len_utf8));
            let token = &rest[..len];
            if !token.trim().is_empty() && token != "," && token != "\u{FEFF}" {
                tokens.push(token);
            }
            len
        };
        at += len;
    }
    comments.sort_unstable();
    (tokens, comments)
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return i,
            '"' if !escaped => return i + 1,
            c => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

struct Formatter<'t> {
    text: &'t str,
    comments: &'t [Span],
    /// The next comment to be placed.
    next: usize,
    /// Comments met where no line can break; the next line above takes them.
    hoisted: Vec<String>,
}

/// A comment and its place.
struct Comment {
    text: String,
    /// On a separate line, rather than behind something.
    own_line: bool,
}

/// The brackets of a sequence.
struct Shape<'s> {
    open: &'s str,
    close: &'s str,
    /// Inside the brackets: nothing or a space, or a line break.
    pad: Doc,
    commas: bool,
}

/// A part of a sequence: where it starts and ends, and how it is laid out.
type Part<'d> = (Span, &'d dyn Fn(&mut Formatter<'_>) -> Doc);

/// Lays a part of a sequence out.
type Builder<'a> = Box<dyn Fn(&mut Formatter<'_>) -> Doc + 'a>;

impl Formatter<'_> {
    fn file(&mut self, tree: &File) -> String {
        let mut out = String::new();
        let mut end: Option<usize> = None;
        for line in &tree.doc {
            self.own_lines(line.span.start, &mut out, &mut end, true);
            self.line(&mut out, &mut end, line.span, &format!("//!{}", line.text), true);
        }
        if !tree.doc.is_empty() {
            out.push('\n');
            end = None;
        }
        for item in &tree.items {
            for (n, line) in item.doc.iter().enumerate() {
                self.own_lines(line.span.start, &mut out, &mut end, n == 0);
                self.line(&mut out, &mut end, line.span, &format!("///{}", line.text), n == 0);
            }
            let free = item.doc.is_empty();
            self.own_lines(item.span.start, &mut out, &mut end, free);
            let doc = self.item(item);
            let mut whole: Vec<Doc> = Vec::new();
            for c in std::mem::take(&mut self.hoisted) {
                whole.extend([Doc::Text(c), Doc::Hard]);
            }
            whole.push(doc);
            whole.extend(self.trailing(item.span.end).map(Doc::Trailing));
            let printed = doc::print(&Doc::Group(whole), WIDTH);
            let span = Span { end: self.placed_end(item.span.end), ..item.span };
            self.line(&mut out, &mut end, span, &printed, free);
        }
        self.own_lines(self.text.len() as u32, &mut out, &mut end, true);
        out.truncate(out.trim_end().len());
        if !out.is_empty() {
            out.push('\n');
        }
        out
    }

    /// Adds a line, after a blank one where the source has one.
    fn line(&self, out: &mut String, end: &mut Option<usize>, span: Span, text: &str, may_space: bool) {
        if let Some(end) = *end {
            let between = self.text.get(end..span.start as usize).unwrap_or_default();
            if may_space && between.matches('\n').count() > 1 {
                out.push('\n');
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
        *end = Some(span.end as usize);
    }

    /// Adds the comments before `pos`, each on its line.
    fn own_lines(&mut self, pos: u32, out: &mut String, end: &mut Option<usize>, may_space: bool) {
        while let Some(span) = self.comments.get(self.next).copied().filter(|c| c.start < pos) {
            self.next += 1;
            let text = self.slice(span).trim_end().to_owned();
            self.line(out, end, span, &text, may_space || end.is_none());
        }
    }

    /// Where the last placed comment ends, or `end` where that is later.
    fn placed_end(&self, end: u32) -> u32 {
        let last = self.next.checked_sub(1).and_then(|n| self.comments.get(n));
        last.map_or(end, |c| c.end.max(end))
    }

    fn slice(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or_default()
    }

    /// The comment behind `end` on the same line.
    fn trailing(&mut self, end: u32) -> Option<String> {
        let c = self.comments.get(self.next).copied()?;
        let between = self.text.get(end as usize..c.start as usize)?;
        if between.contains('\n') {
            return None;
        }
        self.next += 1;
        Some(self.slice(c).trim_end().to_owned())
    }

    /// The comments before `pos`.
    fn before(&mut self, pos: u32) -> Vec<Comment> {
        let mut out = Vec::new();
        while let Some(c) = self.comments.get(self.next).copied().filter(|c| c.start < pos) {
            self.next += 1;
            let line_start = self.text[..c.start as usize].rfind('\n').map_or(0, |n| n + 1);
            let own_line = self.text[line_start..c.start as usize].trim().is_empty();
            out.push(Comment { text: self.slice(c).trim_end().to_owned(), own_line });
        }
        out
    }

    /// Takes the comments before `pos`, where no line can break.
    fn hoist(&mut self, pos: u32) {
        let found = self.before(pos);
        self.hoisted.extend(found.into_iter().map(|c| c.text));
    }

    /// Lays out the comments before `pos`, then a line break; just `line` where there are none.
    fn break_before(&mut self, pos: u32, line: Doc, out: &mut Vec<Doc>) {
        for (n, c) in self.before(pos).into_iter().enumerate() {
            // A second one, behind a token that moves, cannot follow the first on its line.
            if c.own_line || n > 0 {
                out.extend([Doc::Hard, Doc::Text(c.text)]);
            } else {
                out.push(Doc::Trailing(c.text));
            }
        }
        out.push(line);
    }

    /// `open a, b close`, where `end` is the end of the closing bracket. Broken, every part has a
    /// line of its own; where parts are separated by commas, each then ends with one.
    fn sequence(&mut self, shape: Shape<'_>, parts: &[Part<'_>], end: u32) -> Doc {
        let mut inner = Vec::new();
        for (n, (span, build)) in parts.iter().enumerate() {
            let line = if n == 0 { shape.pad.clone() } else { Doc::Line };
            self.break_before(span.start, line, &mut inner);
            let part = build(self);
            for c in std::mem::take(&mut self.hoisted) {
                inner.extend([Doc::Text(c), Doc::Hard]);
            }
            inner.push(part);
            if shape.commas {
                let last = n + 1 == parts.len();
                inner.push(if last { Doc::IfBroken(",") } else { Doc::text(",") });
            }
        }
        let closing = end.saturating_sub(shape.close.len() as u32);
        self.break_before(closing, Doc::Soft, &mut inner);
        inner.pop();
        let last = if parts.is_empty() { Doc::Soft } else { shape.pad };
        Doc::Group(vec![Doc::text(shape.open), Doc::Indent(inner), last, Doc::text(shape.close)])
    }

    fn item(&mut self, item: &Item) -> Doc {
        match &item.kind {
            ItemKind::Import(i) => {
                let head = format!("import {} as {}", self.slice(i.path.span), i.name.text);
                self.headed(head, i.args.as_ref())
            }
            ItemKind::Program(p) => {
                Doc::Text(format!("program {} = {}", p.name.text, self.slice(p.path.span)))
            }
            ItemKind::Param(p) => {
                let mut out = vec![Doc::Text(format!("param {}: {}", p.name.text, ty(&p.ty)))];
                if let Some(default) = &p.default {
                    out.extend([Doc::text(" = "), self.expr(default)]);
                }
                Doc::Group(out)
            }
            ItemKind::Decl(d) => self.decl(d),
            ItemKind::Schedule(s) => self.headed(format!("schedule {}", s.name.text), Some(&s.block)),
            ItemKind::Output(o) => {
                let value = self.expr(&o.value);
                Doc::Group(vec![Doc::Text(format!("output {} = ", o.name.text)), value])
            }
            // A file with such an item is not formatted.
            ItemKind::Bad(_) => Doc::text(self.slice(item.span)),
        }
    }

    /// A head with a block on the same line.
    fn headed(&mut self, head: String, block: Option<&Block>) -> Doc {
        let Some(block) = block else { return Doc::Text(head) };
        Doc::Group(vec![Doc::Text(head + " "), self.block(block)])
    }

    fn decl(&mut self, d: &Decl) -> Doc {
        let private = if d.private.is_some() { "private " } else { "" };
        let stated = d.ty.as_ref().map(|t| format!(": {}", ty(t))).unwrap_or_default();
        let keyword = match d.declared {
            Declared::Model => "model",
            Declared::Dataset => "dataset",
            Declared::Space => "space",
            Declared::Stage => "stage",
        };
        let mut head = vec![Doc::Text(format!("{private}{keyword} {}{stated} = ", d.name.text))];
        head.push(self.expr(&d.value));
        let mut clauses = Vec::new();
        if let Some(on) = &d.on {
            self.clause("on ", on, &mut clauses);
        }
        if let Some(first) = d.bindings.first() {
            self.break_before(self.word_before(first.name.span.start), Doc::Line, &mut clauses);
            clauses.push(Doc::text("for "));
            for (n, b) in d.bindings.iter().enumerate() {
                self.hoist(b.list.span.start);
                clauses.push(Doc::Text(format!("{}{} in ", if n > 0 { ", " } else { "" }, b.name.text)));
                clauses.push(self.expr(&b.list));
            }
        }
        if let Some(when) = &d.when {
            self.clause("when ", when, &mut clauses);
        }
        let Some(block) = &d.settings else {
            head.push(Doc::Indent(clauses));
            return Doc::Group(head);
        };
        let (comments, clauses_only) = (self.next, clauses.len());
        self.break_before(block.span.start, Doc::Line, &mut clauses);
        let doc = self.block(block);
        if doc.flat_width().is_some_and(|w| w + INDENT <= WIDTH) {
            clauses.push(doc);
            head.push(Doc::Indent(clauses));
            return Doc::Group(head);
        }
        // A long block opens on the line of the clauses; comments in front of it move inside.
        clauses.truncate(clauses_only);
        self.next = comments;
        head.push(Doc::Indent(clauses));
        let block = self.block(block);
        Doc::Group(vec![Doc::Group(head), Doc::text(" "), block])
    }

    fn clause(&mut self, keyword: &str, e: &Expr, out: &mut Vec<Doc>) {
        self.break_before(self.word_before(e.span.start), Doc::Line, out);
        out.push(Doc::text(keyword));
        out.push(self.expr(e));
    }

    /// Where the word before `pos` starts.
    fn word_before(&self, pos: u32) -> u32 {
        let before = self.text[..pos as usize].trim_end();
        let start = before.rfind(|c: char| !c.is_ascii_alphabetic()).map_or(0, |i| i + 1);
        start as u32
    }

    fn block(&mut self, block: &Block) -> Doc {
        if block.settings.is_empty() && self.comments.get(self.next).is_none_or(|c| c.start >= block.span.end)
        {
            return Doc::text("{}");
        }
        let builders: Vec<Builder<'_>> = block
            .settings
            .iter()
            .map(|s| -> Builder<'_> {
                Box::new(move |f: &mut Formatter<'_>| {
                    f.hoist(s.value.span.start);
                    Doc::Group(vec![Doc::Text(format!("{}: ", s.name.text)), f.expr(&s.value)])
                })
            })
            .collect();
        let spans = block.settings.iter().map(|s| s.name.span.to(s.value.span));
        let parts: Vec<Part<'_>> = spans.zip(&builders).map(|(s, b)| (s, b.as_ref())).collect();
        let shape = Shape { open: "{", close: "}", pad: Doc::Line, commas: true };
        self.sequence(shape, &parts, block.span.end)
    }

    fn expr(&mut self, e: &Expr) -> Doc {
        match &e.kind {
            ExprKind::Name(_)
            | ExprKind::Text(_)
            | ExprKind::Number(..)
            | ExprKind::Bool(_)
            | ExprKind::Bad => Doc::text(self.slice(e.span)),
            ExprKind::List(all) => self.list(all, e.span.end),
            ExprKind::Paren(inner) => {
                let build = |f: &mut Formatter<'_>| f.expr(inner);
                let shape = Shape { open: "(", close: ")", pad: Doc::Soft, commas: false };
                self.sequence(shape, &[(inner.span, &build)], e.span.end)
            }
            ExprKind::Call(call) => self.call(call, e.span.end),
            ExprKind::Field(of, name) => {
                let of = self.expr(of);
                Doc::Group(vec![of, Doc::Text(format!(".{}", name.text))])
            }
            ExprKind::Element(of, key) => {
                let of = self.expr(of);
                self.hoist(key.span.start);
                let key = self.expr(key);
                self.hoist(e.span.end);
                Doc::Group(vec![of, Doc::text("["), key, Doc::text("]")])
            }
            ExprKind::Or(all) => self.chain(all.iter().map(|e| ("or", e)).collect()),
            ExprKind::Product(all) => self.chain(all.iter().map(|e| ("*", e)).collect()),
            ExprKind::Join(all) => self.chain(all.iter().map(|e| ("/", e)).collect()),
            ExprKind::Sum(all) => {
                self.chain(all.iter().map(|(m, e)| (if *m { "-" } else { "+" }, e)).collect())
            }
            ExprKind::Compare(l, op, r) => self.chain(vec![("", l), (op.symbol(), r)]),
            ExprKind::Not(inner) => Doc::Group(vec![Doc::text("not "), self.expr(inner)]),
            ExprKind::Minus(inner) => Doc::Group(vec![Doc::text("-"), self.expr(inner)]),
        }
    }

    /// Operands with the operator in front of each but the first; broken, one a line.
    fn chain(&mut self, all: Vec<(&str, &Expr)>) -> Doc {
        let mut first = Vec::new();
        let mut rest = Vec::new();
        for (n, (op, e)) in all.into_iter().enumerate() {
            if n == 0 {
                first.push(self.expr(e));
                continue;
            }
            self.break_before(e.span.start, Doc::Line, &mut rest);
            rest.push(Doc::Text(format!("{op} ")));
            rest.push(self.expr(e));
        }
        first.push(Doc::Indent(rest));
        Doc::Group(first)
    }

    fn list(&mut self, all: &[Expr], end: u32) -> Doc {
        let builders: Vec<Builder<'_>> =
            all.iter().map(|e| -> Builder<'_> { Box::new(move |f: &mut Formatter<'_>| f.expr(e)) }).collect();
        let parts: Vec<Part<'_>> = all.iter().zip(&builders).map(|(e, b)| (e.span, b.as_ref())).collect();
        let shape = Shape { open: "[", close: "]", pad: Doc::Soft, commas: true };
        self.sequence(shape, &parts, end)
    }

    fn call(&mut self, call: &Call, end: u32) -> Doc {
        let builders: Vec<Builder<'_>> = call
            .args
            .iter()
            .map(|a| -> Builder<'_> {
                Box::new(move |f: &mut Formatter<'_>| {
                    let name = a.name.as_ref().map(|n| format!("{}: ", n.text)).unwrap_or_default();
                    f.hoist(a.value.span.start);
                    Doc::Group(vec![Doc::Text(name), f.expr(&a.value)])
                })
            })
            .collect();
        let spans =
            call.args.iter().map(|a| a.name.as_ref().map_or(a.value.span, |n| n.span.to(a.value.span)));
        let parts: Vec<Part<'_>> = spans.zip(&builders).map(|(s, b)| (s, b.as_ref())).collect();
        let open = format!("{}(", call.name.text);
        let shape = Shape { open: &open, close: ")", pad: Doc::Soft, commas: true };
        self.sequence(shape, &parts, end)
    }
}

fn ty(t: &Ty) -> String {
    let of = t.of.as_ref().map(|of| format!("<{}>", ty(of))).unwrap_or_default();
    format!("{}{of}{}", t.name.text, if t.optional { "?" } else { "" })
}
