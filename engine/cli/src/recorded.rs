//! Runs, read from their logs.

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_history::HistoryError;
pub use headstart_history::Recorded;
use headstart_protocol::text::similar;
use headstart_store::{RunInfo, Workspace};

use crate::exit::CommandError;

/// Reads a run; a run that is live is read as far as it is.
///
/// # Errors
/// If its plan or its log cannot be read.
pub fn read(ws: &Workspace, id: &str) -> Result<Recorded, CommandError> {
    headstart_history::read(ws, id).map_err(|e| match e {
        HistoryError::Store(e) => e.into(),
        e @ HistoryError::Contradicts { .. } => CommandError::internal(e),
    })
}

/// When a run began, in UTC.
pub fn started(run: &Recorded) -> String {
    time(run.started_ms())
}

/// The runs of these, as far as they can be read. One that cannot be read is named in a warning and
/// hides no other.
pub fn readable<'a>(
    ws: &'a Workspace,
    infos: impl IntoIterator<Item = RunInfo> + 'a,
) -> impl Iterator<Item = Recorded> + 'a {
    infos.into_iter().filter_map(|info| match read(ws, &info.id) {
        Ok(run) => Some(run),
        Err(e) => {
            warn_unreadable(&info.id, &e);
            None
        }
    })
}

/// Warns of a run that cannot be read.
pub fn warn_unreadable(id: &str, e: &CommandError) {
    errln!("{}: run {id} cannot be read: {}", paint(Ink::Warning, "warning"), e.message());
}

/// The run of this prefix; without one, the latest.
///
/// # Errors
/// If there is no such run, or several.
pub fn find(ws: &Workspace, prefix: Option<&str>) -> Result<RunInfo, CommandError> {
    let mut runs = ws.runs();
    let Some(prefix) = prefix else {
        return runs.pop().ok_or_else(|| {
            CommandError::input("this workspace has no runs").help("`headstart run FILE` makes one")
        });
    };
    if prefix.is_empty() {
        return Err(CommandError::input("the id of a run is empty").help("`headstart runs` lists them"));
    }
    let ids: Vec<String> = runs.iter().map(|r| r.id.clone()).collect();
    let mut matching: Vec<RunInfo> = runs.into_iter().filter(|r| r.id.starts_with(prefix)).collect();
    if let Some(exact) = matching.iter().position(|r| r.id == prefix) {
        return Ok(matching.swap_remove(exact));
    }
    match matching.len() {
        0 => {
            let help = similar(prefix, ids.iter().map(String::as_str));
            let help =
                help.map_or("`headstart runs` lists them".to_owned(), |c| format!("did you mean `{c}`?"));
            Err(CommandError::input(format!("no run begins with `{prefix}`")).help(help))
        }
        1 => Ok(matching.swap_remove(0)),
        n => {
            let some: Vec<&str> = matching.iter().take(5).map(|r| r.id.as_str()).collect();
            Err(CommandError::input(format!("{n} runs begin with `{prefix}`"))
                .help(format!("such as {}", some.join(", "))))
        }
    }
}

/// Unix milliseconds, for people.
pub fn time(ms: u64) -> String {
    let stamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default();
    stamp.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
