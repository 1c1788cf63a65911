//! The loop that connects schedules, pipeline files and runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_driver::Engine;
use headstart_dsl::plan::{Plan, Schedule};
use headstart_notify::Notifier;
use headstart_page::Health;
use headstart_protocol::Digest;
use headstart_protocol::text::counted;
use headstart_scheduler::{
    Action, Cause, Entry, Folder, Happened, Held, Policy, Request, ScheduleId, SchedulerError,
};
use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::notices;
use super::pipelines::Pipelines;
use super::runs::{Ended, Runs};
use crate::Volume;
use crate::exit::CommandError;

/// Files, requests and the clock are looked at this often at least: a machine may have been suspended.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A schedule that is in force.
struct Slot {
    id: ScheduleId,
    file: PathBuf,
    schedule: Schedule,
    /// The same, as the scheduler takes it.
    policy: Policy,
    /// None while another server on the workspace holds it.
    held: Option<Held>,
    /// What was decided, and not done yet.
    open: Vec<Action>,
    /// What was said last of what is wrong with it.
    said: Option<String>,
    /// What it was when it was said when it fires.
    announced: Option<Schedule>,
}

/// Who is told how the server and its runs are.
pub(super) struct Watchers {
    /// What `/readyz` says.
    pub health: Health,
    /// Who wants to know what becomes of runs.
    pub notifier: Notifier,
}

/// Everything that `serve` keeps.
pub(super) struct Server {
    engine: Engine,
    folder: Folder,
    pipelines: Pipelines,
    slots: Vec<Slot>,
    runs: Runs,
    ended: UnboundedReceiver<Ended>,
    watchers: Watchers,
    volume: Volume,
}

impl Server {
    /// # Errors
    /// If there is no current folder.
    pub fn new(
        engine: Engine,
        pipelines: Pipelines,
        url: Option<String>,
        watchers: Watchers,
        volume: Volume,
    ) -> Result<Self, CommandError> {
        let ws = engine.workspace();
        let folder = Folder::new(ws.dir().join("schedules"), ws.disk().clone());
        let source_dir =
            std::env::current_dir().map_err(|e| CommandError::input(format!("the current folder: {e}")))?;
        let (send, ended) = unbounded_channel();
        let runs = Runs::new(engine.clone(), url, source_dir, volume, send);
        let mut server = Self { engine, folder, pipelines, slots: Vec::new(), runs, ended, watchers, volume };
        server.take_schedules();
        Ok(server)
    }

    /// Serves for ever; with `now`, each schedule runs at once.
    ///
    /// # Errors
    /// If the runs that `now` asks for cannot be asked for. What goes wrong with one schedule is its own affair.
    pub async fn serve(&mut self, now: bool) -> Result<(), CommandError> {
        if now {
            let at = self.now();
            for slot in &self.slots {
                self.folder.ask(&slot.id, &Request::Run { at }, at).map_err(CommandError::input)?;
            }
        }
        loop {
            for n in 0..self.slots.len() {
                self.turn(n);
            }
            self.watchers.health.turned(self.engine.env().clock.now_ms());
            let pause = self.engine.env().clock.sleep(self.pause());
            tokio::select! {
                Some(ended) = self.ended.recv() => self.run_ended(&ended),
                () = pause => {
                    if self.pipelines.refresh() {
                        self.take_schedules();
                    }
                }
            }
        }
    }

