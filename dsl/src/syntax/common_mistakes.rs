//! Common mistakes: spellings of other languages, and parts that are often forgotten.

use headstart_protocol::Type;
use headstart_protocol::text::similar;

use super::failure::{Diagnosis, ParseFailure};
use super::places::Edit;
use super::tokens::{part_end, token, token_before};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::literal;
use crate::names;
use crate::words;

/// What people call an item elsewhere, and what it is called here.
const SYNONYMS: &[(&str, &str)] = &[
    ("step", "stage"),
    ("task", "stage"),
    ("job", "stage"),
    ("node", "stage"),
    ("data", "dataset"),
    ("source", "dataset"),
    ("let", "param"),
    ("const", "param"),
    ("var", "param"),
    ("input", "param"),
    ("variable", "param"),
    ("use", "import"),
    ("include", "import"),
    ("from", "import"),
    ("module", "import"),
    ("cron", "schedule"),
    ("trigger", "schedule"),
    ("encoder", "space"),
    ("embedding", "space"),
    ("llm", "model"),
    ("base", "model"),
    ("export", "output"),
    ("return", "output"),
    ("result", "output"),
];

fn new(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::E0001, message)
}

impl ParseFailure<'_> {
    /// The item starts with a word that is no keyword.
    pub(super) fn no_item(&self) -> Option<Diagnosis> {
        let start = self.text.len() - self.text.trim_start().len();
        let first = token(&self.text[start..]);
        if self.at != start || !self.expects("an item") || first.is_empty() {
            return None;
        }
        let span = self.span(start, start + first.len());
        if !first.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return match first {
                "#" | "/*" | "'" => self.spelling(first),
                _ => None,
            };
        }
        let d = new(format!("expected an item, found `{first}`")).at(span, "expected an item");
        if let Some(k) = similar(first, words::names(words::ITEMS)) {
            let edit = Edit::sure(start, start + first.len(), k);
            return Some(Diagnosis::fixed(d.help(format!("did you mean `{k}`?")), self.file, edit));
        }
        let example = |k: &str| words::find(words::ITEMS, k).map_or("", |w| w.example);
        let d = match SYNONYMS.iter().find(|(s, _)| s.eq_ignore_ascii_case(first)) {
            Some((_, k)) => d.help(format!("write `{k}`: `{}`", example(k))),
            None => {
                d.help(format!("an item starts with {}", names::quoted(words::names(words::ITEMS), "or")))
            }
        };
        Some(Diagnosis::new(d))
    }

    /// A mistake that is common enough to be recognized.
    pub(super) fn common_mistake(&self) -> Option<Diagnosis> {
        let found = self.found();
        self.spelling(found)
            .or_else(|| self.binding(found))
            .or_else(|| self.number(found))
            .or_else(|| self.left_out(found))
            .or_else(|| self.no_value(found))
            .or_else(|| self.no_brackets(found))
            .or_else(|| self.comma(found))
    }

    fn here(&self) -> crate::span::Span {
        self.span(self.at, self.at + self.found().len())
    }

    /// One sure edit of what was found.
    fn replaced(&self, message: &str, help: &str, by: &str) -> Diagnosis {
        let edit = Edit::sure(self.at, self.at + self.found().len(), by);
        Diagnosis::fixed(new(message).at(self.here(), "").help(help), self.file, edit)
    }

    /// Spellings of other languages.
    fn spelling(&self, found: &str) -> Option<Diagnosis> {
        Some(match found {
            "\"" => self.open_text(),
            "'" | "`" | "\u{201c}" | "\u{2018}" => self.other_quotes(found),
            "#" => self.replaced("`#` starts no comment", "a comment starts with `//`", "//"),
            "/*" => Diagnosis::new(
                new("block comments are not supported")
                    .at(self.here(), "")
                    .help("start every line with `//`"),
            ),
            "&&" | "and" if self.expects("`or`") => {
                let d = new("`and` is not supported").at(self.here(), "");
                let edit = Edit::guess(self.at, self.at + found.len(), "or");
                let d = d.help("let one stage take the condition of another");
                Diagnosis { diagnostic: d, edits: vec![edit] }
            }
            "||" => self.replaced("`||` is written `or`", "write `or`", "or"),
            "!" => self.replaced("`!` is written `not`", "write `not`", "not "),
            "if" | "where" if self.expects("`when`") => {
                let message = format!("a condition starts with `when`, not with `{found}`");
                self.replaced(&message, "write `when`", "when")
            }
            "foreach" | "each" if self.expects("`for`") => {
                self.replaced("a loop is written `for x in list`", "write `for`", "for")
            }
            ";" if self.expects("the end of the line") => {
                self.replaced("unexpected `;`: an item ends with its line", "remove it", "")
            }
            ";" => self.replaced(
                "unexpected `;`: arguments and settings are separated by commas",
                "write `,`",
                ",",
            ),
            "," if self.expects("an argument") => {
                self.replaced("unexpected second comma", "remove this one", "")
            }
            "=<" | "=>" if self.expects("a comparison") => {
                let right = if found == "=<" { "<=" } else { ">=" };
                let help = format!("write `{right}`");
                self.replaced(&format!("`{found}` is written `{right}`"), &help, right)
            }
            "," if self.expects("the end of the line") && !self.expects("`,`") => {
                self.replaced("unexpected comma after an item", "remove it", "")
            }
            "$" | "${" => Diagnosis::new(
                new("texts cannot hold templates").at(self.here(), "").help("pass a parameter instead"),
            ),
            ")" | "]" | "}" if self.expects("the end of the line") => {
                let message = format!("unexpected `{found}`: no open bracket matches it");
                self.replaced(&message, "remove it", "")
            }
            _ => return None,
        })
    }

    /// `=`, `:` and what stands for them elsewhere.
    fn binding(&self, found: &str) -> Option<Diagnosis> {
        let (equals, colon) = (self.expects("`=`"), self.expects("`:`"));
        Some(match found {
            "=" if colon && !equals && token(self.text) == "param" => self.untyped_param(),
            "=" | ":=" | "=>" | "->" if colon && !equals => {
                let name = token_before(&self.text[..self.before()]);
                let value = &self.text[self.at + found.len()..part_end(self.text, self.at)];
                let value = if value.trim().is_empty() { "…" } else { value.trim() };
                let help = format!("write `{name}: {value}`");
                let d = new("`=` binds names only; arguments and settings take `:`").at(self.here(), "");
                let edit = Edit::sure(self.before(), self.at + found.len(), ":");
                Diagnosis::fixed(d.help(help), self.file, edit)
            }
            "=" if self.text[..self.at].ends_with(':') && self.expects("a name") => {
                let edit = Edit::sure(self.at - 1, self.at, "");
                let d = new("`:=` is written `=`").at(self.span(self.at - 1, self.at + 1), "");
                Diagnosis::fixed(d.help("write `=`"), self.file, edit)
            }
            ":=" | "==" | "<-" | "=>" if equals => {
                self.replaced(&format!("expected `=`, found `{found}`"), "write `=`", "=")
            }
            ":" if equals && !colon => {
                self.replaced("expected `=`, found `:`", "`=` says how the item is made", "=")
            }
            // `model base: local("m")`: what was taken for the type is a call.
            "(" if equals => {
                let name = self.text[..self.at].rfind(':')?;
                let d = new("expected `=`, found `:`").at(self.span(name, name + 1), "");
                let edit = Edit::sure(name, name + 1, " =");
                Diagnosis::fixed(d.help("`=` says how the item is made"), self.file, edit)
            }
            _ => return None,
        })
    }

    /// `param rank = 8`
    fn untyped_param(&self) -> Diagnosis {
        let value = self.text[self.at + 1..].trim();
        let list = value.strip_prefix('[').map(str::trim_start);
        let first = token(list.unwrap_or(value));
        let ty = match first {
            "true" | "false" => Some(Type::Bool),
            t if t.starts_with('"') => Some(Type::Text),
            t if t.starts_with(|c: char| c.is_ascii_digit()) => {
                let number = list.unwrap_or(value);
                let len =
                    number.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(number.len());
                literal::number(&number[..len]).ok().map(literal::type_of)
            }
            _ => None,
        };
        let ty = if list.is_some() { ty.map(Type::list) } else { ty };
        let before = self.before();
        let name = token_before(&self.text[..before]);
        let d = new(format!("the parameter `{name}` has no type"))
            .at(self.span(before - name.len(), before), "no type");
        match ty {
            Some(ty) => {
                let edit = Edit::sure(before, before, format!(": {ty}"));
                Diagnosis::fixed(d.help(format!("write `param {name}: {ty} = {value}`")), self.file, edit)
            }
            None => Diagnosis::new(d.help(format!("write `param {name}: Type = {value}`"))),
        }
    }

    /// Units apart from their number, numbers without a first digit, a cron expression without quotes.
    fn number(&self, found: &str) -> Option<Diagnosis> {
        let before = self.before();
        let last = self.text[..before].rsplit(|c: char| !c.is_alphanumeric() && c != '.').next()?;
        let is_number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if let Some(unit) = literal::meant_unit(found).filter(|_| is_number) {
            let edit = Edit::sure(before, self.at + found.len(), unit);
            let d = new("a unit must follow its number directly")
                .at(self.span(before - last.len(), self.at + found.len()), "")
                .help(format!("write `{last}{unit}`"));
            return Some(Diagnosis::fixed(d, self.file, edit));
        }
        let digit = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
        let value = self.expects("a value") || self.expects("an argument");
        if found == "." && value && digit(&self.text[self.at + 1..]) {
            let rest = &self.text[self.at + 1..];
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let d = new("a number must start with a digit")
                .at(self.span(self.at, self.at + 1 + digits), "")
                .help(format!("write `0.{}`", &rest[..digits]));
            return Some(Diagnosis::fixed(d, self.file, Edit::sure(self.at, self.at, "0")));
        }
        let key = self.text.rfind("cron:").filter(|k| *k < self.at && self.at < self.text.len())?;
        let value = key + 5 + self.text[key + 5..].len() - self.text[key + 5..].trim_start().len();
        let cron = |c: char| c.is_ascii_alphanumeric() || " *,-/".contains(c);
        let rest = &self.text[value..];
        let end = rest.find(|c: char| !cron(c)).unwrap_or(rest.len());
        let written = rest[..end].trim_end_matches([' ', ',']);
        if !written.contains(' ') || !written.starts_with(|c: char| c.is_ascii_digit() || c == '*') {
            return None;
        }
        let five: Vec<&str> = written.split(' ').filter(|f| !f.is_empty()).take(5).collect();
        let edit = Edit::sure(value, value + written.len(), format!("\"{written}\""));
        let d = new("a cron expression must be quoted")
            .at(self.span(value, value + written.len()), "not in quotes")
            .help(format!("write `cron: \"{}\"`", five.join(" ")));
        Some(Diagnosis::fixed(d, self.file, edit))
    }

    /// Forgotten parts: `:` before a type, `as`, `in`.
    fn left_out(&self, found: &str) -> Option<Diagnosis> {
        let before = self.before();
        let is_type = Type::from_name(found).is_some() || found == "List";
        if is_type && self.expects("`:`") {
            let name = token_before(&self.text[..before]);
            let d = new("missing `:` before the type")
                .at(self.here(), "the type")
                .help(format!("write `{name}: {found}`"));
            return Some(Diagnosis::fixed(d, self.file, Edit::sure(before, before, ":")));
        }
        if self.expects("`in`") {
            let edit = match found {
                "on" | "of" | "from" | "=" | ":" => Edit::sure(self.at, self.at + found.len(), "in"),
                _ => Edit::sure(self.at, self.at, "in "),
            };
            let d = new(format!("expected `in`, found `{found}`")).at(self.here(), "expected `in`");
            return Some(Diagnosis::fixed(d.help("a loop is written `for x in list`"), self.file, edit));
        }
        if !self.expects("`as`") {
            return None;
        }
        let path = self.text[..before].split('"').nth(1).unwrap_or_default();
        let stem = crate::loader::stem(path);
        let name = stem.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let stem = if name && !stem.is_empty() { stem } else { "name" };
        let named = found.starts_with(|c: char| c.is_ascii_alphabetic());
        let (text, edit) = match named {
            true => (found, Edit::sure(self.at, self.at, "as ")),
            false => (stem, Edit::sure(before, before, format!(" as {stem}"))),
        };
        let span = if named { self.here() } else { self.end_of_line() };
        let d = new("missing `as` and a name in this import").at(span, "expected `as`");
        Some(Diagnosis::fixed(d.help(format!("write `import {path:?} as {text}`")), self.file, edit))
    }

    /// `name:` without a value, and a name and a value without the `:`.
    fn no_value(&self, found: &str) -> Option<Diagnosis> {
        let before = self.before();
        let last = token_before(&self.text[..before]);
        if self.expects("a value") && matches!(found, "" | "\n" | ")" | "]" | "}" | ",") && last == ":" {
            let name = token_before(self.text[..before - 1].trim_end());
            let d =
                new(format!("`{name}` has no value")).at(self.span(before - 1, before), "nothing follows");
            let edit = Edit::sure(before, before, "\0");
            return Some(Diagnosis {
                diagnostic: d.help(format!("write `{name}: …`, or remove it")),
                edits: vec![edit],
            });
        }
        let word = last.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let inside = !self.expects("`=`") && words::find(words::ITEMS, token(self.text)).is_none();
        if self.expects("`:`") && inside && word && matches!(found, "" | "\n" | ")" | "]" | "}" | ",") {
            let d = new(format!("`{last}` has no value"))
                .at(self.span(before - last.len(), before), "only a name");
            let edit = Edit::sure(before, before, ":\0");
            return Some(Diagnosis { diagnostic: d.help(format!("write `{last}: …`")), edits: vec![edit] });
        }
        if let (true, "." | "/" | "~") = (self.expects("a value") || self.expects("an argument"), found) {
            let rest = &self.text[self.at..];
            let path = |c: char| c.is_alphanumeric() || "._-/*~".contains(c);
            let written = &rest[..rest.find(|c| !path(c)).unwrap_or(rest.len())];
            let edit = Edit::sure(self.at, self.at + written.len(), format!("{written:?}"));
            let d = new("a path must be quoted").at(self.span(self.at, edit.end), "not in quotes");
            return Some(Diagnosis::fixed(d.help(format!("write `{written:?}`")), self.file, edit));
        }
        if self.expects("`>`") {
            let d = new("missing `>`").at(self.span(before, before), "the type ends here");
            let d = d.help("a list of a type is written `List<Type>`");
            return Some(Diagnosis::fixed(d, self.file, Edit::sure(before, before, ">")));
        }
        let value = found.starts_with(|c: char| c.is_alphanumeric() || "_\"".contains(c));
        let named = last.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        // `a b: c` and `a b = c`: then a comma is missing.
        let behind = self.text[self.at + found.len()..].trim_start();
        let named = named && !behind.starts_with([':', '=']);
        // In the head of an item something else may be missing as well.
        if self.expects("`:`") && !self.expects("`=`") && value && named {
            let d = new(format!("missing `:` after `{last}`")).at(self.span(before, before), "here");
            let d = d.help(format!("write `{last}: {found}`"));
            return Some(Diagnosis::fixed(d, self.file, Edit::sure(before, before, ":")));
        }
        None
    }

    /// `probe base, prompts: q`
    fn no_brackets(&self, found: &str) -> Option<Diagnosis> {
        let before = self.before();
        let kind = token_before(&self.text[..before]);
        let head = self.text[..before - kind.len()].trim_end();
        let value = found.starts_with(|c: char| c.is_alphanumeric() || "_\"[".contains(c));
        if !head.ends_with('=') || !value || headstart_protocol::kinds::find(kind).is_none() {
            return None;
        }
        let line = self.text[self.at..].lines().next().unwrap_or_default();
        let ends = [" for ", " when ", " on ", " {"].iter().filter_map(|c| line.find(c)).min();
        let args = line[..ends.unwrap_or(line.len())].trim_end();
        let edit = Edit::sure(before, self.at + args.len(), format!("({args})"));
        let d = new("arguments are written in parentheses").at(self.span(self.at, self.at + args.len()), "");
        Some(Diagnosis::fixed(d.help(format!("write `{kind}({args})`")), self.file, edit))
    }

    /// Two values with nothing between them.
    fn comma(&self, found: &str) -> Option<Diagnosis> {
        let end = self.expects("`,`") || self.expects("the end of the line") && !self.expects("`=`");
        let value = found.starts_with(|c: char| c.is_alphanumeric() || "_\"".contains(c));
        let before = self.before();
        let inside = self.expects("`,`") || !self.expects("`when`");
        // In a head `stage a b = …` a comma would not help.
        let goes_on = self.text[..before].ends_with(|c: char| c.is_alphanumeric() || "_\")]}".contains(c));
        if !(end && value && inside && goes_on) {
            return None;
        }
        let last = token_before(&self.text[..before]);
        let d = new("missing comma").at(self.span(before, before), "between these two");
        let d = d.see(self.here(), "the next one").help(format!("write `{last}, {found}`"));
        Some(Diagnosis::fixed(d, self.file, Edit::sure(before, before, ",")))
    }

    /// A text in double quotes without its end.
    fn open_text(&self) -> Diagnosis {
        let line = self.text[self.at..].lines().next().unwrap_or_default();
        let end = self.at + line.trim_end().len();
        let d = Diagnostic::new(Code::E0002, "unterminated text")
            .at(self.span(self.at, end), "starts here")
            .help("end it with `\"` on the same line; write a line break as `\\n`");
        // Where it was meant to end is not known: what it says counts for nothing.
        let ends = line.char_indices().rev().filter(|(_, c)| ")]},".contains(*c)).take(4);
        let ends = std::iter::once(end).chain(ends.map(|(i, _)| self.at + i));
        Diagnosis { diagnostic: d, edits: ends.map(|e| Edit::sure(self.at, e, "\0")).collect() }
    }

    /// Single quotes, backquotes, and those of text processors.
    fn other_quotes(&self, open: &str) -> Diagnosis {
        let d = new("texts are written in double quotes").at(self.here(), "");
        let rest = &self.text[self.at + open.len()..];
        let closing = ["'", "`", "\u{201d}", "\u{2019}"];
        let line = rest.lines().next().unwrap_or_default();
        let Some((len, close)) = closing.iter().filter_map(|c| Some((line.find(c)?, c))).min() else {
            return Diagnosis::new(d.help("write `\"…\"`"));
        };
        let text = format!("\"{}\"", rest[..len].replace('"', "\\\""));
        let edit = Edit::sure(self.at, self.at + open.len() + len + close.len(), text.clone());
        Diagnosis::fixed(d.help(format!("write `{text}`")), self.file, edit)
    }
}
