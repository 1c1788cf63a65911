//! What would give private data away, and the search for it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use headstart_protocol::{Digest, Manifest};
use serde_json::Value as Json;

/// Shorter ones would be found by chance.
const SHORTEST: usize = 8;
/// Bytes of a run of a private file that is searched for.
const RUN: usize = 24;
/// Runs of each private file, spread over it.
const RUNS: usize = 48;

/// Bytes that nobody else may have, and what they are.
pub struct Trace {
    /// What they are of, such as `text` or `adapter`.
    pub kind: &'static str,
    /// In what form.
    pub what: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Every file below a folder, with its content.
pub fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(&dir).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                // A file may go away while a database or a log tidies up.
                let content = std::fs::read(&path).unwrap_or_default();
                found.push((path, content));
            }
        }
    }
    found
}

/// Collects traces.
#[derive(Default)]
pub struct Traces(pub Vec<Trace>);

impl Traces {
    /// Of a folder of private rows: texts, sentences, lines, files, and the digests of all of them.
    pub fn of_rows(&mut self, dir: &Path) {
        for (path, content) in files(dir) {
            self.digests("file", &path.display().to_string(), &content);
            for line in String::from_utf8(content).expect("UTF-8").lines() {
                self.digests("text", "a line", line.as_bytes());
                let row: Json = serde_json::from_str(line).expect("a row");
                for text in row.as_object().expect("an object").values().filter_map(Json::as_str) {
                    self.digests("text", text, text.as_bytes());
                    self.forms("text", text, text.as_bytes());
                    for sentence in text.split_inclusive(['.', '!', '?']).map(str::trim) {
                        self.forms("text", sentence, sentence.as_bytes());
                    }
                }
            }
        }
    }

    /// Of everything in a device's private store: runs of the files' bytes, numbers, names and words
    /// of the values, digests.
    pub fn of_private_store(&mut self, state: &Path) {
        let all = files(&state.join("private"));
        // Artifacts are told apart by handles, keyed with the device's secret: these are to cross.
        let handles: HashSet<&str> =
            all.iter().flat_map(|(path, _)| path.iter().filter_map(|part| part.to_str())).collect();
        for (path, content) in &all {
            if path.ends_with("artifact.json") {
                let held: Json = serde_json::from_slice(content).expect("JSON");
                let Ok(manifest) = serde_json::from_value::<Manifest>(held["manifest"].clone()) else {
                    continue;
                };
                self.hex("digest", "a private manifest's identity", &manifest.id());
                for file in manifest.files.values() {
                    self.hex("digest", "a private file's digest", &file.digest);
                }
                self.of_value("value", &manifest.value, &handles);
                continue;
            }
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let kind = match name.as_str() {
                "vectors.safetensors" => "vectors",
                n if n.starts_with("adapter_model") => "adapter",
                _ => "file",
            };
            self.digests(kind, &name, content);
            self.runs(kind, &name, content);
        }
    }

    /// Numbers and words of a private value, as JSON writes them under their keys. Numbers of a few
    /// digits are left out: they stand everywhere.
    fn of_value(&mut self, key: &str, value: &Json, handles: &HashSet<&str>) {
        match value {
            Json::Object(fields) => fields.iter().for_each(|(k, v)| self.of_value(k, v, handles)),
            Json::Array(items) => items.iter().for_each(|v| self.of_value(key, v, handles)),
            Json::Number(n) => {
                let text = n.to_string();
                if text.split_once('.').is_some_and(|(_, decimals)| decimals.len() >= 3) {
                    for between in ["\":", "\": "] {
                        self.add("coefficient", key, format!("{key}{between}{text}").into_bytes());
                    }
                }
            }
            Json::String(s) if handles.contains(s.as_str()) => {}
            Json::String(s) => self.forms("word", key, s.as_bytes()),
            _ => {}
        }
    }

