//! Words and numbers in messages: plurals, grouped digits, bytes, similar names, names of files made
//! from keys, and text from outside.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{Display, Write};

use crate::Digest;

/// Whether a character may change how the text around it is displayed, or hide in it: control characters
/// (C0 but for line feed and tab, C1), bidirectional controls, invisible and tag characters.
fn is_deceptive(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // U+200C and U+200D join letters and emoji in ordinary texts.
        '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{061c}' | '\u{180e}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

/// The name of a file as systems take it that tell no letters by case: names that fold to the same are one file on
/// macOS or Windows. Invisible characters, which some of them pass over, are left out, and dots and spaces at the
/// end of a part.
pub fn folded_name(name: &str) -> String {
    let seen = |c: &char| !is_deceptive(*c) && !matches!(c, '\u{ad}' | '\u{200c}' | '\u{200d}');
    let part = |part: &str| {
        let upper: String = part.chars().filter(seen).flat_map(char::to_uppercase).collect();
        upper.to_lowercase().trim_end_matches(['.', ' ']).to_owned()
    };
    name.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A text in which every character that could deceive a reader or command a terminal is written as an
/// escape, such as `\u001b`: of control characters only line feeds and tabs are left. In a JSON text the
/// escapes mean the characters that they stand for.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_deceptive(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A count and what is counted: `1 run`, `2 runs`, `1 200 forward passes`.
pub fn counted(n: impl TryInto<u64>, what: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{} {}", grouped(n), plural(n, what))
}

/// The plural of a noun, unless there is one of it. The last word changes: `stage instances`.
pub fn plural(n: u64, noun: &str) -> String {
    if n == 1 {
        return noun.to_owned();
    }
    let vowel_before_y = noun.strip_suffix('y').is_some_and(|rest| rest.ends_with(['a', 'e', 'i', 'o', 'u']));
    match noun {
        _ if noun.ends_with(['s', 'x', 'z']) || noun.ends_with("ch") || noun.ends_with("sh") => {
            format!("{noun}es")
        }
        _ if noun.ends_with('y') && !vowel_before_y => format!("{}ies", &noun[..noun.len() - 1]),
        _ => format!("{noun}s"),
    }
}

/// An integer with narrow spaces between groups of three digits.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// Bytes for people, in powers of ten: `812 B`, `4.7 kB`, `1.2 MB`, `3.4 GB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..999_950 => format!("{:.1} kB", n as f64 / 1e3),
        999_950..999_950_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// Names in backticks as a list in a sentence, `most` at most: `` `a`, `b` and 3 more ``.
pub fn quoted<T: Display>(names: impl IntoIterator<Item = T>, most: usize) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    let more = names.len().saturating_sub(most);
    let shown = &names[..names.len() - more];
    match (shown, more) {
        (shown, 1..) => format!("{} and {more} more", shown.join(", ")),
        ([most @ .., last], 0) if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        (shown, _) => shown.join(", "),
    }
}

/// Bytes of a file name that is made from a key, at most.
const NAME_BYTES: usize = 100;
/// Characters of the digest that tells apart names which lost something.
const DIGEST_CHARS: usize = 8;
/// Names that Windows keeps for devices, with any extension.
const RESERVED: &[&str] = &[
    "con", "prn", "aux", "nul", "com0", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8",
    "com9", "lpt0", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9", "conin$",
    "conout$",
];

/// A key as the name of one file or folder, safe on every system: no separators, no leading dot or
/// hyphen, nothing reserved, at most 100 bytes.
///
/// A key of plain characters is its own name. Any other has part of its digest behind it, so that
/// different keys have different names. Keys that differ only in upper and lower case are distinguished
/// by [`FileNames`].
pub fn safe_file_name(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-,+=@ ".contains(c);
    let clean: String = key.chars().map(|c| if plain(c) || c.is_alphanumeric() { c } else { '_' }).collect();
    let clean = clean.trim_end_matches(['.', ' ']);
    let stem = clean.split('.').next().unwrap_or_default().trim_end().to_lowercase();
    let risky = clean.is_empty() || clean.starts_with(['.', '-', ' ']) || RESERVED.contains(&stem.as_str());
    let name = if risky { format!("_{clean}") } else { clean.to_owned() };
    // Systems compare letters beyond ASCII in several ways.
    let told = name == key && name.is_ascii() && name.len() <= NAME_BYTES;
    if told { name } else { marked(&name, key) }
}

/// A name with part of a key's digest behind it, cut to the limit.
fn marked(name: &str, key: &str) -> String {
    let mut kept = name;
    while kept.len() > NAME_BYTES - DIGEST_CHARS - 1 {
        kept = &kept[..kept.char_indices().next_back().map_or(0, |(i, _)| i)];
    }
    let digest = Digest::of(key.as_bytes()).to_string();
    format!("{kept}-{}", &digest[..DIGEST_CHARS])
}

/// Names of files in one folder: each safe, and different from all others, also where upper and
/// lower case are the same.
#[derive(Debug, Default)]
pub struct FileNames {
    taken: HashSet<String>,
}

impl FileNames {
    /// The name for a key. A second call with the same key gives another name.
    pub fn name(&mut self, key: &str) -> String {
        let mut name = safe_file_name(key);
        if self.taken.contains(&name.to_lowercase()) {
            name = marked(&name, key);
        }
        let first = name.clone();
        let mut n = 2;
        while !self.taken.insert(name.to_lowercase()) {
            name = format!("{first}-{n}");
            n += 1;
        }
        name
    }
}

/// The name among `known` that is most like `name`, if any is like it at all.
pub fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for k in known {
        let score = strsim::jaro_winkler(&lower, &k.to_lowercase());
        // Short names are alike too easily; a swap or a lost letter must still count.
        let near = strsim::damerau_levenshtein(&lower, &k.to_lowercase()) <= 1 + name.chars().count() / 4;
        if (score > 0.88 || near && score > 0.6) && best.is_none_or(|(s, _)| score > s) {
            best = Some((score, k));
        }
    }
    best.map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_other_systems_take_for_one_fold_to_one() {
        for name in [
            "Chat_Template.jinja",
            "CHAT_TEMPLATE.JINJA",
            "chat_template.jinja.",
            "chat_template.jinja. ",
            "chat\u{200c}_template.jinja",
            "chat_\u{feff}template.jinja",
        ] {
            assert_eq!(folded_name(name), "chat_template.jinja", "{name:?}");
        }
        assert_eq!(folded_name("to\u{212a}enizer.j\u{17f}on"), "tokenizer.json");
        assert_eq!(folded_name("A./b"), "a/b");
        assert_ne!(folded_name("ü"), folded_name("u"));
    }

    #[test]
    fn foreign_text_commands_nothing_and_hides_nothing() {
        let of = |text: &str| visible(text).into_owned();
        assert_eq!(
            of("plain, größer, 日本語, مرحبا, 👩\u{200d}👩"),
            "plain, größer, 日本語, مرحبا, 👩\u{200d}👩"
        );
        assert_eq!(of("a\u{1b}[2Jb\rc\u{9b}31md\u{7}\n\te"), "a\\u001b[2Jb\\u000dc\\u009b31md\\u0007\n\te");
        assert_eq!(
            of("\u{202e}gpj.exe \u{2066}\u{feff}\u{e0041}"),
            "\\u202egpj.exe \\u2066\\ufeff\\udb40\\udc41"
        );
        let hostile: String = ('\0'..='\u{2fff}').chain('\u{f000}'..='\u{ffff}').collect();
        assert!(!visible(&hostile).contains(is_deceptive));
        let json = serde_json::json!({ "name": "\u{9b}\u{202e}\u{e0041}\u{1b}" });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&visible(&json.to_string())).ok(), Some(json));
    }

    #[test]
    fn plurals_follow_their_noun() {
        let shown = [(1u64, "run"), (2, "run"), (0, "forward pass"), (3, "entry"), (2, "key"), (1200, "row")];
        let shown: Vec<_> = shown.into_iter().map(|(n, what)| counted(n, what)).collect();
        assert_eq!(
            shown,
            ["1 run", "2 runs", "0 forward passes", "3 entries", "2 keys", "1\u{202f}200 rows"]
        );
    }

    #[test]
    fn lists_end_with_and_or_with_what_is_left() {
        assert_eq!(quoted(["a"], 3), "`a`");
        assert_eq!(quoted(["a", "b", "c"], 3), "`a`, `b` and `c`");
        assert_eq!(quoted(["a", "b", "c"], 2), "`a`, `b` and 1 more");
    }

    #[test]
    fn bytes_have_powers_of_ten() {
        assert_eq!(
            [812, 4_721, 1_249_000, 3_400_000_000].map(bytes),
            ["812 B", "4.7 kB", "1.2 MB", "3.4 GB"]
        );
    }

    /// Whether a name is one plain file name on every system.
    fn is_safe(name: &str) -> bool {
        let stem = name.split('.').next().unwrap_or_default().to_lowercase();
        !name.is_empty()
            && name.len() <= NAME_BYTES
            && !name.contains(['/', '\\', ':', '*', '?', '"', '<', '>', '|'])
            && !name.chars().any(char::is_control)
            && !name.starts_with(['.', '-', ' '])
            && !name.ends_with(['.', ' '])
            && !RESERVED.contains(&stem.as_str())
    }

    #[test]
    fn any_key_becomes_a_safe_name_of_its_own() {
        let long = ["x".repeat(300), "x".repeat(301), "é".repeat(90)];
        let keys = [
            "",
            ".",
            "..",
            "./",
            "../../evil",
            "/etc/passwd",
            "a/b",
            "a_b",
            "a\\b",
            "C:\\x",
            "con",
            "CON.txt",
            "nul ",
            "a\0b",
            "a\nb",
            "-rf",
            " lead",
            "trail ",
            "trail.",
            "née ü",
            "ne\u{301}e u\u{308}",
            "x,y",
            "日本",
        ];
        let keys: Vec<&str> = keys.into_iter().chain(long.iter().map(String::as_str)).collect();
        let names: Vec<String> = keys.iter().map(|k| safe_file_name(k)).collect();
        for (key, name) in keys.iter().zip(&names) {
            assert!(is_safe(name), "{key:?} became {name:?}");
        }
        let distinct: HashSet<String> = names.iter().map(|n| n.to_lowercase()).collect();
        assert_eq!(distinct.len(), keys.len(), "{names:?}");
    }

    #[test]
    fn plain_keys_stay_as_they_are() {
        for key in ["expert-concise", "a,b", "Qwen2-0.5B", "said", "two words"] {
            assert_eq!(safe_file_name(key), key);
        }
    }

    #[test]
    fn names_in_a_folder_differ_by_more_than_case() {
        let mut names = FileNames::default();
        let given: Vec<String> = ["Said", "said", "SAID", "said"].iter().map(|k| names.name(k)).collect();
        assert_eq!(given[0], "Said");
        let distinct: HashSet<String> = given.iter().map(|n| n.to_lowercase()).collect();
        assert_eq!(distinct.len(), 4, "{given:?}");
        assert!(given.iter().all(|n| is_safe(n)));
    }

    #[test]
    fn misspelled_names_are_recognised_and_others_are_not() {
        let names = ["catalog", "drift", "said"];
        for (given, meant) in [
            ("catlog", Some("catalog")),
            ("Drift", Some("drift")),
            ("cata", Some("catalog")),
            ("siad", Some("said")),
            ("xyzzy", None),
            ("", None),
        ] {
            assert_eq!(similar(given, names), meant, "{given}");
        }
    }
}
