//! The syntax tree of a pipeline file, with the place of everything.

pub(crate) mod moved;

use std::sync::Arc;

use headstart_protocol::expr::CompareOp;

use crate::plan::Declared;
use crate::span::Span;

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// The `//!` lines, without their marks.
    pub doc: Vec<Name>,
    /// The items, in order; those that could not be parsed included.
    pub items: Vec<Item>,
    /// All `//` comments, in order; also documentation that documents nothing.
    pub comments: Vec<Span>,
}

/// A piece of text and its place: a name, or a documentation line.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The text.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// An item with its documentation.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its `///` lines, without their marks.
    pub doc: Vec<Name>,
    /// The whole item, without its documentation.
    pub span: Span,
    /// What it is.
    pub kind: ItemKind,
}

/// What an item is. Shared, because the checker keeps them.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    /// `import "./x.pllm" as x { … }`
    Import(Arc<Import>),
    /// `program x = "…"`
    Program(Arc<Program>),
    /// `param x: T = …`
    Param(Arc<Param>),
    /// `model`, `dataset`, `space`, `stage`
    Decl(Arc<Decl>),
    /// `schedule x { … }`
    Schedule(Arc<Schedule>),
    /// `output x = …`
    Output(Arc<Output>),
    /// Not understood, and reported. The name, where there is one, still counts as declared.
    Bad(Option<Name>),
}

/// An import.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// The path as written.
    pub path: Name,
    /// The name that it is imported as.
    pub name: Name,
    /// Values for its parameters.
    pub args: Option<Block>,
}

/// A program with custom stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The name that its stages are called by.
    pub name: Name,
    /// The path as written.
    pub path: Name,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub ty: Ty,
    /// Its default.
    pub default: Option<Expr>,
    /// Its documentation.
    pub doc: String,
}

/// A model, dataset, space or stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Decl {
    /// Which of the four.
    pub declared: Declared,
    /// The keyword's place.
    pub keyword: Span,
    /// The place of `private`, if there is one.
    pub private: Option<Span>,
    /// Its name.
    pub name: Name,
    /// Its type, as stated.
    pub ty: Option<Ty>,
    /// How it is made.
    pub value: Expr,
    /// `on …`
    pub on: Option<Expr>,
    /// `for … in …`
    pub bindings: Vec<Binding>,
    /// `when …`
    pub when: Option<Expr>,
    /// `{ … }`
    pub settings: Option<Block>,
    /// Its documentation.
    pub doc: String,
}

/// `name in list`
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The variable.
    pub name: Name,
    /// What it ranges over.
    pub list: Expr,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: Name,
    /// Its entries.
    pub block: Block,
}

/// An output.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: Name,
    /// Its value.
    pub value: Expr,
    /// Its documentation.
    pub doc: String,
}

/// Settings between braces.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Braces included.
    pub span: Span,
    /// The settings that were understood.
    pub settings: Vec<Setting>,
    /// Names of those that were not, which are reported.
    pub broken: Vec<Name>,
}

/// `name: value`
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its name.
    pub name: Name,
    /// Its value.
    pub value: Expr,
}

/// A type, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Ty {
    /// Its name.
    pub name: Name,
    /// What is between `<` and `>`.
    pub of: Option<Box<Ty>>,
    /// Whether it ends with `?`.
    pub optional: bool,
    /// The whole.
    pub span: Span,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Its place.
    pub span: Span,
}

/// What an expression is. Chains of one operator are flat, so that depth is bounded by brackets.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A name or bare word.
    Name(String),
    /// Text, escapes resolved.
    Text(String),
    /// A number, with the text as written.
    Number(Number, String),
    /// `true`, `false`
    Bool(bool),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `(a)`
    Paren(Box<Expr>),
    /// `kind(a, b: c)`
    Call(Call),
    /// `a.b`
    Field(Box<Expr>, Name),
    /// `a["b"]`
    Element(Box<Expr>, Box<Expr>),
    /// `a or b or c`
    Or(Vec<Expr>),
    /// `not a`
    Not(Box<Expr>),
    /// `a < b`
    Compare(Box<Expr>, CompareOp, Box<Expr>),
    /// `a + b - c`; true where a term is subtracted.
    Sum(Vec<(bool, Expr)>),
    /// `a * b`
    Product(Vec<Expr>),
    /// `a / b`: a path and what is below it.
    Join(Vec<Expr>),
    /// `-a`
    Minus(Box<Expr>),
    /// A literal with an error that is reported already.
    Bad,
}

