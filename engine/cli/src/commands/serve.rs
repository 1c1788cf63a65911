//! `headstart serve`: keeps a pipeline fresh on its schedules, and serves devices.
//!
//! A fire is a schedule and a nominal time. The run it starts is named after both, and a run can
//! be created only once, so a fire happens once however often the engine is restarted.

use std::path::PathBuf;
use std::time::Duration;

use headstart_builtin::backend::Choice;
use headstart_console::errln;
use headstart_core::RunOutcome;
use headstart_cron::{Catchup, Dst, Fire, Spec};
use headstart_disk::{files, read};
use headstart_driver::{Engine, RunOptions};
use headstart_dsl::plan::{Plan, Schedule};
use headstart_protocol::text::counted;
use jiff::{SignedDuration, Timestamp};

use crate::Volume;
use crate::args::Serve;
use crate::commands::run::{open_engine, watch};
use crate::exit::CommandError;
use crate::workspace::Location;
use crate::{listen, loader};

/// Missed fires older than this are not caught up.
const CATCHUP_WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Missed fires that are caught up at most.
const CATCHUP_MAX: usize = 10;
/// The clock is read this often at least, so that a changed clock or a suspended machine is noticed.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Runs the command until it is stopped.
///
/// # Errors
/// If the pipeline has errors or no schedule, the port cannot be opened, or a run cannot be started.
pub fn run(place: &Location<'_>, backend: Choice, args: &Serve, volume: Volume) -> Result<(), CommandError> {
    let plan = loader::plan(&args.pipeline, loader::Notes::of(volume))?;
    if plan.schedules.is_empty() {
        return Err(CommandError::input("the pipeline has no schedule")
            .help("schedule nightly { run: catalog, cron: \"0 3 * * *\", timezone: \"UTC\" }"));
    }
    let engine = open_engine(place.create()?, backend, args.custom.limits())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::internal)?;
    runtime.block_on(serve(engine, plan, args, volume))
}

async fn serve(engine: Engine, plan: Plan, args: &Serve, volume: Volume) -> Result<(), CommandError> {
    let server = listen::start(engine.hub().clone(), args.listen, args.insecure_plaintext).await?;
    if !volume.quiet {
        errln!("devices join at {}", server.url());
    }
    let mut schedulers = tokio::task::JoinSet::new();
    for schedule in plan.schedules.clone() {
        let url = server.url_to_name();
        let scheduler = Scheduler::new(engine.clone(), &plan, schedule, args, url, volume)?;
        schedulers.spawn(scheduler.run(args.now));
    }
    let mut signals = crate::stop::StopSignals::new().map_err(CommandError::internal)?;
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        ended = schedulers.join_next() => match ended {
            Some(Ok(result)) => result,
            Some(Err(e)) => Err(CommandError::internal(e)),
            None => Ok(()),
        },
    };
    server.stop().await;
    ended
}

/// Starts the runs of one schedule when they are due.
struct Scheduler {
    engine: Engine,
    /// Where devices join.
    url: Option<String>,
    volume: Volume,
    plan: Plan,
    schedule: Schedule,
    spec: Spec,
    catchup: Catchup,
    name: String,
    source_dir: PathBuf,
    /// Where the last handled instant is remembered.
    memory: PathBuf,
}

impl Scheduler {
    fn new(
        engine: Engine,
        plan: &Plan,
        schedule: Schedule,
        args: &Serve,
        url: Option<String>,
        volume: Volume,
    ) -> Result<Self, CommandError> {
        let spec =
            Spec::parse(&schedule.cron, &schedule.timezone, Dst::Vixie).map_err(CommandError::input)?;
        let catchup = match schedule.catchup.as_str() {
            "all" => Catchup::All,
            "last" => Catchup::Last,
            _ => Catchup::None,
        };
        let folder = engine.workspace().dir().join("schedules");
        files::create_dir(&**engine.workspace().disk(), &folder)?;
        // An edited schedule has no past: its expression is part of the name.
        let identity = format!("{} {} {}", schedule.name, schedule.cron, schedule.timezone);
        let digest = headstart_protocol::Digest::of(identity.as_bytes()).short();
        Ok(Self {
            memory: folder.join(format!("{}-{digest}", schedule.name)),
            plan: if schedule.run.is_empty() { plan.clone() } else { plan.subset(&schedule.run) },
            source_dir: std::env::current_dir().map_err(CommandError::internal)?,
            name: format!("{} ({})", args.pipeline.file.display(), schedule.name),
            engine,
            url,
            volume,
            spec,
            catchup,
            schedule,
        })
    }

