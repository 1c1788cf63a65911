//! A search for chat templates that are judged to treat all content alike and do not. Templates are made of the
//! constructs with which earlier judgements were deceived; each that is accepted is executed on conversations
//! that say different things, and has to write the same around them.
//!
//! `HEADSTART_TEMPLATES=1000000 cargo test --test templates` searches for longer, `HEADSTART_TEMPLATES_SEED=7`
//! elsewhere.

use headstart_lm::treats_alike;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const VARIABLES: [&str; 14] = [
    "m",
    "m",
    "m",
    "x",
    "x",
    "y",
    "ns",
    "messages",
    "messages",
    "tools",
    "documents",
    "bos_token",
    "eos_token",
    "add_generation_prompt",
];
const CALLABLE: [&str; 9] =
    ["range", "dict", "namespace", "debug", "strftime_now", "caller", "self", "loop", "raise_exception"];
const KEYS: [&str; 6] = ["role", "content", "content", "tool_calls", "x", "c"];
const TEXTS: [&str; 9] =
    ["a", "b", "user", "a longer text that says more", "\"q\\\"\nz", "{{ 1 }}", " padded \n", "7", "content"];
const ROLES: [&str; 3] = ["user", "assistant", "system"];
const FILTERS: [&str; 16] = [
    "trim",
    "tojson",
    "length",
    "upper",
    "string",
    "safe",
    "list",
    "first",
    "last",
    "reverse",
    "default('')",
    "map(attribute='role')",
    "selectattr('role', 'eq', 'user')",
    "items",
    "join",
    "map(attribute='content')",
];
const TESTS: [&str; 9] =
    ["string", "defined", "none", "mapping", "undefined", "iterable", "number", "true", "eq('a')"];
const LOOP: [&str; 8] = ["index0", "first", "last", "previtem", "nextitem", "length", "depth", "revindex"];

/// Templates that are accepted, into which others are put.
const BASES: [&str; 4] = [
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim }}{% endfor %}",
    "{% set x = messages[0].content %}{% for m in messages %}{% if m.role == 'user' %}{{ x + m.content }}\
     {% else %}{{ eos_token }}{% endif %}{% endfor %}",
    "{% macro f(m, y='') %}{{ m.role }}{{ m.content | trim }}{{ y }}{% endmacro %}\
     {% for m in messages %}{{ f(m) }}{{ f(messages[0], y='!') }}{% endfor %}",
    "{% set ns = namespace(x=0) %}{% for m in messages %}{% if m.content is string and not m.tool_calls %}\
     {% set ns.x = ns.x + 1 %}{{ m.content ~ ns.x }}{% endif %}{% endfor %}",
];

struct Maker(ChaCha8Rng);

