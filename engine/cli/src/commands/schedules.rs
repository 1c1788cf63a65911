//! `headstart schedules`: what is scheduled, when it fires, what became of its fires; pause, run, backfill.

use std::time::{Duration, Instant};

use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln};
use headstart_cron::Spec;
use headstart_protocol::text::{counted, similar};
use headstart_scheduler::{Fire, Folder, Request, ScheduleId, State};
use headstart_store::Workspace;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde_json::json;

use crate::Volume;
use crate::args::{Backfill, Format, Moment, SchedulesCommand};
use crate::exit::CommandError;

/// How long a server may take to take a request.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Entries of the past that `explain` shows.
const SHOWN: usize = 10;
/// Fires of a backfill at most.
const MOST_BACKFILLED: usize = 1000;

/// Runs the command.
///
/// # Errors
/// If there is no such schedule, or the workspace cannot be read or written.
pub fn run(ws: &Workspace, command: &SchedulesCommand, volume: Volume) -> Result<(), CommandError> {
    let folder = Folder::new(ws.dir().join("schedules"), ws.disk().clone());
    let now = Timestamp::now();
    let mut states = Vec::new();
    for state in folder.list() {
        match state {
            Ok(state) => states.push(state),
            // One that cannot be read hides no other.
            Err(e) => {
                errln!("{}: {e}", paint(Ink::Warning, "warning"));
                e.help().iter().for_each(|help| errln!("{}: {help}", paint(Ink::Help, "help")));
            }
        }
    }
    let Some(wanted) = command.schedule() else {
        let SchedulesCommand::List { format } = command else { return Ok(()) };
        return list(&states, *format, now);
    };
    let state = find(&states, wanted)?;
    let ask = |request| ask(&folder, state, &request, now, volume);
    match command {
        SchedulesCommand::List { .. } => Ok(()),
        SchedulesCommand::Explain { count, .. } => explain(state, usize::from(*count), now),
        SchedulesCommand::Pause { .. } => ask(Request::Pause),
        SchedulesCommand::Resume { .. } => ask(Request::Resume),
        SchedulesCommand::Run { .. } => ask(Request::Run { at: now }),
        SchedulesCommand::Backfill(args) => {
            let (from, to, count) = range(state, args)?;
            ask(Request::Backfill { from, to })?;
            if !volume.quiet {
                errln!("asked for {}", counted(count as u64, "run"));
            }
            Ok(())
        }
    }
}

/// The schedule that is meant.
fn find<'a>(states: &'a [State], wanted: &str) -> Result<&'a State, CommandError> {
    let is = |s: &&State| s.name == wanted || format!("{}:{}", s.file, s.name) == wanted;
    let found: Vec<&State> = states.iter().filter(is).collect();
    match found[..] {
        [one] => Ok(one),
        [] => {
            let help = similar(wanted, states.iter().map(|s| s.name.as_str()));
            let help = match help {
                Some(name) => format!("did you mean `{name}`?"),
                None if states.is_empty() => {
                    "`headstart serve FILE` takes over the schedules of a file".to_owned()
                }
                None => "`headstart schedules list` lists them".to_owned(),
            };
            Err(CommandError::input(format!("there is no schedule `{wanted}` on this workspace")).help(help))
        }
        ref several => {
            let names: Vec<String> = several.iter().map(|s| format!("`{}:{}`", s.file, s.name)).collect();
            Err(CommandError::input(format!("several files have a schedule `{wanted}`"))
                .help(format!("name the file too: {}", names.join(" or "))))
        }
    }
}

