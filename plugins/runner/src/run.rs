//! Runs a stage.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use headstart_protocol::{Args, Context, Failure, FailureClass, Output, Stage, kinds};

use crate::call::Call;
use crate::check;
use crate::granted::Granted;

/// Runs one attempt of a stage. Checks its arguments, which a built-in stage takes for ones that are not there where
/// they are of another type; and its output: the declared type, files that are plain files of the scratch folder or
/// of what the stage was given, finite numbers. Paths of files are resolved: who opens one without following links
/// (`headstart_disk::read::open_resolved`) gets what was checked here, or nothing.
///
/// # Errors
/// `input` for an argument of another type; the stage's own failure; `internal` if it panics or its output is not
/// what it promised.
pub fn run(stage: &dyn Stage, call: Call<'_>, ctx: &dyn Context) -> Result<Output, Failure> {
    let kind = kinds::find(call.kind);
    for (name, value) in &call.args.0 {
        if let Some(arg) = kind.and_then(|kind| kind.arg(name)) {
            arg.check(value)?;
        }
    }
    let granted = Granted::new(ctx);
    let mut output = run_unchecked(stage, call.kind, call.args, &granted)?;
    check::output(call, &mut output, &granted)?;
    Ok(output)
}

/// Runs one attempt of a stage whose output somebody else checks.
///
/// # Errors
/// The stage's own failure; `internal` if it panics.
pub fn run_unchecked(
    stage: &dyn Stage,
    kind: &str,
    args: &Args,
    ctx: &dyn Context,
) -> Result<Output, Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| stage.run(args, ctx)));
    ran.unwrap_or_else(|panic| Err(panicked(kind, &*panic)))
}

fn panicked(kind: &str, panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    Failure::new(FailureClass::Internal, format!("stage `{kind}` panicked: {text}"))
        .help("this is a defect in Headstart; please report it")
}
