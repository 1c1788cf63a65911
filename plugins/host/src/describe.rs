//! What a program declares, asked of the program itself.

use std::path::Path;

use headstart_protocol::Failure;
use headstart_protocol::declared::Declaration;

use crate::confine::Confinement;
use crate::message::FromProgram;
use crate::process::Launch;
use crate::session::{Around, Limits, Session};

/// Starts a program, asks what its stages are, and lets it end. What else it writes goes to
/// `log`.
///
/// # Errors
/// If it cannot be started, does not say hello, does not end with status 0, or its declaration is not
/// valid.
pub fn describe(program: &Path, limits: Limits, log: &dyn Fn(&str)) -> Result<Declaration, Failure> {
    let program = std::path::absolute(program).map_err(|e| Failure::io(program, &e))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    let around = Around { log, cancelled: &|| false, memory: None };
    // Home and temporary files of a program that only says what it is.
    let work = tempfile::tempdir().map_err(|e| Failure::io(folder, &e))?;
    let confinement = Confinement { read: vec![folder.to_owned()], write: vec![work.path().to_owned()] };
    let launch = Launch {
        program: &program,
        shown: &program,
        copy: None,
        work: work.path(),
        confinement: limits.confined.then_some(&confinement),
    };
    let mut session = Session::start(&launch, around, limits)?;
    let FromProgram::Hello { protocol, files, stages, .. } = session.hello()? else {
        return Err(session.failure("did not say hello"));
    };
    let status = session.end()?;
    if !status.success() {
        return Err(session.ended_badly(status, " after it was asked nothing more than its stages"));
    }
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let declaration = Declaration { program: name, protocol, files, stages };
    match declaration.check() {
        Ok(()) => Ok(declaration),
        Err(e) => Err(session.failure(format!("declares what has no meaning: {e}"))),
    }
}