/// Asks the server; without one, the request waits for the next.
fn ask(
    folder: &Folder,
    state: &State,
    request: &Request,
    now: Timestamp,
    volume: Volume,
) -> Result<(), CommandError> {
    let id = ScheduleId { file: state.file.clone(), name: state.name.clone() };
    folder.ask(&id, request, now).map_err(CommandError::failed)?;
    if let Some(mut held) = folder.hold(&id, None).map_err(CommandError::failed)? {
        // Nobody serves. A run that is due is in the state from now on, and the next server starts it.
        match request {
            Request::Pause | Request::Resume => {
                held.take_requests(now).map_err(CommandError::failed)?;
            }
            Request::Run { .. } | Request::Backfill { .. } if !volume.quiet => {
                errln!("no server runs this schedule now; `headstart serve {}` will", state.file);
            }
            Request::Run { .. } | Request::Webhook { .. } | Request::Backfill { .. } => {}
        }
        return Ok(());
    }
    let begun = Instant::now();
    while folder.has_requests(&id) && begun.elapsed() < TAKEN_WITHIN {
        std::thread::sleep(Duration::from_millis(50));
    }
    if folder.has_requests(&id) {
        errln!("{}: the server has not taken the request yet", paint(Ink::Warning, "warning"));
    }
    Ok(())
}

/// The instants of a backfill, the first excluded, and how many fires lie between.
fn range(state: &State, args: &Backfill) -> Result<(Timestamp, Timestamp, usize), CommandError> {
    let spec = state.policy.as_ref().and_then(|p| p.spec().ok().flatten());
    let Some(spec) = spec else {
        return Err(CommandError::input(format!("schedule `{}` has no times to run for", state.name)));
    };
    let zone = spec.zone();
    let from = instant(args.from, zone, false)?;
    // The fire of the very instant counts.
    let from = from.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(from);
    let to = instant(args.to, zone, true)?;
    let count = spec.fires(from).take_while(|f| f.instant <= to).take(MOST_BACKFILLED + 1).count();
    match count {
        0 => Err(CommandError::input("no time of the schedule lies between `--from` and `--to`")),
        n if n > MOST_BACKFILLED => Err(CommandError::input(format!(
            "more than {MOST_BACKFILLED} times lie between `--from` and `--to`"
        ))
        .help("backfill a shorter range")),
        n => Ok((from, to, n)),
    }
}

fn instant(moment: Moment, zone: &TimeZone, end: bool) -> Result<Timestamp, CommandError> {
    let local = match moment {
        Moment::Instant(instant) => return Ok(instant),
        Moment::Local(local) => local,
        Moment::Day(day) if end => {
            let next = day.checked_add(1.day()).map_err(CommandError::input)?;
            let midnight = zone.to_timestamp(next.at(0, 0, 0, 0)).map_err(CommandError::input)?;
            return Ok(midnight.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(midnight));
        }
        Moment::Day(day) => day.at(0, 0, 0, 0),
    };
    zone.to_timestamp(local).map_err(CommandError::input)
}

fn list(states: &[State], format: Format, now: Timestamp) -> Result<(), CommandError> {
    let next = |s: &State| {
        let policy = s.policy.as_ref().filter(|_| !s.paused)?;
        policy.next(&s.schedule, now).map(|(fire, starts)| (fire, policy.timezone.clone(), starts))
    };
    if format == Format::Json {
        let row = |s: &State| {
            let last = s.last_ended();
            json!({
                "file": s.file, "name": s.name, "state": s.word(), "policy": s.policy,
                "next": next(s).map(|(_, _, starts)| starts.to_string()),
                "running": s.running.iter().map(|r| &r.run).collect::<Vec<_>>(),
                "waiting": s.waiting.len(), "skipped": s.skipped(),
                "last": last.map(|(at, run, outcome)| json!({ "at": at, "run": run, "outcome": outcome })),
                "history": s.history,
            })
        };
        let rows: Vec<_> = states.iter().map(row).collect();
        return Ok(outln!("{}", serde_json::Value::Array(rows))?);
    }
    if states.is_empty() {
        errln!("no schedules; `headstart serve FILE` takes over those of a file");
        return Ok(());
    }
    let width =
        |head: &str, of: &dyn Fn(&State) -> usize| states.iter().map(of).max().unwrap_or(0).max(head.len());
    let (names, files) = (width("NAME", &|s| s.name.len()), width("FILE", &|s| s.file.len()));
    let head = format!("{:<names$}  {:<files$}  {:<8}  {:<32}  LAST", "NAME", "FILE", "STATE", "NEXT");
    outln!("{}", paint(Ink::Quiet, &head))?;
    for s in states {
        let ink = if s.word() == "paused" { Ink::Warning } else { Ink::Good };
        let next = next(s)
            .map_or_else(|| "-".to_owned(), |(fire, zone, _)| Fire::of_time(fire, &zone, false).words());
        let last = s.last_ended().map_or_else(
            || "-".to_owned(),
            |(at, _, outcome)| format!("{outcome} {}", at.strftime("%Y-%m-%d %H:%M UTC")),
        );
        let state = paint(ink, &format!("{:<8}", s.word()));
        outln!("{:<names$}  {:<files$}  {state}  {next:<32}  {last}", s.name, s.file)?;
    }
    Ok(())
}

