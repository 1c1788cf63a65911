//! News of runs that somebody looks at: each run is followed once, however many look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use headstart_history::{Followed, HistoryError};
use headstart_store::Workspace;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a log is looked at. Whoever looks is told not more often than that.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A run that somebody looks at.
pub(crate) struct Watched {
    followed: Mutex<Followed>,
    /// How many events have been read; closed when nothing more will come.
    pub(crate) news: watch::Receiver<u64>,
}

impl Watched {
    pub(crate) fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All runs that somebody looks at.
#[derive(Clone)]
pub(crate) struct Watches {
    ws: Workspace,
    closing: CancellationToken,
    open: Arc<Mutex<HashMap<String, Weak<Watched>>>>,
}

impl Watches {
    pub(crate) fn new(ws: Workspace, closing: CancellationToken) -> Self {
        Self { ws, closing, open: Arc::default() }
    }

    /// Follows a run, or joins those who follow it already.
    pub(crate) fn watch(&self, id: &str) -> Result<Arc<Watched>, HistoryError> {
        let known = |open: &HashMap<String, Weak<Watched>>| open.get(id).and_then(Weak::upgrade);
        if let Some(watched) = known(&self.open.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(watched);
        }
        // Reading a long log takes a while: others are not held up. Two at once read it twice.
        let followed = Followed::open(&self.ws, id)?;
        let (tell, news) = watch::channel(followed.events());
        let watched = Arc::new(Watched { followed: Mutex::new(followed), news });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, w| w.strong_count() > 0);
        if let Some(other) = known(&open) {
            return Ok(other);
        }
        open.insert(id.to_owned(), Arc::downgrade(&watched));
        tokio::spawn(follow(Arc::downgrade(&watched), tell, self.closing.clone()));
        Ok(watched)
    }
}

/// Reads a run on as long as somebody looks at it and something may come.
async fn follow(watched: Weak<Watched>, tell: watch::Sender<u64>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = closing.cancelled() => return,
        }
        let Some(watched) = watched.upgrade() else { return };
        let read = tokio::task::spawn_blocking(move || {
            let mut followed = watched.followed();
            let is_new = followed.refresh()?;
            Ok::<_, HistoryError>((is_new, followed.events()))
        });
        match read.await {
            Ok(Ok((true, events))) => {
                tell.send_replace(events);
            }
            Ok(Ok((false, _))) => {}
            Ok(Err(e)) => {
                tracing::warn!("{e}");
                return;
            }
            Err(_) => return,
        }
    }
}
