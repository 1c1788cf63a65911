//! News of runs that somebody looks at: each run is followed once, however many look.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use headstart_history::{Followed, HistoryError};
use headstart_store::Workspace;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::views::run::{self, Shown};

/// How often a log is looked at. Whoever looks is told not more often than that.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// What runs is shown to grow this often.
const GROWS: Duration = Duration::from_secs(1);

/// A run that somebody looks at.
pub(crate) struct Watched {
    followed: Mutex<Followed>,
    /// How many events have been read; closed when nothing more will come.
    news: watch::Receiver<u64>,
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

/// What one who looks has seen, and is told.
struct Reader {
    watched: Arc<Watched>,
    news: watch::Receiver<u64>,
    shown: Shown,
    /// The document that was sent with so many events is what is changed.
    first: bool,
    closing: CancellationToken,
}

/// The news of a run since a page was made with `shown`.
pub(crate) fn news(
    watched: Arc<Watched>,
    shown: Shown,
    closing: CancellationToken,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let reader = Reader { news: watched.news.clone(), watched, shown, first: true, closing };
    let stream = futures_util::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        loop {
            if !std::mem::take(&mut reader.first) && !reader.wait().await {
                return None;
            }
            let changed = run::changes(&reader.watched.followed(), &mut reader.shown);
            if !changed.is_empty() {
                return Some((Ok(event(&changed)), Some(reader)));
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

impl Reader {
    /// Waits until something may be new; false when the page closes.
    async fn wait(&mut self) -> bool {
        let grows = self.watched.followed().run.live;
        let ticks = async {
            match grows {
                true => tokio::time::sleep(GROWS).await,
                false => std::future::pending().await,
            }
        };
        let changed = async {
            if self.news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            // Further news of the same moment go with it.
            tokio::time::sleep(POLL_INTERVAL).await;
            self.news.mark_unchanged();
        };
        tokio::select! {
            () = changed => true,
            () = ticks => true,
            () = self.closing.cancelled() => false,
        }
    }
}

/// What became of elements of a page, by their ids.
pub(crate) type Changes = BTreeMap<String, String>;

fn event(changes: &Changes) -> Event {
    Event::default().data(serde_json::to_string(changes).expect("texts serialize"))
}
