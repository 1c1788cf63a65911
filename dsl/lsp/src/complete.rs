//! completion: what can follow where the cursor is.

use headstart_dsl::symbols::{Symbol, SymbolKind};
use headstart_dsl::words::{self, Word};
use headstart_protocol::Type;
use headstart_protocol::kinds::{Accepts, Arg, DefaultValue, Kind, Role};
use lsp_types::{
    CompletionItem, CompletionItemKind as C, Documentation, InsertTextFormat, MarkupContent, MarkupKind,
};

use crate::documents::Analysis;
use crate::hover;
use crate::scan::{Scan, Token, scan};

/// What is offered at a byte of the text. The analysis may be of the text with its errors.
pub fn complete(a: &Analysis, text: &str, at: usize, snippets: bool) -> Vec<CompletionItem> {
    let Some(scan) = scan(text, at) else { return Vec::new() };
    let mut c = Completer { a, scan, out: Vec::new(), snippets };
    c.offer();
    c.out
}

struct Completer<'a, 't> {
    a: &'a Analysis,
    scan: Scan<'t>,
    out: Vec<CompletionItem>,
    snippets: bool,
}

fn item(label: &str, kind: C, detail: String, doc: String) -> CompletionItem {
    let content = MarkupContent { kind: MarkupKind::Markdown, value: doc };
    CompletionItem {
        label: label.to_owned(),
        kind: Some(kind),
        detail: Some(detail),
        documentation: Some(Documentation::MarkupContent(content)),
        ..Default::default()
    }
}

impl Completer<'_, '_> {
    fn offer(&mut self) {
        match (self.scan.last(), self.scan.open.last().copied()) {
            (Some(Token::Mark('.')), _) => self.members(),
            (_, Some(('{', n))) => self.in_block(n),
            (_, Some(('(', n))) => self.in_call(n),
            (_, Some(_)) => self.values(None),
            (last, None) => self.at_top(last),
        }
    }

    fn words(&mut self, all: &'static [Word], kind: C, suffix: &str) {
        for w in all {
            let doc = format!("{}\n\n```pllm\n{}\n```", w.doc, w.example);
            let mut i = item(w.name, kind, w.doc.to_owned(), doc);
            i.insert_text = Some(format!("{}{suffix}", w.name));
            self.out.push(i);
        }
    }

    /// Outside all brackets.
    fn at_top(&mut self, last: Option<Token<'_>>) {
        let tokens = &self.scan.tokens;
        let bound = tokens.contains(&Token::Mark('='));
        match last {
            None => self.words(words::ITEMS, C::KEYWORD, " "),
            Some(Token::Mark(':')) if !bound => self.types(),
            Some(Token::Mark('<')) if !bound => self.types(),
            Some(Token::Mark('=')) => self.made_by(),
            Some(Token::Word("in" | "when" | "or" | "not")) | Some(Token::Mark('/' | '*' | '+' | '-')) => {
                self.values(None);
            }
            Some(Token::Word("on")) => self.place(),
            Some(Token::Word("private")) => self.words(&words::ITEMS[4..5], C::KEYWORD, " "),
            _ if bound => {
                self.words(words::CLAUSES, C::KEYWORD, " ");
                // What looks like the end of an item may be the start of the next.
                self.words(words::ITEMS, C::KEYWORD, " ");
            }
            _ if tokens.len() > 1 => {}
            _ => self.words(words::ITEMS, C::KEYWORD, " "),
        }
    }

    fn types(&mut self) {
        for t in Type::names().filter_map(Type::from_name) {
            self.out.push(item(&t.to_string(), C::STRUCT, "type".to_owned(), String::new()));
        }
        self.out.push(item("List", C::STRUCT, "List<T>".to_owned(), "a keyed list".to_owned()));
    }

