//! `headstart serve`: keeps pipelines fresh on their schedules, and serves devices.
//!
//! What becomes of a fire is decided by `headstart-scheduler`; here pipeline files are read again as they change
//! ([`pipelines`]), runs are started and shown ([`runs`]), and one loop connects the two ([`server`]).

mod notices;
mod page;
mod pipelines;
mod runs;
mod server;

use headstart_builtin::backend::Choice;
use headstart_console::errln;
use headstart_notify::{Notifier, Targets};
use headstart_page::Health;
use tokio_util::sync::CancellationToken;

use crate::Volume;
use crate::args::Serve;
use crate::commands::run::open_engine;
use crate::exit::CommandError;
use crate::listen;
use crate::workspace::Location;

use pipelines::Pipelines;
use server::{Server, Watchers};

/// Runs the command until it is stopped.
///
/// # Errors
/// If a pipeline has errors, none has a schedule, or the port cannot be opened.
pub fn run(place: &Location<'_>, backend: Choice, args: &Serve, volume: Volume) -> Result<(), CommandError> {
    let pipelines = Pipelines::open(&args.pipelines, &args.values, volume)?;
    if pipelines.schedules().next().is_none() {
        return Err(CommandError::input("the pipeline has no schedule")
            .help("schedule nightly { run: catalog, cron: \"0 3 * * *\", timezone: \"UTC\" }"));
    }
    let targets = Targets { urls: args.notify_url.clone(), commands: args.notify_command.clone() };
    let ws = place.create()?;
    let engine = open_engine(ws.clone(), backend, args.jobs.options(), args.custom.limits())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::internal)?;
    let ended = runtime.block_on(async {
        let port = listen::start(engine.hub().clone(), args.listen, args.insecure_plaintext).await?;
        if !volume.quiet {
            errln!("devices join at {}", port.url());
        }
        let mut signals = crate::stop::StopSignals::new().map_err(CommandError::internal)?;
        let health = Health::default();
        let page = page::start(&engine, &args.page, health.clone(), volume).await?;
        let notifier =
            Notifier::open(&ws, targets, engine.env().clock.clone()).map_err(CommandError::input)?;
        let closing = CancellationToken::new();
        let courier = tokio::spawn(notifier.clone().deliver(closing.clone()));
        let mut server =
            Server::new(engine, pipelines, port.url_to_name(), Watchers { health, notifier }, volume)?;
        let ended = tokio::select! {
            () = signals.next() => Ok(()),
            ended = server.serve(args.now) => ended,
        };
        server.say_what_goes_on_later();
        closing.cancel();
        let _ = courier.await;
        if let Some(page) = page {
            page.stop().await;
        }
        port.stop().await;
        ended
    });
    ws.cache().flush();
    ended
}
