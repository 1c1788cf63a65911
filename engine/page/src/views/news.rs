//! News of a run, as server-sent events for whoever looks at it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live::{POLL_INTERVAL, Watched};
use crate::views::progress::{self, Changes, Shown};

/// Bars of what is running grow this often.
const GROWS: Duration = Duration::from_secs(1);

/// What one who looks has seen, and is told.
struct Reader {
    watched: Arc<Watched>,
    news: watch::Receiver<u64>,
    shown: Shown,
    /// Whether nothing was sent yet: what has changed since the page was made is sent at once.
    first: bool,
    closing: CancellationToken,
}

/// The news of a run since a page was made with `shown`.
pub(crate) fn of(
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
            let changed = progress::changes(&reader.watched.followed(), &mut reader.shown);
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

fn event(changes: &Changes) -> Event {
    Event::default().data(serde_json::to_string(changes).expect("texts serialize"))
}
