//! What an output must be before anything counts.

use std::path::Path;

use headstart_protocol::artifacts::Metrics;
use headstart_protocol::declared::is_inside;
use headstart_protocol::kinds::{self, Role};
use headstart_protocol::{Failure, FailureClass, Output};

use crate::call::Call;
use crate::granted::Granted;

/// Checks an output against the plan and against what the stage was given.
pub(crate) fn output(call: Call<'_>, output: &Output, granted: &Granted<'_>) -> Result<(), Failure> {
    let wrong = |what: String| {
        let message = format!("stage `{}` {what}", call.kind);
        Failure::new(FailureClass::Internal, message).help("this is a defect in the stage; please report it")
    };
    if output.ty.present() != call.ty.present() {
        return Err(wrong(format!("made a {}, but promised a {}", output.ty, call.ty)));
    }
    // A source brings files in from wherever its place has them, such as a model cache.
    let is_source = kinds::find(call.kind).is_some_and(|kind| kind.role != Role::Stage);
    for (n, (name, at)) in output.files.iter().enumerate() {
        if !is_inside(name) {
            return Err(wrong(format!("names a file {name:?}, which is not a path below an artifact")));
        }
        if output.files[..n].iter().any(|(earlier, _)| earlier == name) {
            return Err(wrong(format!("names the file `{name}` twice")));
        }
        if !is_source && !may_use(at, granted) {
            let m = format!("made `{name}` of {}, which is neither in its scratch folder", at.display());
            return Err(wrong(format!("{m} nor in anything that it was given")));
        }
    }
    match Metrics::not_finite_in(&output.ty, &output.value) {
        None => Ok(()),
        Some(name) => {
            Err(Failure::input(format!("stage `{}`: the metric `{name}` is not a finite number", call.kind))
                .help("look for rows without a response, for empty data and for weights that are not finite"))
        }
    }
}

fn may_use(at: &Path, granted: &Granted<'_>) -> bool {
    // A file that is not there is reported when it is stored, with the reason.
    let Ok(real) = at.canonicalize() else { return true };
    if granted.is_given(at, &real) {
        return true;
    }
    // In the scratch folder a stage can make its own links, so links are followed here.
    granted
        .used_scratch()
        .and_then(|scratch| scratch.canonicalize().ok())
        .is_some_and(|s| real.starts_with(s))
}
