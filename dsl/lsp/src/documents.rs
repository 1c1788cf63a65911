//! Open files, the protocol's positions, and addresses.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use headstart_dsl::{
    Checked, FileId, FileLoader, Listing, ProgramError, Span, Trees, analyze_again, symbols::Index,
};
use lsp_types::{Location, Position, Range, TextDocumentContentChangeEvent, Uri};

/// A text with its lines. The protocol counts columns in UTF-16 units.
pub struct Text {
    pub text: Arc<str>,
    starts: Vec<usize>,
}

impl Text {
    pub fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { text: text.into(), starts: std::iter::once(0).chain(ends).collect() }
    }

    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|s| *s <= offset) - 1;
        let before = self.text.get(self.starts[line]..offset).unwrap_or_default();
        Position::new(line as u32, before.encode_utf16().count() as u32)
    }

    pub fn range(&self, span: Span) -> Range {
        Range::new(self.position(span.start as usize), self.position(span.end as usize))
    }

    /// The byte of a position; a column behind the line's end is its end.
    pub fn offset(&self, position: Position) -> usize {
        let line = position.line as usize;
        let Some(start) = self.starts.get(line).copied() else { return self.text.len() };
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let mut units = 0;
        for (at, c) in self.text[start..end].char_indices() {
            if units >= position.character as usize {
                return start + at;
            }
            units += c.len_utf16();
        }
        end
    }

    fn edited(&self, change: &TextDocumentContentChangeEvent) -> Self {
        let Some(range) = change.range else { return Self::new(&change.text) };
        let (start, end) = (self.offset(range.start), self.offset(range.end));
        let mut text = self.text.to_string();
        text.replace_range(start..end.max(start), &change.text);
        Self::new(&text)
    }
}

/// The state of a file.
pub struct Analysis {
    pub checked: Checked,
    pub index: Index,
    /// The files' lines, found when they are first needed.
    texts: Vec<OnceLock<Text>>,
}

impl Analysis {
    /// The file itself; imported files have other numbers.
    pub const ROOT: FileId = FileId(0);

    fn new(checked: Checked, index: Index) -> Self {
        let texts = checked.sources.files().iter().map(|_| OnceLock::new()).collect();
        Self { checked, index, texts }
    }

    /// The path of the file of a span.
    pub fn path(&self, span: Span) -> &str {
        &self.checked.sources.file(span.file).path
    }

    /// A place in any of the files that were read, as lines and columns.
    pub fn range(&self, span: Span) -> Range {
        let text = || Text::new(&self.checked.sources.file(span.file).text);
        self.texts[span.file.0 as usize].get_or_init(text).range(span)
    }

    /// A place in any of the files that were read.
    pub fn location(&self, span: Span) -> Option<Location> {
        Some(Location::new(to_uri(self.path(span))?, self.range(span)))
    }
}

/// A file that is open in the editor.
pub struct Document {
    pub uri: Uri,
    pub text: Text,
    pub version: i32,
    /// None where the text has changed since.
    analysis: Option<Arc<Analysis>>,
    /// Of the last analysis.
    trees: Trees,
    /// Whether the editor has the diagnostics of this text.
    pub published: bool,
}

/// The open files, by path.
#[derive(Default)]
pub struct Documents {
    open: BTreeMap<String, Document>,
}

/// The editor's texts, and the files behind them.
struct Overlay<'a> {
    open: &'a BTreeMap<String, Document>,
    disk: &'a dyn FileLoader,
}

impl FileLoader for Overlay<'_> {
    fn read(&self, path: &str) -> Result<String, String> {
        match self.open.get(path) {
            Some(d) => Ok(d.text.text.to_string()),
            None => self.disk.read(path),
        }
    }

    fn glob(&self, pattern: &str) -> Result<Listing, String> {
        self.disk.glob(pattern)
    }

    fn program(&self, path: &str, files: &[String]) -> Result<headstart_protocol::Digest, ProgramError> {
        self.disk.program(path, files)
    }

    fn executable(&self, path: &str) -> Result<(), String> {
        self.disk.executable(path)
    }
}

