//! What every handler works with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_driver::Engine;
use headstart_history::Recorded;
use headstart_report::RunReport;
use headstart_scheduler::Folder;
use headstart_store::{Size, Workspace};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::index::Index;
use crate::live::Watches;
use crate::origin::Origins;
use crate::sessions::Sessions;
use crate::tokens::Tokens;

/// What the page shows and cannot find out by itself: it takes knowledge of stage kinds.
pub trait Details: Send + Sync {
    /// The report of a run.
    ///
    /// # Errors
    /// In words, if its artifacts cannot be read.
    fn report(&self, run: &Recorded) -> Result<RunReport, String>;

    /// Why a stage instance ran or did not, a line each.
    ///
    /// # Errors
    /// In words, if earlier runs cannot be read.
    fn why(&self, run: &Recorded, instance: u32) -> Result<Vec<String>, String>;
}

/// Whether the server does its work; what `/readyz` says.
#[derive(Clone, Default)]
pub struct Health {
    turned_ms: Arc<AtomicU64>,
}

/// A server that has not looked at its schedules for so long does not work.
const STUCK_MS: u64 = 30_000;

impl Health {
    /// The server has looked at all its schedules.
    pub fn turned(&self, now_ms: u64) {
        self.turned_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether it has lately.
    pub(crate) fn is_ready(&self, now_ms: u64) -> bool {
        let turned = self.turned_ms.load(Ordering::Relaxed);
        turned > 0 && now_ms.saturating_sub(turned) < STUCK_MS
    }
}

/// What a page is made from.
pub struct PageOptions {
    /// The engine, whose workspace is shown.
    pub engine: Engine,
    /// What takes knowledge of stage kinds.
    pub details: Arc<dyn Details>,
    /// Under which addresses the page is reached.
    pub origins: Origins,
    /// Whether the server works.
    pub health: Health,
}

/// Reports by run, each with how many events the run had then.
type Reports = HashMap<String, (u64, Arc<RunReport>)>;

/// The application that handlers belong to.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) details: Arc<dyn Details>,
    pub(crate) origins: Arc<Origins>,
    pub(crate) health: Health,
    pub(crate) sessions: Sessions,
    pub(crate) folder: Folder,
    pub(crate) index: Arc<Index>,
    pub(crate) watches: Watches,
    pub(crate) closing: CancellationToken,
    reports: Arc<Mutex<Reports>>,
    size: Arc<Mutex<Option<(u64, Size)>>>,
}

/// Sizes are as old as this at most.
const SIZE_MS: u64 = 30_000;
/// Reports of runs that are kept in memory.
const REPORTS: usize = 32;

impl App {
    pub(crate) fn new(options: PageOptions, closing: CancellationToken) -> Self {
        let PageOptions { engine, details, origins, health } = options;
        let ws = engine.workspace().clone();
        Self {
            sessions: Sessions::new(Tokens::of(&ws), engine.env().clone()),
            folder: Folder::new(ws.dir().join("schedules"), ws.disk().clone()),
            index: Arc::new(Index::new(ws.clone())),
            watches: Watches::new(ws, closing.clone()),
            engine,
            details,
            origins: Arc::new(origins),
            health,
            closing,
            reports: Arc::default(),
            size: Arc::default(),
        }
    }

    pub(crate) fn ws(&self) -> &Workspace {
        self.engine.workspace()
    }

    /// What the workspace takes up. Every folder is read for it, so not at each request.
    pub(crate) fn size(&self) -> Size {
        let now = self.now_ms();
        let mut known = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, size)) = &*known
            && now.abs_diff(*at) < SIZE_MS
        {
            return *size;
        }
        let size = self.ws().size();
        *known = Some((now, size));
        size
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.engine.env().clock.now_ms()
    }

    pub(crate) fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.now_ms()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
    }

    /// The name of the cookie. Ports of one machine share cookies, so that it has the port in it; behind TLS browsers
    /// hold it to the very host.
    pub(crate) fn cookie(&self) -> String {
        if self.origins.is_secure() {
            return "__Host-headstart".to_owned();
        }
        let port = self.origins.first().rsplit(':').next().unwrap_or_default();
        format!("headstart-{port}")
    }

    /// The report of a run; made again only when the run has new events.
    pub(crate) fn report(&self, run: &Recorded) -> Result<Arc<RunReport>, String> {
        let events = run.events.len() as u64;
        let known = || self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, report)) = known().get(&run.id)
            && *at == events
        {
            return Ok(Arc::clone(report));
        }
        let report = Arc::new(self.details.report(run)?);
        let mut known = known();
        if known.len() >= REPORTS {
            known.clear();
        }
        known.insert(run.id.clone(), (events, Arc::clone(&report)));
        Ok(report)
    }
}