    fn runs(&mut self, kind: &'static str, name: &str, content: &[u8]) {
        // The header of a safetensors file says what shapes are, not what is in them.
        let header =
            content.get(..8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight")) as usize);
        let is_tensors = name.ends_with(".safetensors");
        let data = if is_tensors { &content[(8 + header).min(content.len())..] } else { content };
        let step = (data.len() / RUNS).max(RUN) & !3;
        for at in (0..data.len().saturating_sub(RUN)).step_by(step.max(4)) {
            let run = &data[at..at + RUN];
            if run.iter().filter(|b| **b != run[0]).count() < RUN / 2 {
                continue;
            }
            self.forms(kind, &format!("{name} at {at}"), run);
            if is_tensors {
                for four in run.chunks_exact(4) {
                    let x = f32::from_le_bytes(four.try_into().expect("four"));
                    self.number(kind, name, x);
                }
            }
        }
    }

    /// A number as JSON would write it, in single and in double precision.
    fn number(&mut self, kind: &'static str, name: &str, x: f32) {
        for text in [serde_json::to_string(&x), serde_json::to_string(&f64::from(x))] {
            let text = text.expect("a number");
            let digits = text.trim_start_matches(['-', '0', '.']);
            if digits.len() >= 7 {
                self.add(kind, &format!("a number of {name}"), text.into_bytes());
            }
        }
    }

    fn digests(&mut self, kind: &'static str, what: &str, bytes: &[u8]) {
        self.hex(kind, &format!("the digest of {what}"), &Digest::of(bytes));
    }

    fn hex(&mut self, kind: &'static str, what: &str, digest: &Digest) {
        self.add(kind, what, digest.to_string().into_bytes());
        self.forms(kind, what, &digest.0);
    }

    /// As they are, escaped in JSON, in hexadecimal digits and in base64 at each alignment.
    fn forms(&mut self, kind: &'static str, what: &str, bytes: &[u8]) {
        if let Ok(text) = std::str::from_utf8(bytes) {
            let escaped = serde_json::to_string(text).expect("text");
            self.add(kind, &format!("{what}, escaped"), escaped.trim_matches('"').as_bytes().to_vec());
        }
        for upper in [false, true] {
            let digit = |b: &u8| if upper { format!("{b:02X}") } else { format!("{b:02x}") };
            let hex: String = bytes.iter().map(digit).collect();
            self.add(kind, &format!("{what}, in hexadecimal"), hex.into_bytes());
        }
        for shift in 0..3 {
            // Only whole groups of three bytes: the ends depend on the neighbours.
            let whole = &bytes[shift.min(bytes.len())..];
            let text = base64(&whole[..whole.len() / 3 * 3]);
            self.add(kind, &format!("{what}, in base64"), text.into_bytes());
        }
        self.add(kind, what, bytes.to_vec());
    }

    fn add(&mut self, kind: &'static str, what: &str, bytes: Vec<u8>) {
        if bytes.len() >= SHORTEST {
            self.0.push(Trace { kind, what: what.to_owned(), bytes });
        }
    }

    /// Without those that stand in what everybody knows.
    pub fn unknown_to<'a>(self, known: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut public = vec![false; self.0.len()];
        let search = Search::new(&self.0);
        for bytes in known {
            search.each(bytes, |i| public[i] = true);
        }
        let mut public = public.into_iter();
        Self(self.0.into_iter().filter(|_| !public.next().unwrap_or(false)).collect())
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|t| t.kind == kind).count()
    }

    /// What these bytes contain, by kind and form.
    pub fn found(&self, bytes: &[u8]) -> Vec<(&'static str, &str)> {
        let mut hits = Vec::new();
        Search::new(&self.0).each(bytes, |i| hits.push((self.0[i].kind, self.0[i].what.as_str())));
        hits
    }
}

/// Finds thousands of needles in one pass.
struct Search<'t> {
    traces: &'t [Trace],
    by_start: HashMap<[u8; SHORTEST], Vec<usize>>,
    /// Whether any needle begins with these two bytes: rules out most places at once.
    begins: Vec<bool>,
}

impl<'t> Search<'t> {
    fn new(traces: &'t [Trace]) -> Self {
        let mut by_start: HashMap<_, Vec<usize>> = HashMap::new();
        let mut begins = vec![false; 1 << 16];
        for (i, t) in traces.iter().enumerate() {
            let start: [u8; SHORTEST] = t.bytes[..SHORTEST].try_into().expect("long enough");
            begins[usize::from(start[0]) << 8 | usize::from(start[1])] = true;
            by_start.entry(start).or_default().push(i);
        }
        Self { traces, by_start, begins }
    }

    fn each(&self, hay: &[u8], mut hit: impl FnMut(usize)) {
        for at in 0..(hay.len() + 1).saturating_sub(SHORTEST) {
            if !self.begins[usize::from(hay[at]) << 8 | usize::from(hay[at + 1])] {
                continue;
            }
            let start: &[u8; SHORTEST] = hay[at..at + SHORTEST].try_into().expect("eight");
            for &i in self.by_start.get(start).into_iter().flatten() {
                if hay[at..].starts_with(&self.traces[i].bytes) {
                    hit(i);
                }
            }
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |b: &[u8]| {
        let n = u32::from(b[0]) << 16 | u32::from(b[1]) << 8 | u32::from(b[2]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(n >> shift) as usize & 63]))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}
