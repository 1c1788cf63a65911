//! A call of a stage.

use headstart_protocol::{Args, Type};

/// One call of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The kind, as the pipeline calls it.
    pub kind: &'a str,
    /// The type that the plan declares for the output.
    pub ty: &'a Type,
    /// The resolved arguments.
    pub args: &'a Args,
}