impl Maker {
    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of.choose(&mut self.0).expect("several")
    }

    fn below(&mut self, n: u32) -> u32 {
        self.0.random_range(0..n)
    }

    /// A name to bind: mostly a variable.
    fn target(&mut self) -> String {
        match self.below(14) {
            0 => self.one(&CALLABLE).into(),
            1 => self.one(&["f", "g"]).into(),
            2 | 3 => format!("ns.{}", self.one(&KEYS)),
            _ => self.one(&VARIABLES).into(),
        }
    }

    fn value(&mut self, depth: u32) -> String {
        if depth == 0 {
            return match self.below(12) {
                0 => self.one(&["1", "'a'", "none", "true", "[]", "''", "0"]).into(),
                1 => self.one(&CALLABLE).into(),
                2 => format!("loop.{}", self.one(&LOOP)),
                3 => format!("ns.{}", self.one(&KEYS)),
                4 => "messages[0].content".into(),
                5 => "m.content".into(),
                _ => self.one(&VARIABLES).into(),
            };
        }
        let mut inner = || self.value(depth - 1);
        let (a, b) = (inner(), inner());
        match self.below(20) {
            0..=3 => format!("{a}.{}", self.one(&KEYS)),
            4 => format!("{a}['{}']", self.one(&KEYS)),
            5 => format!("{a}[{}]", self.one(&["0", "-1", "1", "x", "y"])),
            6 => format!("{a}[{}]", self.one(&["1:", ":1", "::-1"])),
            7 => format!("{a} {} {b}", self.one(&["+", "~", "==", "!=", "in", "and", "or", "<"])),
            8 => format!("({a} {} {b})", self.one(&["and", "or", "~", "+"])),
            9 => format!("({a} if {b} else {})", self.one(&VARIABLES)),
            10 => format!("({a} if {b})"),
            11 | 12 => format!("{a} | {}", self.one(&FILTERS)),
            13 => format!("{a} is {}", self.one(&TESTS)),
            14 => format!("{}({a})", self.one(&["f", "g", "range", "dict", "debug", "strftime_now"])),
            15 => {
                format!("{}({}={a})", self.one(&["f", "g", "dict", "namespace"]), self.one(&["m", "x", "c"]))
            }
            16 => format!("{a}.get('{}')", self.one(&KEYS)),
            17 => format!("{a}.{}()", self.one(&["strip", "rstrip", "items", "upper", "d", "c"])),
            18 => format!("{{'content': {a}, '{}': {b}}}", self.one(&KEYS)),
            _ => format!("[{a}, {b}]"),
        }
    }

    fn statement(&mut self, depth: u32) -> String {
        let deep = self.below(3);
        let a = self.value(deep);
        let mut body = || if depth == 0 { String::new() } else { self.statements(depth - 1) };
        let (inner, other) = (body(), body());
        match self.below(16) {
            0..=2 => format!("{{{{ {a} }}}}"),
            3..=6 => format!("{{% set {} = {a} %}}", self.target()),
            7 | 8 => format!("{{% if {a} %}}{inner}A{{% else %}}{other}B{{% endif %}}"),
            9 => format!("{{% if m.role == 'user' %}}{inner}C{{% elif {a} %}}{other}{{% endif %}}"),
            10 => format!("{{% for {} in {a} %}}{inner}D{{% else %}}{other}{{% endfor %}}", self.target()),
            11 => format!("{{% for m in messages %}}{inner}{{% endfor %}}"),
            12 => format!("{{% with {} = {a} %}}{inner}{{% endwith %}}", self.target()),
            13 => format!("{{% set {} %}}{inner}{{{{ {a} }}}}{{% endset %}}", self.target()),
            14 => {
                let name = self.one(&["f", "f", "g", "debug", "dict", "x"]);
                let params = self.one(&["", "m", "x", "m, x", "c", "x, ns", "m=tools", "caller"]);
                format!("{{% macro {name}({params}) %}}{inner}{{{{ {a} }}}}{{% endmacro %}}")
            }
            _ => format!("{{% set ns = namespace({}={a}) %}}", self.one(&KEYS)),
        }
    }

    fn statements(&mut self, depth: u32) -> String {
        (0..=self.below(2)).map(|_| self.statement(depth)).collect()
    }

    /// Statements, or an accepted template with statements before, in and behind it.
    fn template(&mut self) -> String {
        if self.below(3) == 0 {
            return (0..=self.below(4)).map(|_| self.statement(2)).collect();
        }
        let base = self.one(&BASES);
        let mut made = String::new();
        let mut copied = 0;
        for (at, _) in base.match_indices("{%") {
            if self.below(4) == 0 {
                made.push_str(&base[copied..at]);
                made.push_str(&self.statement(1));
                copied = at;
            }
        }
        made.push_str(&base[copied..]);
        if self.below(2) == 0 {
            made.push_str(&self.statement(1));
        }
        made
    }

    fn conversation(&mut self) -> Vec<(&'static str, &'static str)> {
        (0..self.below(5)).map(|_| (self.one(&ROLES), self.one(&TEXTS))).collect()
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn accepted_templates_treat_all_content_alike() {
    let mut maker = Maker(ChaCha8Rng::seed_from_u64(number("HEADSTART_TEMPLATES_SEED", 1)));
    let (mut accepted, mut wrote_content) = (0u64, 0u64);
    let cases = number("HEADSTART_TEMPLATES", 20_000);
    for _ in 0..cases {
        let template = maker.template();
        let mut was_accepted = false;
        for generation in [false, true, false] {
            let turns = maker.conversation();
            let found = treats_alike(&template, &turns, generation);
            if let Some(Err(e)) = &found {
                panic!("{template}\nof {turns:?}: {e}");
            }
            was_accepted |= found.is_some();
        }
        accepted += u64::from(was_accepted);
        wrote_content += u64::from(was_accepted && template.contains("content"));
    }
    println!("{cases} templates, {accepted} accepted and executed, {wrote_content} of them name content");
    assert!(accepted > cases / 50, "{accepted} of {cases}: too few to say anything");
}
