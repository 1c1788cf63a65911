//! Headstart's pipeline language: text to a checked, typed [`plan::Plan`].
pub mod ast;
pub mod codes;
pub mod diagnostic;
mod literal;
pub mod loader;
mod mistakes;
mod names;
pub mod plan;
pub mod span;
mod syntax;
pub use syntax::parse;
#[cfg(test)]
mod tmp {
    #[test]
    fn design() {
        let t = std::fs::read_to_string("/tmp/design.pllm").expect("x");
        let (f, d) = crate::parse(crate::span::FileId(0), &t);
        println!("{} items", f.items.len());
        println!("{d:#?}");
        let bad = std::fs::read_to_string("/tmp/bad.pllm").expect("x");
        let (f, d) = crate::parse(crate::span::FileId(0), &bad);
        println!("{} items", f.items.len());
        for d in d { let s = d.span().expect("s"); println!("{} {} {:?} {:?}", d.code, d.message, &bad[s.range()], d.help); }
    }
}
