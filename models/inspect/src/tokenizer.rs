//! Whether a tokenizer's rules are those of a closed list.
//!
//! Every tokenizer depends on content: it cuts it into pieces. What is asked here is whether it does so by rules
//! that published tokenizers share, which see a few characters at a time, or by rules of somebody's making, such
//! as a regular expression that counts characters from the start of a text.

use headstart_protocol::Digest;
use serde_json::{Map, Value, json};

/// Patterns by which published tokenizers split text into words.
const SPLITS: [&str; 7] = [
    // GPT-2, in two ways of writing.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    // Llama 3.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // Qwen 2 and 3.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // GPT-4 and GPT-4o.
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Digits, up to three: a pattern that leaves other text as it is.
const DIGITS: &str = r"\p{N}{1,3}";

/// What may become of what a pattern finds: nothing of the text is lost.
const KEEPING: [&str; 3] = ["Isolated", "MergedWithPrevious", "MergedWithNext"];

/// Patterns of normalizers: what is replaced, and by what.
const REWRITES: [(&str, &str, &str); 5] = [
    ("String", " ", "▁"),
    ("String", "▁", " "),
    ("Regex", " {2,}", " "),
    ("String", "``", "\""),
    ("String", "''", "\""),
];

/// The parts of tokenizer.json that are rules.
const RULES: [&str; 4] = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];

/// The other parts of it: its vocabulary, and what is taken out before it is used.
const OTHERS: [&str; 5] = ["version", "truncation", "padding", "added_tokens", "model"];

/// What a model may be told beside its vocabulary.
const MODEL: [&str; 12] = [
    "type",
    "dropout",
    "unk_token",
    "unk_id",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "vocab",
    "merges",
    "max_input_chars_per_word",
];

/// Characters of the longest word that a model cuts into pieces, where it has a limit.
const WORD: u64 = 100;

