//! Who is called what, and where: for editors.

use std::sync::Arc;

use headstart_protocol::Type;
use headstart_protocol::kinds::{Kind, Kinds};

use crate::plan::Place;
use crate::span::{FileId, Span};
use crate::words::Word;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the items of a file, and loop variables")]
pub enum SymbolKind {
    Import,
    Program,
    Param,
    Model,
    Dataset,
    Space,
    Stage,
    Output,
    Schedule,
    Variable,
}

impl SymbolKind {
    /// The word that declares it.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Program => "program",
            Self::Param => "param",
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
            Self::Stage => "stage",
            Self::Output => "output",
            Self::Schedule => "schedule",
            Self::Variable => "for",
        }
    }
}

/// A declared name.
#[derive(Clone, Debug, PartialEq)]
pub struct Symbol {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Where it is declared: the name itself.
    pub span: Span,
    /// The whole item, without its documentation; the name for a loop variable.
    pub whole: Span,
    /// Its type as others see it: a fan-out is a list. None where that is not known.
    pub ty: Option<Type>,
    /// Its documentation.
    pub doc: String,
    /// The kind that makes it.
    pub made_by: Option<Arc<Kind>>,
    /// Keys of a fan-out, at most [`Symbol::KEYS`], and how many there are.
    pub keys: Option<(Vec<String>, usize)>,
    /// Where it is made.
    pub place: Option<Place>,
    /// The device that alone may hold it.
    pub private_to: Option<String>,
    /// The value of a parameter, for people; the path of an import or a program.
    pub value: Option<String>,
    /// The file that an import takes in.
    pub file: Option<FileId>,
}

impl Symbol {
    /// How many keys of a fan-out are listed.
    pub const KEYS: usize = 8;
}

/// What is at a place.
#[derive(Clone, Debug)]
pub enum Target {
    /// A name, by its number in [`Index::symbols`].
    Symbol(usize),
    /// A stage kind.
    Kind(Arc<Kind>),
    /// The name of an argument, by its number among those of the kind.
    Argument(Arc<Kind>, usize),
    /// A setting, an entry, a function, a fixed word.
    Word(&'static Word),
    /// A type.
    Type(Type),
    /// A field of a value of this type.
    Field(Type, String),
    /// The path of an import.
    File(FileId),
}

/// A place and what is there.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The place.
    pub span: Span,
    /// The symbol.
    pub target: Target,
    /// Whether the name is declared here.
    pub definition: bool,
}

/// Every name of the files that a check read, and every place that says something.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// The names, by file.
    pub symbols: Vec<Symbol>,
    /// The places, ascending.
    pub marks: Vec<Mark>,
    /// What the root file can call.
    pub kinds: Kinds,
}

impl Index {
    /// What is at a byte of a file; a cursor right behind a word is on it.
    pub fn at(&self, file: FileId, offset: usize) -> Option<&Mark> {
        let after = self.marks.partition_point(|m| (m.span.file, m.span.start as usize) <= (file, offset));
        let before = self.marks[..after].iter().rev().take_while(|m| m.span.file == file).take(4);
        before.filter(|m| m.span.touches(offset)).min_by_key(|m| m.span.end - m.span.start)
    }

    /// Every place of a name, its declaration included.
    pub fn places(&self, symbol: usize) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(move |m| matches!(m.target, Target::Symbol(s) if s == symbol))
    }

    /// What a file declares at its top, in its order.
    pub fn declared(&self, file: FileId) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(move |s| s.span.file == file && s.kind != SymbolKind::Variable)
    }
}
