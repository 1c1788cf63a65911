//! The port at which devices join, for as long as a command needs it.

use std::net::SocketAddr;

use headstart_console::color::{Ink, paint};
use headstart_console::errln;
use headstart_driver::Hub;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::exit::CommandError;

/// A port that is being served.
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Starts serving devices.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn start(hub: Hub, address: SocketAddr) -> Result<Server, CommandError> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
        CommandError::input(format!("cannot listen on {address}: {e}"))
            .help("choose another with `--listen ADDR:PORT`; port 0 takes any free one")
    })?;
    let address = listener.local_addr().map_err(CommandError::internal)?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let until = async {
            let _ = stopped.await;
        };
        if let Err(e) = headstart_server::serve(listener, hub, until).await {
            errln!("{}: {e}", paint(Ink::Error, "error"));
        }
    });
    Ok(Server { address, stop, task })
}

impl Server {
    /// Where it is, for people.
    pub fn url(&self) -> String {
        // Devices of other machines reach none of the addresses that mean "all of this machine's".
        if self.address.ip().is_unspecified() {
            return format!("http://HOST:{}", self.address.port());
        }
        format!("http://{}", self.address)
    }

    /// Ends it, after requests in progress.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
