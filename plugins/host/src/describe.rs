//! What a program declares, asked of the program itself.

use std::path::Path;

use headstart_protocol::Failure;
use headstart_protocol::declared::Declaration;

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
    let launch = Launch { program: &program, shown: &program, copy: None, work: folder };
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
