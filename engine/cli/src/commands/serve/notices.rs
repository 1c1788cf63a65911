//! What is told of runs of schedules.

use headstart_core::Status;
use headstart_history::Recorded;
use headstart_notify::{Event, Notice};
use headstart_protocol::Digest;
use headstart_scheduler::{Happened, State};
use headstart_store::Workspace;

use super::runs::Ended;

/// The notices of a run that has just ended, by what its schedule's history says of those before.
pub(super) fn of(ws: &Workspace, state: &State, ended: &Ended, at_ms: u64) -> Vec<Notice> {
    let notice = |event, catalog| Notice {
        event,
        at_ms,
        file: state.file.clone(),
        schedule: state.name.clone(),
        run: ended.run.clone(),
        outcome: ended.outcome.to_owned(),
        problem: ended.problem.clone(),
        catalog,
    };
    match ended.outcome {
        "succeeded" => {}
        // Somebody wanted it, or a later fire did.
        "cancelled" => return Vec::new(),
        _ => return vec![notice(Event::Failed, None)],
    }
    let mut notices = Vec::new();
    if last(state, |outcome| outcome != "cancelled").is_some_and(|(outcome, _)| outcome != "succeeded") {
        notices.push(notice(Event::Recovered, None));
    }
    let catalog = headstart_history::read(ws, &ended.run).ok().and_then(|run| catalog(&run));
    if let Some(catalog) = catalog {
        let before = last(state, |outcome| outcome == "succeeded");
        let before = before.and_then(|(_, run)| headstart_history::read(ws, run).ok());
        if before.as_ref().and_then(self::catalog) != Some(catalog) {
            notices.push(notice(Event::NewCatalog, Some(catalog)));
        }
    }
    notices
}

/// The last run of a schedule that ended in a way, and how.
fn last(state: &State, how: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    state.history.iter().rev().find_map(|entry| match &entry.happened {
        Happened::Ended { run, outcome, .. } if how(outcome) => Some((outcome.as_str(), run.as_str())),
        _ => None,
    })
}

/// The public catalog that a run made.
fn catalog(run: &Recorded) -> Option<Digest> {
    run.state.statuses().find_map(|(i, status)| match status {
        Status::Done(done) if run.state.instance(i).kind == "decompose" && !done.is_private() => {
            Some(done.output.id)
        }
        _ => None,
    })
}
