//! Ctrl-C and SIGTERM.

use tokio_util::sync::CancellationToken;

/// The first Ctrl-C or SIGTERM asks to stop, the second stops at once.
pub(super) async fn stop_on_signal(stop: CancellationToken) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else { return };
        for second in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            asked_to_stop(&stop, second);
        }
    }
    #[cfg(not(unix))]
    for second in [false, true] {
        let _ = tokio::signal::ctrl_c().await;
        asked_to_stop(&stop, second);
    }
}

fn asked_to_stop(stop: &CancellationToken, second: bool) {
    if second {
        headstart_host::kill_all();
        std::process::exit(130);
    }
    tracing::info!("stopping; press Ctrl-C again to stop at once");
    stop.cancel();
}