    /// Runs until there is an error; with `now`, one run is started at once.
    async fn run(self, now: bool) -> Result<(), CommandError> {
        if now {
            self.fire(format!("{}-now-{}", self.schedule.name, self.now().as_second())).await?;
        }
        if self.last().is_none() {
            self.remember(self.now())?;
        }
        if let Some(next) = self.spec.next(self.now()).filter(|_| !self.volume.quiet) {
            errln!("{}: next at {} ({})", self.schedule.name, next.nominal, self.schedule.timezone);
        }
        loop {
            let now = self.now();
            let due = self.spec.due(self.last(), now, self.catchup, CATCHUP_WINDOW, CATCHUP_MAX);
            for skipped in &due.skipped {
                errln!(
                    "{}: skipped {} since {} (catchup: {})",
                    self.schedule.name,
                    counted(skipped.count, "missed fire"),
                    skipped.first.nominal,
                    self.schedule.catchup
                );
            }
            self.fire_all(&due.fires).await?;
            self.remember(if self.schedule.overlap == "skip" { self.pass_over(now) } else { now })?;
            self.engine.env().clock.sleep(self.pause()).await;
        }
    }

    /// With `overlap: skip`, the fires that came due during a run are skipped: says so, and gives the time
    /// up to which they are.
    fn pass_over(&self, since: Timestamp) -> Timestamp {
        let now = self.now();
        let missed = self.spec.due(Some(since), now, Catchup::All, CATCHUP_WINDOW, usize::MAX).fires;
        if let Some(first) = missed.first() {
            errln!(
                "{}: skipped {} since {}: the previous run was still running (overlap: skip)",
                self.schedule.name,
                counted(missed.len() as u64, "fire"),
                first.nominal
            );
        }
        now
    }

    async fn fire_all(&self, fires: &[Fire]) -> Result<(), CommandError> {
        for fire in fires {
            let stamp = fire.nominal.strftime("%Y%m%dT%H%M");
            self.fire(format!("{}-{stamp}", self.schedule.name)).await?;
        }
        Ok(())
    }

    /// The engine's time.
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.engine.env().clock.now_ms()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
    }

    /// Until the next fire, or until the clock is read again.
    fn pause(&self) -> Duration {
        let now = self.now();
        let next = self.spec.next(now).and_then(|f| Duration::try_from(f.instant.duration_since(now)).ok());
        next.unwrap_or(POLL_INTERVAL).min(POLL_INTERVAL) + Duration::from_millis(20)
    }

    async fn fire(&self, id: String) -> Result<(), CommandError> {
        if self.engine.workspace().runs().iter().any(|r| r.id == id) {
            return Ok(());
        }
        let mut options = RunOptions::new(self.name.clone(), &self.source_dir);
        options.id = Some(id.clone());
        options.device_wait = None;
        if !self.volume.quiet {
            errln!("{}: run {id}", self.schedule.name);
        }
        let handle = self.engine.run(self.plan.clone(), options)?;
        let result = watch(&self.engine, &handle, &self.plan, self.url.clone(), self.volume).await?;
        // That a run did not succeed is said in any case.
        if !self.volume.quiet || result.outcome != RunOutcome::Succeeded {
            let outcome = format!("{:?}", result.outcome).to_lowercase();
            errln!("{}: run {id} {}, {:.1} s", self.schedule.name, outcome, result.seconds);
        }
        Ok(())
    }

    fn last(&self) -> Option<Timestamp> {
        read::text(&self.memory, read::SETTINGS).ok()?.trim().parse().ok()
    }

    fn remember(&self, at: Timestamp) -> Result<(), CommandError> {
        let disk = &**self.engine.workspace().disk();
        Ok(files::replace(disk, &self.memory, at.to_string().as_bytes())?)
    }
}
