//! What is known of a value: whether it holds what a message says, and where.

use std::collections::BTreeMap;

/// What a value may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Undefined or none, always.
    Absent,
    /// Nothing that depends on what a message says.
    Clean,
    /// What a message says, or text that was made of it; it may also be clean.
    Text,
    /// A message: its role is clean, its content is not.
    Message,
    /// A list of messages; how many there are is clean.
    Messages,
    /// The variable `loop`.
    Loop,
    /// A namespace; its fields are variables of their own.
    Namespace,
    /// Several of these.
    Mixed,
}

impl Kind {
    /// What a value is that may be either.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Absent, x) | (x, Self::Absent) | (Self::Clean, x) | (x, Self::Clean) => x,
            _ => Self::Mixed,
        }
    }

    /// What a text is that was made of the value.
    pub(super) fn written(self) -> Self {
        if self.is_clean() { Self::Clean } else { Self::Text }
    }

    /// Whether nothing of it depends on what a message says.
    pub(super) fn is_clean(self) -> bool {
        matches!(self, Self::Clean | Self::Absent)
    }

    /// Whether it holds no message.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::Clean | Self::Absent | Self::Text)
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
    item: Kind,
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
    /// Those that a template is given; the others are clean.
    pub(super) fn given() -> Self {
        let given = [("messages", Kind::Messages), ("tools", Kind::Absent), ("documents", Kind::Absent)];
        Self {
            variables: given.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect(),
            item: Kind::Absent,
            made: false,
            macros: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Kind {
        self.variables.get(name).copied().unwrap_or(Kind::Clean)
    }

    /// Whether the template assigns to a variable of this name.
    pub(super) fn is_assigned(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    pub(super) fn raise(&mut self, name: &str, kind: Kind) {
        let known = self.variables.get(name).copied().unwrap_or(kind);
        let joined = self.join(known, kind);
        self.variables.insert(name.to_owned(), joined);
    }

    /// What a value is that may be either.
    pub(super) fn join(&mut self, a: Kind, b: Kind) -> Kind {
        let messages = |kind| matches!(kind, Kind::Message | Kind::Messages);
        if (messages(a) && b == Kind::Clean) || (a == Kind::Clean && messages(b)) {
            self.made = true;
        }
        a.join(b)
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
        self.item
    }

    pub(super) fn loops_over(&mut self, item: Kind) {
        self.item = self.join(self.item, item);
        self.raise("loop", Kind::Loop);
    }

    pub(super) fn macro_of(&self, name: &str) -> Option<&MacroKind> {
        self.macros.get(name)
    }

    pub(super) fn define(&mut self, name: &str, params: Vec<String>, written: Kind) {
        let new = MacroKind { params, written };
        match self.macros.get_mut(name) {
            Some(known) if known.params == new.params => known.written = known.written.join(written),
            // Two macros of one name: either may be called.
            Some(known) => known.written = Kind::Mixed,
            None => {
                self.macros.insert(name.to_owned(), new);
            }
        }
    }
}
