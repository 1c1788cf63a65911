//! Programs with custom stages: what their declarations say.
//!
//! Nothing of a program runs here: its declaration lies beside it, and the program itself is only
//! looked for and digested.

use std::sync::Arc;

use headstart_protocol::declared::{Declaration, DeclarationError};
use headstart_protocol::kinds::Kind;

use super::path::wrong_path;
use super::{Checker, Entity};
use crate::ast::{self, Call, Name};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::loader;
use crate::names;
use crate::plan;
use crate::span::{FileId, Span};

/// A program of a file, and whether anything uses it.
pub(super) struct ProgramState {
    pub plan: plan::Program,
    pub used: bool,
}

impl Checker<'_> {
    /// Reads a program's declaration. `None` if it is wrong, which is reported.
    pub(super) fn program(&mut self, scope: usize, program: &ast::Program) -> Option<usize> {
        if let Some(d) = wrong_path(&program.path.text) {
            self.report(d.at(program.path.span, "named here"));
            return None;
        }
        let path = loader::join(&self.scopes[scope].dir, &program.path.text);
        if let Err(why) = self.loader.executable(&path) {
            let d = Diagnostic::new(Code::E0801, format!("cannot use the program `{path}`: {why}"))
                .at(program.path.span, "named here")
                .note("a relative path starts at the folder of the file that names the program");
            self.report(d);
            return None;
        }
        let (declaration, file, text) = self.declaration(&path, program)?;
        let digest = match self.loader.program(&path, &declaration.files) {
            Ok(digest) => digest,
            Err(why) => {
                let mut d = Diagnostic::new(Code::E0801, format!("cannot use the program `{path}`: {why}"))
                    .at(program.path.span, "named here");
                if let Some(entry) = &why.entry {
                    d = d.see(locate(file, &text, std::slice::from_ref(entry)), "part of the program");
                    d = d.help(described_by(&path));
                }
                self.report(match why.help {
                    Some(help) => d.help(help),
                    None => d,
                });
                return None;
            }
        };
        let name = format!("{}{}", self.scopes[scope].prefix, program.name.text);
        for stage in &declaration.stages {
            // Checked with the declaration.
            if let Ok(kind) = stage.kind(&name) {
                let called = format!("{}.{}", program.name.text, stage.name);
                self.scopes[scope].kinds.declare(called, kind);
            }
        }
        let plan = plan::Program { name, path, digest, declaration };
        self.programs.push(ProgramState { plan, used: false });
        Some(self.programs.len() - 1)
    }

    /// The declaration beside a program, with its file and text.
    fn declaration(&mut self, path: &str, program: &ast::Program) -> Option<(Declaration, FileId, String)> {
        let beside = Declaration::path_for(path);
        let text = match self.loader.read(&beside) {
            Ok(text) => text,
            Err(why) => {
                let d =
                    Diagnostic::new(Code::E0802, format!("cannot read the declaration of `{path}`: {why}"))
                        .at(program.path.span, format!("its stages are declared in `{beside}`"))
                        .help(described_by(path));
                self.report(d);
                return None;
            }
        };
        let file = self.sources.add(&beside, &text);
        let wrong = |code: Code, what: &str, span: Span| {
            Diagnostic::new(code, format!("the declaration of `{path}` is invalid: {what}"))
                .at(span, "")
                .see(program.path.span, "declared for this program")
        };
        let declaration: Declaration = match serde_json::from_str(&text) {
            Ok(declaration) => declaration,
            Err(e) => {
                let what = without_place(&e.to_string());
                let d = wrong(Code::E0803, &what, at_line(file, &text, e.line(), e.column()));
                self.report(d.help(described_by(path)));
                return None;
            }
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        if declaration.program != name {
            let what = format!("it is that of `{}`", declaration.program);
            let d = wrong(
                Code::E0803,
                &what,
                locate(file, &text, &["program".into(), declaration.program.clone()]),
            );
            self.report(
                d.help("two programs of one folder need names that differ in more than the extension"),
            );
            return None;
        }
        if let Err(DeclarationError { message, unknown_type, way }) = declaration.check() {
            let code = if unknown_type { Code::E0805 } else { Code::E0803 };
            self.report(
                wrong(code, &message, locate(file, &text, &way))
                    .help("fix the program, then run `headstart describe` to update its declaration"),
            );
            return None;
        }
        Some((declaration, file, text))
    }

    /// The kind that is called, and marks its program as used.
    pub(super) fn kind_called(&mut self, scope: usize, call: &Call) -> Option<Arc<Kind>> {
        let kind = self.scopes[scope].kinds.find(&call.name.text).cloned();
        if let Some((program, _)) = call.of_program()
            && let Some((Entity::Program(n), _)) = self.scopes[scope].names.get(&program.text)
        {
            self.programs[*n].used = true;
        }
        kind
    }

    /// Reports a call of a stage that no program has. False where it is not one of a program.
    pub(super) fn report_no_stage(&mut self, scope: usize, call: &Call) -> bool {
        let Some((program, stage)) = call.of_program() else { return false };
        let d = match self.scopes[scope].names.get(&program.text) {
            // Its error is reported already.
            Some((Entity::Bad, _)) => return true,
            Some((Entity::Program(n), span)) => {
                let declared = &self.programs[*n].plan;
                let known = || declared.declaration.stages.iter().map(|s| s.name.as_str());
                Diagnostic::new(
                    Code::E0804,
                    format!("the program `{}` has no stage `{}`", declared.path, stage.text),
                )
                .at(stage.span, "unknown stage")
                .see(*span, "the program is named here")
                .suggest(&stage.text, stage.span, known())
                .note(match declared.declaration.stages.as_slice() {
                    [] => "its declaration has no stages".to_owned(),
                    _ => format!(
                        "it declares {}; `headstart describe {}` brings that up to date",
                        names::quoted(known(), "and"),
                        declared.path
                    ),
                })
            }
            Some((_, span)) => Diagnostic::new(Code::E0103, format!("`{}` is not a program", program.text))
                .at(program.span, "only programs have stages to call")
                .see(*span, "declared here"),
            None => {
                let programs = self.scopes[scope].names.iter();
                let programs = programs.filter(|(_, (e, _))| matches!(e, Entity::Program(_)));
                Diagnostic::new(Code::E0101, format!("cannot find `{}` in this file", program.text))
                    .at(program.span, "not found")
                    .suggest(&program.text, program.span, programs.map(|(n, _)| n.as_str()))
                    .note("a program is declared as in `program tools = \"stages/tools.py\"`")
            }
        };
        self.report(d);
        true
    }

    pub(super) fn program_is_no_value(&mut self, name: &Name) {
        let d = Diagnostic::new(Code::E0201, "a program is not a value").at(name.span, "a program");
        self.report(d.help(format!("call one of its stages: `stage …: … = {}.name(…)`", name.text)));
    }
}

fn described_by(path: &str) -> String {
    format!("`headstart describe {path}` writes it")
}

/// A message of the JSON reader without its ` at line 3 column 5`: the place is underlined.
fn without_place(message: &str) -> String {
    message.rfind(" at line ").map_or(message, |at| &message[..at]).to_owned()
}

/// The character at a 1-based line and column; the end of the text where there is none.
fn at_line(file: FileId, text: &str, line: usize, column: usize) -> Span {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let len = text[at..].chars().next().filter(|c| *c != '\n').map_or(0, char::len_utf8);
    Span::new(file, at, at + len)
}

/// The last of some texts that stand in a JSON file one behind the other, as far as they do.
fn locate(file: FileId, text: &str, way: &[String]) -> Span {
    let (mut at, mut found) = (0, 0..0);
    for step in way {
        let quoted = serde_json::to_string(step).unwrap_or_default();
        if let Some(n) = text[at..].find(&quoted) {
            found = at + n..at + n + quoted.len();
            at = found.end;
        }
    }
    Span::new(file, found.start, found.end)
}
