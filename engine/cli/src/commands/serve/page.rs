//! The page of `headstart serve`.

use std::net::SocketAddr;
use std::sync::Arc;

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_driver::Engine;
use headstart_history::Recorded;
use headstart_page::{Details, Health, Origins, Page, PageOptions, Tokens};
use headstart_report::RunReport;
use headstart_store::Workspace;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Volume;
use crate::args::PageArgs;
use crate::commands::why;
use crate::exit::CommandError;
use crate::summary;

/// A page that is being served.
pub(super) struct Served {
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    /// Ends it, after requests in progress.
    pub async fn stop(self) {
        self.closing.cancel();
        let _ = self.task.await;
    }
}

/// Serves the page, where it is asked for, and says where.
///
/// # Errors
/// If it would be reached from elsewhere without TLS, or the address or the certificate cannot be used.
pub(super) async fn start(
    engine: &Engine,
    args: &PageArgs,
    health: Health,
    volume: Volume,
) -> Result<Option<Served>, CommandError> {
    let Some(address) = args.address else { return Ok(None) };
    may_be_reached(address, args)?;
    let tls = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Some(headstart_page::tls(cert, key).map_err(CommandError::input)?),
        _ => None,
    };
    let listener = TcpListener::bind(address).await.map_err(|e| {
        CommandError::input(format!("cannot listen on {address}: {e}"))
            .help("choose another with `--page ADDR:PORT`; port 0 takes any free one")
    })?;
    let address = listener.local_addr().map_err(CommandError::internal)?;
    let origins = match &args.url {
        Some(url) => Origins::named(url).map_err(CommandError::input)?,
        None => Origins::loopback(address, tls.is_some()),
    };
    let ws = engine.workspace().clone();
    if !volume.quiet {
        errln!("page at {}", origins.first());
        if Tokens::of(&ws).list().is_ok_and(|tokens| tokens.is_empty()) {
            errln!("{}: make a token to sign in: headstart tokens create NAME", paint(Ink::Help, "help"));
        }
    }
    let details = Arc::new(OfCommands { ws });
    let page = Page::new(PageOptions { engine: engine.clone(), details, origins, health });
    let closing = page.closing();
    Ok(Some(Served { closing, task: tokio::spawn(page.serve(listener, tls)) }))
}

/// Tokens and what the page shows cross the network: not without TLS.
fn may_be_reached(address: SocketAddr, args: &PageArgs) -> Result<(), CommandError> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    if args.cert.is_none() && !args.behind_proxy {
        return Err(CommandError::input(format!("the page at {address} would be reached without TLS"))
            .help("give a certificate with `--page-cert` and `--page-key`, or say `--page-behind-proxy`"));
    }
    if args.url.is_none() {
        return Err(CommandError::input("under which address people open the page is not known")
            .help("say it: --page-url https://headstart.example.com"));
    }
    Ok(())
}

/// What takes knowledge of stage kinds, by the commands that show it in a terminal.
struct OfCommands {
    ws: Workspace,
}

impl Details for OfCommands {
    fn report(&self, run: &Recorded) -> Result<RunReport, String> {
        summary::report(&self.ws, run).map_err(|e| e.message().to_owned())
    }

    fn why(&self, run: &Recorded, instance: u32) -> Result<Vec<String>, String> {
        let (_, lines) = why::explain(&self.ws, run, instance, None).map_err(|e| e.message().to_owned())?;
        Ok(lines)
    }
}