    /// One turn of one schedule.
    fn turn(&mut self, n: usize) {
        let now = self.now();
        let slot = &mut self.slots[n];
        let before = slot.held.as_ref().map_or(0, |h| h.state.history.len());
        let (decided, wrong) = match slot.decide(&self.folder, now) {
            Ok(wrong) => (true, wrong),
            Err(wrong) => (false, Some(wrong)),
        };
        if slot.said != wrong {
            if let Some(wrong) = &wrong {
                errln!("{}: schedule {}: {wrong}", paint(Ink::Warning, "warning"), slot.schedule.name);
            }
            slot.said = wrong;
        }
        if !decided {
            return;
        }
        if !self.volume.quiet {
            slot.say_since(before);
            slot.announce(now);
        }
        for action in std::mem::take(&mut slot.open) {
            self.act(n, action);
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        let slot = &self.slots[n];
        match action {
            Action::Start { run, .. } | Action::Resume { run, .. } => {
                let title = format!("{} ({})", slot.file.display(), slot.schedule.name);
                let (file, items) = (slot.file.clone(), slot.schedule.run.clone());
                let name = slot.schedule.name.clone();
                let pipelines = &mut self.pipelines;
                self.runs.start(&run, &title, || Ok(items_of(pipelines.plan(&file)?, &name, &items)));
            }
            Action::Cancel { run } => self.runs.cancel(&run),
        }
    }

    fn run_ended(&mut self, ended: &Ended) {
        let now = self.now();
        self.runs.forget(&ended.run);
        let Some(n) = self.slots.iter().position(|s| s.runs(&ended.run)) else { return };
        let name = self.slots[n].schedule.name.clone();
        let file = self.slots[n].file.clone();
        // Before the end is recorded, for the same reason as what follows.
        self.notify(n, ended);
        if ended.outcome == "succeeded" {
            // Before the end is recorded: a server that begins after a crash in between finds the end again, and
            // knows what it started.
            for other in &mut self.slots {
                if other.file == file && other.schedule.after.contains(&name) {
                    other.request(Cause::After { schedule: name.clone(), run: ended.run.clone(), at: now });
                }
            }
        }
        self.slots[n].run_ended(ended, now);
        // That a run did not succeed is said in any case.
        if !self.volume.quiet || ended.outcome != "succeeded" {
            let why = ended.problem.as_ref().map(|p| format!(": {p}")).unwrap_or_default();
            errln!("{name}: run {} {}{why}", ended.run, ended.outcome);
        }
    }

    /// Keeps what is to be told of a run that ended.
    fn notify(&self, n: usize, ended: &Ended) {
        let Some(held) = &self.slots[n].held else { return };
        let now = self.engine.env().clock.now_ms();
        for notice in notices::of(self.engine.workspace(), &held.state, ended, now) {
            if let Err(e) = self.watchers.notifier.tell(&notice) {
                errln!("{}: schedule {}: {e}", paint(Ink::Warning, "warning"), self.slots[n].schedule.name);
            }
        }
    }

    /// Brings the schedules in line with what the files say.
    fn take_schedules(&mut self) {
        let now = self.now();
        let mut old = std::mem::take(&mut self.slots);
        for (file, schedule) in self.pipelines.schedules() {
            let id = ScheduleId { file: self.identity(file), name: schedule.name.clone() };
            let policy = policy(schedule);
            let slot = match old.iter().position(|s| s.id == id) {
                Some(n) => Slot { schedule: schedule.clone(), policy, ..old.swap_remove(n) },
                None => Slot {
                    id,
                    file: file.to_owned(),
                    schedule: schedule.clone(),
                    policy,
                    held: None,
                    open: Vec::new(),
                    said: None,
                    announced: None,
                },
            };
            self.slots.push(slot);
        }
        for mut gone in old {
            if let Some(held) = &mut gone.held {
                held.state.remove(now);
                if let Err(e) = held.save() {
                    errln!(
                        "{}: schedule {}: {}",
                        paint(Ink::Warning, "warning"),
                        gone.schedule.name,
                        with_help(&e)
                    );
                }
                if !self.volume.quiet {
                    errln!("{}: no longer scheduled", gone.schedule.name);
                }
            }
        }
    }

    /// What tells a file apart: its path from the folder of the workspace, or its whole path where it lies elsewhere.
    fn identity(&self, file: &Path) -> String {
        let whole = |p: &Path| std::fs::canonicalize(p).unwrap_or_else(|_| p.to_owned());
        let (file, ws) = (whole(file), whole(self.engine.workspace().dir()));
        let inside = ws.parent().and_then(|folder| file.strip_prefix(folder).ok());
        inside.unwrap_or(&file).to_string_lossy().into_owned()
    }

    /// Says which runs the next server goes on with.
    pub fn say_what_goes_on_later(&self) {
        let runs = self.slots.iter().filter_map(|s| s.held.as_ref()).flat_map(|h| &h.state.running);
        for running in runs {
            errln!("run {} is interrupted; `headstart serve` goes on with it", running.run);
        }
    }

    /// The engine's time.
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.engine.env().clock.now_ms()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
    }

    /// Until the next fire, or until everything is looked at again.
    fn pause(&self) -> Duration {
        let now = self.now();
        let wakes = self.slots.iter().filter_map(|s| s.held.as_ref()?.state.wakes(now)).min();
        let until = wakes.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        // Behind the fire, not before it: clocks are read in milliseconds.
        until.map_or(POLL_INTERVAL, |until| (until + Duration::from_millis(1)).min(POLL_INTERVAL))
    }
}

/// The part of a plan that a schedule updates: as the file says it now, or as it said it last (`items`) where it does
/// not have the schedule any more. No items are all of them.
fn items_of(plan: Plan, name: &str, items: &[String]) -> Plan {
    let said = plan.schedules.iter().find(|s| s.name == name).map(|s| s.run.clone());
    let items = said.unwrap_or_else(|| items.to_vec());
    if items.is_empty() { plan } else { plan.subset(&items) }
}

/// An error of the scheduler, and what to do about it.
fn with_help(e: &SchedulerError) -> String {
    match e.help() {
        Some(help) => format!("{e}\n{}: {help}", paint(Ink::Help, "help")),
        None => e.to_string(),
    }
}

impl Slot {
    /// Whether it waits for this run to end.
    fn runs(&self, run: &str) -> bool {
        self.held.as_ref().is_some_and(|h| h.state.running.iter().any(|r| r.run == run))
    }