    /// Behind `=`.
    fn made_by(&mut self) {
        let role = match self.scan.keyword() {
            Some("model") => Role::Model,
            Some("dataset") => Role::Dataset,
            Some("space") => Role::Space,
            Some("stage") => Role::Stage,
            _ => {
                self.words(&words::FUNCTIONS[..1], C::FUNCTION, "");
                self.words(&words::FUNCTIONS[2..], C::FUNCTION, "");
                return self.values(None);
            }
        };
        // A stage that states its type is made by a kind that makes it.
        let stated = self.scan.tokens.iter().position(|t| *t == Token::Mark(':'));
        let stated = stated.and_then(|n| Type::from_name(self.scan.word(n + 1)?));
        for (name, k) in self.a.index.kinds.all().filter(|(_, k)| k.role == role) {
            let first = stated.is_none() || stated.as_ref() == Some(&k.returns);
            let mut i = item(name, C::FUNCTION, format!("{name} → {}", k.returns), hover::kind(k));
            i.sort_text = Some(format!("{}{name}", u8::from(!first)));
            if self.snippets {
                i.insert_text = Some(call_snippet(name, k));
                i.insert_text_format = Some(InsertTextFormat::SNIPPET);
            }
            self.out.push(i);
        }
    }

    /// Inside `{ … }`.
    fn in_block(&mut self, open: usize) {
        let head = self.scan.keyword();
        let inside = &self.scan.tokens[open + 1..];
        let key = match inside {
            [.., Token::Word(name), Token::Mark(':')] => Some(*name),
            // In a list: `only_when: [charging, `
            _ => None,
        };
        let Some(key) = key else {
            return match head {
                Some("schedule") => self.words(words::ENTRIES, C::PROPERTY, ": "),
                Some("import") => self.module_params(),
                _ => self.words(words::SETTINGS, C::PROPERTY, ": "),
            };
        };
        match (head, key) {
            (Some("import"), _) | (_, "run") => self.values(None),
            (_, "on") => self.place(),
            (_, "only_when") => self.words(words::CONDITIONS, C::ENUM_MEMBER, ""),
            (_, "overlap") => self.words(words::OVERLAP, C::ENUM_MEMBER, ""),
            (_, "catchup") => self.words(words::CATCHUP, C::ENUM_MEMBER, ""),
            _ => self.values(None),
        }
    }

    fn module_params(&mut self) {
        let name = self.scan.tokens.windows(2).find_map(|w| match w {
            [Token::Word("as"), Token::Word(name)] => Some(*name),
            _ => None,
        });
        let declared: Vec<&Symbol> = self.a.index.declared(Analysis::ROOT).collect();
        let file = declared.iter().find(|s| Some(s.name.as_str()) == name).and_then(|s| s.file);
        let Some(file) = file else { return };
        for s in self.a.index.declared(file).filter(|s| s.kind == SymbolKind::Param) {
            let mut i = symbol(s, false);
            i.insert_text = Some(format!("{}: ", s.name));
            self.out.push(i);
        }
    }

    fn place(&mut self) {
        self.words(&words::FUNCTIONS[1..2], C::FUNCTION, "");
        self.out.push(item("server", C::ENUM_MEMBER, "the engine's machine".to_owned(), String::new()));
        let mut devices: Vec<String> =
            self.a.index.symbols.iter().filter_map(|s| s.private_to.clone()).collect();
        devices.sort();
        devices.dedup();
        for d in devices {
            let label = format!("device({d:?})");
            self.out.push(item(&label, C::VALUE, "used in this file".to_owned(), String::new()));
        }
    }

