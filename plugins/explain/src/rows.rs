//! Reading the rows of datasets and responses.

use std::fs;

use headstart_protocol::rows::{ROWS_FILE, Row, from_jsonl};
use headstart_protocol::{ArtifactRef, Context, Failure};

/// The rows of a `Dataset` or of `Responses`. `what` names them in errors.
///
/// # Errors
/// If the file is missing or a line is no row; says which.
pub fn read(ctx: &dyn Context, artifact: &ArtifactRef, what: &str) -> Result<Vec<Row>, Failure> {
    let path = ctx.open(artifact)?.join(ROWS_FILE);
    let text = fs::read_to_string(&path).map_err(|e| Failure::io(&path, &e))?;
    from_jsonl(&text).map_err(|e| Failure::input(format!("{what}: {}: {e}", path.display())))
}
