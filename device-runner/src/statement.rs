//! What can be said of a task from its statement alone.

use std::collections::BTreeSet;

use headstart_protocol::task::Task;
use headstart_protocol::{Digest, Failure};

/// Artifacts that a task may name, with those that they refer to: a catalog may have 100,000 pLLMs.
pub(crate) const MOST_ARTIFACTS: usize = 250_000;

/// Checks what a task states of itself, before anything is downloaded or looked at. Its names, which are kept with
/// every handle, were cut when it was read.
///
/// # Errors
/// [`FailureClass::Input`](headstart_protocol::FailureClass::Input) for a list of downloads that is too long.
pub(crate) fn check_statement(task: &Task) -> Result<(), Failure> {
    let mut named: BTreeSet<Digest> = task.prefetch.iter().map(|a| a.id).collect();
    for expr in task.args.values().chain(&task.when) {
        expr.each_artifact(&mut |a| {
            named.insert(a.id);
        });
    }
    if named.len() > MOST_ARTIFACTS { Err(too_many()) } else { Ok(()) }
}

/// The refusal of a task that names too much.
pub(crate) fn too_many() -> Failure {
    Failure::input(format!("the task names more than {MOST_ARTIFACTS} artifacts, with what they refer to"))
}