    /// Inside `kind( … )`.
    fn in_call(&mut self, open: usize) {
        let kind = self.scan.callee(open).and_then(|name| self.a.index.kinds.find(&name).cloned());
        let Some(kind) = kind else { return self.values(None) };
        let inside = self.scan.tokens[open + 1..].to_vec();
        // Names given so far, those behind the cursor included.
        let whole = self.scan.whole.get(open + 1..).unwrap_or_default();
        let given: Vec<&str> = whole
            .windows(2)
            .filter_map(|w| match w {
                [Token::Word(name), Token::Mark(':')] => Some(*name),
                _ => None,
            })
            .collect();
        let starts_arg = matches!(inside.last(), None | Some(Token::Mark(',')));
        let first = inside.is_empty();
        if starts_arg {
            let by_position = usize::from(!first && !matches!(inside.get(1), Some(Token::Mark(':'))));
            for arg in kind.args.iter().skip(by_position).filter(|a| !given.contains(&a.name.as_str())) {
                self.out.push(argument(arg));
            }
            if first {
                self.values(kind.args.first());
            }
            return;
        }
        let depth_zero = inside.iter().rposition(|t| *t == Token::Mark(','));
        let current = &inside[depth_zero.map_or(0, |n| n + 1)..];
        let spec = match current {
            [Token::Word(name), Token::Mark(':'), ..] => kind.args.iter().find(|a| a.name == *name),
            _ => kind.args.first(),
        };
        self.values(spec);
    }

    /// Names, those that fit an argument first, and the words that it takes.
    fn values(&mut self, spec: Option<&Arg>) {
        let accepts = spec.map_or(&[][..], |s| &s.accepts);
        for a in accepts {
            match a {
                Accepts::Word(all) => {
                    for w in all {
                        let mut i = item(w, C::ENUM_MEMBER, String::new(), String::new());
                        i.sort_text = Some(format!("0{w}"));
                        self.out.push(i);
                    }
                }
                Accepts::Bool => {
                    for w in ["true", "false"] {
                        self.out.push(item(w, C::VALUE, "Bool".to_owned(), String::new()));
                    }
                }
                Accepts::Paths => self.words(&words::FUNCTIONS[..1], C::FUNCTION, ""),
                _ => {}
            }
        }
        let fits = |ty: &Option<Type>| match ty {
            Some(Type::Optional(t)) => accepts.iter().any(|a| a.ty() == **t),
            Some(t) => accepts.iter().any(|a| a.ty() == *t),
            None => false,
        };
        for (name, list) in self.scan.variables() {
            let ty = self.element_type(list);
            let detail = ty.as_ref().map_or("loop variable".to_owned(), |t| t.to_string());
            let mut i = item(name, C::VARIABLE, detail, "Loop variable.".to_owned());
            i.sort_text = Some(format!("{}{name}", u8::from(!fits(&ty)) + 1));
            self.out.push(i);
        }
        let own = self.scan.name();
        let names = self.a.index.declared(Analysis::ROOT).filter(|s| {
            !matches!(s.kind, SymbolKind::Output | SymbolKind::Schedule | SymbolKind::Program)
                && Some(s.name.as_str()) != own
        });
        let names: Vec<CompletionItem> = names.map(|s| symbol(s, fits(&s.ty))).collect();
        self.out.extend(names);
    }

    /// The stages of the program whose name ends in front of token `end`.
    fn stages_of(&mut self, end: usize) {
        let Some(program) = end.checked_sub(1).and_then(|n| self.scan.word(n)) else { return };
        let declared = self.a.index.kinds.declared();
        let found: Vec<CompletionItem> = declared
            .filter_map(|(name, k)| {
                let stage = name.strip_prefix(program)?.strip_prefix('.')?;
                let mut i = item(stage, C::FUNCTION, format!("{name} → {}", k.returns), hover::kind(k));
                if self.snippets {
                    i.insert_text = Some(call_snippet(stage, k));
                    i.insert_text_format = Some(InsertTextFormat::SNIPPET);
                }
                Some(i)
            })
            .collect();
        self.out.extend(found);
    }

