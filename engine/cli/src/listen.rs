//! The port at which devices join, for as long as a command needs it.

use std::net::SocketAddr;

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_driver::Hub;
use headstart_server::{Channel, Limits};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::args::DEFAULT_URL;
use crate::exit::CommandError;

/// A port that is being served.
pub struct Server {
    address: SocketAddr,
    channel: Channel,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Starts serving devices; warns where that is less safe than it could be.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn start(hub: Hub, address: SocketAddr, insecure_plaintext: bool) -> Result<Server, CommandError> {
    let channel = if insecure_plaintext { Channel::InsecurePlaintext } else { Channel::Tls };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
        CommandError::input(format!("cannot listen on {address}: {e}"))
            .help("choose another with `--listen ADDR:PORT`; port 0 takes any free one")
    })?;
    let address = listener.local_addr().map_err(CommandError::internal)?;
    warn(address, channel);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let until = async {
            let _ = stopped.await;
        };
        if let Err(e) = headstart_server::serve(listener, hub, channel, Limits::default(), until).await {
            errln!("{}: {e}", paint(Ink::Error, "error"));
        }
    });
    Ok(Server { address, channel, stop, task })
}

fn warn(address: SocketAddr, channel: Channel) {
    let warning = paint(Ink::Warning, "warning");
    if channel == Channel::InsecurePlaintext {
        errln!("{warning}: {address} is served without TLS: anybody on the way can read what crosses");
    }
    if !address.ip().is_loopback() {
        errln!(
            "{warning}: {address} can be reached from other machines; only devices that you invite or approve \
             are given work"
        );
    }
}

impl Server {
    /// Where it is, as devices are told.
    pub fn url(&self) -> String {
        let scheme = if self.channel == Channel::Tls { "https" } else { "http" };
        if self.address.ip().is_unspecified() {
            // Only the reader knows under which address devices reach this machine.
            return format!("{scheme}://HOST:{}", self.address.port());
        }
        format!("{scheme}://{}", self.address)
    }

    /// Where it is, for commands; `None` where they find it without being told.
    pub fn url_to_name(&self) -> Option<String> {
        Some(self.url()).filter(|url| url != DEFAULT_URL)
    }

    /// Ends it, after requests in progress.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
