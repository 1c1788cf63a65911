//! What a name means, for a reader.

use headstart_dsl::Span;
use headstart_dsl::plan::Place;
use headstart_dsl::symbols::{Index, Symbol, SymbolKind, Target};
use headstart_protocol::Type;
use headstart_protocol::kinds::{self, Accepts, Arg, DefaultValue, Kind};

use crate::documents::Analysis;

/// Markdown about the symbol at a byte of the file, and its place.
pub fn hover(a: &Analysis, offset: usize) -> Option<(String, Span)> {
    let mark = a.index.at(Analysis::ROOT, offset)?;
    let text = match &mark.target {
        Target::Symbol(n) => symbol(&a.index.symbols[*n]),
        Target::Kind(k) => kind(k),
        Target::Argument(k, n) => {
            let arg = k.args.get(*n).map(argument).unwrap_or_default();
            format!("{arg}\n\nArgument of `{}`.", k.name)
        }
        Target::Word(w) => format!("{}\n\n{}", code(w.example), sentence(w.doc)),
        Target::Type(t) => ty(t),
        Target::Field(of, name) => field(of, name),
        Target::File(f) => imported(&a.index, *f, &a.checked.sources.file(*f).path),
    };
    Some((text, mark.span))
}

fn code(text: &str) -> String {
    format!("```pllm\n{text}\n```")
}

/// Starts with a capital letter, ends with a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let end = if text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// A declared name: its line, its documentation, where it lives.
pub fn symbol(s: &Symbol) -> String {
    let ty = s.ty.as_ref().map(|t| format!(": {t}")).unwrap_or_default();
    let made = match (&s.made_by, &s.value) {
        (Some(kind), _) => format!(" = {}(…)", kind.name),
        (None, Some(value)) if s.kind == SymbolKind::Param => format!(" = {value}"),
        _ => String::new(),
    };
    let line = match s.kind {
        SymbolKind::Program => format!("program {} = {:?}", s.name, s.value.as_deref().unwrap_or_default()),
        SymbolKind::Import => format!("import {:?} as {}", s.value.as_deref().unwrap_or_default(), s.name),
        _ => format!("{} {}{ty}{made}", s.kind.keyword(), s.name),
    };
    let mut out = vec![code(&line)];
    if !s.doc.is_empty() {
        out.push(s.doc.clone());
    }
    out.extend(s.made_by.as_ref().map(|k| format!("`{}`: {}", k.name, k.doc)));
    if let Some((keys, count)) = &s.keys {
        let more = if *count > keys.len() { ", …" } else { "" };
        let keys: Vec<String> = keys.iter().map(|k| format!("`{k:?}`")).collect();
        let elements = if *count == 1 { "element" } else { "elements" };
        out.push(format!("{count} {elements}: {}{more}", keys.join(", ")));
    }
    out.extend(residency(s));
    out.join("\n\n")
}

/// A declared name in a few words.
pub fn brief(s: &Symbol) -> String {
    let made = s.made_by.as_ref().map(|k| format!("{} = {}(…)", s.kind.keyword(), k.name));
    let parts = [made, Some(s.doc.clone()).filter(|d| !d.is_empty()), residency(s)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// Where it is made, and what of it may leave.
fn residency(s: &Symbol) -> Option<String> {
    if let Some(device) = &s.private_to {
        let leaves = match &s.ty {
            Some(Type::Pllm) => "it may leave with `release`, which the plan says in capitals",
            Some(t) if t.releasable() => "it may leave with `release`",
            _ => "it never leaves",
        };
        return Some(format!("**Private to `{device}`**: {leaves}."));
    }
    match s.place.as_ref()? {
        Place::Server => Some("Made on the server.".to_owned()),
        Place::Device(d) => Some(format!("Made on the device `{d}`; not private.")),
    }
}

/// A stage kind with its arguments.
pub fn kind(k: &Kind) -> String {
    let place = k.places.describe();
    let mut out = format!("{}\n\n{}\n\nMakes a `{}`. Runs on {place}.\n", code(&k.example), k.doc, k.returns);
    for a in &k.args {
        out += &format!("\n- {}", argument(a));
    }
    out
}

/// An argument in one line.
pub fn argument(a: &Arg) -> String {
    let default = match &a.default {
        DefaultValue::Required => String::new(),
        DefaultValue::Absent => ", may be left out".to_owned(),
        DefaultValue::Int(i) => format!(" = {i}"),
        DefaultValue::Float(x) => format!(" = {x:?}"),
        DefaultValue::Bool(b) => format!(" = {b}"),
        DefaultValue::Text(t) => format!(" = {t}"),
    };
    format!("`{}`: {}{default} — {}", a.name, accepts(a), a.doc)
}

/// What an argument takes.
pub fn accepts(a: &Arg) -> String {
    let one = |a: &Accepts| match a {
        Accepts::Word(words) => words.join(" | "),
        other => other.ty().to_string(),
    };
    a.accepts.iter().map(one).collect::<Vec<_>>().join(" or ")
}

fn ty(t: &Type) -> String {
    let fields = t.fields().iter().map(|(name, ty, doc)| format!("\n- `.{name}`: {ty} — {doc}"));
    let made: Vec<String> =
        kinds::all().filter(|k| k.returns == *t).map(|k| format!("`{}`", k.name)).collect();
    let made = if made.is_empty() { String::new() } else { format!("\n\nMade by {}.", made.join(", ")) };
    format!("{}{made}\n{}", code(&t.to_string()), fields.collect::<String>())
}

fn field(of: &Type, name: &str) -> String {
    let doc = of.fields().iter().find(|(n, ..)| *n == name).map(|(.., doc)| *doc);
    let ty = of.field(name).map(|t| t.to_string()).unwrap_or_default();
    format!(
        "{}\n\n{}",
        code(&format!("{of}.{name}: {ty}")),
        sentence(doc.unwrap_or("the number of this name"))
    )
}

fn imported(index: &Index, file: headstart_dsl::FileId, path: &str) -> String {
    let names = index.declared(file).map(|s| {
        let ty = s.ty.as_ref().map(|t| format!(": {t}")).unwrap_or_default();
        format!("\n- {} `{}`{ty}", s.kind.keyword(), s.name)
    });
    format!("`{path}` declares\n{}", names.collect::<String>())
}