    /// Behind a dot.
    fn members(&mut self) {
        let Some(at) = self.scan.tokens.len().checked_sub(1) else { return };
        self.stages_of(at);
        match self.value_before(at) {
            Some(Before::Module(file)) => {
                let kinds = |s: &&Symbol| !matches!(s.kind, SymbolKind::Param | SymbolKind::Schedule);
                let found: Vec<_> =
                    self.a.index.declared(file).filter(kinds).map(|s| symbol(s, true)).collect();
                self.out.extend(found);
            }
            Some(Before::Value(ty)) => {
                for (name, of, doc) in ty.present().fields() {
                    self.out.push(item(name, C::FIELD, of.to_string(), (*doc).to_owned()));
                }
            }
            None => {}
        }
    }

    /// What ends in front of token `end`: `name`, `name.field`, `name["key"]`.
    fn value_before(&self, end: usize) -> Option<Before> {
        match self.scan.tokens.get(end.checked_sub(1)?)? {
            Token::Word(name) => match end.checked_sub(2).and_then(|n| self.scan.tokens.get(n)) {
                Some(Token::Mark('.')) => match self.value_before(end - 2)? {
                    Before::Module(file) => self.named(file, name),
                    Before::Value(t) => t.present().field(name).map(Before::Value),
                },
                _ => {
                    let variables = self.scan.variables();
                    match variables.iter().find(|(v, _)| v == name) {
                        Some((_, list)) => self.element_type(list).map(Before::Value),
                        None => self.named(Analysis::ROOT, name),
                    }
                }
            },
            Token::Mark(']') => {
                let open = self.scan.tokens[..end].iter().rposition(|t| *t == Token::Mark('['))?;
                match self.value_before(open)? {
                    Before::Value(Type::List(t)) => Some(Before::Value(*t)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn named(&self, file: headstart_dsl::FileId, name: &str) -> Option<Before> {
        let mut all = self.a.index.declared(file).filter(|s| s.name == name);
        let s = all.find(|s| !matches!(s.kind, SymbolKind::Output | SymbolKind::Schedule))?;
        match (s.file, &s.ty) {
            (Some(file), _) => Some(Before::Module(file)),
            (None, ty) => ty.clone().map(Before::Value),
        }
    }

    /// The type of the elements of a loop's list.
    fn element_type(&self, list: &[Token<'_>]) -> Option<Type> {
        match list.first()? {
            Token::Word("glob") => Some(Type::Path),
            Token::Word(name) => match self.named(Analysis::ROOT, name)? {
                Before::Value(Type::List(t)) => Some(*t),
                _ => None,
            },
            Token::Mark('[') => match list.get(1)? {
                Token::Text => Some(Type::Text),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The expression in front of a dot.
enum Before {
    Module(headstart_dsl::FileId),
    Value(Type),
}

fn symbol(s: &Symbol, fits: bool) -> CompletionItem {
    let kind = match s.kind {
        SymbolKind::Import => C::MODULE,
        SymbolKind::Param => C::CONSTANT,
        _ => C::VARIABLE,
    };
    let ty = s.ty.as_ref().map_or_else(|| s.kind.keyword().to_owned(), |t| t.to_string());
    let mut i = item(&s.name, kind, ty, hover::brief(s));
    i.sort_text = Some(format!("{}{}", u8::from(!fits) + 1, s.name));
    i
}

fn argument(arg: &Arg) -> CompletionItem {
    let mut i = item(&arg.name, C::PROPERTY, hover::accepts(arg), hover::argument(arg));
    i.insert_text = Some(format!("{}: ", arg.name));
    i.sort_text = Some(format!("{}{}", if arg.default == DefaultValue::Required { 0 } else { 3 }, arg.name));
    i
}

/// A call with a hole for each argument that is needed.
fn call_snippet(name: &str, k: &Kind) -> String {
    let needed = k.args.iter().enumerate().filter(|(_, a)| a.default == DefaultValue::Required);
    let holes: Vec<String> = needed
        .map(|(n, a)| match n {
            0 => format!("${{1:{}}}", a.name),
            _ => format!("{}: ${}", a.name, n + 1),
        })
        .collect();
    format!("{name}({})$0", holes.join(", "))
}