/// A numeric literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Without fraction and unit.
    Int(i64),
    /// With a fraction or exponent.
    Float(f64),
    /// Milliseconds.
    Duration(u64),
    /// Bytes.
    Bytes(u64),
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What is called: `embed`, or `tools.readability` for a stage of a program.
    pub name: Name,
    /// The arguments.
    pub args: Vec<Arg>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// Its name; only the first may lack one.
    pub name: Option<Name>,
    /// Its value.
    pub value: Expr,
}

impl Call {
    /// The program whose stage is called, and the stage, with their places.
    pub fn of_program(&self) -> Option<(Name, Name)> {
        let (program, stage) = self.name.text.split_once('.')?;
        let (file, start, end) =
            (self.name.span.file, self.name.span.start as usize, self.name.span.end as usize);
        let name = |text: &str, span| Name { text: text.to_owned(), span };
        let dot = start + program.len();
        Some((name(program, Span::new(file, start, dot)), name(stage, Span::new(file, dot + 1, end))))
    }
}

impl Expr {
    /// The expression inside any number of parentheses.
    pub fn bare(&self) -> &Expr {
        let mut e = self;
        while let ExprKind::Paren(inner) = &e.kind {
            e = inner;
        }
        e
    }

    /// The expression in one spelling, however it is written: for names that reach the plan.
    pub fn spelled(&self) -> String {
        let join = |all: &[Expr], by: &str| all.iter().map(Expr::spelled).collect::<Vec<_>>().join(by);
        match &self.kind {
            ExprKind::Name(n) => n.clone(),
            ExprKind::Text(t) => format!("{t:?}"),
            ExprKind::Number(_, raw) => raw.clone(),
            ExprKind::Bool(b) => b.to_string(),
            ExprKind::List(all) => format!("[{}]", join(all, ", ")),
            ExprKind::Paren(e) => format!("({})", e.spelled()),
            ExprKind::Call(c) => {
                let args = c.args.iter().map(|a| match &a.name {
                    Some(name) => format!("{}: {}", name.text, a.value.spelled()),
                    None => a.value.spelled(),
                });
                format!("{}({})", c.name.text, args.collect::<Vec<_>>().join(", "))
            }
            ExprKind::Field(of, name) => format!("{}.{}", of.spelled(), name.text),
            ExprKind::Element(of, key) => format!("{}[{}]", of.spelled(), key.spelled()),
            ExprKind::Or(all) => join(all, " or "),
            ExprKind::Not(e) => format!("not {}", e.spelled()),
            ExprKind::Compare(l, op, r) => format!("{} {} {}", l.spelled(), op.symbol(), r.spelled()),
            ExprKind::Sum(all) => {
                let mut out = String::new();
                for (n, (minus, e)) in all.iter().enumerate() {
                    out += if n == 0 {
                        ""
                    } else if *minus {
                        " - "
                    } else {
                        " + "
                    };
                    out += &e.spelled();
                }
                out
            }
            ExprKind::Product(all) => join(all, " * "),
            ExprKind::Join(all) => join(all, " / "),
            ExprKind::Minus(e) => format!("-{}", e.spelled()),
            ExprKind::Bad => String::new(),
        }
    }
}

impl Item {
    /// The documentation as text: marks and one leading space taken off.
    pub fn doc_text(doc: &[Name]) -> String {
        doc.iter().map(|l| l.text.strip_prefix(' ').unwrap_or(&l.text)).collect::<Vec<_>>().join("\n")
    }
}
