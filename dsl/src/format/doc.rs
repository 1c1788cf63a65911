//! A small pretty printer: texts and places where a line may break, in groups that break together.

/// A piece of layout.
#[derive(Clone, Debug)]
pub(super) enum Doc {
    /// Text without line breaks.
    Text(String),
    /// A space, or a line break where the group is broken.
    Line,
    /// Nothing, or a line break where the group is broken.
    Soft,
    /// A line break; breaks every group around it.
    Hard,
    /// A comment that ends its line; breaks every group around it. A line break must follow.
    Trailing(String),
    /// Text only where the group is broken.
    IfBroken(&'static str),
    /// On one line if it fits, else every `Line` and `Soft` in it is a line break.
    Group(Vec<Doc>),
    /// Indented by one level.
    Indent(Vec<Doc>),
}

impl Doc {
    pub fn text(t: impl Into<String>) -> Self {
        Self::Text(t.into())
    }

    /// Whether it holds something that forces a line break.
    pub fn forced(&self) -> bool {
        match self {
            Self::Hard | Self::Trailing(_) => true,
            Self::Group(d) | Self::Indent(d) => d.iter().any(Self::forced),
            _ => false,
        }
    }

    /// Characters on one line, if it fits on one.
    pub fn flat_width(&self) -> Option<usize> {
        match self {
            Self::Text(t) => Some(t.chars().count()),
            Self::Line => Some(1),
            Self::Soft | Self::IfBroken(_) => Some(0),
            Self::Hard | Self::Trailing(_) => None,
            Self::Group(d) | Self::Indent(d) => d.iter().map(Self::flat_width).sum(),
        }
    }
}

/// Spaces of one level.
pub(super) const INDENT: usize = 2;

/// Lays out a document in lines of at most `width` characters where possible.
pub(super) fn print(doc: &Doc, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    let mut stack: Vec<(usize, bool, &Doc)> = vec![(0, true, doc)];
    while let Some((indent, broken, doc)) = stack.pop() {
        let newline = |out: &mut String, column: &mut usize| {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            *column = indent;
        };
        match doc {
            Doc::Text(t) => {
                out.push_str(t);
                column += t.chars().count();
            }
            Doc::Line if !broken => {
                out.push(' ');
                column += 1;
            }
            Doc::Line | Doc::Hard => newline(&mut out, &mut column),
            Doc::Soft if broken => newline(&mut out, &mut column),
            Doc::IfBroken(t) if broken => {
                out.push_str(t);
                column += t.len();
            }
            Doc::Soft | Doc::IfBroken(_) => {}
            Doc::Trailing(t) => {
                out.push_str("  ");
                out.push_str(t);
            }
            Doc::Group(inner) => {
                let flat = !doc.forced() && fits(doc, &stack, width.saturating_sub(column));
                stack.extend(inner.iter().rev().map(|d| (indent, !flat, d)));
            }
            Doc::Indent(inner) => {
                stack.extend(inner.iter().rev().map(|d| (indent + INDENT, broken, d)));
            }
        }
    }
    out
}

/// Whether a group fits on the line, together with what must follow it on the same line.
fn fits(group: &Doc, rest: &[(usize, bool, &Doc)], room: usize) -> bool {
    let Some(mut used) = group.flat_width() else { return false };
    let mut todo: Vec<(bool, &Doc)> = Vec::new();
    let mut rest = rest.iter().rev();
    while used <= room {
        let (broken, doc) = match todo.pop() {
            Some(next) => next,
            None => match rest.next() {
                Some((_, broken, doc)) => (*broken, *doc),
                None => return true,
            },
        };
        match doc {
            Doc::Text(t) => used += t.chars().count(),
            Doc::Line if !broken => used += 1,
            Doc::Soft | Doc::IfBroken(_) if !broken => {}
            Doc::Line | Doc::Soft | Doc::Hard | Doc::Trailing(_) => return true,
            Doc::IfBroken(t) => used += t.len(),
            // A group that follows may itself break at its first opportunity.
            Doc::Group(inner) => todo.extend(inner.iter().rev().map(|d| (true, d))),
            Doc::Indent(inner) => todo.extend(inner.iter().rev().map(|d| (broken, d))),
        }
    }
    false
}