    /// Decides what is to be done now, and makes the decision durable: then it is in `open`. Gives what is wrong
    /// without being in the way of that.
    ///
    /// # Errors
    /// In words; what was decided before and could not be made durable is decided again.
    fn decide(&mut self, folder: &Folder, now: Timestamp) -> Result<Option<String>, String> {
        let text = |e: SchedulerError| with_help(&e);
        if self.held.is_none() {
            let by_time = Some((self.schedule.cron.as_str(), self.schedule.timezone.as_str()))
                .filter(|(cron, _)| !cron.is_empty());
            let Some(mut held) = folder.hold(&self.id, by_time).map_err(text)? else {
                let m = "another server on this workspace runs it; this one takes over when that one ends";
                return Err(m.to_owned());
            };
            self.open.extend(held.state.recover(now));
            self.held = Some(held);
        }
        let Some(held) = &mut self.held else { return Ok(None) };
        // What happened before counts, whatever becomes of what is decided now.
        held.save_if_changed().map_err(text)?;
        let (asked, wrong) = held.take_requests(now).map_err(text)?;
        self.open.extend(asked);
        for wrong in wrong {
            errln!("{}: not a request: {wrong}", paint(Ink::Warning, "warning"));
        }
        let mut actions = held.state.adopt(&self.policy, now);
        let mut unlisted = None;
        for pattern in &self.schedule.when_changed {
            match look(pattern) {
                Ok(found) => held.state.look(pattern, &found, now),
                Err(wrong) => unlisted = Some(format!("cannot list `{pattern}`: {wrong}")),
            }
        }
        actions.extend(held.state.tick(now));
        held.save_or_revert().map_err(text)?;
        self.open.extend(actions);
        Ok(unlisted)
    }

    fn run_ended(&mut self, ended: &Ended, now: Timestamp) {
        let Some(held) = &mut self.held else { return };
        held.state.ended(&ended.run, ended.outcome, ended.problem.clone(), now);
        if let Err(e) = held.save() {
            errln!("{}: schedule {}: {}", paint(Ink::Warning, "warning"), self.schedule.name, with_help(&e));
        }
    }

    fn request(&mut self, cause: Cause) {
        let Some(held) = &mut self.held else { return };
        held.state.request(cause);
        if let Err(e) = held.save() {
            errln!("{}: schedule {}: {}", paint(Ink::Warning, "warning"), self.schedule.name, with_help(&e));
        }
    }

    /// Says when it fires, where that was not said yet.
    fn announce(&mut self, now: Timestamp) {
        let Some(held) = &self.held else { return };
        if self.announced.as_ref() == Some(&self.schedule) {
            return;
        }
        self.announced = Some(self.schedule.clone());
        let name = &self.schedule.name;
        match self.policy.next(&held.state.schedule, now) {
            _ if held.state.paused => errln!("{name}: paused"),
            Some((fire, _)) => errln!("{name}: next at {} ({})", fire.nominal, self.schedule.timezone),
            None => errln!("{name}: on {}", self.schedule.starts()),
        }
    }

    /// Says what was recorded since: what is not a run of its own.
    fn say_since(&self, before: usize) {
        let Some(held) = &self.held else { return };
        for Entry { happened, .. } in held.state.history.iter().skip(before) {
            let name = &self.schedule.name;
            match happened {
                Happened::Skipped { first, count, why } => {
                    let fires = counted(*count, "fire");
                    let since = if *count == 1 { "of" } else { "since" };
                    errln!("{name}: skipped {fires} {since} {}: {why}", first.words());
                }
                Happened::Paused => errln!("{name}: paused"),
                Happened::Continued => errln!("{name}: resumed"),
                Happened::ClockSetBack { from } => {
                    errln!("{name}: the clock was set back by far: fires up to {from} are not waited for");
                }
                _ => {}
            }
        }
    }
}

/// What a pattern matches now, as a digest of names, sizes and times of change, of files below folders too.
fn look(pattern: &str) -> Result<String, String> {
    let listing = headstart_files::list(pattern).map_err(|e| e.to_string())?;
    let mut all = String::new();
    let mut open: Vec<PathBuf> = listing.found.iter().rev().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        let Ok(found) = std::fs::metadata(&path) else { continue };
        if found.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            let mut below: Vec<PathBuf> = entries.map(|e| e.path()).collect();
            below.sort();
            open.extend(below.into_iter().rev());
        }
        let changed = found.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let size = if found.is_dir() { 0 } else { found.len() };
        all.push_str(&format!("{}\0{size}\0{changed:?}\n", path.display()));
    }
    Ok(Digest::of(all.as_bytes()).to_string())
}

/// What a pipeline file says of a schedule, as the scheduler takes it.
fn policy(schedule: &Schedule) -> Policy {
    Policy {
        cron: (!schedule.cron.is_empty()).then(|| schedule.cron.clone()),
        timezone: schedule.timezone.clone(),
        overlap: schedule.overlap,
        catchup: schedule.catchup,
        catchup_window_s: schedule.catchup_window_ms / 1000,
        catchup_max: schedule.catchup_max,
        jitter_s: schedule.jitter_ms / 1000,
        when_changed: schedule.when_changed.clone(),
        after: schedule.after.clone(),
        webhooks: schedule.webhooks.clone(),
    }
}