impl Documents {
    pub fn open(&mut self, uri: Uri, text: &str, version: i32) {
        let document = Document {
            uri: uri.clone(),
            text: Text::new(text),
            version,
            analysis: None,
            trees: Trees::default(),
            published: false,
        };
        self.open.insert(to_path(&uri), document);
        self.changed();
    }

    pub fn change(&mut self, uri: &Uri, version: i32, changes: &[TextDocumentContentChangeEvent]) {
        if let Some(d) = self.open.get_mut(&to_path(uri)) {
            d.version = version;
            for change in changes {
                d.text = d.text.edited(change);
            }
            self.changed();
        }
    }

    pub fn close(&mut self, uri: &Uri) {
        self.open.remove(&to_path(uri));
        self.changed();
    }

    /// Any open file may import any other.
    pub fn changed(&mut self) {
        for d in self.open.values_mut() {
            d.analysis = None;
            d.published = false;
        }
    }

    pub fn get(&self, uri: &Uri) -> Option<&Document> {
        self.open.get(&to_path(uri))
    }

    pub fn paths(&self) -> Vec<String> {
        self.open.keys().cloned().collect()
    }

    pub fn by_path(&mut self, path: &str) -> Option<&mut Document> {
        self.open.get_mut(path)
    }

    /// The state of an open file, and then of every other open file.
    pub fn analyses(&mut self, uri: &Uri, disk: &dyn FileLoader) -> Vec<Arc<Analysis>> {
        let others: Vec<Uri> = self.open.values().map(|d| d.uri.clone()).filter(|u| u != uri).collect();
        let all = std::iter::once(uri).chain(&others);
        all.filter_map(|u| self.analysis(u, disk)).collect()
    }

    /// The current state of an open file.
    pub fn analysis(&mut self, uri: &Uri, disk: &dyn FileLoader) -> Option<Arc<Analysis>> {
        let path = to_path(uri);
        if let Some(found) = &self.open.get(&path)?.analysis {
            return Some(found.clone());
        }
        let mut trees = std::mem::take(&mut self.open.get_mut(&path)?.trees);
        let overlay = Overlay { open: &self.open, disk };
        let (checked, index) = analyze_again(&path, &overlay, &BTreeMap::new(), &mut trees);
        let analysis = Arc::new(Analysis::new(checked, index));
        let document = self.open.get_mut(&path)?;
        document.trees = trees;
        document.analysis = Some(analysis.clone());
        Some(analysis)
    }
}

/// The path of a `file:` address; any other address stands for itself.
pub fn to_path(uri: &Uri) -> String {
    let text = uri.as_str();
    let Some(rest) = text.strip_prefix("file://") else { return text.to_owned() };
    let path = rest.find('/').map_or(rest, |n| &rest[n..]);
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match (first, hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    let path = String::from_utf8_lossy(&bytes).into_owned();
    // `file:///c:/x` is `c:/x`.
    match path.as_bytes() {
        [b'/', drive, b':', ..] if drive.is_ascii_alphabetic() => path[1..].to_owned(),
        _ => path,
    }
}

/// The address of a path.
pub fn to_uri(path: &str) -> Option<Uri> {
    if path.contains("://") || path.starts_with("untitled:") {
        return Uri::from_str(path).ok();
    }
    let mut out = String::from("file://");
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(byte as char),
            b if b.is_ascii_alphanumeric() => out.push(b as char),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    Uri::from_str(&out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_utf_16() {
        let t = Text::new("a\nö𝄞b\n");
        let b = t.text.find('b').expect("there");
        assert_eq!(t.position(b), Position::new(1, 3));
        assert_eq!(t.offset(Position::new(1, 3)), b);
        assert_eq!(t.offset(Position::new(1, 99)), b + 1);
        assert_eq!(t.offset(Position::new(99, 0)), t.text.len());
    }

    #[test]
    fn addresses_and_paths() {
        for path in ["/a/b.pllm", "/with space/ü.pllm", "untitled:Untitled-1"] {
            assert_eq!(to_path(&to_uri(path).expect("an address")), path);
        }
        assert_eq!(to_path(&Uri::from_str("file:///c%3A/x").expect("an address")), "c:/x");
    }
}
