//! Runs stages in tests, over a temporary folder instead of an engine.
//!
//! ```
//! use headstart_protocol::{Args, Context, Failure, Output, Stage, Value};
//! use headstart_testkit::MemoryContext;
//!
//! struct Concat;
//! impl Stage for Concat {
//!     fn kind(&self) -> &'static str {
//!         "concat"
//!     }
//!     fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
//!         let at = ctx.scratch().join("rows.jsonl");
//!         let mut all = String::new();
//!         for (_, dataset) in args.artifacts("datasets")? {
//!             all += &std::fs::read_to_string(ctx.open(dataset)?.join("rows.jsonl")).unwrap();
//!         }
//!         std::fs::write(&at, all).unwrap();
//!         Ok(Output::new(headstart_protocol::Type::Dataset, ().into()).file("rows.jsonl", at))
//!     }
//! }
//!
//! let ctx = MemoryContext::new();
//! let (a, b) = (ctx.dataset(&[("q", "one")]), ctx.dataset(&[("q", "two")]));
//! let list = Value::List(vec![("a".into(), Value::Artifact(a)), ("b".into(), Value::Artifact(b))]);
//! let both = ctx.run(&Concat, [("datasets", list)]).unwrap();
//! assert_eq!(ctx.rows_of(&both).len(), 2);
//! ```
//!
//! # Layout
//! - [`MemoryContext`]: a complete [`headstart_protocol::Context`], and shorthands for tests.
//! - [`MemoryRows`]: a row cache in memory.
//! - [`without_digests`]: what two recordings of a wire are compared by.
//! - [`cases`], [`assert_within`]: how much a long test does, and bounds on time.
//!
//! Everything here panics where a test is set up wrongly, and where a stage breaks the contract.

mod context;
mod rows;
mod soak;
mod wire;

pub use context::MemoryContext;
pub use rows::MemoryRows;
pub use soak::{assert_within, cases, soak};
pub use wire::without_digests;