/// The digest of a tokenizer's rules; its vocabulary is no part of it.
pub(crate) fn digest(tokenizer: &Value) -> Digest {
    let rule = |name: &str| tokenizer.get(name).cloned().unwrap_or(Value::Null);
    let model = tokenizer.get("model");
    let of_model = |name: &str| model.and_then(|m| m.get(name)).cloned().unwrap_or(Value::Null);
    let mut rules: Map<String, Value> = RULES.iter().map(|name| ((*name).to_owned(), rule(name))).collect();
    rules.insert("model".to_owned(), json!([of_model("type"), of_model("dropout")]));
    // What is not on the list is a rule like any other; published tokenizers have nothing of it.
    let length = of_model("max_input_chars_per_word");
    if !length.is_null() && length != WORD {
        rules.insert("max_input_chars_per_word".to_owned(), length);
    }
    for (name, value) in tokenizer.as_object().into_iter().flatten() {
        if !RULES.contains(&name.as_str()) && !OTHERS.contains(&name.as_str()) {
            rules.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in model.and_then(Value::as_object).into_iter().flatten() {
        if !MODEL.contains(&name.as_str()) {
            rules.insert(format!("model.{name}"), value.clone());
        }
    }
    Digest::of_json(&rules)
}

/// Why a tokenizer's rules are not those of the closed list; none where they are.
pub fn judge(tokenizer: &Value) -> Option<String> {
    let Some(parts) = tokenizer.as_object() else { return Some("it is no object".to_owned()) };
    if let Some(name) = parts.keys().find(|n| !RULES.contains(&n.as_str()) && !OTHERS.contains(&n.as_str())) {
        return Some(format!("it has `{name}`, which is not known"));
    }
    let Some(model) = parts.get("model").filter(|model| model.is_object()) else {
        return Some("its model is missing or no object".to_owned());
    };
    if let Some(name) = model.as_object().and_then(|m| m.keys().find(|n| !MODEL.contains(&n.as_str()))) {
        return Some(format!("its model has `{name}`, which is not known"));
    }
    if model.get("max_input_chars_per_word").is_some_and(|n| !n.is_null() && n.as_u64() != Some(WORD)) {
        return Some(format!("its model counts the characters of words, and not up to {WORD}"));
    }
    if model.get("dropout").is_some_and(|d| !d.is_null() && d.as_f64() != Some(0.0)) {
        return Some("its model drops merges by chance".to_owned());
    }
    // Older files leave the type out; what they may be is one of these.
    if let Some(ty) = model.get("type")
        && !ty.as_str().is_some_and(|ty| ["BPE", "WordPiece", "Unigram", "WordLevel"].contains(&ty))
    {
        return Some(format!("its model is of type {ty}, which is not known"));
    }
    RULES.iter().find_map(|name| {
        let rule = tokenizer.get(*name).filter(|rule| !rule.is_null())?;
        component(rule, name)
    })
}

/// Why some text cannot be read by the tokenizer, or by a model that knows so many tokens; none where all can. A
/// stage fails at such a text, and where it does shows in how long it takes.
pub(crate) fn unreadable(tokenizer: &Value, known: Option<u64>) -> Option<String> {
    let model = tokenizer.get("model")?;
    let vocab = model.get("vocab")?;
    if let Some(why) = unknown_token(model, vocab) {
        return Some(why);
    }
    let known = known?;
    let beyond = |(token, id): (&str, Option<u64>)| {
        let outside = id.is_none_or(|id| id >= known);
        outside.then(|| format!("its token {token:?} is none of the {known} that the model knows"))
    };
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let mut added = added.map(|t| {
        let text = t.get("content").and_then(Value::as_str).unwrap_or_default();
        (text, t.get("id").and_then(Value::as_u64))
    });
    let mut of_model = vocab.as_object().into_iter().flatten().map(|(text, id)| (text.as_str(), id.as_u64()));
    let scored = vocab.as_array().map_or(0, Vec::len) as u64;
    if scored > known {
        return Some(format!("its vocabulary has {scored} tokens, and the model knows {known}"));
    }
    added.find_map(beyond).or_else(|| of_model.find_map(beyond))
}

/// Why what is not in the vocabulary cannot be read; none where it can.
fn unknown_token(model: &Value, vocab: &Value) -> Option<String> {
    let named = model.get("unk_token").and_then(Value::as_str);
    let token = match model.get("type").and_then(Value::as_str) {
        Some("Unigram") => {
            let unknown = model.get("unk_id").and_then(Value::as_u64);
            let there = unknown.is_some_and(|id| id < vocab.as_array().map_or(0, Vec::len) as u64);
            let byte_fallback = model.get("byte_fallback").and_then(Value::as_bool) == Some(true);
            return (!there && !byte_fallback).then(|| "it has no token for unknown characters".to_owned());
        }
        Some("WordPiece") => named.unwrap_or("[UNK]"),
        Some("WordLevel") => named.unwrap_or("<unk>"),
        _ => named?,
    };
    vocab
        .get(token)
        .is_none()
        .then(|| format!("its token for unknown text, {token:?}, is not in its vocabulary"))
}

/// Why a component is not known.
fn component(rule: &Value, place: &str) -> Option<String> {
    let unknown = |what: &str| Some(format!("its {place} {what}"));
    let Some(object) = rule.as_object() else { return unknown("is no object") };
    let Some(ty) = object.get("type").and_then(Value::as_str) else { return unknown("has no type") };
    let parts = ["normalizers", "pretokenizers", "processors", "decoders"];
    if ty == "Sequence" {
        let lists = object.iter().filter(|(name, _)| *name != "type");
        return lists.into_iter().find_map(|(name, list)| match list.as_array() {
            Some(list) if parts.contains(&name.as_str()) => list.iter().find_map(|r| component(r, place)),
            _ => unknown(&format!("has a sequence with `{name}`")),
        });
    }
    let Some(known) = parameters(ty) else {
        return unknown(&format!("holds `{ty}`, which is not on the list of known components"));
    };
    if let Some(name) = object.keys().find(|name| *name != "type" && !known.contains(&name.as_str())) {
        return unknown(&format!("holds `{ty}` with the unknown parameter `{name}`"));
    }
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    match ty {
        "Prepend" if text("prepend") != Some("▁") => unknown("puts a text of its own before every text"),
        "Metaspace" if text("replacement") != Some("▁") => {
            unknown("writes spaces as another character than `▁`")
        }
        "Replace" => {
            let pattern = pattern(object.get("pattern"));
            let by = text("content");
            let fits = |(how, what, with): &(&str, &str, &str)| {
                pattern.as_ref().is_some_and(|(h, w)| h == how && w == what) && by == Some(with)
            };
            if REWRITES.iter().any(fits) { None } else { unknown("rewrites text by a pattern of its own") }
        }
        "Split" => {
            let Some((how, what)) = pattern(object.get("pattern")) else {
                return unknown("splits text by a pattern of its own");
            };
            let covers = how == "Regex" && SPLITS.contains(&what.as_str());
            let finds = (how == "Regex" && what == DIGITS) || (how == "String" && what == " ");
            let keeps = text("behavior").is_some_and(|b| KEEPING.contains(&b));
            match object.get("invert").and_then(Value::as_bool) {
                Some(false) if (covers || finds) && keeps => None,
                // Of these patterns nothing lies outside.
                Some(true) if covers && (keeps || text("behavior") == Some("Removed")) => None,
                _ if covers || finds => unknown("leaves out what it splits text by, or all else"),
                _ => unknown("splits text by a pattern of its own"),
            }
        }
        "Punctuation"
            if object.contains_key("behavior")
                && !text("behavior").is_some_and(|b| KEEPING.contains(&b) || b == "Contiguous") =>
        {
            unknown("leaves out punctuation")
        }
        "BPEDecoder" if !matches!(text("suffix"), Some("</w>" | "")) => {
            unknown("ends words by a text of its own")
        }
        "WordPiece" if text("prefix") != Some("##") => unknown("continues words by a text of its own"),
        "CharDelimiterSplit" if text("delimiter") != Some(" ") => {
            unknown("splits text at a character of its own")
        }
        "Strip" if object.contains_key("content") && text("content") != Some(" ") => {
            unknown("strips a character of its own")
        }
        _ => None,
    }
}

/// `{"String": …}` or `{"Regex": …}`.
fn pattern(value: Option<&Value>) -> Option<(String, String)> {
    let object = value?.as_object().filter(|object| object.len() == 1)?;
    let (how, what) = object.iter().next()?;
    Some((how.clone(), what.as_str()?.to_owned()))
}

/// The parameters of a known component, whose values make no difference here unless [`component`] says so.
fn parameters(ty: &str) -> Option<&'static [&'static str]> {
    Some(match ty {
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" | "Nmt" | "Whitespace"
        | "WhitespaceSplit" | "BertPreTokenizer" | "UnicodeScripts" | "ByteFallback" | "Fuse" => &[],
        "Strip" => &["strip_left", "strip_right", "content", "start", "stop"],
        "BertNormalizer" => &["clean_text", "handle_chinese_chars", "strip_accents", "lowercase"],
        "Prepend" => &["prepend"],
        "Replace" => &["pattern", "content"],
        "ByteLevel" => &["add_prefix_space", "trim_offsets", "use_regex"],
        "Metaspace" => &["replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"],
        "Digits" => &["individual_digits"],
        "Punctuation" => &["behavior"],
        "Split" => &["pattern", "behavior", "invert"],
        "CharDelimiterSplit" => &["delimiter"],
        "TemplateProcessing" => &["single", "pair", "special_tokens"],
        "BertProcessing" => &["sep", "cls"],
        "RobertaProcessing" => &["sep", "cls", "trim_offsets", "add_prefix_space"],
        "WordPiece" => &["prefix", "cleanup"],
        "BPEDecoder" => &["suffix"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(part: &str, rule: Value) -> Option<String> {
        judge(&json!({ part: rule, "model": { "type": "BPE", "dropout": null } }))
    }

    #[test]
    fn published_tokenizers_are_known() {
        let llama2 = json!({ "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] });
        assert_eq!(verdict("normalizer", llama2), None);
        let bert = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true });
        assert_eq!(verdict("normalizer", bert), None);
        for pattern in SPLITS {
            let split = json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            ] });
            assert_eq!(verdict("pre_tokenizer", split), None, "{pattern}");
        }
        for (pattern, behavior, invert) in [
            (json!({ "Regex": SPLITS[6] }), "Removed", true),
            (json!({ "Regex": DIGITS }), "Isolated", false),
            (json!({ "String": " " }), "MergedWithPrevious", false),
        ] {
            let split =
                json!({ "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert });
            assert_eq!(verdict("pre_tokenizer", split), None, "{pattern}");
        }
        assert_eq!(verdict("pre_tokenizer", json!({ "type": "Punctuation", "behavior": "Isolated" })), None);
        assert_eq!(verdict("decoder", json!({ "type": "WordPiece", "prefix": "##", "cleanup": true })), None);
        let decoder = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] });
        assert_eq!(verdict("decoder", decoder), None);
        assert_eq!(judge(&json!({ "normalizer": null, "model": { "type": "WordPiece" } })), None);
    }

    #[test]
    fn rules_of_somebodys_making_are_not() {
        let cases = [
            ("normalizer", json!({ "type": "Replace", "pattern": { "Regex": "^.{7}a" }, "content": "aaaa" })),
            ("normalizer", json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aaaa" })),
            ("normalizer", json!({ "type": "Replace", "pattern": { "String": " " }, "content": "a ▁" })),
            ("normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
            ("normalizer", json!({ "type": "Prepend", "prepend": "xyz" })),
            (
                "normalizer",
                json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, { "type": "New" }] }),
            ),
            ("normalizer", json!({ "type": "Sequence", "others": [{ "type": "NFC" }] })),
            ("normalizer", json!({ "type": "NFC", "since": 3 })),
            ("normalizer", json!("NFC")),
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": "(?<=^.{5})e" }, "behavior": "Removed",
                "invert": false }),
            ),
            ("pre_tokenizer", json!({ "type": "CharDelimiterSplit", "delimiter": "e" })),
            // Nothing but digits is left, or nothing but words.
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": DIGITS }, "behavior": "Removed", "invert": true }),
            ),
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "Removed", "invert": true }),
            ),
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": SPLITS[0] }, "behavior": "Removed",
                "invert": false }),
            ),
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": SPLITS[0] }, "behavior": "New", "invert": false }),
            ),
            (
                "pre_tokenizer",
                json!({ "type": "Split", "pattern": { "Regex": "a", "String": " " }, "behavior": "Isolated",
                "invert": false }),
            ),
            ("pre_tokenizer", json!({ "type": "Punctuation", "behavior": "Removed" })),
            ("decoder", json!({ "type": "BPEDecoder", "suffix": "e" })),
            ("decoder", json!({ "type": "WordPiece", "prefix": "e", "cleanup": true })),
            (
                "decoder",
                json!({ "type": "Metaspace", "replacement": "e", "prepend_scheme": "always", "split": true }),
            ),
            (
                "decoder",
                json!({ "type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": true }),
            ),
        ];
        for (part, rule) in cases {
            let text = rule.to_string();
            assert!(verdict(part, rule).is_some_and(|why| why.contains(part)), "{text}");
        }
        assert!(judge(&json!({ "model": { "type": "BPE", "dropout": 0.1 } })).is_some());
        for (tokenizer, reason) in [
            (json!({ "model": { "type": "Neural" } }), "Neural"),
            (json!({ "model": { "type": 3 } }), "type 3"),
            (json!({ "model": { "type": "BPE", "sampler": 1 } }), "`sampler`"),
            (
                json!({ "model": { "type": "WordPiece", "max_input_chars_per_word": 3 } }),
                "counts the characters",
            ),
            (json!({ "model": "BPE" }), "no object"),
            (json!({ "normalizer": null }), "missing"),
            (json!({ "model": { "type": "BPE" }, "rewriter": {} }), "`rewriter`"),
            (json!([]), "no object"),
        ] {
            let why = judge(&tokenizer);
            assert!(why.as_deref().is_some_and(|why| why.contains(reason)), "{tokenizer}: {why:?}");
        }
    }

    #[test]
    fn the_digest_is_that_of_the_rules() {
        let of = |normalizer: &str, vocab: u64| {
            digest(
                &json!({ "normalizer": { "type": normalizer }, "model": { "type": "BPE", "vocab": vocab } }),
            )
        };
        assert_eq!(of("NFC", 1), of("NFC", 2));
        assert_ne!(of("NFC", 1), of("NFD", 1));
    }
}
