//! What an output must be before anything counts.

use std::path::Path;

use headstart_protocol::artifacts::Metrics;
use headstart_protocol::declared::is_inside;
use headstart_protocol::kinds::{self, Role};
use headstart_protocol::{Failure, FailureClass, Output};

use crate::call::Call;
use crate::granted::Granted;

/// Checks an output against the plan and against what the stage was given, and resolves the paths of its files.
pub(crate) fn output(call: Call<'_>, output: &mut Output, granted: &Granted<'_>) -> Result<(), Failure> {
    let wrong = |what: String| {
        let message = format!("stage `{}` {what}", call.kind);
        Failure::new(FailureClass::Internal, message).help("this is a defect in the stage; please report it")
    };
    if output.ty.present() != call.ty.present() {
        return Err(wrong(format!("made a {}, but promised a {}", output.ty, call.ty)));
    }
    // A source brings files in from wherever its place has them, such as a model cache.
    let is_source = kinds::find(call.kind).is_some_and(|kind| kind.role != Role::Stage);
    let mut resolved = Vec::with_capacity(output.files.len());
    for (n, (name, at)) in output.files.iter().enumerate() {
        if !is_inside(name) {
            return Err(wrong(format!("names a file {name:?}, which is not a path below an artifact")));
        }
        if output.files[..n].iter().any(|(earlier, _)| earlier == name) {
            return Err(wrong(format!("names the file `{name}` twice")));
        }
        let real = at.canonicalize().map_err(|e| Failure::io(at, &e))?;
        if !is_source && !may_use(at, &real, granted) {
            let m = format!("made `{name}` of {}, which is neither in its scratch folder", at.display());
            return Err(wrong(format!("{m} nor in anything that it was given")));
        }
        resolved.push(real);
    }
    for ((_, at), real) in output.files.iter_mut().zip(resolved) {
        *at = real;
    }
    match Metrics::not_finite_in(&output.ty, &output.value) {
        None => Ok(()),
        Some(name) => {
            Err(Failure::input(format!("stage `{}`: the metric `{name}` is not a finite number", call.kind))
                .help("look for rows without a response, for empty data and for weights that are not finite"))
        }
    }
}

/// Whether a stage may make a file of its output of what lies at a path, and really lies at `real`.
fn may_use(at: &Path, real: &Path, granted: &Granted<'_>) -> bool {
    // Where it can write, a stage can make its own links, so what counts is where they lead.
    granted.is_given(at, real) || granted.written().into_iter().any(|folder| is_below(real, &folder))
}

fn is_below(real: &Path, folder: &Path) -> bool {
    folder.canonicalize().is_ok_and(|folder| real.starts_with(folder))
}
