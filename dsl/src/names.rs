//! Names in messages: "did you mean", and lists.

use headstart_protocol::text::similar;

/// A help line with the most similar name.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    similar(name, known).map(|k| format!("did you mean `{k}`?"))
}

/// `a`, `a and b`, `a, b and c`; or with another last word than `and`.
pub fn listed<T: AsRef<str>>(items: &[T], last: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [init @ .., end] => {
            let init: Vec<&str> = init.iter().map(AsRef::as_ref).collect();
            format!("{} {last} {}", init.join(", "), end.as_ref())
        }
    }
}

/// Names in backquotes, listed.
pub fn quoted<'a>(items: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let items: Vec<String> = items.into_iter().map(|i| format!("`{i}`")).collect();
    listed(&items, last)
}

/// `a Pllm`, `an Int`.
pub fn with_article(what: impl std::fmt::Display) -> String {
    let what = what.to_string();
    let vowel = what.trim_start_matches('`').starts_with(['A', 'E', 'I', 'O', 'a', 'e', 'i', 'o', 'u']);
    format!("{} {what}", if vowel { "an" } else { "a" })
}

/// `its field is `a``, `its fields are `a` and `b``.
pub fn list_of<'a>(what: &str, items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<&str> = items.into_iter().collect();
    let (what, verb) = if items.len() == 1 { (what.to_owned(), "is") } else { (format!("{what}s"), "are") };
    format!("{what} {verb} {}", quoted(items, "and"))
}
