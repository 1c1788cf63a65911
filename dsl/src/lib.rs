//! Headstart's pipeline language: text to a checked, typed [`plan::Plan`].
pub mod ast;
pub mod check;
pub mod codes;
pub mod diagnostic;
pub mod graph;
mod literal;
pub mod loader;
mod mistakes;
mod names;
pub mod plan;
pub mod span;
mod syntax;
pub use check::{check, Checked};
pub use codes::{Code, codes, explain};
pub use diagnostic::{Diagnostic, Label, Severity};
pub use graph::graph;
pub use loader::{FileLoader, MemoryLoader};
pub use span::{FileId, Sources, Span};
pub use syntax::parse;
#[cfg(test)]
mod tmp {
    #[test]
    fn design() {
        let t = std::fs::read_to_string("/tmp/design.pllm").expect("x");
        let l = crate::MemoryLoader::new().with("p/x.pllm", &t).with("p/catalog/friendly/a", "").with("p/catalog/concise/a", "").with("p/catalog/formal/a", "");
        let c = crate::check("p/x.pllm", &l, &Default::default());
        for d in &c.diagnostics { println!("{} {} {:?} {:?} {:?}", d.code, d.message, d.span().map(|s| c.sources.text(s)), d.help, d.notes); }
        println!("{}", serde_json::to_string_pretty(&c.plan).expect("x"));
    }
}
