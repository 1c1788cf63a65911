//! What the text in front of the cursor is in the middle of. Works on words and brackets alone,
//! because text that is being typed is seldom a correct item.

use headstart_dsl::words;

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'t> {
    /// A name, number or keyword.
    Word(&'t str),
    /// A text literal.
    Text,
    /// Any other character.
    Mark(char),
}

/// The item around the cursor, up to the cursor.
pub struct Scan<'t> {
    /// Its tokens in front of the word that is being typed.
    pub tokens: Vec<Token<'t>>,
    /// All of the item's tokens, also those behind the cursor.
    pub whole: Vec<Token<'t>>,
    /// Open brackets, outermost first: the bracket and the number of the token.
    pub open: Vec<(char, usize)>,
}

/// The item around byte `at`. None inside texts and comments.
pub fn scan(text: &str, at: usize) -> Option<Scan<'_>> {
    let before = &text[..at];
    let mut start = 0;
    let mut line_start = 0;
    for line in before.split_inclusive('\n') {
        if starts_item(line) {
            start = line_start;
        }
        line_start += line.len();
    }
    let mut end = text.len();
    let mut line_start = at + text[at..].find('\n').map_or(text.len() - at, |n| n + 1);
    for line in text[line_start.min(text.len())..].split_inclusive('\n') {
        if starts_item(line) || line.starts_with("///") {
            end = line_start;
            break;
        }
        line_start += line.len();
    }
    let typed = before.len() - before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
    let tokens = lex(&text[start..at - typed])?;
    let whole = lex(&text[start..end]).unwrap_or_else(|| tokens.clone());
    let mut open: Vec<(char, usize)> = Vec::new();
    for (n, t) in tokens.iter().enumerate() {
        match t {
            Token::Mark(c @ ('(' | '[' | '{')) => open.push((*c, n)),
            Token::Mark(')' | ']' | '}') => drop(open.pop()),
            _ => {}
        }
    }
    Some(Scan { tokens, whole, open })
}

fn starts_item(line: &str) -> bool {
    words::names(words::ITEMS).any(|k| line.strip_prefix(k).is_some_and(|r| r.starts_with([' ', '\t'])))
}

/// None where the text ends inside a comment or a text literal.
fn lex(text: &str) -> Option<Vec<Token<'_>>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let len = if rest.starts_with("//") {
            rest.find('\n')?
        } else if c == '"' {
            let mut escaped = false;
            let close = rest[1..].find(|c| {
                let ends = !escaped && (c == '"' || c == '\n');
                escaped = c == '\\' && !escaped;
                ends
            });
            out.push(Token::Text);
            close? + 2
        } else if c.is_alphanumeric() || c == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            out.push(Token::Word(&rest[..len]));
            len
        } else {
            if !c.is_whitespace() {
                out.push(Token::Mark(c));
            }
            c.len_utf8()
        };
        at += len;
    }
    Some(out)
}

impl<'t> Scan<'t> {
    /// The callee of the parenthesis at token `open`: `probe`, or `tools.readability`.
    pub fn callee(&self, open: usize) -> Option<String> {
        let name = self.word(open.checked_sub(1)?)?;
        let dot = open.checked_sub(2).and_then(|n| self.tokens.get(n));
        match (dot, open.checked_sub(3).and_then(|n| self.word(n))) {
            (Some(Token::Mark('.')), Some(program)) => Some(format!("{program}.{name}")),
            _ => Some(name.to_owned()),
        }
    }

    /// The word that starts the item, `private` passed over.
    pub fn keyword(&self) -> Option<&'t str> {
        let words = self.tokens.iter().filter_map(|t| match t {
            Token::Word(w) => Some(*w),
            _ => None,
        });
        words.into_iter().find(|w| *w != "private")
    }

    /// The name that the item declares.
    pub fn name(&self) -> Option<&'t str> {
        let keyword = self.tokens.iter().position(|t| Some(*t) == self.keyword().map(Token::Word))?;
        self.word(keyword + 1)
    }

    pub fn word(&self, n: usize) -> Option<&'t str> {
        match self.tokens.get(n) {
            Some(Token::Word(w)) => Some(*w),
            _ => None,
        }
    }

    pub fn last(&self) -> Option<Token<'t>> {
        self.tokens.last().copied()
    }

    /// The loop variables of the whole item, with the tokens of their lists.
    pub fn variables(&self) -> Vec<(&'t str, &[Token<'t>])> {
        let mut out = Vec::new();
        for (n, window) in self.whole.windows(3).enumerate() {
            let [first, Token::Word(name), Token::Word("in")] = window else { continue };
            if matches!(first, Token::Word("for") | Token::Mark(',')) {
                out.push((*name, &self.whole[n + 3..]));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_around_the_cursor() {
        let text = "model a = local(\"m\")\nstage b: Pllm = merge(\n  0.5 * p\n) for p in ps\noutput c = b\n";
        let at = text.find(" * p").expect("there") + 3;
        let s = scan(text, at).expect("no text");
        assert_eq!((s.keyword(), s.name()), (Some("stage"), Some("b")));
        assert_eq!(s.open.len(), 1);
        assert_eq!(s.variables()[0].0, "p");
        assert_eq!(s.last(), Some(Token::Mark('*')));
        assert!(scan(text, text.find("m\")").expect("there") + 1).is_none(), "inside a text");
        assert!(scan("// comm", 5).is_none());
    }
}