fn explain(state: &State, count: usize, now: Timestamp) -> Result<(), CommandError> {
    let Some(policy) = &state.policy else {
        return Err(CommandError::input(format!("{} does not have the schedule any more", state.file)));
    };
    outln!("{} of {}: {}", state.name, state.file, state.word())?;
    if let Some(spec) = policy.spec().map_err(CommandError::input)? {
        outln!("{} in {}", policy.cron.as_deref().unwrap_or_default(), policy.timezone)?;
        fires(&spec, count, now)?;
        let delay = policy.delay(&state.schedule);
        if !delay.is_zero() {
            outln!("  each starts {} s later (jitter)", delay.as_secs())?;
        }
    }
    for pattern in &policy.when_changed {
        outln!("fires when what `{pattern}` matches changes")?;
    }
    for other in &policy.after {
        outln!("fires when a run of `{other}` succeeds")?;
    }
    if state.history.is_empty() {
        return Ok(());
    }
    outln!("lately:")?;
    let from = state.history.len().saturating_sub(SHOWN);
    Ok(state.history.iter().skip(from).try_for_each(|e| {
        let at = e.at.strftime("%Y-%m-%d %H:%M:%S UTC");
        outln!("  {at}  {}", e.happened.words())
    })?)
}

/// The next fires, and those around the next change of clocks, with what the change does to them.
fn fires(spec: &Spec, count: usize, now: Timestamp) -> Result<(), CommandError> {
    let zone = spec.zone();
    let line = |f: headstart_cron::Fire| {
        let why = headstart_scheduler::why_then(f.why).map(|w| format!("  {w}")).unwrap_or_default();
        let at = f.instant.to_zoned(zone.clone());
        outln!("  {}  {}{why}", at.strftime("%a %Y-%m-%d %H:%M %Z"), f.instant.strftime("%Y-%m-%d %H:%M UTC"))
    };
    let next: Vec<_> = spec.fires(now).take(count).collect();
    next.iter().try_for_each(|f| line(*f))?;
    let shown = next.last().map_or(now, |f| f.instant);
    let Some(change) = zone.following(shown).next() else { return Ok(()) };
    let at = change.timestamp();
    let year = now.checked_add(SignedDuration::from_hours(24 * 366)).unwrap_or(Timestamp::MAX);
    if at > year {
        return Ok(());
    }
    let just_before = at.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(at);
    let gap = zone.to_offset(at).seconds() > zone.to_offset(just_before).seconds();
    let direction = if gap { "forward" } else { "back" };
    outln!("  … clocks go {direction} at {}", at.strftime("%Y-%m-%d %H:%M UTC"))?;
    // One fire before, and what comes within a day after.
    let day = SignedDuration::from_hours(48);
    let from = at.checked_sub(day).unwrap_or(Timestamp::MIN).max(shown);
    let around: Vec<_> =
        spec.fires(from).take_while(|f| f.instant <= at.saturating_add(day).unwrap_or(at)).collect();
    let first = around.partition_point(|f| f.instant < at).saturating_sub(1);
    Ok(around.iter().skip(first).take(count.max(3)).try_for_each(|f| line(*f))?)
}
