//! What is known of a value: whether it holds what a message says, and where.

use std::collections::BTreeMap;

/// What a value may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Undefined or none, always. No variable that is assigned to is.
    Absent,
    /// Nothing that depends on what a message says.
    Clean,
    /// What a message says, or text that was made of it; it may also be clean.
    Text,
    /// The same, and some of it may be JSON already.
    Json,
    /// A message that a template was given or made, or undefined: its role is clean, its content is not.
    Message,
    /// A list of messages; how many there are is clean.
    Messages,
    /// The variable `loop`.
    Loop,
    /// A namespace; its fields are variables of their own.
    Namespace,
    /// Several of these, of which nothing is known.
    Mixed,
}

impl Kind {
    /// What a value is that may be either.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (a, b) if !(a.is_plain() && b.is_plain()) => Self::Mixed,
            (Self::Json, _) | (_, Self::Json) => Self::Json,
            (Self::Text, _) | (_, Self::Text) => Self::Text,
            _ => Self::Clean,
        }
    }

    /// What a text is that was made of the value.
    pub(super) fn written(self) -> Self {
        match self {
            Self::Absent | Self::Clean => Self::Clean,
            Self::Json => Self::Json,
            _ => Self::Text,
        }
    }

    /// Whether nothing of it depends on what a message says.
    pub(super) fn is_clean(self) -> bool {
        matches!(self, Self::Clean | Self::Absent)
    }

    /// Whether it holds what a message says, or text that was made of it.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Json)
    }

    /// Whether it holds no message.
    pub(super) fn is_plain(self) -> bool {
        self.is_clean() || self.is_text()
    }
}

/// A macro.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MacroKind {
    /// Its parameters, which are variables like any other.
    pub params: Vec<String>,
    /// What it writes.
    pub written: Kind,
}

/// The kinds of a template's variables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kinds {
    variables: BTreeMap<String, Kind>,
    item: Option<Kind>,
    /// Messages may be among the template's own values, with keys of its choice.
    made: bool,
    macros: BTreeMap<String, MacroKind>,
}

/// The variable for a field of a namespace: one for the fields of this name of all, since a namespace can have
/// several names.
pub(super) fn field(name: &str) -> String {
    format!("*.{name}")
}

impl Kinds {
    /// Those that a template is given. The others begin as undefined, which is of every kind: what is done with
    /// it comes to nothing or is an error.
    pub(super) fn given() -> Self {
        let given = [
            ("messages", Kind::Messages),
            ("tools", Kind::Absent),
            ("documents", Kind::Absent),
            ("add_generation_prompt", Kind::Clean),
            ("bos_token", Kind::Clean),
            ("eos_token", Kind::Clean),
        ];
        Self {
            variables: given.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect(),
            item: None,
            made: false,
            macros: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Kind {
        self.variables.get(name).copied().unwrap_or(Kind::Clean)
    }

    /// Joins what is assigned to a variable to what it may be.
    pub(super) fn raise(&mut self, name: &str, kind: Kind) {
        // What is absent here may be assigned under a condition, or later.
        let kind = if kind == Kind::Absent { Kind::Clean } else { kind };
        let known = self.variables.get(name).copied().unwrap_or(kind);
        self.variables.insert(name.to_owned(), known.join(kind));
    }

    /// Notes that a message was made by the template: it may have any keys.
    pub(super) fn makes_message(&mut self) {
        self.made = true;
    }

    /// Whether every message is one that the template was given.
    pub(super) fn all_given(&self) -> bool {
        !self.made
    }

    /// What loops go over.
    pub(super) fn item(&self) -> Kind {
        self.item.unwrap_or(Kind::Mixed)
    }

    pub(super) fn loops_over(&mut self, item: Kind) {
        self.item = Some(self.item.map_or(item, |known| known.join(item)));
        self.raise("loop", Kind::Loop);
    }

    pub(super) fn macro_of(&self, name: &str) -> Option<&MacroKind> {
        self.macros.get(name)
    }

    pub(super) fn define(&mut self, name: &str, params: Vec<String>, written: Kind) {
        // There is one of each name; in a later pass it may write more.
        let known = self.macros.get(name).map_or(written, |known| known.written.join(written));
        self.macros.insert(name.to_owned(), MacroKind { params, written: known });
    }
}
